"""Velocity breakers: money that is spent too fast stops by itself.

closed --more than the limit in the last minute--> open --cooldown--> half open (one probe)
half open --probe settled, rate has fallen--> closed; half open --still too fast--> open again.

The rate is what the last minute cost: what was charged, and for calls under way what they will
*likely* cost. Without the second part two hundred long streams would be free until the first one
ends; with the reserved worst case in its place every agent that asks for 64k tokens and uses 900
would trip it. What a call really cost replaces the likely figure when it is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from extproc.ledger.counter import Cell, Counter
from extproc.policy.snapshot import VelocityRule
from extproc.values.limit import NO_CEILING
from extproc.values.window import SlidingWindow

MINUTE_MS = 60_000
MIN_BASELINE_SLOTS = 10
"""Slots with spending (sixty make a baseline) before anything counts as usual. Idle ones do not
count: a team's usual is how fast it works, not how long it pauses."""
MAX_METERS = 4_096
"""Rules times scope values that are metered, 15 KB each at worst. The one that was idle longest is
forgotten first, closed ones before open ones."""
MAX_SKIPPED = 8
"""Open breakers passed over when one must be forgotten; the search stays short."""
MAX_CHANGES = 1_000
"""Openings and closings kept until somebody takes them, which happens every second."""
PROBE_RETRY_MS = 5_000
"""Said to those who come while another's probe is under way."""

Metered = tuple[VelocityRule, str]
"""A rule and the value of its scope that a request is of."""

_MINUTE = SlidingWindow(MINUTE_MS)


