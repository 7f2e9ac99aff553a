"""A virtual model and a draw to an ordered chain of targets.

The chain is the drawn rule, the remaining rules in declared order, then the fallbacks. Targets that
cannot serve what is asked are not in it (weights renormalise over the rest), nor are those
whose breaker is open. A target that is to be probed comes first in its one request's chain.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from extproc.core.breaker import Breakers
from extproc.core.estimate import MAX_BYTES_PER_TOKEN
from extproc.policy.snapshot import BreakerPolicy, Target, VirtualModel
from extproc.values.dialect import Operation

UNKNOWN_CONTEXT_BYTES = 2**62
FIRST_TOKEN_SLACK_MS = 100
"""Envoy gives an attempt up so much later than the sidecar, which can say why."""
MAX_ORDERS = 256
"""Chains kept per route besides those of a plain draw, some kilobytes each with what is encoded of
them: orders in which a few targets are tried, and parts of them. Afterwards they start afresh."""


def text_bytes(target: Target) -> int:
    """The longest body of text that may fit the target's context: no tokenizer makes longer tokens
    of what people and programs write."""
    context = target.price.context_tokens
    return UNKNOWN_CONTEXT_BYTES if context is None else int(context * MAX_BYTES_PER_TOKEN)


def _stream_timeout_ms(target: Target) -> int:
    token_ms = target.first_token_timeout_ms
    return token_ms + FIRST_TOKEN_SLACK_MS if token_ms else target.timeout_ms


class Chain:
    """Targets in the order they are tried, for one operation.

    Chains are made once per snapshot and shared, so that what Envoy must be told about one can be
    encoded once: compared by identity on purpose.
    """

    __slots__ = (
        "breaker",
        "encoded",
        "first_leaves_changed",
        "idle_timeout_ms",
        "learner",
        "operation",
        "request_timeout_ms",
        "stream_timeout_ms",
        "targets",
        "timeout_ms",
    )

    def __init__(
        self,
        operation: Operation,
        targets: tuple[Target, ...],
        breaker: BreakerPolicy,
        learner: VirtualModel | None = None,
        request_timeout_ms: int = 0,
    ) -> None:
        self.operation = operation
        self.targets = targets
        self.breaker = breaker
        self.learner = learner
        """The model whose choices learn from how requests end; None where nothing is learned."""
        # Envoy takes one time-to-headers per chain (a per-try value set later is ignored), and one
        # silence.
        self.timeout_ms = max((target.timeout_ms for target in targets), default=0)
        self.idle_timeout_ms = max((target.idle_timeout_ms for target in targets), default=0)
        self.first_leaves_changed = bool(targets) and targets[0].leaves_changed(operation)
        self.stream_timeout_ms = max((_stream_timeout_ms(target) for target in targets), default=0)
        """The same for streams, where some targets have less time to begin."""
        self.request_timeout_ms = request_timeout_ms
        """For all attempts together, to the last byte of the answer; 0: none."""
        self.encoded: dict[tuple[object, ...], tuple[bytes, bytes]] = {}
        """The codec's cache of wire fragments about this chain."""

    def without(self, excluded: Sequence[Target]) -> Chain:
        """The same chain with some targets left out."""
        rest = tuple(target for target in self.targets if target not in excluded)
        return Chain(self.operation, rest, self.breaker, self.learner, self.request_timeout_ms)


class Route:
    """One virtual model for one operation, ready to draw from."""

    __slots__ = (
        "_chains",
        "_cumulative",
        "_learner",
        "_orders",
        "_total",
        "fallbacks",
        "lacking",
        "model",
        "narrowest_bytes",
        "operation",
        "plain",
        "translates",
        "weighted",
    )

    def __init__(self, model: VirtualModel, operation: Operation) -> None:
        self.model = model
        self.operation = operation
        served = [t for t in model.targets if operation in t.clusters]
        self.weighted = tuple(t for t in served if t.weight > 0)
        idle = tuple(t for t in served if t.weight <= 0)
        self.fallbacks = idle + tuple(t for t in model.fallbacks if operation in t.clusters)
        self._learner = model if model.learns_speed or model.learns_caches else None
        self.lacking = any(target.lacks for target in self.targets)
        """Some target cannot do all that a request may need."""
        self.plain = model.weights_only and not self.lacking
        """``draw`` knows enough; for other routes see ``core/choice.py``."""
        self._orders: dict[tuple[str, ...], Chain] = {}
        self._cumulative = tuple(accumulate(t.weight for t in self.weighted))
        self._total = self._cumulative[-1] if self._cumulative else 0
        self.narrowest_bytes = min(
            (target.price.context_tokens or UNKNOWN_CONTEXT_BYTES for target in self.targets),
            default=UNKNOWN_CONTEXT_BYTES,
        )
        """A body up to this long fits the context of every target: a token is at least a byte."""
        self.translates = any(operation in target.translated for target in self.targets)
        """Some target is asked in another dialect: what that cannot say must not go there."""
        self._chains = tuple(self._chain(drawn) for drawn in range(len(self.weighted))) or (
            self._chain_of(self.fallbacks),
        )

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every target that serves this operation, in declared order."""
        return self.weighted + self.fallbacks

    def draw(self, draw: float, breakers: Breakers, now_ms: int) -> Chain:
        """The chain for one request. ``draw`` is uniform in [0, 1). May be empty of targets."""
        if breakers.all_closed:
            if self._total == 0:
                return self._chains[0]
            return self._chains[bisect_right(self._cumulative, draw * self._total)]
        return self.draw_without((), draw, breakers, now_ms)

    def draw_without(
        self, excluded: Sequence[Target], draw: float, breakers: Breakers, now_ms: int
    ) -> Chain:
        """A draw from the weighted targets that are neither excluded nor left out by breakers;
        weights renormalise. A probe is not left to chance: one request's chain begins with it."""
        policy = self.model.breaker
        able = [target for target in self.targets if target not in excluded]
        out, trials = breakers.left_out(able, policy, now_ms)
        able = [target for target in able if target not in out]
        ordered = [target for target in able if target in trials and target in self.weighted]
        weighted = [t for t in self.weighted if t in able and t not in trials]
        if weighted:
            cumulative = list(accumulate(t.weight for t in weighted))
            ordered.append(weighted.pop(bisect_right(cumulative, draw * cumulative[-1])))
        ordered += weighted
        ordered += [target for target in self.fallbacks if target in able]
        return self.in_order(breakers.led(ordered, trials, policy, now_ms))

    def in_order(self, targets: Sequence[Target]) -> Chain:
        """The chain of some of the route's targets in an order. Kept: what Envoy is told about a
        chain is encoded once."""
        operation = self.operation
        key = tuple([f"{one.id} {one.name} {one.clusters[operation]}" for one in targets])
        chain = self._orders.get(key)
        if chain is None:
            if len(self._orders) >= MAX_ORDERS:
                self._orders.clear()
            chain = self._orders[key] = self._chain_of(tuple(targets))
        return chain

    def alone(self, target: Target) -> Chain:
        """The chain of one of the route's targets and nothing else."""
        return self.in_order((target,))

    def _chain(self, drawn: int) -> Chain:
        first = self.weighted[drawn]
        rest = tuple(t for place, t in enumerate(self.weighted) if place != drawn)
        return self._chain_of((first, *rest, *self.fallbacks))

    def _chain_of(self, targets: tuple[Target, ...]) -> Chain:
        model = self.model
        return Chain(
            self.operation, targets, model.breaker, self._learner, model.request_timeout_ms
        )
