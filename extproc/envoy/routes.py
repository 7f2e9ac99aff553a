"""Routes: which paths exist, and those that reach providers.

A path's own route leads to a closed port. Only the routes that demand the sidecar's header lead to
a provider, and no client can send that header: a request that was never decided has nowhere to go.
"""

from __future__ import annotations

from typing import Any

from extproc.envoy.clusters import DEAD_CLUSTER
from extproc.envoy.ext_proc import ANSWER_FILTER
from extproc.policy.snapshot import IDLE_TIMEOUT_MS, PolicySnapshot
from extproc.values.dialect import MCP_PREFIX, OPERATION_BY_PATH
from extproc.values.wire_names import (
    ANSWER_HEADERS,
    DECIDED_HEADER,
    MCP_CALLER,
    METADATA,
    TRANSLATED_HEADER,
)
from extproc.wire.headers import CREDENTIAL_HEADERS, HeaderNames

Json = dict[str, Any]

MAX_BODY_BYTES = 32 * 1024 * 1024
"""The largest request that Anthropic and OpenAI accept; Claude Code sends megabytes."""
MCP_IDLE_TIMEOUT_S = 3_600
"""A tool may work for long, and the stream on which a server speaks first may have nothing to say.
Clients whose stream is cut take it up again."""
RETRIABLE_STATUS_CODES = (301, 302, 303, 307, 308, 408, 429, 529)
"""With 5xx: the target cannot serve now, another one may. A redirect leads where no policy does, so
it is not followed."""
ROUTE_TABLE = "tokenweir"

_PRIORITY_GROUP = (
    "type.googleapis.com/envoy.extensions.router.cluster_specifiers."
    "priority_group.v3.PriorityGroupClusterSpecifier"
)


def route_configuration(snapshot: PolicySnapshot) -> Json:
    """``RouteConfiguration``."""
    names = HeaderNames(snapshot.envelope.prefix)
    stripped = [
        *CREDENTIAL_HEADERS,
        *names.identity,
        DECIDED_HEADER,
        TRANSLATED_HEADER,
        # What Envoy adds for its own sake is nobody's business upstream.
        "forwarded",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
        "x-envoy-original-path",
        "x-envoy-external-address",
    ]
    targets = [one for m in snapshot.virtual_models.values() for one in m.all_targets]
    idle_ms = {target.idle_timeout_ms for target in targets} - {IDLE_TIMEOUT_MS}
    # The last one takes whatever was decided, also by another generation than this.
    decided = [_decided_route(stripped, each) for each in sorted(idle_ms)]
    decided.append(_decided_route(stripped, None))
    translated = {operation for target in targets for operation in target.translated}
    to_mcp = _mcp_route(stripped)
    waiting = [
        _waiting_route(path, operation in translated)
        for path, operation in OPERATION_BY_PATH.items()
    ]
    waiting.append(
        {
            "name": "undecided MCP",
            "match": {"prefix": MCP_PREFIX},
            "route": {
                "cluster": DEAD_CLUSTER,
                "timeout": "0s",
                "idle_timeout": f"{MCP_IDLE_TIMEOUT_S}s",
            },
            "typed_per_filter_config": _answers_enabled(),
        }
    )
    return {
        "name": ROUTE_TABLE,
        "virtual_hosts": [
            {
                "name": "gateway",
                "domains": ["*"],
                "include_request_attempt_count": True,
                "request_body_buffer_limit": MAX_BODY_BYTES,
                "routes": [to_mcp, *decided, *waiting],
            }
        ],
    }


def _waiting_route(path: str, translated: bool) -> Json:
    """Of a path. Which filters a request meets is found here, before it is decided."""
    route: Json = {
        "name": f"undecided {path}",
        "match": {"path": path},
        # Not a direct response: the body limit applies to routes that forward only.
        "route": {"cluster": DEAD_CLUSTER},
    }
    if translated:
        route["typed_per_filter_config"] = _answers_enabled()
    return route


def _answers_enabled() -> Json:
    enabled = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}
    return {ANSWER_FILTER: enabled}


def _decided_route(stripped: list[str], idle_ms: int | None) -> Json:
    """A route to a provider: for requests that carry the sidecar's header, with this value or with
    any."""
    match: Json = {"present_match": True}
    if idle_ms is not None:
        match = {"string_match": {"exact": str(idle_ms)}}
    return {
        "name": "decided",
        "match": {"prefix": "/", "headers": [{"name": DECIDED_HEADER, **match}]},
        "request_headers_to_remove": stripped,
        "request_headers_to_add": [
            # Usage is read from plain text; a compressed answer would hide it.
            {
                "header": {"key": "accept-encoding", "value": "identity"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        # Removed first: where we have nothing to say, the provider's word is gone too.
        "response_headers_to_remove": [*ANSWER_HEADERS.values(), TRANSLATED_HEADER],
        "response_headers_to_add": _answer_headers(),
        "route": {
            "inline_cluster_specifier_plugin": _decided_clusters(),
            "timeout": "0s",
            "idle_timeout": f"{(idle_ms or IDLE_TIMEOUT_MS) // 1000}s",
            "retry_policy": {
                "retry_on": "5xx,reset,connect-failure,retriable-status-codes",
                "retriable_status_codes": list(RETRIABLE_STATUS_CODES),
                # The chain's length decides, by a header of the sidecar; this is the roof.
                "num_retries": 16,
                "refresh_cluster_on_retry": True,
                # Envoy could wait for a provider's Retry-After; it is not told to, as the next
                # attempt is another target's.
                "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.02s"},
            },
        },
    }


def _mcp_route(stripped: list[str]) -> Json:
    """The only route to an MCP server. Nothing is tried again: a call of a tool may have done its
    work already."""
    decided = _decided_route(stripped, None)
    header = {"name": DECIDED_HEADER, "string_match": {"exact": MCP_CALLER}}
    return {
        **decided,
        "name": "decided MCP",
        "match": {"prefix": "/", "headers": [header]},
        "route": {
            "inline_cluster_specifier_plugin": _decided_clusters(),
            "timeout": "0s",
            "idle_timeout": f"{MCP_IDLE_TIMEOUT_S}s",
        },
    }


def _decided_clusters() -> Json:
    """Those that the sidecar named; without its word a closed port."""
    return {
        "extension": {
            "name": "envoy.router.cluster_specifier_plugin.priority_group",
            "typed_config": {
                "@type": _PRIORITY_GROUP,
                "override_metadata_namespace": METADATA,
                "priority_groups": [
                    {"name": "none", "clusters": [{"cluster_name": DEAD_CLUSTER, "weight": 1}]}
                ],
            },
        }
    }


def _answer_headers() -> list[Json]:
    values = {
        header: f"%DYNAMIC_METADATA({METADATA}:{key})%" for key, header in ANSWER_HEADERS.items()
    }
    values["x-tfy-resolved-model"] = f"%CLUSTER_METADATA({METADATA}:target)%"
    return [
        {
            "header": {"key": header, "value": value},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for header, value in values.items()
    ]
