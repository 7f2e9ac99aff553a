"""Which targets of a virtual model serve one request, and in which order, where a draw by weight is
not all there is to it.

What a rule or a target asks of the request comes first: its conditions, what the target can do,
whether its breaker lets it through. The rules that are left are put in order by the model's
``rule_type``, targets slower than their ``sla`` behind the others; a session that is known moves
its own target to the front. The fallbacks follow. A rule that leads on to another virtual model
stands for that model's own order.

Decided from what is known already: no counter is read for it. The used share of a budget is what it
was when it was last looked at, about a second ago.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from extproc.core.affinity import Key
from extproc.core.callers import Caller
from extproc.core.estimate import output_bound_tokens
from extproc.core.events import RequestEnded
from extproc.core.gate import Gate, InFlight
from extproc.core.generation import Generation
from extproc.core.holds import scope_key
from extproc.core.routing import Chain, Route
from extproc.policy.routing_rules import BudgetShare, RuleType, StickyBy
from extproc.policy.snapshot import Rule, Target, VirtualModel
from extproc.values.limit import Scope
from extproc.values.usage import TokenUsage
from extproc.wire.capabilities import needed_capabilities
from extproc.wire.inference_request import InferenceRequest

FAST_PCT = 120
"""Up to this share of the fastest target's time another one counts as fast too."""
_INNER_DRAWS = 2.0**20
"""A nested model draws with the digits of the draw behind these: they are as even, and have nothing
to do with the ones before them."""

Option = tuple[Rule, list[Target]]
"""A rule and its targets in order: several where it leads on to a virtual model."""


class Asking(NamedTuple):
    """Who asks for what, and what is known about it."""

    request: InferenceRequest
    caller: Caller
    generation: Generation
    gate: Gate
    now_ms: int


def choose(route: Route, draw: float, asking: Asking) -> Chain:
    """The chain of one request. ``draw`` is uniform in [0, 1). May be empty of targets."""
    gate, now_ms, model = asking.gate, asking.now_ms, route.model
    unable: list[Target] = []
    if route.lacking:
        needed = needed_capabilities(asking.request)
        if needed:
            unable = [target for target in route.targets if needed & target.lacks]
            if len(unable) == len(route.targets):
                # Needs are guessed, in doubt too many: the provider knows better than nobody.
                unable = []
    if model.weights_only and not unable:
        return route.draw(draw, gate.breakers, now_ms)
    breakers, policy = gate.breakers, model.breaker
    if not breakers.all_closed:
        unable += [t for t in route.targets if not breakers.admits(t.name, policy, now_ms)]
    if model.weights_only:
        return route.draw_without(unable, draw)
    usable = {_key(target) for target in route.targets} - {_key(target) for target in unable}
    ordered = _Choice(asking, usable).in_order(model, draw)
    distinct: dict[str, Target] = {}
    for target in ordered:
        # A target twice is tried once, but not one that is asked otherwise the second time.
        distinct.setdefault(target.clusters[route.operation], target)
    return route.in_order(list(distinct.values()))


def session_key(caller: Caller, session: str) -> Key:
    """What a session is remembered under."""
    return (caller.credential.id, caller.envelope.user_id, session)


def learn_from(
    gate: Gate,
    model: VirtualModel,
    entry: InFlight,
    target: Target,
    usage: TokenUsage,
    event: RequestEnded,
) -> None:
    """Takes how a request of the model was answered, for the choices to come."""
    attempt = entry.attempts.get(event.attempts)
    gate.latencies.add(
        target.name,
        usage.output_tokens,
        (attempt.first_token_us if attempt is not None else 0) or event.first_byte_us,
        event.answered_us,
        event.now_ms,
        streamed=bool(event.usage_last),
    )
    if model.learns_caches:
        session = session_key(entry.caller, entry.plan.session)
        gate.affinity.warmed(session, target.name, usage, event.now_ms)


