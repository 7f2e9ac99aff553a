"""Answers to Envoy about requests for MCP servers.

These are far fewer than requests to models, so the protobuf library writes them.
"""

from __future__ import annotations

from typing import Any

from extproc.core.commands import ForwardCall, RefuseCall
from extproc.edge.header_text import header_text, set_headers
from extproc.edge.immediate_codec import immediate, told_headers
from extproc.ledger.port import Remaining
from extproc.pb import extproc_pb2 as pb
from extproc.values.limit import MONEY
from extproc.values.refusal import RefusalCode
from extproc.values.wire_names import (
    CALLER_KEY,
    DECIDED_HEADER,
    MCP_CALLER,
    METADATA,
    TRANSLATED_HEADER,
)
from extproc.wire.error_body import amount_text
from extproc.wire.json_rpc import error_message, refused_result


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
    set_headers(common.header_mutation, headers)
    common.header_mutation.remove_headers.extend(command.remove_headers)
    said: dict[str, Any] = {"gen": str(command.generation)}
    if command.rules:
        said["rules"] = header_text(command.rules)
    said |= {key: header_text(value) for key, value in command.notes}
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
    headers = told_headers(refusal, command.rules, command.generation)
    if refusal.code is RefusalCode.INVALID_CREDENTIAL:
        headers.append(("www-authenticate", "Bearer"))
    message_id, request_id, number = command.message_id, command.request_id, command.generation
    if message_id is not None and command.as_result:
        # The message was understood, and this is its answer: as is that a tool may not be called.
        return immediate(200, headers, refused_result(refusal, message_id, request_id, number))
    answered = message_id is not None and refusal.code is RefusalCode.TOOL_NOT_ALLOWED
    body = error_message(refusal, message_id, request_id, number)
    return immediate(200 if answered else refusal.status, headers, body)
