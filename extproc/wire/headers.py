"""A caller's request headers: the claimed envelope, the API key, the session, the operation.

Identity values are compared exactly and never folded, so their alphabet is small: no commas, no
spaces, nothing outside ASCII, nothing that looks like something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from extproc.values.dialect import MCP_PREFIX, OPERATION_BY_PATH, OWN_OPERATIONS, Operation
from extproc.values.envelope import ENVELOPE_FIELDS, Envelope
from extproc.values.refusal import RefusalCode
from extproc.wire.errors import WireError
from extproc.wire.json_object import split_object

MAX_KEY_BYTES = 512
"""API keys of the field are 20 to 200 bytes; a longer one is refused before it is hashed."""
MAX_METADATA_BYTES = 4_096
"""Seven fields of 128 characters with their names fit three times."""

SESSION_HEADERS = (
    "x-claude-code-session-id",
    "session-id",
    "x-opencode-session",
    "x-amp-thread-id",
    "x-session-id",
)
"""What agent clients send by themselves, in order of precedence. Codex sends ``session-id`` since
0.131; before, it was ``session_id``. Envoy drops headers with underscores in their names, because
other software reads them as dashes, which is a way to smuggle a second identity past us: an older
Codex has the session that its conversation gives."""

CREDENTIAL_HEADERS = (
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "proxy-authorization",
    "cookie",
)
"""Whatever may carry a secret of the caller: never shown to a provider."""

TIMEOUT_HEADERS = ("x-stainless-timeout", "x-stainless-read-timeout")
"""How long the caller's SDK waits for an answer, in seconds: OpenAI's and Anthropic's, in every
language. They repeat what a program may set per call."""
MAX_TIMEOUT_S = 86_400
"""A longer one is as good as none."""

PRIVATE_PREFIXES = ("x-amz-", "x-claude-code-")
"""Headers stripped by prefix beside the identity prefix: a caller's AWS signature or session token,
and which of whose agents is asking."""

DEARER_PREFIXES = ("x-vertex-ai-", "x-amzn-bedrock-", "x-ms-spillover-")
"""By these Vertex AI, Bedrock and Azure let a request choose what it costs (priority, a tier,
guardrails, another deployment). No reservation is made for that, so no caller's reaches them."""

_IDENTIFIER = re.compile(rb"[A-Za-z0-9._:@-]{1,128}")
_ENVELOPE = re.compile(
    rb"[A-Za-z0-9._:@-]{0,128}(?:,[A-Za-z0-9._:@-]{0,128}){%d}" % (len(ENVELOPE_FIELDS) - 1)
)
"""All fields joined by a character that none may hold: one match instead of seven."""
_SESSION = re.compile(rb"[A-Za-z0-9._:@/=+-]{1,128}")
_BEARER = re.compile(rb"bearer +([!-~]+) *", re.IGNORECASE)
_API_KEY = re.compile(rb"[!-~]+")
_SECONDS = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_BLANK = b" \t"
_JSON = b"application/json"
_UTF8 = re.compile(rb"""[ \t]*charset=(?:utf-?8|"utf-?8")[ \t]*""", re.IGNORECASE)

# The places of what is picked from the headers: first what says who asks.
_FIELDS = len(ENVELOPE_FIELDS)
_SESSION_FIELD = ENVELOPE_FIELDS.index("session_id")
_METADATA = _FIELDS
_SESSIONS = _FIELDS + 1
_IDENTITY = _SESSIONS + len(SESSION_HEADERS)
_PATH = _IDENTITY
_AUTHORIZATION = _IDENTITY + 1
_X_API_KEY = _IDENTITY + 2
_REQUEST_ID = _IDENTITY + 3
_CONTENT_TYPE = _IDENTITY + 4
_CONTENT_ENCODING = _IDENTITY + 5
_PLACES = _IDENTITY + 6

_OPERATIONS = {path.encode(): operation for path, operation in OPERATION_BY_PATH.items()}
_MCP = MCP_PREFIX.encode()
_decode_string = msgspec.json.Decoder(str).decode


