"""ext_proc messages to what they say, and commands to messages.

Requests are parsed by the protobuf library. Answers are written by hand: an answer is mostly the
same few bytes about a chain of targets, encoded once and then put together with a body and a
length. Protobuf's wire format makes that simple, and tests compare every answer with the library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from extproc.core.commands import Answer, AwaitBody, Forward, Refuse, SendAttempt, Verdict
from extproc.core.routing import Chain
from extproc.edge.header_text import header_text, safe_text
from extproc.edge.immediate_codec import encode_answer, encode_refuse
from extproc.edge.mcp_codec import encode_call
from extproc.envoy.ext_proc import (
    DETAILS_ATTRIBUTE,
    MAX_MESSAGE_TIMEOUT_S,
    MESSAGE_TIMEOUT_S,
    REQUEST_ID_ATTRIBUTE,
)
from extproc.pb import extproc_pb2 as pb
from extproc.policy.snapshot import Target
from extproc.values.dialect import Operation
from extproc.values.limit import MONEY, Unit
from extproc.values.wire_names import (
    CALLER_KEY,
    DECIDED_HEADER,
    METADATA,
    TRANSLATED_HEADER,
)
from extproc.wire.error_body import amount_text
from extproc.wire.headers import CREDENTIAL_HEADERS

_OVERWRITE = b"\x18\x02"  # HeaderValueOption.append_action = OVERWRITE_IF_EXISTS_OR_ADD
_SHORT_BYTES = 100
LARGE_MESSAGE_BYTES = 64 * 1024
MAX_ENCODED = 1_024
"""Prepared answers per chain: operations times sets of rules, which are few."""


# -- protobuf, by hand ----------------------------------------------------------------------------


def _long_varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_VARINTS = tuple(_long_varint(value) for value in range(1 << 14))
"""Those of one and two bytes: nearly every length of an answer."""


def _varint(value: int) -> bytes:
    return _VARINTS[value] if value < len(_VARINTS) else _long_varint(value)


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return b"%c%b%b" % (number << 3 | 2, _varint(len(value)), value)


def _set_header(name: str, value: bytes) -> bytes:
    """One ``HeaderMutation.set_headers``."""
    header = _field(1, name.encode()) + _field(3, value)
    return _field(1, _field(1, header) + _OVERWRITE)


def _entry(key: bytes, value: bytes) -> bytes:
    """One entry of ``Struct.fields``; ``value`` is an encoded ``Value``."""
    return _field(1, _field(1, key) + _field(2, value))


def _string(key: bytes, value: bytes) -> bytes:
    """An entry with a string. Most are so short that every length is one byte."""
    size, name_size = len(value), len(key)
    if size + name_size > _SHORT_BYTES:
        return _entry(key, _field(3, value))
    inner = name_size + size + 6
    return b"\x0a%c\x0a%c%b\x12%c\x1a%c%b" % (inner, name_size, key, size + 2, size, value)


@lru_cache(maxsize=4_096)
def _known_string(key: bytes, number: int, unit: str = "") -> bytes:
    """An entry whose number comes again and again: a ceiling, the seconds to a reset."""
    return _string(key, f"{number}{unit}".encode())


def _content_length(length: int) -> bytes:
    digits = b"%d" % length
    size = len(digits)
    return b"\x0a%c\x0a%c\x0a\x0econtent-length\x1a%c%b\x18\x02" % (
        size + 22,
        size + 18,
        size,
        digits,
    )


# -- requests -------------------------------------------------------------------------------------


def decode_body(data: bytes) -> bytes | None:
    """The body of a large message that is nothing but a whole request body, cut out of its bytes.

    None for every other message: the library parses those. This saves two copies of up to 32 MiB;
    of a small body the library's copies cost less than these lines.
    """
    if len(data) < LARGE_MESSAGE_BYTES or data[0] != 0x22:  # ProcessingRequest.request_body
        return None
    size, at = _read_varint(data, 1)
    if at + size != len(data):
        return None
    body = b""
    if data[at : at + 1] == b"\x0a":  # HttpBody.body
        length, start = _read_varint(data, at + 1)
        at = start + length
        body = data[start:at]
    # What is left is HttpBody.end_of_stream.
    return body if data[at:] == b"\x10\x01" else None


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint of at most 5 bytes and where it ends; a longer or cut one gives an impossible
    length, so that no message is recognised."""
    value = shift = 0
    for place in range(at, min(at + 5, len(data))):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    return 1 << 40, at


