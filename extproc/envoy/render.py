"""A policy snapshot to the files that Envoy watches."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from extproc.envoy.clusters import clusters
from extproc.envoy.credentials import secrets
from extproc.envoy.listener import listener
from extproc.envoy.routes import route_configuration
from extproc.envoy.settings import GatewaySettings
from extproc.policy.snapshot import PolicySnapshot

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
        "secrets": secrets(snapshot, settings),
        "cds": clusters(snapshot, settings),
        "rds": [route_configuration(snapshot)],
        "lds": [listener(settings)],
    }


def discovery_response(kind: str, resources: list[Json]) -> tuple[str, bytes]:
    """One watched file: its version (a content hash) and its bytes."""
    typed = [{"@type": f"type.googleapis.com/{_TYPES[kind]}", **item} for item in resources]
    version = hashlib.sha256(orjson.dumps(typed)).hexdigest()[:16]
    return version, orjson.dumps({"version_info": version, "resources": typed})
