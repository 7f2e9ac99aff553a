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
_KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
_SHOWN = (*_KEY_HEADERS, "x-amz-security-token")
_BAD_KEY = "Incorrect API key provided."
_AZURE_KEY = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a "
    "valid key for an active subscription and use a correct regional API endpoint."
)
_AZURE_PLACE = "Resource not found"


def check_caller(request: web.Request, dialect: Dialect, raw: bytes, faults: Faults) -> None:
    """Raises BadRequestError: Anthropic without its version, Google without any key, Azure without
    its header and its version, and, where the faults name secrets, whoever has none of them."""
    resource = request.match_info.route.resource
    if resource is not None and resource.canonical.startswith("/{provider}/azure/"):
        _check_azure(request)
    if faults.keys and key_of(request).removeprefix("Bearer ") not in faults.keys.split(","):
        raise BadRequestError(_BAD_KEY, 401)
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


def echoed(request: web.Request, faults: Faults) -> dict[str, str]:
    """Headers of a provider that shows what it should keep to itself."""
    if not faults.echo_key:
        return {}
    return {
        f"x-received-{name}": request.headers[name] for name in _SHOWN if name in request.headers
    }


def _check_azure(request: web.Request) -> None:
    if not request.headers.get("api-key"):
        raise BadRequestError(_AZURE_KEY, 401, "401")
    if "/openai/v1/" not in request.path and not request.query.get("api-version"):
        raise BadRequestError(_AZURE_PLACE, 404, "404")


def key_of(request: web.Request) -> str:
    """The credential that came: of a signature, whose it says it is."""
    key = next((request.headers[name] for name in _KEY_HEADERS if request.headers.get(name)), "")
    return access_key_id(key) or key
