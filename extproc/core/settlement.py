"""What a request cost, from how it ended and what the provider reported.

The rule: usage with a finality marker is charged as reported; an attempt that provably never cost
anything is released; everything else is charged at its reservation. Never zero on a guess.
"""

from __future__ import annotations

from typing import cast

from extproc.core.choice import learn_from
from extproc.core.commands import EndCommand, Release, Renew, Settle
from extproc.core.events import AttemptFailed, Ending, RequestEnded, RequestGoesOn
from extproc.core.gate import LEASE_MS, Attempt, Gate, InFlight
from extproc.core.tool_settlement import call_ended, call_goes_on
from extproc.policy.snapshot import Target
from extproc.values.dialect import Operation
from extproc.values.limit import NOTHING, Amounts, Unit
from extproc.values.usage import TokenUsage
from extproc.wire.usage import Reported, usage_from_events, usage_from_json_tail

_BREAKER_STATUSES = (408, 429, 529)
"""With every 5xx: what says that a target cannot serve now."""


def attempt_failed(gate: Gate, event: AttemptFailed) -> list[EndCommand]:
    """One attempt failed. Its reservation ends; the request may go on."""
    entry = gate.in_flight.get(event.request_id)
    if entry is None:
        return []
    attempt = entry.attempts.get(event.attempt)
    if attempt is None or attempt.ended:
        return []
    if _target_failed(event.ending):
        _failed(gate, entry, attempt.target, event.ending, event.now_ms)
    commands = [_end_without_usage(gate, attempt, event.ending, event.now_ms)]
    if entry.over:
        _forget_if_done(gate, entry)
    else:
        gate.falls_silent(event.request_id, event.now_ms)
    return commands


def request_ended(gate: Gate, event: RequestEnded) -> list[EndCommand]:
    """The request is over. Its last attempt ends; earlier ones wait for their own reports."""
    entry = gate.in_flight.get(event.request_id)
    if entry is None:
        return call_ended(gate, event)
    entry.over = True
    gate.let_go(entry)
    commands: list[EndCommand] = []
    if event.attempts == 0:
        # Envoy never began an attempt: whatever was reserved was not sent.
        commands = [
            _release(gate, attempt, "never sent", event.now_ms)
            for attempt in entry.attempts.values()
            if not attempt.ended
        ]
    else:
        attempt = entry.attempts.get(event.attempts)
        if attempt is not None and not attempt.ended:
            commands.append(_end_last(gate, entry, attempt, event))
    _forget_if_done(gate, entry)
    return commands


def request_goes_on(gate: Gate, event: RequestGoesOn) -> list[Renew]:
    """The request is alive: so are its reservations. What its last attempt has likely cost already
    is held for statistical budgets, above what was expected of it, and counts for velocity breakers
    at once."""
    entry = gate.in_flight.get(event.request_id)
    if entry is None:
        return call_goes_on(gate, event)
    if event.response_bytes:
        gate.let_go(entry)  # it is being answered: no other target will be asked
    if not entry.attempts:
        return []
    lease_until_ms = event.now_ms + LEASE_MS
    last = max(entry.attempts)
    return [
        Renew(
            attempt.reservation_id,
            lease_until_ms,
            _cost_so_far(gate, entry, attempt, event) if number == last else NOTHING,
        )
        for number, attempt in entry.attempts.items()
        if not attempt.ended
    ]


def _cost_so_far(gate: Gate, entry: InFlight, attempt: Attempt, event: RequestGoesOn) -> Amounts:
    plan = entry.plan
    if not (plan.applicable.counts_likely or attempt.counted):
        return NOTHING
    target, body_bytes = attempt.target, entry.body_bytes
    streamed = gate.workflows.streamed(
        plan.workflow_tag, entry.operation, target, body_bytes, event.response_bytes
    )
    streamed = min(streamed, attempt.amounts[Unit.MICRO_USD])
    gate.velocity.known(attempt.counted, streamed, event.now_ms)
    return (0, 0, 0, 0, 0, streamed) if plan.applicable.counts_likely else NOTHING


