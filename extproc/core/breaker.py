"""Circuit breakers: a target that keeps failing is left out, then probed with one request.

closed --failures within the window--> open --cooldown--> half open (one probe)
half open --success--> closed; half open --failure--> open again.

Apart from that a target rests for as long as it said itself (``Retry-After``), and then goes on.

What one sidecar found out is told to the others of a store: ``untold`` and ``told``, ``hear``. Then
who probes is agreed on as well: a sidecar probes when it was granted to (``wanted``, ``grant``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from extproc.policy.snapshot import BreakerPolicy, Target

MAX_BREAKERS = 10_000
"""Targets come from policy, so this only guards against a policy generator gone wild."""
UNKEYED_RETRY_MS = 5_000
"""A credential that is missing may be there soon: it is asked for every second to minute."""
MAX_REST_MS = 60_000
"""The longest that one answer keeps a target out. Who wants more says so again once a minute, and
one mistaken answer costs no more than that."""
PROBE_HOLD_MS = 1_000
"""How long a probe is kept for the request it was given to: until that is sent, or refused by a
limit. Others go elsewhere meanwhile."""
CLOSED_KEPT_MS = 60_000
"""How long it is worth knowing that a target works again: others ask several times a second."""
_SLICES = 10
"""Parts of the window in which calls are counted for a percentage: it is right to a tenth."""


RESTING = "resting"
"""What is shown of a target that is left out at its own wish."""


class BreakerState(Enum):
    """What the breaker lets through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class WordKind(Enum):
    """What sidecars tell each other of a target."""

    OPEN = "open"
    CLOSED = "closed"
    RESTING = "resting"


class Word(NamedTuple):
    """One sidecar's word about a target."""

    target: str
    kind: WordKind
    at_ms: int
    """By our clock. Of a rest its end, of the others when it was found out."""
    keep_ms: int
    """How long it is worth knowing."""


class Breaker:
    """The failures of one target. Time is passed in, milliseconds."""

    __slots__ = (
        "_calls",
        "_failures_ms",
        "_granted_until_ms",
        "_held_until_ms",
        "_probing_until_ms",
        "opened_ms",
        "resting_until_ms",
        "state",
    )

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self._failures_ms: deque[int] = deque()
        self._calls: deque[tuple[int, int, int]] = deque()
        """Slice of the window, calls in it, failures among them."""
        self.opened_ms = -1
        self._probing_until_ms = 0
        self._held_until_ms = 0
        self._granted_until_ms = 0
        self.resting_until_ms = 0

    def admits(self, policy: BreakerPolicy, now_ms: int) -> bool:
        """Whether a request may try this target. Pure: see ``hold_probe`` and ``take_probe``."""
        return self.retry_after_ms(policy, now_ms) == 0

    def retry_after_ms(self, policy: BreakerPolicy, now_ms: int) -> int:
        """How long until a request may try again."""
        until_ms = self.resting_until_ms
        if self.state is not BreakerState.CLOSED:
            # One probe at a time; one that never reports back is given up after a cooldown.
            is_open = self.state is BreakerState.OPEN
            ready_ms = self.opened_ms + policy.cooldown_ms if is_open else self._probing_until_ms
            until_ms = max(until_ms, ready_ms, self._held_until_ms)
        return max(0, until_ms - now_ms)

    def hold_probe(self, now_ms: int) -> None:
        """Keeps the probe for a request that is still being decided."""
        self._held_until_ms = now_ms + PROBE_HOLD_MS

    def take_probe(self, policy: BreakerPolicy, now_ms: int) -> None:
        """A request is really sent to a target whose breaker is not closed. One that was decided
        before it opened is no probe."""
        if self.state is BreakerState.OPEN and now_ms - self.opened_ms < policy.cooldown_ms:
            return
        self.state = BreakerState.HALF_OPEN
        self._probing_until_ms = now_ms + policy.cooldown_ms
        self._held_until_ms = self._granted_until_ms = 0

    def is_granted(self, now_ms: int) -> bool:
        """Whether the probe is ours among all sidecars."""
        return now_ms < self._granted_until_ms

    def grant(self, until_ms: int) -> None:
        """The probe is ours."""
        self._granted_until_ms = until_ms

    def failed(self, policy: BreakerPolicy, now_ms: int) -> bool:
        """An attempt ended in a server error, a timeout or a connection failure. Whether that
        opens the breaker."""
        failures = self._failures_ms
        failures.append(now_ms)
        while failures and failures[0] <= now_ms - policy.window_ms:
            failures.popleft()
        while len(failures) > max(1, policy.failure_threshold):
            failures.popleft()
        opens = (
            self.state is BreakerState.HALF_OPEN
            or 0 < policy.failure_threshold <= len(failures)
            or (policy.failure_percentage > 0 and self._too_many(policy, now_ms))
        )
        if opens:
            self.open(now_ms)
        return opens

    def answered(self, policy: BreakerPolicy, now_ms: int) -> None:
        """Counts a call that did not fail, for the percentage."""
        self._count(policy, now_ms, 0)

    def open(self, at_ms: int) -> None:
        """Leaves the target out from then on, for a cooldown."""
        self.state = BreakerState.OPEN
        self.opened_ms = at_ms
        self._held_until_ms = self._granted_until_ms = 0
        self._failures_ms.clear()
        self._calls.clear()

    def close(self) -> None:
        """The target works."""
        self.state = BreakerState.CLOSED
        self._failures_ms.clear()
        self._calls.clear()

    def _too_many(self, policy: BreakerPolicy, now_ms: int) -> bool:
        """Counts the failure as well."""
        self._count(policy, now_ms, 1)
        calls = failed = 0
        for _, some, of_them in self._calls:
            calls += some
            failed += of_them
        return (
            calls >= policy.minimum_requests and failed * 100 >= policy.failure_percentage * calls
        )

    def _count(self, policy: BreakerPolicy, now_ms: int, failed: int) -> None:
        counted = self._calls
        part = now_ms * _SLICES // policy.window_ms
        while counted and counted[0][0] <= part - _SLICES:
            counted.popleft()
        if counted and counted[-1][0] == part:
            _, calls, failures = counted.pop()
            counted.append((part, calls + 1, failures + failed))
        else:
            counted.append((part, 1, failed))


