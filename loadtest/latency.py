"""Latency samples and their percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of one set of samples, in milliseconds."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


def percentiles(samples_ns: Sequence[int]) -> Percentiles:
    """Nearest-rank percentiles of nanosecond samples: always a value that was measured.

    Raises ``ValueError`` without samples: no figure is better than a zero that looks like one.
    """
    if not samples_ns:
        raise ValueError("no samples")
    ordered = sorted(samples_ns)

    def at(share: float) -> float:
        return ordered[math.ceil(share * len(ordered)) - 1] / 1e6

    return Percentiles(len(ordered), at(0.5), at(0.9), at(0.99), ordered[-1] / 1e6)