def _end_last(gate: Gate, entry: InFlight, attempt: Attempt, event: RequestEnded) -> EndCommand:
    ending = event.ending
    target = attempt.target
    reported = None
    if attempt.translated:
        # What Envoy found in the answer is our writing: it tells less than the provider said.
        reported = attempt.reported
    elif ending.status < 300:
        reported = reported_usage(entry.operation, event)
    # Who said the last word did not fail, whatever became of the connection then: a client that
    # does not read makes an answer as silent as a provider that does not write.
    done = ending.status < 300 and reported is not None and reported.final
    if not done and _target_failed(ending):
        _failed(gate, entry, target, ending, event.now_ms)
    elif ending.status and not ending.ours:
        # Without a status the client left before there was an answer: that says nothing.
        gate.breakers.succeeded(target.name, entry.chain.breaker, event.now_ms)
    if reported is None or not reported.final:
        return _end_without_usage(gate, attempt, ending, event.now_ms)
    usage = reported.usage
    cost = target.price.cost_micro_usd(usage)
    charged: Amounts = (
        1, usage.total_tokens, usage.input_tokens, usage.output_tokens, cost, cost
    )  # fmt: skip
    if reported.suspect:
        charged = _at_least(charged, attempt.amounts)
    else:
        _learn(gate, entry, target, usage, event)
    _end(gate, attempt, charged, event.now_ms)
    return Settle(
        attempt.reservation_id, charged, {"usage": tuple(usage), "suspect": reported.suspect}
    )


def _learn(
    gate: Gate, entry: InFlight, target: Target, usage: TokenUsage, event: RequestEnded
) -> None:
    model, body_bytes, plan = target.canonical_model, entry.body_bytes, entry.plan
    gate.estimator.learn(model, body_bytes, usage.input_tokens, usage.output_tokens)
    if entry.chain.learner is not None:
        learn_from(gate, entry.chain.learner, entry, target, usage, event)
    if not (plan.applicable.counts_likely or plan.metered):
        return
    gate.workflows.learn(plan.workflow_tag, target, body_bytes, usage)
    if event.usage_last:
        gate.workflows.learn_stream(
            entry.operation, model, event.response_bytes, usage.output_tokens
        )


def reported_usage(operation: Operation, event: RequestEnded) -> Reported | None:
    """What the provider said it used; None where it said nothing that can be read."""
    if event.usage_tail:
        return usage_from_json_tail(operation, event.usage_tail)
    if event.usage_first or event.usage_last:
        return usage_from_events(operation, event.usage_first, event.usage_last)
    return None


def _end_without_usage(gate: Gate, attempt: Attempt, ending: Ending, now_ms: int) -> EndCommand:
    if ending.connect_failed:
        return _release(gate, attempt, "not connected", now_ms)
    refused = ending.status >= 400 or ending.redirected
    # An answer that could not be translated, or was not waited for, ends as an error of ours.
    ours = attempt.answered or attempt.given_up or ending.ours
    answered = refused and not (ending.timed_out or ending.reset or ours)
    if answered and not ending.client_gone:
        return _release(gate, attempt, f"status {ending.status}", now_ms)
    _end(gate, attempt, attempt.amounts, now_ms)
    return Settle(attempt.reservation_id, attempt.amounts, {"without_usage": ending.status})


def _release(gate: Gate, attempt: Attempt, reason: str, now_ms: int) -> Release:
    _end(gate, attempt, NOTHING, now_ms)
    return Release(attempt.reservation_id, reason)


def _end(gate: Gate, attempt: Attempt, charged: Amounts, now_ms: int) -> None:
    attempt.ended = True
    if attempt.counted:
        gate.velocity.ended(attempt.counted, charged[Unit.MICRO_USD], now_ms)


def _failed(gate: Gate, entry: InFlight, target: Target, ending: Ending, now_ms: int) -> None:
    """Counts a failure of the target, and leaves it alone for as long as it said."""
    gate.breakers.failed(target.name, entry.chain.breaker, now_ms)
    if ending.rest_ms:
        gate.breakers.rest(target.name, ending.rest_ms, now_ms)


def _target_failed(ending: Ending) -> bool:
    if ending.client_gone or ending.ours:
        return False
    return (
        ending.connect_failed
        or ending.timed_out
        or ending.reset
        or ending.status >= 500
        or ending.status in _BREAKER_STATUSES
        or ending.redirected
    )


def _at_least(charged: Amounts, reserved: Amounts) -> Amounts:
    return cast("Amounts", tuple(map(max, charged, reserved)))


def _forget_if_done(gate: Gate, entry: InFlight) -> None:
    if entry.over and all(attempt.ended for attempt in entry.attempts.values()):
        gate.drop(entry.request_id)