# -- answers --------------------------------------------------------------------------------------


AWAIT_BODY_MESSAGE = pb.ProcessingResponse(request_headers=pb.HeadersResponse()).SerializeToString()
_NAMESPACE = _field(1, METADATA.encode())
_LIMIT_KEYS = ((b"rl_lr", b"rl_rr", b"rl_tr"), (b"rl_lt", b"rl_rt", b"rl_tt"))
"""Of requests, and of tokens: limit, remaining, reset. See ``ANSWER_HEADERS``."""
_SIGNATURE_HEADERS = ("x-amz-date", "x-amz-content-sha256", "x-amz-security-token")
_OF_A_PROVIDER = "via_upstream"
"""Envoy's response code details of what it did not make itself."""
GIVEN_UP_STATUS = 504
"""What an attempt that never began to answer counts as; the route retries it like any 5xx."""
_REMOVED_BETWEEN_ATTEMPTS = b"".join(
    _field(2, name.encode()) for name in (*CREDENTIAL_HEADERS, *_SIGNATURE_HEADERS)
)


def encode_forward(command: Forward) -> bytes:
    """The body answer that sends a request to the first target of its chain."""
    chain, body = command.chain, command.body
    timeout_ms = chain.stream_timeout_ms if command.stream else chain.timeout_ms
    key = (command.operation, command.hide_usage, command.generation, command.rules, timeout_ms)
    fixed = chain.encoded.get(key)
    if fixed is None:
        if len(chain.encoded) >= MAX_ENCODED:
            chain.encoded.clear()
        fixed = chain.encoded[key] = (
            _chain_headers(chain, command.operation, timeout_ms),
            _chain_metadata(chain, command),
        )
    headers = fixed[0] + _content_length(len(body))
    if command.path:
        headers += _set_header(":path", command.path.encode())  # the last word counts
    for name, value in command.set_headers:
        headers += _set_header(name, safe_text(value).encode("latin-1"))
    if command.remove_headers:
        headers += b"".join([_field(2, name.encode()) for name in command.remove_headers])
    said = _limit_entries(command)
    if command.notes:
        said += _notes(command.notes)
    return _body_response(
        headers, body, b"\x28\x01", _metadata(fixed[1] + said)
    )  # clear_route_cache


def _notes(notes: Sequence[tuple[str, str]]) -> bytes:
    return b"".join([_string(key.encode(), header_text(text).encode()) for key, text in notes])


def _metadata(entries: bytes) -> bytes:
    """Dynamic metadata in the sidecar's namespace."""
    return _field(8, _field(1, _NAMESPACE + _field(2, _field(5, entries))))


def _body_response(headers: bytes, body: bytes, rest: bytes, after: bytes) -> bytes:
    """A ``ProcessingResponse`` with a new body, which is copied once: it may be 32 MiB long."""
    body_bytes = len(body)
    body_head = b"\x0a" + _varint(body_bytes)
    before = b"\x12%b%b\x1a%b%b" % (
        _varint(len(headers)),
        headers,
        _varint(len(body_head) + body_bytes),
        body_head,
    )
    common_bytes = len(before) + body_bytes + len(rest)
    common_head = b"\x0a" + _varint(common_bytes)
    head = b"\x1a%b%b" % (_varint(len(common_head) + common_bytes), common_head)
    return b"".join((head, before, body, rest, after))


