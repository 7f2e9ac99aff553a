"""Envoy without a gateway: a static bootstrap with one listener and one cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extproc.envoy.bootstrap import bootstrap
from extproc.envoy.ext_proc import request_filter
from extproc.envoy.settings import GatewaySettings

Json = dict[str, Any]

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
MAX_BODY_BYTES = 32 * 1024 * 1024

ROUTER: Json = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{_HTTP}.router.v3.Router"},
}
BUFFER: Json = {
    "name": "envoy.filters.http.buffer",
    "typed_config": {
        "@type": f"{_HTTP}.buffer.v3.Buffer",
        "max_request_bytes": MAX_BODY_BYTES,
    },
}


def plain(port: int, upstream_port: int, filters: list[Json]) -> Json:
    """Listener -> ``filters`` -> router -> upstream, all else Envoy's defaults."""
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "http_filters": [*filters, ROUTER],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "request_body_buffer_limit": MAX_BODY_BYTES,
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                }
            ]
        },
    }
    listener = {
        "name": "plain",
        "address": _address(port),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream_port)}}]}],
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def with_null_ext_proc(port: int, upstream_port: int, state: Path) -> Json:
    """The same with the gateway's own ext_proc filter, and its cluster to the sidecar."""
    document = plain(port, upstream_port, [request_filter()])
    settings = GatewaySettings("127.0.0.1", port, state / "run", state / "envoy")
    document["static_resources"]["clusters"] += bootstrap(settings)["static_resources"]["clusters"]
    return document


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
