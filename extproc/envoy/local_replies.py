"""Every answer that Envoy makes by itself, in the caller's dialect.

A refusal of the sidecar is already what the caller's SDK expects, so it is told apart by its
response code details and left alone.
"""

from __future__ import annotations

from typing import Any

from extproc.values.refusal import RefusalCode
from extproc.values.wire_names import REFUSED_DETAILS

Json = dict[str, Any]

_ANTHROPIC_PATH = ".*/messages(/count_tokens)?([?].*)?"

_REPLIES: tuple[tuple[int, RefusalCode, str, str], ...] = (
    # status, code, Anthropic's type, message
    (400, RefusalCode.INVALID_REQUEST, "invalid_request_error", "The request is malformed."),
    (403, RefusalCode.INVALID_REQUEST, "permission_error", "Upgrades are not accepted."),
    (404, RefusalCode.NOT_FOUND, "not_found_error", "No such path."),
    (408, RefusalCode.INVALID_REQUEST, "invalid_request_error", "The request came too slowly."),
    (413, RefusalCode.REQUEST_TOO_LARGE, "request_too_large", "The body is longer than 32 MiB."),
    (426, RefusalCode.INVALID_REQUEST, "invalid_request_error", "Use HTTP/1.1 or HTTP/2."),
    (431, RefusalCode.REQUEST_TOO_LARGE, "request_too_large", "The headers are too long."),
    (500, RefusalCode.INTERNAL_ERROR, "api_error", "The gateway failed."),
    (502, RefusalCode.NO_HEALTHY_TARGET, "api_error", "The provider broke the connection."),
    (503, RefusalCode.NO_HEALTHY_TARGET, "overloaded_error", "No target could answer."),
    (504, RefusalCode.NO_HEALTHY_TARGET, "api_error", "No target answered in time."),
)


_GUARD_DETAILS = "rbac_access_denied"
_UNDECIDED = (
    RefusalCode.INTERNAL_ERROR,
    "api_error",
    "The gateway did not decide this request, so it was not sent.",
)


def local_reply_config() -> Json:
    """``LocalReplyConfig``: one mapper per status and dialect."""
    mappers = []
    for anthropic in (True, False):
        # The guard's 403 is our failure, not the caller's: 503.
        mapper = _mapper(403, *_UNDECIDED, anthropic)
        mapper["filter"]["and_filter"]["filters"].append(
            _expression("guard", f"response.code_details.startsWith('{_GUARD_DETAILS}')")
        )
        mapper["status_code"] = 503
        mappers.append(mapper)
    for status, code, anthropic_type, message in _REPLIES:
        for anthropic in (True, False):
            mappers.append(_mapper(status, code, anthropic_type, message, anthropic))
    return {"mappers": mappers}


def _mapper(
    status: int, code: RefusalCode, anthropic_type: str, message: str, anthropic: bool
) -> Json:
    metadata = {
        "code": code.value,
        "retryable": False,
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    if anthropic:
        document: Json = {
            "type": "error",
            "error": {"type": anthropic_type, "message": message, "metadata": metadata},
            "request_id": "%REQ(X-REQUEST-ID)%",
        }
    else:
        document = {
            "error": {
                "message": message,
                "type": code.value,
                "param": None,
                "code": code.value,
                "metadata": metadata,
            }
        }
    filters: list[Json] = [
        {
            "status_code_filter": {
                "comparison": {
                    "op": "EQ",
                    "value": {"default_value": status, "runtime_key": f"tokenweir.reply.{status}"},
                }
            }
        },
        _expression("not the sidecar's", f"response.code_details != '{REFUSED_DETAILS}'"),
    ]
    if anthropic:
        filters.append(
            {
                "header_filter": {
                    "header": {
                        "name": ":path",
                        "string_match": {"safe_regex": {"regex": _ANTHROPIC_PATH}},
                    }
                }
            }
        )
    return {
        "filter": {"and_filter": {"filters": filters}},
        "body_format_override": {"json_format": document, "content_type": "application/json"},
    }


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
