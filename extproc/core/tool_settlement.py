"""What became of a call of a tool, from how its request ended.

A call that was sent counts, whatever came of it: nobody but the server knows what it did. It is
given back only where it was never sent, or where the server refused the message (4xx) before it
could be a call.
"""

from __future__ import annotations

from extproc.core.commands import EndCommand, Release, Renew, Settle
from extproc.core.events import RequestEnded, RequestGoesOn
from extproc.core.gate import LEASE_MS, Gate
from extproc.values.limit import NOTHING


def call_ended(gate: Gate, event: RequestEnded) -> list[EndCommand]:
    """The request is over; nothing to do for one that is no call of a tool."""
    call = gate.tool_calls.pop(event.request_id, None)
    if call is None:
        return []
    ending = event.ending
    if event.attempts == 0:
        return [Release(call.reservation_id, "never sent")]
    if ending.connect_failed:
        return [Release(call.reservation_id, "not connected")]
    refused = 400 <= ending.status < 500
    if refused and not (ending.timed_out or ending.reset or ending.client_gone):
        return [Release(call.reservation_id, f"status {ending.status}")]
    return [Settle(call.reservation_id, call.amounts, {"status": ending.status})]


def call_goes_on(gate: Gate, event: RequestGoesOn) -> list[Renew]:
    """The tool is at work, or its answer is on its way."""
    call = gate.tool_calls.get(event.request_id)
    if call is None:
        return []
    return [Renew(call.reservation_id, event.now_ms + LEASE_MS, NOTHING)]