class VelocityState(Enum):
    """What a breaker lets through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class TooFast(NamedTuple):
    """Why a request is refused. Money is micro-USD in the last minute."""

    rule: VelocityRule
    limit: int
    spent: int
    reserved: int
    """Likely cost of calls under way."""
    retry_at_ms: int


class Change(NamedTuple):
    """A breaker opened or closed."""

    rule: VelocityRule
    scope_value: str
    state: VelocityState
    limit: int
    spent: int
    """In the minute before, calls under way included."""
    tripped_ms: int
    """When it opened first: the same for an opening and its closing."""
    until_ms: int
    """When an opened one lets a probe through."""
    at_ms: int


class Meter:
    """The spending of one scope value under one rule. Time is passed in, milliseconds."""

    __slots__ = (
        "_baseline",
        "_minute",
        "_opened_ms",
        "_probing_until_ms",
        "limit",
        "rule",
        "scope_value",
        "state",
        "tripped_ms",
    )

    def __init__(self, rule: VelocityRule, scope_value: str, now_ms: int) -> None:
        self.rule = rule
        self.scope_value = scope_value
        self.state = VelocityState.CLOSED
        self.limit = 0
        """What was exceeded when it opened, micro-USD per minute."""
        self.tripped_ms = 0
        self._minute = Counter(rule.id, scope_value, _MINUTE, now_ms)
        self._baseline = Counter(rule.id, scope_value, SlidingWindow(rule.baseline_ms), now_ms)
        self._opened_ms = 0
        self._probing_until_ms = 0

    def take_rule(self, rule: VelocityRule, now_ms: int) -> None:
        """A reload brought the rule anew. An edited one begins closed: the rate is kept, so what is
        still too fast opens it again at once."""
        if rule != self.rule:
            self.state = VelocityState.CLOSED
            self._baseline.rewindow(SlidingWindow(rule.baseline_ms), now_ms)
        self.rule = rule

    def rate(self, now_ms: int) -> int:
        """Micro-USD of the last minute, calls under way included."""
        self._minute.advance(now_ms)
        return self._minute.total

    def opens_now(self, now_ms: int) -> bool:
        """Opens a closed breaker when the rate is above its limit."""
        rate = self.rate(now_ms)
        if self.state is not VelocityState.CLOSED or rate <= self.rule.min_micro_usd:
            return False
        limit = self._limit_now(now_ms)
        if rate <= limit:
            return False
        self.limit = limit
        self.tripped_ms = now_ms
        self._open(now_ms)
        return True

    def admits(self, now_ms: int) -> bool:
        """Whether a request may pass. Taking the probe is ``count``."""
        if self.state is VelocityState.CLOSED:
            return True
        if now_ms < self.retry_at_ms:
            return False
        if self.state is VelocityState.OPEN and self.rate(now_ms) > self.limit:
            # Calls that were under way have cost more since.
            self._open(now_ms)
            return False
        return True

    @property
    def is_closed(self) -> bool:
        """Whether it holds nothing back."""
        return self.state is VelocityState.CLOSED

    @property
    def retry_at_ms(self) -> int:
        """Until when an open breaker, or a probe under way, refuses."""
        if self.state is VelocityState.OPEN:
            return self._opened_ms + self.rule.cooldown_ms
        return self._probing_until_ms

    def too_fast(self, now_ms: int) -> TooFast:
        """For the refusal."""
        total = self.rate(now_ms)
        reserved = self._minute.reserved
        retry_at_ms = self.retry_at_ms
        if self.state is VelocityState.HALF_OPEN:
            retry_at_ms = min(retry_at_ms, now_ms + PROBE_RETRY_MS)
        return TooFast(self.rule, self.limit, total - reserved, reserved, retry_at_ms)

    def count(self, likely: int, now_ms: int, probe: bool) -> Counted:
        """A request goes out: its likely cost counts from now on."""
        if probe:
            self.state = VelocityState.HALF_OPEN
            # One that never reports back is given up after a cooldown.
            self._probing_until_ms = now_ms + self.rule.cooldown_ms
        cells = []
        for counter in (self._minute, self._baseline):
            counter.advance(now_ms)
            counter.total += likely
            cell = counter.cell
            cell.amount += likely
            cell.reserved += likely
            cells.append(cell)
        return Counted(self, cells[0], cells[1], likely, probe)

    def spend(self, amount: int, now_ms: int) -> None:
        """Money is known to have been spent beyond what was counted."""
        for counter in (self._minute, self._baseline):
            counter.advance(now_ms)
            counter.total += amount
            counter.cell.amount += amount

    def replace(self, counted: Counted, change: int, now_ms: int) -> None:
        """What was likely is known: ``change`` more, or less, and no longer under way."""
        for counter, taken in (
            (self._minute, counted.minute),
            (self._baseline, counted.baseline),
        ):
            counter.advance(now_ms)
            cell = taken if taken.live else counter.cell_at(taken.slot)
            if cell is not None:
                less = max(min(change, 0), -counted.likely)
                cell.reserved -= counted.likely
                cell.amount += less
                counter.total += less
        if change > 0:
            self.spend(change, now_ms)

    def probe_ended(self, now_ms: int) -> bool:
        """The probe is settled: whether the breaker closed."""
        if self.state is not VelocityState.HALF_OPEN:
            return False
        if self.rate(now_ms) > self.limit:
            self._open(now_ms)
            return False
        self.state = VelocityState.CLOSED
        return True

    def probe_given_back(self) -> None:
        """The probe was never sent: the next request may be one."""
        if self.state is VelocityState.HALF_OPEN:
            self._probing_until_ms = 0

    def _open(self, now_ms: int) -> None:
        self.state = VelocityState.OPEN
        self._opened_ms = now_ms

    def _limit_now(self, now_ms: int) -> int:
        rule = self.rule
        limit = rule.max_micro_usd or NO_CEILING
        if rule.times_baseline_pct:
            usual = self._usual(now_ms)
            if usual is not None:
                multiple = usual * rule.times_baseline_pct // 100
                limit = min(limit, max(multiple, rule.min_micro_usd))
        return limit

    def _usual(self, now_ms: int) -> int | None:
        """Micro-USD per minute of the baseline's slots in which anything was spent, without the
        last minute; None while there are too few of them."""
        baseline = self._baseline
        baseline.advance(now_ms)
        recent = baseline.window.slot(now_ms - MINUTE_MS)
        spent = [cell.amount for cell in baseline.cells if cell.slot < recent and cell.amount > 0]
        if len(spent) < MIN_BASELINE_SLOTS:
            return None
        slot_ms = -(-self.rule.baseline_ms // 60)
        return sum(spent) * MINUTE_MS // (len(spent) * slot_ms)


class Counted:
    """What one attempt counts for in one meter until it ends."""

    __slots__ = ("baseline", "known", "likely", "meter", "minute", "probe")

    def __init__(
        self, meter: Meter, minute: Cell, baseline: Cell, likely: int, probe: bool
    ) -> None:
        self.meter = meter
        self.minute = minute
        self.baseline = baseline
        self.likely = likely
        self.known = likely
        """What it counts for by now, at least ``likely``."""
        self.probe = probe


class Velocity:
    """The breakers of every rule and scope value. Requests without a rule never come here."""

    __slots__ = ("_changes", "_meters", "_would_block")

    def __init__(self) -> None:
        self._meters: dict[tuple[str, str], Meter] = {}
        self._changes: list[Change] = []
        self._would_block: dict[str, int] = {}

    def admit(
        self, metered: Sequence[Metered], likely: int, now_ms: int, *, probing: bool = False
    ) -> TooFast | list[Counted]:
        """Lets an attempt pass all its breakers and counts it, or says which refuses.

        ``probing``: it belongs to a request that is the probe already.
        """
        meters = [self._meter(rule, value, now_ms) for rule, value in metered]
        passed = []
        for meter in meters:
            self._look(meter, now_ms)
            passes = probing or meter.admits(now_ms)
            passed.append(passes)
            if passes:
                continue
            if meter.rule.enforced:
                return meter.too_fast(now_ms)
            rule_id = meter.rule.id
            self._would_block[rule_id] = self._would_block.get(rule_id, 0) + 1
        return [
            # What an open shadow breaker would have refused is no probe of it.
            meter.count(likely, now_ms, passes and not meter.is_closed)
            for meter, passes in zip(meters, passed, strict=True)
        ]

    def give_back(self, counted: Sequence[Counted], now_ms: int) -> None:
        """The attempt was refused after all: it never went out."""
        for one in counted:
            one.meter.replace(one, -one.likely, now_ms)
            if one.probe:
                one.meter.probe_given_back()

    def known(self, counted: Sequence[Counted], micro_usd: int, now_ms: int) -> None:
        """A call under way has cost so much already."""
        for one in counted:
            if micro_usd > one.known:
                one.meter.spend(micro_usd - one.known, now_ms)
                one.known = micro_usd
                self._look(one.meter, now_ms)

    def ended(self, counted: Sequence[Counted], micro_usd: int, now_ms: int) -> None:
        """The attempt has ended and was charged so much."""
        for one in counted:
            one.meter.replace(one, micro_usd - one.known, now_ms)
            if one.probe and one.meter.probe_ended(now_ms):
                self._changed(one.meter, now_ms)
            self._look(one.meter, now_ms)

    def take_changes(self) -> list[Change]:
        """The breakers that opened or closed since somebody asked."""
        changes, self._changes = self._changes, []
        return changes

    def take_would_block(self) -> dict[str, int]:
        """How often shadow rules would have refused since somebody asked, by rule id."""
        counts, self._would_block = self._would_block, {}
        return counts

    def not_closed(self) -> list[Meter]:
        """The breakers that hold something back, or would."""
        return [one for one in self._meters.values() if not one.is_closed]

    def meter(self, rule_id: str, scope_value: str) -> Meter | None:
        """The spending of a scope value, where any was seen."""
        return self._meters.get((rule_id, scope_value))

    def _look(self, meter: Meter, now_ms: int) -> None:
        if meter.opens_now(now_ms):
            self._changed(meter, now_ms)

    def _changed(self, meter: Meter, now_ms: int) -> None:
        if len(self._changes) < MAX_CHANGES:
            self._changes.append(
                Change(
                    meter.rule,
                    meter.scope_value,
                    meter.state,
                    meter.limit,
                    meter.rate(now_ms),
                    meter.tripped_ms,
                    meter.retry_at_ms,
                    now_ms,
                )
            )

    def _meter(self, rule: VelocityRule, scope_value: str, now_ms: int) -> Meter:
        key = (rule.id, scope_value)
        meter = self._meters.pop(key, None)
        if meter is None:
            if len(self._meters) >= MAX_METERS:
                self._forget_one()
            meter = Meter(rule, scope_value, now_ms)
        elif meter.rule is not rule:
            meter.take_rule(rule, now_ms)
        self._meters[key] = meter
        return meter

    def _forget_one(self) -> None:
        meters = self._meters
        for _ in range(MAX_SKIPPED):
            key = next(iter(meters))
            meter = meters.pop(key)
            if meter.is_closed:
                return
            meters[key] = meter
        del meters[next(iter(meters))]