class CallerHeaders(NamedTuple):
    """What a decision reads of the headers: one pass over them, nothing interpreted yet that is
    the same for all requests of a caller (see ``HeaderNames.claims`` and ``api_key``)."""

    operation: Operation
    identity: tuple[bytes | None, ...]
    """The raw identity headers. Equal for requests of the same kind of caller."""
    authorization: bytes | None
    x_api_key: bytes | None
    request_id: str
    remove: Sequence[str]
    """Present headers to strip that have no fixed name (see ``HeaderNames.identity``)."""


class HeaderNames:
    """The header names of one policy generation, derived from its prefix once."""

    __slots__ = ("_fields", "_places", "_private", "metadata", "prefix")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.metadata = prefix + "metadata"
        self._private = (prefix, *PRIVATE_PREFIXES, *DEARER_PREFIXES)
        self._fields = tuple(prefix + field.replace("_", "-") for field in ENVELOPE_FIELDS)
        self._places = {name: place for place, name in enumerate(self._fields)} | {
            self.metadata: _METADATA,
            ":path": _PATH,
            "authorization": _AUTHORIZATION,
            "x-api-key": _X_API_KEY,
            "x-request-id": _REQUEST_ID,
            "content-type": _CONTENT_TYPE,
            "content-encoding": _CONTENT_ENCODING,
        }
        for rank, name in enumerate(SESSION_HEADERS):
            self._places.setdefault(name, _SESSIONS + rank)

    @property
    def identity(self) -> tuple[str, ...]:
        """Every header that only the gateway reads."""
        return (*self._fields, self.metadata, *SESSION_HEADERS)

    @property
    def read(self) -> tuple[str, ...]:
        """Every header whose value ``parse`` looks at."""
        return tuple(self._places)

    def parse(self, headers: Iterable[tuple[str, bytes]]) -> CallerHeaders:
        """Reads the headers in one pass. Names are in lower case.

        Raises ``WireError``: 404 for a path that is none of ours, 401 for anything but one good
        API key, 400 for a header given twice, 415 for a body that is not plain JSON.
        """
        found: list[bytes | None] = [None] * _PLACES
        remove = []
        twice = None
        places, private = self._places, self._private
        for name, value in headers:
            place = places.get(name)
            if place is not None:
                if found[place] is not None:
                    twice = name
                found[place] = value
            elif name.startswith(private):
                remove.append(name)
        _, authorization, x_api_key, request_id, content_type, encoding = found[_IDENTITY:]
        operation = _operation(found[_PATH])
        if twice is not None:
            api_key(authorization, x_api_key)  # a bad key is the first thing to be said
            raise _repeated(twice, places[twice])
        if (content_type != _JSON or encoding) and operation not in OWN_OPERATIONS:
            api_key(authorization, x_api_key)
            check_media_type(content_type, encoding)
        return CallerHeaders(
            operation,
            tuple(found[:_IDENTITY]),
            authorization,
            x_api_key,
            request_id.decode("ascii", "replace") if request_id else "",
            remove,
        )

    def claims(self, identity: Sequence[bytes | None]) -> Envelope:
        """What the identity headers claim. Raises ``WireError`` (400) for what cannot be
        compared."""
        fields = [value or b"" for value in identity[:_FIELDS]]
        joined = b",".join(fields)
        if _ENVELOPE.fullmatch(joined):
            claims = joined.decode("ascii").split(",")
        else:
            claims = list(map(_comparable, self._fields, fields))
        metadata = identity[_METADATA]
        if metadata is not None and metadata.strip(_BLANK):
            self._merge_metadata(metadata, claims)
        if not claims[_SESSION_FIELD]:
            for rank, name in enumerate(SESSION_HEADERS):
                value = identity[_SESSIONS + rank]
                if value is not None and value.strip(_BLANK):
                    claims[_SESSION_FIELD] = _session(name, value)
                    break
        return Envelope._make(claims)

    def _merge_metadata(self, text: bytes, claims: list[str]) -> None:
        """Adds the claims of the JSON form. The same claim in both forms must agree."""
        if len(text) > MAX_METADATA_BYTES:
            raise WireError(f"{self.metadata} is too long.", param=self.metadata)
        split = split_object(text, self.metadata)
        for key in split.values:
            field = key.lower().replace("-", "_") if key.isascii() else ""
            field = field.removeprefix(self.prefix.replace("-", "_"))
            if field not in ENVELOPE_FIELDS:
                named = f" {field}" if field.isidentifier() and len(field) <= 64 else ""
                raise WireError(
                    f"{self.metadata} has an unknown field{named}.", param=self.metadata
                )
            try:
                value = _decode_string(split.raw(key) or b"").encode()
            except (msgspec.DecodeError, UnicodeError):
                raise WireError(
                    f"{self.metadata} must hold strings only.", param=self.metadata
                ) from None
            place = ENVELOPE_FIELDS.index(field)
            claim = _comparable(self._fields[place], value)
            if claim and claims[place] and claims[place] != claim:
                raise _repeated(self._fields[place], place)
            claims[place] = claims[place] or claim


