"""What each API wants to know of its caller before it reads the body."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web

from extproc.demo.answer import BadRequestError, Dialect
from extproc.demo.anthropic_messages import check_version
from extproc.demo.faults import Faults
from extproc.demo.sigv4 import SignedRequest, access_key_id, verify

_NOBODY = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use "
    "API Key or other form of API consumer identity to call this API."
)
_KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key")


def check_caller(request: web.Request, dialect: Dialect, raw: bytes, faults: Faults) -> None:
    """Raises BadRequestError: Anthropic without its version, Google without any key, and, where
    ``aws_secret`` is set, Bedrock without a signature that it made."""
    if dialect == "anthropic":
        check_version(request.headers)
    elif dialect == "gemini":
        if not key_of(request) and "key" not in request.query:
            raise BadRequestError(_NOBODY, 403)
    elif dialect == "bedrock" and faults.aws_secret:
        path, _, query = request.raw_path.partition("?")
        headers = {name.lower(): value for name, value in request.headers.items()}
        signed = SignedRequest(request.method, path, query, headers, raw)
        verify(signed, faults.aws_secret, datetime.now(UTC))


def key_of(request: web.Request) -> str:
    """The credential that came: of a signature, whose it says it is."""
    key = next((request.headers[name] for name in _KEY_HEADERS if request.headers.get(name)), "")
    return access_key_id(key) or key
