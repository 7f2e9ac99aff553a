"""Envelope, credentials, providers, prices and the rest, as written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from urllib.parse import urlsplit

from extproc.policy.channel_documents import read_channels
from extproc.policy.drafts import CredentialDraft, Drafts, ProviderDraft
from extproc.policy.kill_documents import read_kill_switch
from extproc.policy.mcp_documents import read_mcp_servers
from extproc.policy.prices import micro_usd_per_mtok
from extproc.policy.reading import Section
from extproc.policy.snapshot import CredentialRef, EnvelopeRules
from extproc.values.dialect import Dialect
from extproc.values.envelope import ENVELOPE_FIELDS
from extproc.values.money import Price, Rates
from extproc.values.store_address import (
    DEFAULT_NAMESPACE,
    EMBEDDED,
    NAMESPACE,
    parse_public_address,
)

_PLACE = re.compile(r"[a-z0-9][a-z0-9.:-]{0,62}")
"""A region, a project or a version: part of a URL."""
_TAKE_GOOGLE_TOKENS = frozenset({Dialect.GEMINI, Dialect.OPENAI})
"""What Vertex serves: Gemini's own API, and one in OpenAI's dialect."""


def read_gateway(document: Section, drafts: Drafts) -> None:
    """``type: gateway-config``."""
    document.text("name", required=True)
    envelope = document.section("envelope")
    if envelope is not None:
        drafts.envelope = _envelope(envelope)
    defaults = document.section("defaults")
    if defaults is not None:
        drafts.default_max_output_tokens = defaults.integer("max_output_tokens", 4096, 1, 1_000_000)
        drafts.min_output_tokens = defaults.integer("min_output_tokens", 256, 1, 1_000_000)
        defaults.done()
    queue = document.section("queue")
    if queue is not None:
        drafts.max_waiting = queue.integer("max_requests", 1_000, 0, 10_000)
        queue.done()
    for credential in document.sections("credentials"):
        drafts.credentials.append(_credential(credential))
    providers = document.section("providers")
    if providers is not None:
        for name, node in providers.items():
            drafts.providers.append(
                _provider(name, Section(node, document.file, document.findings, f"provider {name}"))
            )
    for price in document.sections("prices"):
        _price(price, drafts)
    read_mcp_servers(document, drafts)
    read_kill_switch(document, drafts)
    channels = document.section("channels")
    if channels is not None:
        read_channels(channels, drafts)
    _store(document, drafts)


def _store(document: Section, drafts: Drafts) -> None:
    store = document.text("store", EMBEDDED)
    namespace = document.text("store_namespace", DEFAULT_NAMESPACE)
    try:
        if store != EMBEDDED:
            parse_public_address(store)
            drafts.store = store
    except ValueError as error:
        document.error("store", "bad_store", str(error))
    if not NAMESPACE.fullmatch(namespace):
        document.error("store_namespace", "bad_store", "up to 64 of A-Z a-z 0-9 _ . -")
    elif "store_namespace" in document:
        drafts.store_namespace = namespace


def _envelope(section: Section) -> EnvelopeRules:
    prefix = section.text("prefix", "X-TFY-").lower()
    if not re.fullmatch(r"x-[a-z0-9-]{1,30}-", prefix) or prefix.startswith(("x-tw-", "x-envoy-")):
        section.error("prefix", "bad_prefix", f"{prefix[:80]!r} must look like X-NAME-")
        prefix = "x-tfy-"
    required: dict[str, tuple[str, ...]] = {}
    node = section.section("required")
    if node is not None:
        for environment, fields in node.items():
            names = node.texts_of(environment, fields)
            for name in names:
                if name not in ENVELOPE_FIELDS:
                    node.error(environment, "unknown_field", f"{name[:80]!r} is no envelope field")
            required[environment] = tuple(name for name in names if name in ENVELOPE_FIELDS)
    section.done()
    return EnvelopeRules(prefix, required)


def _credential(section: Section) -> CredentialDraft:
    digest = section.text("sha256", required=True)
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        section.error(
            "sha256", "bad_sha256", "sha256 must be 64 hex digits; see `tokenweir keys new`"
        )
        digest = "0" * 64
    claims: dict[str, tuple[str, ...]] = {}
    node = section.section("claims")
    if node is not None:
        for key in ("team", "user_id", "projects", "environments", "workflow_tags", "cost_centers"):
            claims[key] = node.texts(key)
        node.done()
    defaults: dict[str, str] = {}
    default_section = section.section("defaults")
    if default_section is not None:
        for name in ENVELOPE_FIELDS:
            if name in default_section:
                defaults[name] = default_section.text(name)
        default_section.done()
    draft = CredentialDraft(
        section,
        section.identifier(),
        bytes.fromhex(digest),
        claims,
        defaults,
        section.texts("models") if "models" in section else None,
        section.integer("max_sessions", 100_000, 1, 10_000_000),
        section.truth("revoked"),
        section.texts("mcp_servers") if "mcp_servers" in section else None,
    )
    section.done()
    return draft


def _provider(name: str, section: Section) -> ProviderDraft:
    urls: dict[Dialect, str] = {}
    place = {key: section.text(key) for key in ("region", "project")}
    for key, value in place.items():
        if value and not _PLACE.fullmatch(value):
            section.error(key, "bad_value", f"{value[:80]!r} is no {key}")
    endpoints = section.section("endpoints")
    dialect_text = section.text("dialect")
    base_url = section.text("base_url")
    if endpoints is not None:
        for key, node in endpoints.items():
            text = node.value if isinstance(node.value, str) else ""
            _add_url(endpoints, key, key, text or _derived_url(key, place), urls)
        endpoints.done()
    if dialect_text:
        url = base_url or _derived_url(dialect_text, place)
        _add_url(section, "dialect", dialect_text, url, urls)
    elif not urls:
        section.error(
            "", "missing_key", f"provider {name} needs dialect and base_url, or endpoints"
        )
    section.text("on_disconnect")
    named = [dialect_text] if dialect_text else []
    if endpoints is not None:
        named += [key for key, _ in endpoints.items()]
    draft = ProviderDraft(
        section,
        name,
        urls,
        _provider_credential(section, urls),
        section.choice("demo", ("auto", "native", "off"), "off"),
        tuple(dialect for dialect in Dialect if dialect in named),
        section.truth("responses") if "responses" in section else True,
        section.text("api_version"),
    )
    if draft.api_version and not _PLACE.fullmatch(draft.api_version):
        section.error("api_version", "bad_value", f"{draft.api_version[:80]!r} is no version")
    section.done()
    return draft


def _provider_credential(section: Section, urls: Mapping[Dialect, str]) -> CredentialRef | None:
    """A key file of Google's is told by its name: what is in it, only its holder knows."""
    reference = section.reference("credential")
    if reference is None or reference.kind != "file" or not reference.name.endswith(".json"):
        return reference
    if not _TAKE_GOOGLE_TOKENS.issuperset(urls):
        message = "a .json file is a Google service account's: this provider takes no such token"
        section.error("credential", "bad_credential", message)
    return CredentialRef("google", reference.name)


