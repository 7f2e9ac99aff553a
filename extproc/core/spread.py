"""How a quantity is spread over past requests, in a fixed amount of memory and without floats.

A histogram over quarter octaves: each bucket is at most a fifth wider than the one before, so a
quantile read from it is too high by at most that, and never too low.
"""

from __future__ import annotations

BUCKETS = 4 * 48
"""Up to 2^48: more tokens, or micro-USD, than any request has."""
FORGET_AT = 1_000
"""Samples after which all counts are halved: a workflow that changes is followed within some
hundreds of requests."""


class Spread:
    """Counts of samples by size."""

    __slots__ = ("_counts", "samples")

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self.samples = 0
        """Remembered now; older ones count half, a quarter, and so on."""

    def add(self, value: int) -> None:
        """Takes one sample, not negative."""
        self._counts[_bucket(value)] += 1
        self.samples += 1
        if self.samples >= FORGET_AT:
            self._counts = [count // 2 for count in self._counts]
            self.samples = sum(self._counts)

    def at_pct(self, pct: int) -> int:
        """A value that at least ``pct`` percent of the samples do not exceed; 0 without samples."""
        wanted = -(-self.samples * pct // 100)
        for bucket, count in enumerate(self._counts):
            wanted -= count
            if wanted <= 0:
                return _upper_edge(bucket) if self.samples else 0
        raise AssertionError("more samples than counts")


def _bucket(value: int) -> int:
    """Small values have buckets of their own: 0 to 7 exactly, then quarters of each octave."""
    if value < 8:
        return value
    octave = value.bit_length() - 3
    return min(BUCKETS - 1, 4 * octave + (value >> octave))


def _upper_edge(bucket: int) -> int:
    if bucket < 8:
        return bucket
    octave = bucket // 4 - 1
    return ((bucket - 4 * octave + 1) << octave) - 1
