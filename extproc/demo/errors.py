"""Errors in the shapes of the real APIs."""

from __future__ import annotations

from extproc.demo.answer import Json
from extproc.demo.operations import Dialect

_OPENAI = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    404: "invalid_request_error",
    429: "rate_limit_exceeded",
}
_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
HTML = "<html><body><h1>Service Unavailable</h1></body></html>"


def error_document(dialect: Dialect, status: int, message: str, number: int) -> Json:
    """The body of an error with this status."""
    if dialect == "anthropic":
        error = {"type": _ANTHROPIC.get(status, "api_error"), "message": message}
        return {"type": "error", "error": error, "request_id": f"req_{number:08d}"}
    kind = _OPENAI.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