def _chain_headers(chain: Chain, operation: Operation, timeout_ms: int) -> bytes:
    target = chain.targets[0]
    headers = (
        _target_headers(target, operation)
        + _set_header(DECIDED_HEADER, b"%d" % chain.idle_timeout_ms)
        + _set_header("x-envoy-max-retries", b"%d" % (len(chain.targets) - 1))
        + _set_header("x-envoy-upstream-rq-per-try-timeout-ms", b"%d" % timeout_ms)
    )
    if any(operation in target.translated for target in chain.targets):
        headers += _set_header(TRANSLATED_HEADER, b"1")
    if chain.request_timeout_ms:
        headers += _set_header("x-envoy-upstream-rq-timeout-ms", b"%d" % chain.request_timeout_ms)
    return headers


def _target_headers(target: Target, operation: Operation) -> bytes:
    endpoint = target.endpoints[operation]
    path = endpoint.path(operation, target.model)
    return _set_header(":path", path.encode()) + _set_header(
        ":authority", endpoint.authority.encode()
    )


def _chain_metadata(chain: Chain, command: Forward) -> bytes:
    """The parts of the verdict that are the same for every request to this chain."""
    verdict = pb.ProcessingResponse().dynamic_metadata
    groups: list[Any] = []
    for target in chain.targets:
        name = target.clusters[chain.operation]
        groups.append({"name": name, "clusters": [{"cluster_name": name, "weight": 1}]})
    verdict.update({"ok": True, "priority_groups": groups, "gen": str(command.generation)})
    if any(chain.operation in target.translated for target in chain.targets):
        verdict.update({CALLER_KEY: str(chain.operation.dialect)})
    if command.hide_usage:
        verdict.update({"hide_usage": True})
    if command.rules:
        verdict.update({"rules": header_text(command.rules)})
    return verdict.SerializeToString()


