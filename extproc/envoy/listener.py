"""The public listener: hardened as for untrusted clients, filters in the order of trust."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from extproc.envoy.ext_proc import ATTEMPT_HEADER, LOG_CLUSTER, answer_filter, request_filter
from extproc.envoy.local_replies import local_reply_config
from extproc.envoy.routes import ROUTE_TABLE
from extproc.envoy.settings import GatewaySettings
from extproc.values.wire_names import (
    ATTEMPT_LOG,
    INTERNAL_PREFIX,
    METADATA,
    REQUEST_LOG,
    RETRY_AFTER,
)

Json = dict[str, Any]

LISTENER = "tokenweir"
LOG_FLUSH = "0.02s"
"""Settlement lags by at most this; what is in the buffer when Envoy dies is charged by lease."""
LOG_BUFFER_BYTES = 16 * 1024 * 1024
"""Entries that wait while the sidecar does not read: some 8,000. Envoy drops what comes on top (its
counter ``logs_dropped``), which strands a reservation until its lease charges it in full; at 64 KiB
a burst of 500 calls was enough. It must fit into one message to the sidecar."""
SECRET_HEADER_WORDS = (
    "authorization", "api-key", "apikey", "security-token", "secret", "credential"
)  # fmt: skip
"""In the name of a header of a provider's answer: what nobody but the provider is to know."""
HEARTBEAT = "5s"
"""Long streams report this often, which renews their reservation's lease."""


def listener(settings: GatewaySettings) -> Json:
    """``Listener``."""
    chain: Json = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connection_manager(settings),
            }
        ]
    }
    if settings.tls_certificate:
        chain["transport_socket"] = _tls(settings)
    return {
        "name": LISTENER,
        "address": {
            "socket_address": {
                "address": settings.listen_host,
                "port_value": settings.listen_port,
            }
        },
        # Read ahead of slow filters, per connection: small, as bodies have a limit of their own.
        "per_connection_buffer_limit_bytes": 1024 * 1024,
        "filter_chains": [chain],
    }


def _connection_manager(settings: GatewaySettings) -> Json:
    folder = str(settings.config_folder)
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "rds": {
            "route_config_name": ROUTE_TABLE,
            "config_source": {
                "path_config_source": {
                    "path": f"{folder}/rds.json",
                    "watched_directory": {"path": folder},
                },
                "resource_api_version": "V3",
            },
        },
        # Nobody is internal: Envoy would believe x-envoy-* headers of a private address.
        "use_remote_address": True,
        "internal_address_config": {
            "cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]
        },
        "skip_xff_append": True,
        "early_header_mutation_extensions": [_strip_internal_headers()],
        "generate_request_id": True,
        "always_set_request_id_in_response": True,
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": 60,
        "common_http_protocol_options": {
            # Gone before anything reads them: software behind us may take them for dashes. Not
            # refused, because Codex before 0.131 sends its session so.
            "headers_with_underscores_action": "DROP_HEADER",
            "max_headers_count": 100,
            "idle_timeout": "300s",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65_536,
            "initial_connection_window_size": 1_048_576,
        },
        # Slow headers and slow bodies end; each byte would reset an idle timer.
        "request_headers_timeout": "10s",
        "request_timeout": "60s",
        "stream_idle_timeout": "300s",
        "http_filters": _http_filters(),
        "access_log": [_request_log()],
        "access_log_options": {"access_log_flush_interval": HEARTBEAT},
        "local_reply_config": local_reply_config(),
    }


def _http_filters() -> list[Json]:
    return [
        request_filter(),
        _guard(),
        {
            "name": "envoy.filters.http.lua",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                "default_source_code": {
                    "inline_string": files("extproc.envoy").joinpath("usage.lua").read_text()
                },
            },
        },
        answer_filter(),
        _strip_echoed_keys(),
        {
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                "suppress_envoy_headers": True,
                "upstream_log": [_attempt_log()],
            },
        },
    ]


def _guard() -> Json:
    """Demands the sidecar's own verdict: ext_proc lets a request pass when its stream just ends."""
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {
                "action": "ALLOW",
                "policies": {
                    "decided": {
                        "permissions": [
                            {
                                "sourced_metadata": {"metadata_matcher": _verdict()},
                            }
                        ],
                        "principals": [{"any": True}],
                    }
                },
            },
        },
    }


def _verdict() -> Json:
    """Matches requests that the sidecar let go."""
    return {"filter": METADATA, "path": [{"key": "ok"}], "value": {"bool_match": True}}


def _strip_internal_headers() -> Json:
    mutations = [
        {"remove_on_match": {"key_matcher": {"prefix": prefix}}}
        for prefix in (INTERNAL_PREFIX, "x-envoy-")
    ]
    # Ours is made by Envoy for each request: reservations are named by it.
    mutations.append({"remove_on_match": {"key_matcher": {"exact": "x-request-id"}}})
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/"
            "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": mutations,
        },
    }


def _strip_echoed_keys() -> Json:
    """A provider that sends its caller's key back would send ours to the client."""
    # Names are in lower case by now, so that each is compared as it is.
    mutations = [
        {"remove_on_match": {"key_matcher": {"contains": word}}} for word in SECRET_HEADER_WORDS
    ]
    return {
        "name": "envoy.filters.http.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/"
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"response_mutations": mutations},
        },
    }


def _request_log() -> Json:
    decided = {
        "metadata_filter": {
            "matcher": _verdict(),
            "match_if_key_not_found": {"value": False},
        }
    }
    return {**_grpc_log(REQUEST_LOG, []), "filter": decided}


def _attempt_log() -> Json:
    failed = {
        "or_filter": {
            "filters": [
                {
                    "status_code_filter": {
                        "comparison": {
                            "op": "GE",
                            "value": {
                                "default_value": 300,  # no redirect is followed
                                "runtime_key": "tokenweir.attempt_log",
                            },
                        }
                    }
                },
                {"response_flag_filter": {}},
            ]
        }
    }
    return {**_grpc_log(ATTEMPT_LOG, ["x-request-id", ATTEMPT_HEADER]), "filter": failed}


def _grpc_log(name: str, headers: list[str]) -> Json:
    return {
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": {
            "@type": "type.googleapis.com/"
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            "common_config": {
                "log_name": name,
                "grpc_service": {"envoy_grpc": {"cluster_name": LOG_CLUSTER}},
                "transport_api_version": "V3",
                "buffer_flush_interval": LOG_FLUSH,
                "buffer_size_bytes": LOG_BUFFER_BYTES,
            },
            "additional_request_headers_to_log": headers,
            # Of either log, as either may come first; an answer without it costs no byte.
            "additional_response_headers_to_log": [RETRY_AFTER],
        },
    }


def _tls(settings: GatewaySettings) -> Json:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/"
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": settings.tls_certificate},
                        "private_key": {"filename": settings.tls_key},
                    }
                ],
            },
        },
    }
