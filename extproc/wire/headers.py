"""A caller's request headers: the claimed envelope, the API key, the session, the operation.

Identity values are compared exactly and never folded, so their alphabet is small: no commas, no
spaces, nothing outside ASCII, nothing that looks like something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from extproc.values.dialect import OPERATION_BY_PATH, Operation
from extproc.values.envelope import ENVELOPE_FIELDS, Envelope
from extproc.values.refusal import RefusalCode
from extproc.wire.errors import WireError

MAX_KEY_BYTES = 512
"""API keys of the field are 20 to 200 bytes; a longer one is refused before it is hashed."""
MAX_METADATA_BYTES = 4_096
"""Seven fields of 128 characters with their names fit three times."""

_IDENTIFIER = re.compile(rb"[A-Za-z0-9._:@-]{1,128}")
_SESSION = re.compile(rb"[A-Za-z0-9._:@/=+-]{1,128}")

SESSION_HEADERS = (
    "x-claude-code-session-id",
    "session-id",
    "x-opencode-session",
    "x-amp-thread-id",
    "x-session-id",
)
"""What agent clients send by themselves, in order of precedence. Codex's ``session_id`` has an
underscore, which Envoy rejects in header names; newer Codex versions send ``session-id``."""

CREDENTIAL_HEADERS = (
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "proxy-authorization",
    "cookie",
)
"""Whatever may carry a secret of the caller: never shown to a provider."""

_INVALID_CREDENTIAL = RefusalCode.INVALID_CREDENTIAL


class CallerHeaders(NamedTuple):
    """What a decision reads of the headers."""

    operation: Operation
    claims: Envelope
    api_key: bytes
    request_id: str
    remove: Sequence[str]
    """Present headers under the identity prefix that are no envelope field: stripped by name."""


class HeaderNames:
    """The header names of one policy generation, derived from its prefix once."""

    __slots__ = ("_fields", "_sessions", "metadata", "prefix")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.metadata = prefix + "metadata"
        self._fields = {
            prefix + field.replace("_", "-"): place for place, field in enumerate(ENVELOPE_FIELDS)
        }
        self._sessions = {name: rank for rank, name in enumerate(SESSION_HEADERS)}

    @property
    def identity(self) -> tuple[str, ...]:
        """Every header that only the gateway reads."""
        return (*self._fields, self.metadata, *SESSION_HEADERS)

    def parse(self, headers: Iterable[tuple[str, bytes]]) -> CallerHeaders:
        """One pass over the headers. Raises ``WireError``."""
        claims = [""] * len(ENVELOPE_FIELDS)
        metadata = session = None
        rank = len(SESSION_HEADERS)
        path = authorization = x_api_key = content_type = b""
        request_id = ""
        remove = []
        fields = self._fields
        for name, value in headers:
            if name in fields:
                if claims[fields[name]]:
                    raise _twice(name)
                claims[fields[name]] = _identifier(name, value)
            elif name == ":path":
                path = value
            elif name == "authorization":
                if authorization:
                    raise WireError("More than one API key.", code=_INVALID_CREDENTIAL)
                authorization = value
            elif name == "x-api-key":
                if x_api_key:
                    raise WireError("More than one API key.", code=_INVALID_CREDENTIAL)
                x_api_key = value
            elif name == "x-request-id":
                request_id = value.decode("ascii", "replace")
            elif name == "content-type":
                content_type = value
            elif name == "content-encoding":
                if value.lower() != b"identity":
                    raise WireError(
                        "A compressed request body is not accepted.",
                        code=RefusalCode.UNSUPPORTED_MEDIA_TYPE,
                        param="content-encoding",
                    )
            elif name in self._sessions:
                if self._sessions[name] < rank:
                    rank, session = self._sessions[name], (name, value)
            elif name == self.metadata:
                if metadata is not None:
                    raise _twice(name)
                metadata = value
            elif name.startswith(self.prefix):
                remove.append(name)
        if metadata:
            self._merge_metadata(metadata, claims)
        if session is not None and not claims[_SESSION_PLACE]:
            claims[_SESSION_PLACE] = _session(*session)
        operation = OPERATION_BY_PATH.get(path.partition(b"?")[0].decode("latin-1"))
        if operation is None:
            raise WireError("No such path.", code=RefusalCode.NOT_FOUND)
        if operation is not Operation.MODELS and not _is_json(content_type):
            raise WireError(
                "The content type must be application/json.",
                code=RefusalCode.UNSUPPORTED_MEDIA_TYPE,
                param="content-type",
            )
        return CallerHeaders(
            operation, Envelope._make(claims), _key(authorization, x_api_key), request_id, remove
        )

    def _merge_metadata(self, text: bytes, claims: list[str]) -> None:
        if len(text) > MAX_METADATA_BYTES:
            raise WireError(f"{self.metadata} is too long.", param=self.metadata)
        try:
            values: Mapping[str, str] = _decode_metadata(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise WireError(
                f"{self.metadata} is not a JSON object of strings.", param=self.metadata
            ) from None
        for key, value in values.items():
            field = key.lower().replace("-", "_").removeprefix(self.prefix.replace("-", "_"))
            if field not in ENVELOPE_FIELDS:
                raise WireError(f"{self.metadata} has an unknown field.", param=self.metadata)
            place = ENVELOPE_FIELDS.index(field)
            checked = _identifier(self.metadata, value.encode())
            if claims[place] and claims[place] != checked:
                raise _twice(self.prefix + field.replace("_", "-"))
            claims[place] = checked


_SESSION_PLACE = ENVELOPE_FIELDS.index("session_id")
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode


def _identifier(name: str, value: bytes) -> str:
    if _IDENTIFIER.fullmatch(value):
        return value.decode("ascii")
    if not value.strip(b" \t"):
        return ""  # blank is the same as missing
    raise WireError(f"{name} must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -", param=name)


def _session(name: str, value: bytes) -> str:
    if _SESSION.fullmatch(value):
        return value.decode("ascii")
    if not value.strip(b" \t"):
        return ""
    raise WireError(f"{name} is not a usable session id.", param=name)


def _twice(name: str) -> WireError:
    return WireError(
        f"{name} is given more than once.", code=RefusalCode.DUPLICATE_IDENTITY, param=name
    )


def _is_json(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == b"application/json"


def _key(authorization: bytes, x_api_key: bytes) -> bytes:
    """The caller's key. Every kind of bad credential gets the same answer."""
    bearer = b""
    if authorization:
        scheme, _, bearer = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            bearer = b""
    key = bearer.strip(b" ") or x_api_key
    conflict = bearer and x_api_key and bearer != x_api_key
    if not key or len(key) > MAX_KEY_BYTES or conflict:
        raise WireError(
            "Give one API key: Authorization: Bearer KEY, or x-api-key: KEY.",
            code=_INVALID_CREDENTIAL,
        )
    return key