class _Choice:
    """The choice for one request."""

    def __init__(self, asking: Asking, usable: set[tuple[str, str]]) -> None:
        self._asking = asking
        self._usable = usable
        self._session = ""

    def in_order(self, model: VirtualModel, draw: float) -> list[Target]:
        """The targets of a model that may serve the request."""
        options: list[Option] = []
        for rule in model.rules:
            member = rule.member
            if isinstance(member, Target):
                targets = [member] if _key(member) in self._usable else []
            else:
                targets = self.in_order(member, draw * _INNER_DRAWS % 1.0)
            if targets and (rule.when is None or self._holds(rule, targets[0])):
                options.append((rule, targets))
        slow = [option for option in options if self._is_slow(*option)]
        if slow:
            options = [option for option in options if option not in slow]
            ordered = self._by_type(model, options, draw) + self._by_type(model, slow, draw)
        else:
            ordered = self._by_type(model, options, draw)
        targets = [target for _, targets in ordered for target in targets]
        if model.sticky is not None and targets:
            targets = self._sticky(model, targets)
        return targets + [target for target in model.fallbacks if _key(target) in self._usable]

    # -- conditions -------------------------------------------------------------------------------

    def _holds(self, rule: Rule, target: Target) -> bool:
        when, asking = rule.when, self._asking
        assert when is not None
        subject = asking.caller.envelope
        if not all(condition.holds(subject[condition.place]) for condition in when.conditions):
            return False
        if when.hours is not None and not when.hours.hold(asking.now_ms):
            return False
        above, below = when.above_prompt_tokens, when.below_prompt_tokens
        if above is not None or below is not None:
            body_bytes = asking.request.body_bytes
            tokens, _ = asking.gate.estimator.likely_tokens(target.canonical_model, body_bytes, 0)
            if (above is not None and tokens <= above) or (below is not None and tokens >= below):
                return False
        return all(self._is_used_so_far(share, target) for share in when.budgets)

    def _is_used_so_far(self, share: BudgetShare, target: Target) -> bool:
        """A budget that does not count the request is not used at all."""
        asking = self._asking
        caller, model, provider = asking.caller, asking.request.model, target.provider.name
        applicable = asking.generation.applicable(
            caller.envelope, caller.credential, model, provider
        )
        watched, used_pct = asking.gate.watched, 0
        for limit in applicable.limits:
            if limit.rule_id == share.budget:
                session = self._session_of_request() if Scope.SESSION in limit.scope else ""
                values = caller.scope_values(session, model, provider)
                name = (limit.key, scope_key(limit.scope, values))
                watched.remember(name)
                used_pct = max(used_pct, watched.used_pct(name))
        return (used_pct > share.pct) is share.above

    # -- order ------------------------------------------------------------------------------------

    def _by_type(self, model: VirtualModel, options: list[Option], draw: float) -> list[Option]:
        if len(options) < 2:
            return options
        if model.rule_type is RuleType.WEIGHT:
            return _drawn_first(options, draw)
        if model.rule_type is RuleType.PRIORITY:
            return sorted(options, key=_priority)
        if model.rule_type is RuleType.LATENCY:
            return self._fast_first(options, draw)
        return self._cheap_first(options)

    def _is_slow(self, rule: Rule, targets: Sequence[Target]) -> bool:
        sla = rule.sla
        if sla is None:
            return False
        speed = self._asking.gate.latencies.speed(targets[0].name, self._asking.now_ms)
        if speed is None:
            return False
        return (0 < sla.output_token_ms * 1_000 < speed.token_us) or (
            0 < sla.first_token_ms * 1_000 < speed.first_us
        )

    def _fast_first(self, options: list[Option], draw: float) -> list[Option]:
        asking = self._asking
        length = self._likely_tokens(options[0][1][0])[1]
        times: list[tuple[int, Option]] = []
        for option in options:
            speed = asking.gate.latencies.speed(option[1][0].name, asking.now_ms)
            times.append((-1 if speed is None else speed.answer_us(length), option))
        known = [time for time, _ in times if time >= 0]
        within = min(known, default=0) * FAST_PCT // 100
        # Whoever is not known well enough is taken to be fast: that is how it gets known.
        fast = [option for time, option in times if time <= within]
        slow = sorted([each for each in times if each[0] > within], key=_figure)
        return _drawn_first(fast, draw) + [option for _, option in slow]

    def _cheap_first(self, options: list[Option]) -> list[Option]:
        asking = self._asking
        session = session_key(asking.caller, self._session_of_request())
        warm_tokens = [
            asking.gate.affinity.warm_tokens(session, option[1][0].name, asking.now_ms)
            for option in options
        ]
        cached = max(warm_tokens)
        costs = [
            (self._likely_micro_usd(option[1][0], warm, cached), option)
            for option, warm in zip(options, warm_tokens, strict=True)
        ]
        return [option for _, option in sorted(costs, key=_figure)]

    def _likely_micro_usd(self, target: Target, warm_tokens: int, cached_tokens: int) -> int:
        """What the request likely costs at the target. What the session has in a cache elsewhere
        has to be written to one here first."""
        input_tokens, output_tokens = self._likely_tokens(target)
        read = min(warm_tokens, input_tokens)
        written = max(0, min(cached_tokens, input_tokens) - read)
        usage = TokenUsage(input_tokens, output_tokens, read, written)
        return target.price.cost_micro_usd(usage)

    def _likely_tokens(self, target: Target) -> tuple[int, int]:
        """Input and output."""
        asking, request = self._asking, self._asking.request
        default_tokens = asking.generation.policy.default_max_output_tokens
        bound = output_bound_tokens(request, target, default_tokens) * request.choices
        model, body_bytes = target.canonical_model, request.body_bytes
        return asking.gate.estimator.likely_tokens(model, body_bytes, bound)

    def _sticky(self, model: VirtualModel, targets: list[Target]) -> list[Target]:
        sticky, asking = model.sticky, self._asking
        assert sticky is not None
        session = ""
        if sticky.by is StickyBy.SESSION:
            session = self._session_of_request()
        elif not asking.caller.envelope.user_id:
            return targets  # nobody in particular
        key = (*session_key(asking.caller, session), model.name)
        stuck = asking.gate.affinity.stuck(key, asking.now_ms)
        own = [target for target in targets if target.name == stuck]
        if own:
            targets = own + [target for target in targets if target.name != stuck]
        asking.gate.affinity.stick(key, targets[0].name, asking.now_ms + sticky.ttl_ms)
        return targets

    def _session_of_request(self) -> str:
        if not self._session:
            self._session = self._asking.caller.session(self._asking.request, needed=True)
        return self._session


def _key(target: Target) -> tuple[str, str]:
    """The same model may be declared twice, able to do more in one place than in the other."""
    return target.id, target.name


def _drawn_first(options: list[Option], draw: float) -> list[Option]:
    """One by weight, then the others as declared; those without a weight at the end."""
    weighted = [option for option in options if option[0].weight > 0]
    idle = [option for option in options if option[0].weight <= 0]
    if not weighted:
        return idle
    cumulative = list(accumulate(option[0].weight for option in weighted))
    drawn = weighted.pop(bisect_right(cumulative, draw * cumulative[-1]))
    return [drawn, *weighted, *idle]


def _priority(option: Option) -> int:
    return option[0].priority


def _figure(each: tuple[int, Option]) -> int:
    return each[0]
