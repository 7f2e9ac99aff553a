"""Who sends a request: worked out once for each kind of caller, and for refusals."""

from __future__ import annotations

import hashlib

from extproc.core import refusals
from extproc.core.callers import Caller, kind_of
from extproc.core.events import RequestHeaders
from extproc.core.generation import Generation
from extproc.core.identity import resolve_envelope
from extproc.core.kill_switch import KillSwitch
from extproc.policy.snapshot import Credential
from extproc.values.dialect import OPERATION_BY_PATH, OWN_OPERATIONS, Dialect
from extproc.values.refusal import Refusal
from extproc.wire.headers import CallerHeaders, api_key


def credential_of(generation: Generation, headers: CallerHeaders) -> Credential | None:
    """The record of the API key that came; None for an unknown or revoked one. Raises
    ``WireError``."""
    key = api_key(headers.authorization, headers.x_api_key)
    credential = generation.policy.credentials.get(hashlib.sha256(key).digest())
    return None if credential is None or credential.revoked else credential


def caller_of(
    generation: Generation, headers: CallerHeaders, kills: KillSwitch
) -> Caller | Refusal:
    """Who sends a request, unless nobody knows them or they are stopped. Raises ``WireError``."""
    kind = kind_of(headers)
    caller = generation.callers.find(kind)
    if caller is None:
        found = _verified(generation, headers)
        if isinstance(found, Refusal):
            return found
        caller = found
        generation.callers.remember(kind, caller)
    if caller.checked != kills.version:
        killed = kills.look_at_caller(caller)
        if killed:
            return refusals.killed(killed)
    return caller


def _verified(generation: Generation, headers: CallerHeaders) -> Caller | Refusal:
    """A caller seen for the first time."""
    credential = credential_of(generation, headers)
    claims = generation.names.claims(headers.identity)
    if credential is None:
        return refusals.INVALID_CREDENTIAL
    envelope = resolve_envelope(credential, claims, generation.policy.envelope)
    return envelope if isinstance(envelope, Refusal) else Caller(credential, envelope)


def sender_of(event: RequestHeaders) -> tuple[str, Dialect]:
    """The id and the dialect of a request whose path does not say it, or whose headers could not
    be read."""
    request_id = ""
    path = key = b""
    for name, value in event.headers:
        if name == "x-request-id":
            request_id = value.decode("ascii", "replace")
        elif name == ":path":
            path = value
        elif name == "x-api-key":
            key = value
    operation = OPERATION_BY_PATH.get(path.partition(b"?")[0].decode("ascii", "replace"))
    if b"/messages" in path or (key and operation in OWN_OPERATIONS):
        return request_id, Dialect.ANTHROPIC
    return request_id, Dialect.OPENAI
