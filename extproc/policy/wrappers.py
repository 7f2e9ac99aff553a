"""Which endpoint of a provider serves which operation, and what Envoy calls the way there. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlsplit

from extproc.policy.snapshot import Endpoint, Provider
from extproc.values.dialect import OWN_OPERATIONS, TRANSLATED_OPERATIONS, Dialect, Operation

_OWN = {
    Dialect.OPENAI: (Dialect.OPENAI, Dialect.AZURE_OPENAI),
    Dialect.ANTHROPIC: (Dialect.ANTHROPIC,),
}
"""By caller dialect: whose endpoints take its requests as they are, in order of preference."""
_FOREIGN = (
    Dialect.ANTHROPIC,
    Dialect.OPENAI,
    Dialect.AZURE_OPENAI,
    Dialect.GEMINI,
    Dialect.BEDROCK,
)
"""Whose endpoints a request is translated for, where none takes it as it is: first those that can
say the most."""


class Wrappers(NamedTuple):
    """How a target serves each operation that it can serve."""

    clusters: Mapping[Operation, str]
    endpoints: Mapping[Operation, Endpoint]
    translated: frozenset[Operation]


def wrappers(
    provider: Provider,
    model: str,
    variant: tuple[object, ...] = (),
    only: Dialect | None = None,
) -> Wrappers:
    """The wrapper clusters of one model of a provider.

    One serves every operation of its endpoint's own dialect, another all that is translated for it:
    what Envoy has to know of the two differs, what callers ask differs not for Envoy. Targets that
    differ in ``variant`` have clusters of their own, by which the sidecar tells them. ``only`` is
    the one dialect in which everything that can be translated is asked.
    """
    one_api = provider
    if only is not None:
        # OpenAI has two such APIs, with other names for the same fields.
        endpoint = replace(provider.endpoints[only], responses=False)
        one_api = replace(provider, endpoints={only: endpoint})
    clusters: dict[Operation, str] = {}
    endpoints: dict[Operation, Endpoint] = {}
    translated = set()
    for operation in Operation:
        if operation in OWN_OPERATIONS:
            continue
        serving = one_api if operation in TRANSLATED_OPERATIONS else provider
        found = _own_endpoint(serving, operation)
        if found is None and operation in TRANSLATED_OPERATIONS:
            found = _foreign_endpoint(serving)
            if found is not None:
                translated.add(operation)
        if found is not None:
            kind = "x" if operation in translated else "t"
            clusters[operation] = _cluster_name(kind, provider, found, model, variant)
            endpoints[operation] = found
    return Wrappers(clusters, endpoints, frozenset(translated))


def endpoint_of(
    provider: str, dialect: Dialect, url: str, *, responses: bool, api_version: str
) -> Endpoint:
    """An endpoint from its base URL."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    name = f"p_{_slug(provider)}_{dialect}_{_hash(parts.scheme, host, str(port))}"
    path = parts.path.rstrip("/")
    return Endpoint(dialect, parts.scheme, host, port, path, name, responses, api_version)


def _own_endpoint(provider: Provider, operation: Operation) -> Endpoint | None:
    for dialect in _OWN[operation.dialect]:
        endpoint = provider.endpoints.get(dialect)
        if endpoint is not None and (operation is not Operation.RESPONSES or endpoint.responses):
            return endpoint
    return None


def _foreign_endpoint(provider: Provider) -> Endpoint | None:
    return next((provider.endpoints[one] for one in _FOREIGN if one in provider.endpoints), None)


def _cluster_name(
    kind: str, provider: Provider, endpoint: Endpoint, model: str, variant: tuple[object, ...]
) -> str:
    credential = provider.credential
    identity = (credential.kind, credential.name) if credential else ("", "")
    digest = _hash(endpoint.cluster, endpoint.base_path, model, *identity, *map(str, variant))
    return f"{kind}_{_slug(provider.name)}_{_slug(model)}_{endpoint.dialect}_{digest}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "-", text)[:40]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