def _limit_entries(command: Forward) -> bytes:
    """What the answer's headers will say about the tightest limits."""
    entries = b""
    budget = -1
    for hold, amount, resets_at_ms in command.remaining:
        unit = hold.limit.unit
        if unit in MONEY:
            # The tightest strict budget and the tightest statistical one: the tighter is shown.
            budget = amount if budget < 0 else min(budget, amount)
        else:
            limit, remaining, reset = _LIMIT_KEYS[unit is not Unit.REQUESTS]
            # Relative, in whole seconds, as OpenAI writes it.
            seconds = -(-(resets_at_ms - command.now_ms) // 1000)
            entries += b"%b%b%b" % (
                _known_string(limit, hold.ceiling),
                _string(remaining, b"%d" % amount),
                _known_string(reset, seconds, "s"),
            )
    if budget >= 0:
        entries += _string(b"budget", amount_text("usd", budget).encode())
    return entries


def encode_send_attempt(command: SendAttempt) -> bytes:
    """The body answer of a later attempt. Every credential header of the earlier one is removed:
    header changes survive from attempt to attempt."""
    path, authority = command.path, command.target.endpoints[command.operation].authority
    if not path:
        headers = _target_headers(command.target, command.operation)
    else:
        headers = _set_header(":path", path.encode()) + _set_header(
            ":authority", authority.encode()
        )
    headers += _content_length(len(command.body)) + _REMOVED_BETWEEN_ATTEMPTS
    for name, value in command.headers:
        headers += _set_header(name, safe_text(value).encode("latin-1"))
    headers += b"".join([_field(2, name.encode()) for name in command.remove_headers])
    said = _metadata(_notes(command.notes)) if command.notes else b""
    return _body_response(headers, command.body, b"", said)


def decode_answer_headers(message: pb.HttpHeaders) -> tuple[int, str, str, str]:
    """Status and content type of a provider's answer, what AWS calls an error, and how the body is
    encoded."""
    names = (":status", "content-type", "x-amzn-errortype", "content-encoding")
    read = dict.fromkeys(names, "")
    for header in message.headers.headers[:]:
        if header.key in read:
            read[header.key] = header.raw_value.decode("ascii", "replace")
    status, content_type, error_name, encoding = read.values()
    return int(status) if status.isdigit() else 0, content_type, error_name, encoding.lower()


def decode_answer_origin(message: pb.ProcessingRequest) -> tuple[str, bool]:
    """Whose answer it is, by the request's id, and whether a provider gave it and not Envoy."""
    request_id = details = ""
    for attributes in message.attributes.values():
        fields = attributes.fields
        if REQUEST_ID_ATTRIBUTE in fields:
            request_id = fields[REQUEST_ID_ATTRIBUTE].string_value
        if DETAILS_ATTRIBUTE in fields:
            details = fields[DETAILS_ATTRIBUTE].string_value
    return request_id, details == _OF_A_PROVIDER


def encode_answer_headers(content_type: str) -> bytes:
    """What the headers of a translated answer become (its length and its encoding are not the
    provider's); with an empty type they stay as they are. Either is marked: Envoy passes on no
    answer of a chain with translated targets that was not here."""
    mutation = _set_header(TRANSLATED_HEADER, b"1")
    if content_type:
        mutation += _set_header("content-type", content_type.encode())
        mutation += _field(2, b"content-length") + _field(2, b"content-encoding")
    return _field(2, _field(1, _field(2, mutation)))


def encode_empty_error(content_type: str, body: bytes) -> bytes:
    """The headers of a translated error that came without a body, and the body it is given."""
    mutation = _set_header(TRANSLATED_HEADER, b"1") + _set_header(
        "content-type", content_type.encode()
    )
    replaced = (
        b"\x08\x01" + _field(2, mutation) + _field(3, _field(1, body))
    )  # CONTINUE_AND_REPLACE
    return _field(2, _field(1, replaced))


def encode_let_go() -> bytes:
    """The headers of an answer that was held back, as they are."""
    return _field(2, _field(1, b""))


def encode_answer_body(body: bytes) -> bytes:
    """The next bytes of a translated answer, in place of the provider's; none hold it back."""
    return _answer_head(len(body)) + body


@lru_cache(maxsize=4_096)
def _answer_head(size: int) -> bytes:
    """What is before a body of that size: the heads of ``response_body``, its ``response``, the
    ``body_mutation`` and its ``body``. Events of a stream come in a few sizes."""
    head = b""
    for tag in (b"\x0a", b"\x1a", b"\x0a", b"\x22"):
        head = tag + _varint(len(head) + size) + head
    return head


def encode_given_up() -> bytes:
    """The headers of an answer that is not waited for any longer: Envoy takes them for the
    provider's own failure, and goes on to the next target."""
    return _field(2, _field(1, _field(2, _set_header(":status", b"%d" % GIVEN_UP_STATUS))))


def encode_hold(hold_ms: int) -> bytes:
    """Tells Envoy to wait for the answer to this message longer than usual, in whole seconds."""
    return _hold(-(-hold_ms // 1000) + MESSAGE_TIMEOUT_S)


@lru_cache(maxsize=128)
def _hold(seconds: int) -> bytes:
    response = pb.ProcessingResponse()
    response.override_message_timeout.seconds = min(seconds, MAX_MESSAGE_TIMEOUT_S)
    return response.SerializeToString()


def encode(command: Verdict) -> tuple[bytes, bool]:
    """The message for a command, and whether it is the stream's last."""
    if isinstance(command, AwaitBody):
        return AWAIT_BODY_MESSAGE, False
    if isinstance(command, Forward):
        return encode_forward(command), True
    if isinstance(command, Refuse):
        return encode_refuse(command), True
    if isinstance(command, SendAttempt):
        return encode_send_attempt(command), True
    if isinstance(command, Answer):
        return encode_answer(command), True
    return encode_call(command), True