class Breakers:
    """The breakers of all targets, by target name. Most requests only see ``all_closed``."""

    __slots__ = ("_breakers", "_tripped", "_untold", "_wanted", "shared", "stopped", "unkeyed")

    def __init__(self) -> None:
        self._breakers: dict[str, Breaker] = {}
        self._tripped: set[str] = set()
        """Those that are open or half open, or rest."""
        self._untold: dict[tuple[str, bool], Word] = {}
        """The last word about a target's failures, and about its rest (True)."""
        self._wanted: dict[str, int] = {}
        """Probes that a request could make, and how long one may take."""
        self.shared = False
        """Other sidecars are listening: a probe is agreed on first."""
        self.stopped: frozenset[str] = frozenset()
        """Targets that the kill switch stops: no cooldown brings them back."""
        self.unkeyed: frozenset[str] = frozenset()
        """Targets that have no credential, until it is there."""

    @property
    def all_closed(self) -> bool:
        """True when no breaker can change a chain."""
        return not self._tripped and not self.stopped and not self.unkeyed

    def admits(self, target: str, policy: BreakerPolicy, now_ms: int) -> bool:
        """Whether the target may be tried now."""
        if target in self.stopped or target in self.unkeyed:
            return False
        if target not in self._tripped:
            return True
        breaker = self._breakers[target]
        return breaker.admits(policy, now_ms) and self._may_try(breaker, now_ms)

    def left_out(
        self, targets: Iterable[Target], policy: BreakerPolicy, now_ms: int
    ) -> tuple[list[Target], list[Target]]:
        """The targets that a chain is made without, and those that are on trial: see ``led``."""
        out: list[Target] = []
        trials: list[Target] = []
        if self.all_closed:
            return out, trials
        for target in targets:
            name = target.name
            if name in self.stopped or name in self.unkeyed:
                out.append(target)
            elif name in self._tripped:
                breaker = self._breakers[name]
                if not breaker.admits(policy, now_ms):
                    out.append(target)
                elif breaker.state is not BreakerState.CLOSED:
                    trials.append(target)
                else:
                    self._tripped.discard(name)  # it has rested
        return out, trials

    def led(
        self,
        ordered: Sequence[Target],
        trials: Sequence[Target],
        policy: BreakerPolicy,
        now_ms: int,
    ) -> Sequence[Target]:
        """The targets of a chain with one in front that may be there: a target on trial is asked
        first by one request only, which has its probe, and is the last way of the others. Empty
        where no target is left but such ones."""
        rest = list(ordered)
        last: list[Target] = []
        while rest and rest[0] in trials and not self._takes_probe(rest[0].name, policy, now_ms):
            last.append(rest.pop(0))
        return rest + last if rest else rest

    def sent(self, target: str, policy: BreakerPolicy, now_ms: int) -> None:
        """A request goes out to the target; takes the probe of a breaker that is not closed."""
        if target in self._tripped:
            breaker = self._breakers[target]
            if breaker.state is not BreakerState.CLOSED:
                breaker.take_probe(policy, now_ms)

    def failed(self, target: str, policy: BreakerPolicy, now_ms: int) -> None:
        """Counts a failure."""
        breaker = self._of(target)
        if breaker is not None and breaker.failed(policy, now_ms):
            self._tripped.add(target)
            word = Word(target, WordKind.OPEN, now_ms, 2 * policy.cooldown_ms)
            self._untold[target, False] = word

    def succeeded(self, target: str, policy: BreakerPolicy, now_ms: int) -> None:
        """Counts an answer; closes a half-open breaker."""
        if target in self._tripped:
            breaker = self._breakers[target]
            if breaker.state is BreakerState.HALF_OPEN:
                self._close(target, breaker, now_ms)
                self._untold[target, False] = Word(target, WordKind.CLOSED, now_ms, CLOSED_KEPT_MS)
        if policy.failure_percentage:
            counted = self._of(target)
            if counted is not None:
                counted.answered(policy, now_ms)

    def rest(self, target: str, rest_ms: int, now_ms: int) -> None:
        """The target asked to be left alone."""
        if self._rests(target, now_ms + min(rest_ms, MAX_REST_MS)):
            until_ms = self._breakers[target].resting_until_ms
            self._untold[target, True] = Word(target, WordKind.RESTING, until_ms, until_ms - now_ms)

    def retry_after_ms(self, target: str, policy: BreakerPolicy, now_ms: int) -> int:
        """How long until the target may be tried again; 0 when it may now."""
        if target in self.unkeyed:
            return UNKEYED_RETRY_MS
        if target not in self._tripped:
            return 0
        return self._breakers[target].retry_after_ms(policy, now_ms)

    def states(self, now_ms: int) -> dict[str, str]:
        """Of every breaker that has seen a failure or a rest, its state, or ``RESTING``."""
        return {
            name: RESTING
            if breaker.state is BreakerState.CLOSED and breaker.resting_until_ms > now_ms
            else breaker.state.value
            for name, breaker in self._breakers.items()
        }

    # -- with the other sidecars ------------------------------------------------------------------

    def untold(self) -> list[Word]:
        """What the others do not know yet; each subject's last word."""
        return list(self._untold.values())

    def told(self, word: Word) -> None:
        """The others can know that."""
        subject = _subject(word)
        if self._untold.get(subject) is word:
            del self._untold[subject]

    def hear(self, word: Word, now_ms: int) -> None:
        """Takes another sidecar's word, unless there is a later one of our own to tell."""
        if _subject(word) in self._untold:
            return
        target = word.target
        if word.kind is WordKind.RESTING:
            self._rests(target, min(word.at_ms, now_ms + MAX_REST_MS))
        elif word.kind is WordKind.OPEN:
            heard = self._of(target)
            at_ms = min(word.at_ms, now_ms)
            if heard is not None and heard.opened_ms < at_ms:
                heard.open(at_ms)
                self._tripped.add(target)
        else:
            known = self._breakers.get(target)
            is_open = known is not None and known.state is not BreakerState.CLOSED
            if known is not None and is_open and known.opened_ms <= word.at_ms:
                self._close(target, known, now_ms)

    def wanted(self) -> dict[str, int]:
        """The probes that requests could have made since this was asked last, and how long each may
        take, in milliseconds."""
        wanted, self._wanted = self._wanted, {}
        return wanted

    def grant(self, target: str, until_ms: int) -> None:
        """The next request may probe the target; no other sidecar does."""
        breaker = self._breakers.get(target)
        if breaker is not None:
            breaker.grant(until_ms)

    # ---------------------------------------------------------------------------------------------

    def _may_try(self, breaker: Breaker, now_ms: int) -> bool:
        closed = breaker.state is BreakerState.CLOSED
        return closed or not self.shared or breaker.is_granted(now_ms)

    def _takes_probe(self, target: str, policy: BreakerPolicy, now_ms: int) -> bool:
        """Holds the probe for the request that asks, so that of many at once one has it."""
        breaker = self._breakers[target]
        if not breaker.admits(policy, now_ms):
            return False
        if not self._may_try(breaker, now_ms):
            self._wanted[target] = policy.cooldown_ms
            return False
        breaker.hold_probe(now_ms)
        return True

    def _of(self, target: str) -> Breaker | None:
        breaker = self._breakers.get(target)
        if breaker is None and len(self._breakers) < MAX_BREAKERS:
            breaker = self._breakers[target] = Breaker()
        return breaker

    def _rests(self, target: str, until_ms: int) -> bool:
        breaker = self._of(target)
        if breaker is None or breaker.resting_until_ms >= until_ms:
            return False
        breaker.resting_until_ms = until_ms
        self._tripped.add(target)
        return True

    def _close(self, target: str, breaker: Breaker, now_ms: int) -> None:
        breaker.close()
        if breaker.resting_until_ms <= now_ms:
            self._tripped.discard(target)


def _subject(word: Word) -> tuple[str, bool]:
    return word.target, word.kind is WordKind.RESTING
