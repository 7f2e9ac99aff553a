"""How fast targets have been lately, from the durations in Envoy's access log.

A stream tells two things: how long its first byte took, and what each output token took after it.
An answer in one piece tells one: its whole time, spread over its tokens. The calls of one virtual
model are alike at all its targets, so the figures can be compared.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

WINDOW_MS = 1_200_000
"""Calls older than twenty minutes say nothing: a target that was left out for being slow is unknown
again then, and is tried."""
MAX_SAMPLES = 100
MIN_SAMPLES = 3
"""Of fewer calls nothing is concluded."""
MAX_TARGETS = 4_096
"""Targets remembered, some 10 KB each when full; those of former policies go first."""
MAX_US = 3_600_000_000
"""No answer takes an hour; a longer time is a mistake of some clock."""


class Sample(NamedTuple):
    """One call. Microseconds."""

    at_ms: int
    token_us: int
    first_us: int
    """-1 of an answer in one piece."""


class Speed(NamedTuple):
    """Means of the calls of one target. Microseconds."""

    token_us: int
    first_us: int
    """0 where nothing was streamed."""

    def answer_us(self, output_tokens: int) -> int:
        """How long an answer of this length likely takes."""
        return self.first_us + self.token_us * output_tokens


class _Calls:
    """The recent calls of one target, with their sums."""

    __slots__ = ("first_us", "samples", "streams", "token_us")

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque()
        self.token_us = 0
        self.first_us = 0
        self.streams = 0

    def count(self, sample: Sample, sign: int) -> None:
        self.token_us += sign * sample.token_us
        if sample.first_us >= 0:
            self.first_us += sign * sample.first_us
            self.streams += sign

    def forget(self, now_ms: int) -> None:
        samples = self.samples
        while samples and (len(samples) > MAX_SAMPLES or samples[0].at_ms <= now_ms - WINDOW_MS):
            self.count(samples.popleft(), -1)


class Latencies:
    """The recent calls of all targets, by target name. Bounded; a restart forgets."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, _Calls] = {}

    def add(
        self, target: str, output_tokens: int, first_us: int, answered_us: int, now_ms: int, *,
        streamed: bool,
    ) -> None:  # fmt: skip
        """Takes one answered call: the time from its sending to the first byte of the answer and to
        its last."""
        if output_tokens <= 0 or not 0 <= first_us <= answered_us <= MAX_US or not answered_us:
            return
        spent_us = answered_us - first_us if streamed else answered_us
        calls = self._known.pop(target, None)
        if calls is None:
            calls = _Calls()
            if len(self._known) >= MAX_TARGETS:
                del self._known[next(iter(self._known))]
        self._known[target] = calls  # at the end: the last to be forgotten
        sample = Sample(now_ms, spent_us // output_tokens, first_us if streamed else -1)
        calls.samples.append(sample)
        calls.count(sample, 1)
        calls.forget(now_ms)

    def speed(self, target: str, now_ms: int) -> Speed | None:
        """The means; None of a target that too little is known of."""
        calls = self._known.get(target)
        if calls is None:
            return None
        calls.forget(now_ms)
        samples = len(calls.samples)
        if samples < MIN_SAMPLES:
            return None
        return Speed(calls.token_us // samples, calls.first_us // max(1, calls.streams))
