"""A policy snapshot to the files that Envoy watches."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from extproc.envoy.clusters import clusters, secret_name
from extproc.envoy.listener import listener
from extproc.envoy.routes import route_configuration
from extproc.envoy.settings import GatewaySettings
from extproc.policy.snapshot import CredentialRef, PolicySnapshot

Json = dict[str, Any]

_TYPES = {
    "cds": "envoy.config.cluster.v3.Cluster",
    "rds": "envoy.config.route.v3.RouteConfiguration",
    "lds": "envoy.config.listener.v3.Listener",
    "secrets": "envoy.extensions.transport_sockets.tls.v3.Secret",
}


def render(snapshot: PolicySnapshot, settings: GatewaySettings) -> dict[str, list[Json]]:
    """The resources of a snapshot by kind: ``cds``, ``rds``, ``lds``, ``secrets``."""
    return {
        "secrets": _secrets(snapshot, settings),
        "cds": clusters(snapshot, settings),
        "rds": [route_configuration(snapshot)],
        "lds": [listener(settings)],
    }


def discovery_response(kind: str, resources: list[Json]) -> tuple[str, bytes]:
    """One watched file: its version (a content hash) and its bytes."""
    typed = [{"@type": f"type.googleapis.com/{_TYPES[kind]}", **item} for item in resources]
    version = hashlib.sha256(orjson.dumps(typed)).hexdigest()[:16]
    return version, orjson.dumps({"version_info": version, "resources": typed})


def _secrets(snapshot: PolicySnapshot, settings: GatewaySettings) -> list[Json]:
    references = {
        provider.credential for provider in snapshot.providers.values() if provider.credential
    } | {server.credential for server in snapshot.mcp_servers.values() if server.credential}
    return [_secret(ref) for ref in sorted(references, key=secret_name)]


def _secret(reference: CredentialRef) -> Json:
    # Envoy reads the value itself: it is in no file of ours, and never passes through the sidecar.
    if reference.kind == "env":
        source: Json = {"environment_variable": reference.name}
    elif reference.kind == "demo":
        source = {"inline_string": reference.name}
    else:
        folder = reference.name.rpartition("/")[0] or "."
        source = {"filename": reference.name, "watched_directory": {"path": folder}}
    return {"name": secret_name(reference), "generic_secret": {"secret": source}}
