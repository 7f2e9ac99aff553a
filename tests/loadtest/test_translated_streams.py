"""The stream benchmark: the figures that are made of a run, and a short real one."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.policy.loader import load_folder
from extproc.policy.snapshot import PolicySnapshot
from extproc.values.dialect import Operation
from loadtest.latency import Percentiles
from loadtest.measure import Slice
from loadtest.processes import Noise, Processes
from loadtest.report import Figure
from loadtest.stack import POLICY, STREAM_POLICY, Variant, envoy_counters
from loadtest.translated_streams import (
    STREAMS,
    Cores,
    Held,
    StreamBench,
    Way,
    figures,
    first_token_table,
    held_table,
)

QUIET = Noise(0.0, 0.0)
WAYS = [Way(name, Variant(name, 1), name) for name in ("direct", "envoy", "same", "to-gemini")]


def slice_of(name: str, p50_ms: float, rps: float = 10_000.0, *, valid: bool = True) -> Slice:
    latency = Percentiles(9, p50_ms, p50_ms, p50_ms * 2, p50_ms * 3)
    return Slice("kind", name, rps, latency, valid, 0, 0, 40.0, 20.0, QUIET, latency)


def held(name: str, rps: float, *, valid: bool = True, load: float = 0.4) -> Held:
    cores = Cores(0.5, 0.2, load / 2, load / 2)
    return Held(STREAMS, slice_of(name, 2.0, rps, valid=valid), cores, 0.95, 0)


def first(translated_ms: float) -> dict[str, Slice]:
    times = {"direct": 0.1, "envoy": 0.6, "same": 1.5, "to-gemini": translated_ms}
    return {name: slice_of(name, ms) for name, ms in times.items()}


def verdicts(found: list[Figure]) -> dict[str, str]:
    return {figure.name: figure.verdict for figure in found}


def test_translation_is_measured_against_the_same_dialect() -> None:
    good = verdicts(figures(first(2.4), [held("to-gemini", 9_950)], 0, WAYS))
    assert set(good.values()) == {"PASS"}, good
    slow = verdicts(figures(first(2.6), [held("to-gemini", 9_950)], 0, WAYS))
    assert slow["first token, to-gemini less same dialect, p50"] == "MISSED"
    assert "| to-gemini | 9 | 2.600 | 2.600 | 5.200 | +1.100 | +2.200 |" in first_token_table(
        first(2.6)
    )


def test_what_is_not_delivered_or_not_our_doing_is_said() -> None:
    few = verdicts(figures(first(2.4), [held("to-gemini", 9_800)], 0, WAYS))
    assert few["200 streams, to-gemini: events delivered"] == "MISSED"
    cut = verdicts(figures(first(2.4), [held("to-gemini", 9_950, valid=False)], 0, WAYS))
    assert cut["200 streams, to-gemini: events delivered"] == "INVALID"
    busy = verdicts(figures(first(2.4), [held("same", 9_950, load=0.95)], 0, WAYS))
    assert busy["client and upstream, together"] == "MISSED"
    late = verdicts(figures(first(2.4), [held("same", 9_950)], 1, WAYS))
    assert late["message timeouts of Envoy"] == "MISSED"


def test_the_policy_has_a_target_of_each_dialect_under_the_loads_limits(tmp_path: Path) -> None:
    for folder in (POLICY, STREAM_POLICY):
        for path in folder.glob("*.yaml"):
            (tmp_path / path.name).write_text(path.read_text())
    policy = load_folder(tmp_path, 1, {})
    assert isinstance(policy, PolicySnapshot), policy
    assert len(policy.limits) == 13
    dialects = {
        name: target.endpoints[Operation.CHAT_COMPLETIONS].dialect
        for name, model in policy.virtual_models.items()
        for target in model.all_targets
    }
    assert dialects == {
        "intent-fast": "openai",
        "to-anthropic": "anthropic",
        "to-gemini": "gemini",
        "to-bedrock": "bedrock",
    }


@pytest.fixture
def bench() -> Iterator[StreamBench]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory(prefix="lt-", ignore_cleanup_errors=True) as folder:
        processes = Processes(Path(folder) / "logs")
        try:
            yield StreamBench(processes, Path(folder))
        finally:
            processes.stop_all()
            for number, handler in before.items():
                signal.signal(number, handler)


def test_every_way_carries_whole_streams(bench: StreamBench) -> None:
    """The real thing, with few streams and short ones: nothing is said of speed here."""
    found = bench.first_tokens(2)
    assert [way.name for way in bench.ways] == list(found)
    for item in found.values():
        assert item.valid, item
        assert item.latency is not None
        assert item.latency.count == 2
    for way in bench.ways:
        many = bench.hold(way, 5, 0.4)
        assert many.slice.valid, many
        assert many.slice.chunk_delay is not None
        assert many.slice.chunk_delay.count == 5 * 20
        assert many.begun_s > 0.5
        assert way.name in held_table([many])
    counters = envoy_counters(bench.governed, "ext_proc.message_timeouts")
    assert len(counters) >= 4
    assert set(counters.values()) == {0}