def client_timeout_ms(headers: Iterable[tuple[str, bytes]]) -> int | None:
    """After how long the caller gives up, as its SDK says it; None where it says nothing usable
    (``None``, ``NOT_GIVEN``). Only read of a request that would have to wait."""
    timeouts = [
        int(min(float(value), MAX_TIMEOUT_S) * 1000)
        for name, value in headers
        if name in TIMEOUT_HEADERS and _SECONDS.fullmatch(value)
    ]
    return min(timeouts, default=None)


def _comparable(name: str, value: bytes) -> str:
    """An identity value as it is; empty when blank, which means the same as missing."""
    if _IDENTIFIER.fullmatch(value):
        return value.decode("ascii")
    if not value.strip(_BLANK):
        return ""
    raise WireError(f"{name} must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -", param=name)


def _session(name: str, value: bytes) -> str:
    if _SESSION.fullmatch(value):
        return value.decode("ascii")
    raise WireError(f"{name} is not a usable session id.", param=name)


def _repeated(name: str, place: int) -> WireError:
    if place in (_AUTHORIZATION, _X_API_KEY):
        return WireError("More than one API key.", code=RefusalCode.INVALID_CREDENTIAL)
    code = RefusalCode.DUPLICATE_IDENTITY if place < _IDENTITY else RefusalCode.INVALID_REQUEST
    return WireError(f"{name} is given more than once.", code=code, param=name)


def check_media_type(content_type: bytes | None, content_encoding: bytes | None) -> None:
    """Raises ``WireError`` (415) for a body that is not plain JSON.

    JSON is UTF-8. Under another name the same bytes would be another text to whoever believes it:
    ``+AHQ-ools/call`` in UTF-7 is ``tools/call``.
    """
    media_type, _, parameters = (content_type or b"").partition(b";")
    is_plain = b"charset" not in parameters.lower() or _UTF8.fullmatch(parameters)
    if media_type.strip().lower() != _JSON or not is_plain:
        raise WireError(
            "The content type must be application/json, in UTF-8.",
            code=RefusalCode.UNSUPPORTED_MEDIA_TYPE,
            param="content-type",
        )
    if content_encoding and content_encoding.lower() != b"identity":
        raise WireError(
            "A compressed request body is not accepted.",
            code=RefusalCode.UNSUPPORTED_MEDIA_TYPE,
            param="content-encoding",
        )


def api_key(authorization: bytes | None, x_api_key: bytes | None) -> bytes:
    """The caller's one key. Raises ``WireError`` (401), the same for every kind of bad key."""
    key = b""
    if authorization:
        bearer = _BEARER.fullmatch(authorization)
        if bearer and x_api_key in (None, b"", bearer[1]):
            key = bearer[1]
    elif x_api_key and _API_KEY.fullmatch(x_api_key):
        key = x_api_key
    if 0 < len(key) <= MAX_KEY_BYTES:
        return key
    raise WireError(
        "Give one API key: Authorization: Bearer KEY, or x-api-key: KEY.",
        code=RefusalCode.INVALID_CREDENTIAL,
    )


def _operation(path: bytes | None) -> Operation:
    operation = _OPERATIONS.get(path or b"")
    if operation is None:
        operation = _OPERATIONS.get((path or b"").partition(b"?")[0])
        if operation is None:
            if (path or b"").startswith(_MCP):
                return Operation.MCP
            raise WireError("No such path.", code=RefusalCode.NOT_FOUND)
    return operation
