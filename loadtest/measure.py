"""One slice of load on one variant, with what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from loadtest import client
from loadtest.bodies import (
    LARGE_BYTES,
    LARGE_MESSAGES,
    MEDIUM_BYTES,
    MEDIUM_MESSAGES,
    chat_body,
    http_request,
)
from loadtest.latency import Percentiles, percentiles
from loadtest.processes import Noise, NoiseMeter, Processes, cpu_us
from loadtest.stack import Variant

SATURATION_CONNECTIONS = 16
OPEN_LOOP_RPS = 350
STREAMS = 200
STREAM_SPREAD_S = 1.0
"""Starts are spread out: all at once would measure the burst, not the stream."""
STREAM_BODY_BYTES = 600


@dataclass(frozen=True, slots=True)
class Slice:
    """One measurement."""

    kind: str
    variant: str
    rps: float
    latency: Percentiles | None
    valid: bool
    refused: int
    broken: int
    envoy_us: float
    """Envoy's CPU per request; microseconds."""
    python_us: float
    noise: Noise
    chunk_delay: Percentiles | None = None
    """SSE: from the upstream's write of an event to the client."""
    gap: Percentiles | None = None


def saturate(variant: Variant, seconds: float, processes: Processes) -> Slice:
    """1 KB, closed loop, as fast as it goes."""
    load = client.closed_loop(variant.port, variant.requests, SATURATION_CONNECTIONS, seconds)
    return _load("saturation", variant, load, processes)


def steady(variant: Variant, seconds: float, processes: Processes) -> Slice:
    """1 KB, open loop at the field's headline rate."""
    load = client.open_loop(variant.port, variant.requests, OPEN_LOOP_RPS, seconds)
    return _load("open_350", variant, load, processes)


def body_200kb(variant: Variant, seconds: float, processes: Processes) -> Slice:
    """200 KB, one at a time."""
    return _body("body_200kb", variant, MEDIUM_BYTES, MEDIUM_MESSAGES, seconds, processes)


def body_2mb(variant: Variant, seconds: float, processes: Processes) -> Slice:
    """2 MB, one at a time."""
    return _body("body_2mb", variant, LARGE_BYTES, LARGE_MESSAGES, seconds, processes)


def streaming(variant: Variant, _: float, processes: Processes) -> Slice:
    """200 concurrent SSE streams. The latency is the time to the first token."""
    request = http_request(chat_body(STREAM_BODY_BYTES, 1, stream=True))
    meter = _Meter(variant, processes)
    sample = uvloop.run(client.streams(variant.port, request, STREAMS, STREAM_SPREAD_S))
    return meter.slice(
        "streams",
        0.0,
        sample.first_token_ns,
        (sample.refused, sample.broken),
        valid=sample.valid,
        chunk_delay=_percentiles(sample.chunk_delay_ns),
        gap=_percentiles(sample.gap_ns),
    )


class _Meter:
    """CPU clocks around a slice."""

    def __init__(self, variant: Variant, processes: Processes) -> None:
        self._variant = variant
        self._noise = NoiseMeter(processes)
        self._before = self._cpu_us()

    def _cpu_us(self) -> tuple[float, float]:
        children = (self._variant.envoy, self._variant.python)
        envoy, python = (cpu_us(child.pid) if child else 0.0 for child in children)
        return envoy, python

    def slice(
        self,
        kind: str,
        rps: float,
        latencies_ns: Sequence[int],
        failures: tuple[int, int],
        *,
        valid: bool,
        chunk_delay: Percentiles | None = None,
        gap: Percentiles | None = None,
    ) -> Slice:
        after = self._cpu_us()
        count = max(1, len(latencies_ns))
        return Slice(
            kind,
            self._variant.name,
            rps,
            _percentiles(latencies_ns),
            valid,
            *failures,
            (after[0] - self._before[0]) / count,
            (after[1] - self._before[1]) / count,
            self._noise.read(),
            chunk_delay,
            gap,
        )


def _body(
    kind: str, variant: Variant, size: int, messages: int, seconds: float, processes: Processes
) -> Slice:
    requests = (http_request(chat_body(size, messages)),)
    return _load(kind, variant, client.closed_loop(variant.port, requests, 1, seconds), processes)


def _load(kind: str, variant: Variant, load: client.Load, processes: Processes) -> Slice:
    meter = _Meter(variant, processes)
    sample = uvloop.run(load)
    failures = (sample.refused, sample.broken)
    return meter.slice(kind, sample.rps, sample.latencies_ns, failures, valid=sample.valid)


def _percentiles(samples_ns: Sequence[int]) -> Percentiles | None:
    return percentiles(samples_ns) if samples_ns else None
