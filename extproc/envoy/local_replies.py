"""Every answer that Envoy makes by itself, in the caller's dialect.

Envoy answers in plain text, which no SDK turns into its typed error. A refusal of the sidecar is a
local reply too, but it already is what the caller's SDK expects, so it is told apart by its
response code details and left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from extproc.values.dialect import MCP_PREFIX, Dialect
from extproc.values.refusal import RefusalCode
from extproc.values.wire_names import CALLER_KEY, MCP_CALLER, METADATA, REFUSED_DETAILS

Json = dict[str, Any]

_CALLERS = (MCP_CALLER, Dialect.ANTHROPIC, Dialect.OPENAI)
_PATHS = {
    MCP_CALLER: f"{MCP_PREFIX}.*",
    Dialect.ANTHROPIC: ".*/messages(/count_tokens)?([?].*)?",
}
"""The path may have been rewritten for a provider already; its end tells the dialect even then,
unless the request was translated: then the sidecar says whose it is."""
_REQUEST_ID = "%REQ(X-REQUEST-ID)%"


class _Reply(NamedTuple):
    """What to say when Envoy answers with a status, for a reason."""

    status: int | None
    """None: any."""
    code: RefusalCode
    anthropic_type: str
    message: str
    retryable: bool = False
    """False adds ``x-should-retry: false``: the SDKs retry 408 and 5xx by themselves otherwise."""
    details: str = ""
    """How Envoy's response code details begin; empty: however."""
    new_status: int | None = None


_BAD, _GONE, _OURS = (
    (RefusalCode.INVALID_REQUEST, "invalid_request_error"),
    (RefusalCode.NO_HEALTHY_TARGET, "api_error"),
    (RefusalCode.INTERNAL_ERROR, "api_error"),
)
_UNDECIDED = "The gateway did not decide this request, so it was not sent."
_UNASKED = "The gateway could not decide this request, or could not read its answer."
_TOO_LARGE = (RefusalCode.REQUEST_TOO_LARGE, "request_too_large")

_REPLIES = (
    # The guard's 403 and ext_proc's errors are our failures, not the caller's.
    _Reply(403, *_OURS, _UNDECIDED, True, details="rbac_access_denied", new_status=503),
    _Reply(None, *_OURS, _UNASKED, True, details="ext_proc_"),
    # 401 is what Envoy says when a provider's key cannot be read; the caller's own key was good.
    _Reply(401, *_GONE, "The provider has no usable key.", details="failed_to_in", new_status=503),
    _Reply(400, *_BAD, "The request is malformed."),
    _Reply(403, RefusalCode.INVALID_REQUEST, "permission_error", "Upgrades are not accepted."),
    _Reply(404, RefusalCode.NOT_FOUND, "not_found_error", "No such path."),
    _Reply(408, *_BAD, "The request came too slowly.", True),
    _Reply(413, *_TOO_LARGE, "The body is longer than 32 MiB."),
    _Reply(426, *_BAD, "Use HTTP/1.1 or HTTP/2."),
    _Reply(431, *_TOO_LARGE, "The headers are too long."),
    _Reply(500, *_OURS, "The gateway failed.", True),
    _Reply(502, *_GONE, "The provider broke the connection.", True),
    _Reply(503, RefusalCode.NO_HEALTHY_TARGET, "overloaded_error", "No target could answer.", True),
    _Reply(504, *_GONE, "No target answered in time.", True),
    # Whatever else Envoy may come to say.
    _Reply(None, *_OURS, "The gateway refused this request."),
)


def local_reply_config() -> Json:
    """``LocalReplyConfig``. The first mapper that matches decides."""
    untouched = {
        "filter": _expression("the sidecar's", f"response.code_details == '{REFUSED_DETAILS}'")
    }
    return {
        "mappers": [
            untouched,
            *(_mapper(reply, caller) for reply in _REPLIES for caller in _CALLERS),
        ]
    }


def _mapper(reply: _Reply, caller: str) -> Json:
    filters = [_status("EQ", reply.status) if reply.status else _status("GE", 400)]
    if reply.details:
        expression = f"response.code_details.startsWith('{reply.details}')"
        filters.append(_expression(reply.details, expression))
    if caller != Dialect.OPENAI:
        filters.append(_caller(caller))
    document = _DOCUMENTS[caller](reply)
    mapper: Json = {
        "filter": _all_of(filters),
        "body_format_override": {"json_format": document, "content_type": "application/json"},
    }
    if reply.new_status:
        mapper["status_code"] = reply.new_status
    if not reply.retryable:
        mapper["headers_to_add"] = [
            {
                "header": {"key": "x-should-retry", "value": "false"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ]
    return mapper


def _caller(caller: str) -> Json:
    """By what the sidecar said; by the path where it said nothing."""
    match = {"name": ":path", "string_match": {"safe_regex": {"regex": _PATHS[caller]}}}
    by_path = [{"header_filter": {"header": match}}, _said(caller, unsaid=True)]
    return {"or_filter": {"filters": [_said(caller, unsaid=False), _all_of(by_path)]}}


def _said(caller: str, *, unsaid: bool) -> Json:
    matcher = {
        "filter": METADATA,
        "path": [{"key": CALLER_KEY}],
        "value": {"string_match": {"exact": str(caller)}},
    }
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": {"value": unsaid}}}


def _all_of(filters: list[Json]) -> Json:
    return {"and_filter": {"filters": filters}} if len(filters) > 1 else filters[0]


def _anthropic_document(reply: _Reply) -> Json:
    error = {
        "type": reply.anthropic_type,
        "message": reply.message,
        "metadata": _metadata(reply),
    }
    return {"type": "error", "error": error, "request_id": _REQUEST_ID}


def _openai_document(reply: _Reply) -> Json:
    return {
        "error": {
            "message": reply.message,
            "type": reply.code.value,
            "param": None,
            "code": reply.code.value,
            "metadata": _metadata(reply),
        }
    }


def _mcp_document(reply: _Reply) -> Json:
    """A JSON-RPC error of the gateway's own number. Of which message is not known here: clients
    take it for the one that they sent."""
    error = {"code": -32000, "message": reply.message, "data": _metadata(reply)}
    return {"jsonrpc": "2.0", "id": None, "error": error}


_DOCUMENTS: dict[str, Callable[[_Reply], Json]] = {
    MCP_CALLER: _mcp_document,
    Dialect.ANTHROPIC: _anthropic_document,
    Dialect.OPENAI: _openai_document,
}


def _metadata(reply: _Reply) -> Json:
    return {"code": reply.code.value, "retryable": reply.retryable, "request_id": _REQUEST_ID}


def _status(operator: str, status: int) -> Json:
    value = {"default_value": status, "runtime_key": f"tokenweir.reply.{operator}.{status}"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


def _expression(name: str, expression: str) -> Json:
    return {
        "extension_filter": {
            "name": name,
            "typed_config": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": expression,
            },
        }
    }
