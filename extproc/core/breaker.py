"""Circuit breakers: a target that keeps failing is left out, then probed with one request.

closed --threshold failures within the window--> open --cooldown--> half open (one probe)
half open --success--> closed; half open --failure--> open again.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from extproc.policy.snapshot import BreakerPolicy

MAX_BREAKERS = 10_000
"""Targets come from policy, so this only guards against a policy generator gone wild."""
UNKEYED_RETRY_MS = 5_000
"""A credential that is missing may be there soon: it is asked for every second to minute."""


class BreakerState(Enum):
    """What the breaker lets through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """The failures of one target. Time is passed in, milliseconds."""

    __slots__ = ("_failures_ms", "_opened_ms", "_probing_until_ms", "state")

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self._failures_ms: deque[int] = deque()
        self._opened_ms = 0
        self._probing_until_ms = 0

    def admits(self, policy: BreakerPolicy, now_ms: int) -> bool:
        """Whether a request may try this target. Pure: taking the probe is ``take_probe``."""
        if self.state is BreakerState.CLOSED:
            return True
        if self.state is BreakerState.OPEN:
            return now_ms - self._opened_ms >= policy.cooldown_ms
        # One probe at a time; one that never reports back is given up after a cooldown.
        return now_ms >= self._probing_until_ms

    def take_probe(self, policy: BreakerPolicy, now_ms: int) -> None:
        """Called when a request is really sent to a target whose breaker is not closed."""
        if self.state is not BreakerState.CLOSED:
            self.state = BreakerState.HALF_OPEN
            self._probing_until_ms = now_ms + policy.cooldown_ms

    def failed(self, policy: BreakerPolicy, now_ms: int) -> None:
        """An attempt ended in a server error, a timeout or a connection failure."""
        failures = self._failures_ms
        failures.append(now_ms)
        while failures and failures[0] <= now_ms - policy.window_ms:
            failures.popleft()
        while len(failures) > policy.failure_threshold:
            failures.popleft()
        half_open = self.state is BreakerState.HALF_OPEN
        if half_open or len(failures) >= policy.failure_threshold:
            self.state = BreakerState.OPEN
            self._opened_ms = now_ms
            failures.clear()

    def succeeded(self) -> None:
        """An attempt was answered by the provider."""
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.CLOSED
            self._failures_ms.clear()

    def retry_after_ms(self, policy: BreakerPolicy, now_ms: int) -> int:
        """How long until a request may try again."""
        if self.state is BreakerState.OPEN:
            return max(0, self._opened_ms + policy.cooldown_ms - now_ms)
        return max(0, self._probing_until_ms - now_ms)


class Breakers:
    """The breakers of all targets, by target name. Most requests only see ``all_closed``."""

    __slots__ = ("_breakers", "_tripped", "stopped", "unkeyed")

    def __init__(self) -> None:
        self._breakers: dict[str, Breaker] = {}
        self._tripped: set[str] = set()
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
        return target not in self._tripped or self._breakers[target].admits(policy, now_ms)

    def sent(self, target: str, policy: BreakerPolicy, now_ms: int) -> None:
        """A request goes out to the target; takes the probe of a breaker that is not closed."""
        if target in self._tripped:
            self._breakers[target].take_probe(policy, now_ms)

    def failed(self, target: str, policy: BreakerPolicy, now_ms: int) -> None:
        """Counts a failure."""
        breaker = self._breakers.get(target)
        if breaker is None:
            if len(self._breakers) >= MAX_BREAKERS:
                return
            breaker = self._breakers[target] = Breaker()
        breaker.failed(policy, now_ms)
        if breaker.state is not BreakerState.CLOSED:
            self._tripped.add(target)

    def succeeded(self, target: str) -> None:
        """Counts an answer; closes a half-open breaker."""
        if target in self._tripped:
            breaker = self._breakers[target]
            breaker.succeeded()
            if breaker.state is BreakerState.CLOSED:
                self._tripped.discard(target)

    def retry_after_ms(self, target: str, policy: BreakerPolicy, now_ms: int) -> int:
        """How long until the target may be tried again; 0 when it may now."""
        if target in self.unkeyed:
            return UNKEYED_RETRY_MS
        if target not in self._tripped:
            return 0
        return self._breakers[target].retry_after_ms(policy, now_ms)

    def states(self) -> dict[str, str]:
        """Every breaker that has seen a failure, for the admin page."""
        return {name: breaker.state.value for name, breaker in self._breakers.items()}
