"""Errors in the shapes of the real APIs."""

from __future__ import annotations

from extproc.demo.answer import BadRequestError, Dialect
from extproc.demo.asked import Json

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
_GOOGLE = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_AWS = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}
_AWS_NAMESPACE = "http://internal.amazon.com/coral/com.amazon.bedrock/"
HTML = "<html><body><h1>Service Unavailable</h1></body></html>"


def error_document(
    dialect: Dialect,
    status: int,
    message: str,
    request_id: str = "",
    *,
    code: str = "",
    param: str = "",
) -> Json:
    """The body of an error with this status."""
    if dialect == "anthropic":
        kind = _ANTHROPIC.get(status, "api_error")
        inner = {"type": kind, "message": message}
        return {"type": "error", "error": inner, "request_id": request_id}
    if dialect == "gemini":
        name = code or _GOOGLE.get(status, "UNKNOWN")
        return {"error": {"code": status, "message": message, "status": name}}
    if dialect == "bedrock":
        return {"message": message}
    kind = _OPENAI.get(status, "server_error")
    error = {"message": message, "type": kind, "param": param or None, "code": code or None}
    return {"error": error}


def error_headers(dialect: Dialect, status: int, code: str = "") -> dict[str, str]:
    """Headers that say what a body does not: AWS names the exception there."""
    if dialect != "bedrock":
        return {}
    name = code or _AWS.get(status, "InternalServerException")
    return {"x-amzn-errortype": f"{name}:{_AWS_NAMESPACE}"}


def refusal_document(dialect: Dialect, problem: BadRequestError, request_id: str) -> Json:
    """The body of the answer to a request that is refused."""
    return error_document(
        dialect, problem.status, str(problem), request_id, code=problem.code, param=problem.param
    )
