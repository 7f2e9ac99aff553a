"""The static part of Envoy's configuration: itself, its sidecar, and where the rest is watched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extproc.envoy.clusters import UNLIMITED
from extproc.envoy.ext_proc import ANSWER_CLUSTER, ATTEMPT_CLUSTER, LOG_CLUSTER, REQUEST_CLUSTER
from extproc.envoy.settings import GatewaySettings
from extproc.values.wire_names import (
    ACCESS_LOG_SOCKET,
    ADMIN_SOCKET,
    ANSWER_SOCKET,
    ATTEMPT_SOCKET,
    REQUEST_SOCKET,
)

Json = dict[str, Any]

MAX_HEAP_BYTES = 2 * 1024**3
"""Sixty-four requests of the largest size at once, before Envoy sheds load instead of dying."""
MAX_CONNECTIONS = 50_000
MAX_CONTROL_FRAMES = 1_000_000
"""Resets towards the sidecar that may wait unsent: 13 bytes each."""
MAX_REQUESTS_PER_TURN = 4
"""Of one client connection before others are looked at. An honest one sends them far apart."""
MAX_PREMATURE_RESETS = 100
"""Streams of one connection, mostly reset early, after which it is closed."""


def bootstrap(settings: GatewaySettings, max_connections: int = MAX_CONNECTIONS) -> Json:
    """``Bootstrap``. ``max_connections`` are clients'; more are closed as they come."""
    folder = settings.config_folder
    sockets = settings.socket_folder
    return {
        "node": {"id": "tokenweir", "cluster": "tokenweir"},
        "admin": {
            "address": {
                "pipe": {"path": str(sockets / ADMIN_SOCKET), "mode": settings.socket_mode}
            },
        },
        "dynamic_resources": {
            "cds_config": _watched(folder / "cds.json", folder),
            "lds_config": _watched(folder / "lds.json", folder),
        },
        "static_resources": {
            "clusters": [
                _sidecar(REQUEST_CLUSTER, sockets / REQUEST_SOCKET),
                _sidecar(ATTEMPT_CLUSTER, sockets / ATTEMPT_SOCKET),
                _sidecar(ANSWER_CLUSTER, sockets / ANSWER_SOCKET),
                _sidecar(LOG_CLUSTER, sockets / ACCESS_LOG_SOCKET),
            ]
        },
        "layered_runtime": {
            "layers": [
                {
                    "name": "floods",
                    "static_layer": {
                        # One connection's burst waits while other connections have their turn.
                        "http.max_requests_per_io_cycle": MAX_REQUESTS_PER_TURN,
                        # A client that keeps resetting what it asks is closed; default 500.
                        "overload.premature_reset_total_stream_count": MAX_PREMATURE_RESETS,
                    },
                }
            ]
        },
        "overload_manager": {
            "refresh_interval": "0.25s",
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.fixed_heap",
                    "typed_config": {
                        "@type": "type.googleapis.com/"
                        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                        "max_heap_size_bytes": MAX_HEAP_BYTES,
                    },
                },
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
                        "downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": max_connections,
                    },
                },
            ],
            "actions": [
                _on_heap("envoy.overload_actions.shrink_heap", 0.95),
                _on_heap("envoy.overload_actions.stop_accepting_requests", 0.98),
            ],
        },
    }


def _sidecar(name: str, socket: Path) -> Json:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        # The default of 1,024 is exceeded by live streams (each holds one) and answers 500.
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": UNLIMITED,
                    "max_pending_requests": UNLIMITED,
                    "max_requests": UNLIMITED,
                    "max_retries": UNLIMITED,
                }
            ]
        },
        # A body of 32 MiB goes through in one piece.
        "per_connection_buffer_limit_bytes": 64 * 1024 * 1024,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        # Each client that resets a stream makes Envoy reset one here. Above the
                        # default of 1,000 unsent ones Envoy closes the connection to the sidecar,
                        # and every other caller's request with it.
                        "max_outbound_control_frames": MAX_CONTROL_FRAMES,
                        "max_outbound_frames": MAX_CONTROL_FRAMES,
                        "initial_stream_window_size": 64 * 1024 * 1024,
                        "initial_connection_window_size": 256 * 1024 * 1024,
                    }
                },
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}
            ],
        },
    }


def _watched(path: Path, folder: Path) -> Json:
    return {
        "path_config_source": {
            "path": str(path),
            "watched_directory": {"path": str(folder)},
        },
        "resource_api_version": "V3",
    }


def _on_heap(action: str, share: float) -> Json:
    return {
        "name": action,
        "triggers": [
            {
                "name": "envoy.resource_monitors.fixed_heap",
                "threshold": {"value": share},
            }
        ],
    }
