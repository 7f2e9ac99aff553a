"""Why no target of a virtual model can serve a request, in the words of a refusal."""

from __future__ import annotations

from extproc.core import refusals
from extproc.core.gate import Gate
from extproc.core.routing import Route, text_bytes
from extproc.values.refusal import Refusal
from extproc.wire.capabilities import needed_capabilities
from extproc.wire.inference_request import InferenceRequest


def no_target(route: Route, request: InferenceRequest, gate: Gate, now_ms: int) -> Refusal:
    """The chain is empty: targets are stopped or their breakers are open, or no rule applies."""
    policy, breakers, name = route.model.breaker, gate.breakers, route.model.name
    needed = needed_capabilities(request)
    able = [one for one in route.targets if not needed & one.lacks] or route.targets
    targets = [one for one in able if one.name not in breakers.stopped]
    if not targets:
        return refusals.killed(gate.kills.stops_target(able[0]))
    if any(breakers.admits(target.name, policy, now_ms) for target in targets):
        return refusals.no_rule_applies(name)
    wait_ms = min(breakers.retry_after_ms(target.name, policy, now_ms) for target in targets)
    return refusals.all_targets_open(name, wait_ms)


def too_long(route: Route, request: InferenceRequest, gate: Gate, now_ms: int) -> Refusal:
    """No target can hold the request; some that could may be out of order."""
    targets = route.targets
    if any(text_bytes(target) >= request.body_bytes for target in targets):
        return no_target(route, request, gate, now_ms)
    largest = max(target.price.context_tokens or 0 for target in targets)
    return refusals.context_limit_exceeded(route.model.name, largest)