def _derived_url(dialect: str, place: Mapping[str, str]) -> str:
    """Where AWS and Google serve a region; empty for what does not follow from it."""
    region, project = place["region"], place["project"]
    if dialect == Dialect.BEDROCK and region:
        return f"https://bedrock-runtime.{region}.amazonaws.com"
    if dialect == Dialect.GEMINI and region and project:
        host = "aiplatform" if region == "global" else f"{region}-aiplatform"
        place_path = f"projects/{project}/locations/{region}/publishers/google"
        return f"https://{host}.googleapis.com/v1/{place_path}"
    return ""


def _add_url(
    section: Section, key: str, dialect_text: str, url: str, urls: dict[Dialect, str]
) -> None:
    try:
        dialect = Dialect(dialect_text)
    except ValueError:
        known = ", ".join(Dialect)
        section.error(key, "bad_dialect", f"{dialect_text[:80]!r} is no dialect; one of {known}")
        return
    if not url and dialect in (Dialect.BEDROCK, Dialect.GEMINI):
        return  # nothing says where: the demo provider may stand in, else targets are warned of
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
        sound = sound and parts.port != 0 and not parts.username
    except ValueError:
        sound = False
    if sound:
        urls[dialect] = url
    else:
        section.error(key, "bad_url", f"{url[:80]!r} is no http(s) URL")


def _price(section: Section, drafts: Drafts) -> None:
    provider = section.text("provider", required=True)
    model = section.text("model", required=True)
    plain = section.decimal("input_usd_per_mtok", required=True) or Decimal(0)
    output = section.decimal("output_usd_per_mtok", required=True) or Decimal(0)
    cached = section.decimal("cached_input_usd_per_mtok")
    written = section.decimal("cache_write_usd_per_mtok")
    context = section.integer("context_tokens", 0, 0, 100_000_000)
    maximum = section.integer("max_output_tokens", 0, 0, 100_000_000)
    as_of = section.text("as_of")
    source = section.text("source", f"{section.file}:{section.line}")
    section.done()
    if (provider, model) in drafts.prices:
        section.error("model", "duplicate_price", f"{provider}/{model} is priced twice")
    drafts.prices[provider, model] = Price(
        rates=Rates(
            micro_usd_per_mtok(plain),
            micro_usd_per_mtok(output),
            micro_usd_per_mtok(plain if cached is None else cached),
            micro_usd_per_mtok(plain if written is None else written),
        ),
        context_tokens=context or None,
        max_output_tokens=maximum or None,
        as_of=as_of,
        source=source,
    )
