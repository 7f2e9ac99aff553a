"""Answers to Envoy about requests for MCP servers.

These are far fewer than requests to models, so the protobuf library writes them.
"""

from __future__ import annotations

from typing import Any

from extproc.core.commands import ForwardCall, RefuseCall
from extproc.ledger.port import Remaining
from extproc.pb import extproc_pb2 as pb
from extproc.values.limit import MONEY
from extproc.values.refusal import RefusalCode
from extproc.values.wire_names import (
    ANSWER_HEADERS,
    CALLER_KEY,
    DECIDED_HEADER,
    MCP_CALLER,
    METADATA,
    REFUSED_DETAILS,
    TRANSLATED_HEADER,
)
from extproc.wire.error_body import amount_text, refusal_headers
from extproc.wire.json_rpc import error_message, refused_result

_OVERWRITE = 2
_UNSAFE = {ord(c): None for c in "\r\n\0"}
_MAX_HEADER_CHARACTERS = 1_024


def encode_call(command: ForwardCall | RefuseCall) -> bytes:
    """The message for a command."""
    return _forward(command) if isinstance(command, ForwardCall) else _refuse(command)


def _forward(command: ForwardCall) -> bytes:
    """Sends a request on to its server, the body as it is."""
    response = pb.ProcessingResponse()
    phase = response.request_body if command.after_body else response.request_headers
    common = phase.response
    common.clear_route_cache = True
    endpoint = command.server.endpoint
    headers = [
        (":path", endpoint.base_path),
        (":authority", endpoint.authority),
        (DECIDED_HEADER, MCP_CALLER),
    ]
    if command.is_list:
        headers.append((TRANSLATED_HEADER, "1"))
    for name, value in headers:
        option = common.header_mutation.set_headers.add()
        option.header.key = name
        option.header.raw_value = value.encode()
        option.append_action = _OVERWRITE
    common.header_mutation.remove_headers.extend(command.remove_headers)
    said: dict[str, Any] = {"gen": str(command.generation)}
    if command.rules:
        said["rules"] = _text(command.rules)
    said |= {key: _text(value) for key, value in command.notes}
    for one in command.remaining:
        said |= _left(one, command.now_ms)
    clusters = [{"cluster_name": endpoint.cluster, "weight": 1}]
    groups = [{"name": endpoint.cluster, "clusters": clusters}]
    said |= {"ok": True, "priority_groups": groups, CALLER_KEY: MCP_CALLER}
    response.dynamic_metadata.update({METADATA: said})
    return response.SerializeToString()


def _left(remaining: Remaining, now_ms: int) -> dict[str, str]:
    hold, amount, resets_at_ms = remaining
    if hold.limit.unit in MONEY:
        return {"budget": amount_text("usd", amount)}
    seconds = -(-(resets_at_ms - now_ms) // 1000)
    return {"rl_lr": str(hold.ceiling), "rl_rr": str(amount), "rl_tr": f"{seconds}s"}


def _refuse(command: RefuseCall) -> bytes:
    refusal = command.refusal
    headers = refusal_headers(refusal)
    headers.append(("x-tfy-policy-generation", str(command.generation)))
    if command.rules:
        headers.append(("x-tfy-applied-rules", _text(command.rules)))
    if refusal.code is RefusalCode.INVALID_CREDENTIAL:
        headers.append(("www-authenticate", "Bearer"))
    for key, text in refusal.extra:
        if key in ANSWER_HEADERS:
            headers.append((ANSWER_HEADERS[key], _text(text)))
    write = error_message
    status = refusal.status
    if command.message_id is not None:
        if command.as_result:
            write = refused_result  # type: ignore[assignment]
        if command.as_result or refusal.code is RefusalCode.TOOL_NOT_ALLOWED:
            status = 200  # the message was understood, and this is its answer
    response = pb.ProcessingResponse()
    immediate = response.immediate_response
    immediate.status.code = status
    immediate.body = write(refusal, command.message_id, command.request_id, command.generation)
    immediate.details = REFUSED_DETAILS
    for name, value in headers:
        option = immediate.headers.set_headers.add()
        option.header.key = name
        option.header.raw_value = value.encode()
        option.append_action = _OVERWRITE
    return response.SerializeToString()


def _text(value: str) -> str:
    """A header value that no policy text can break."""
    return value.translate(_UNSAFE)[:_MAX_HEADER_CHARACTERS]
