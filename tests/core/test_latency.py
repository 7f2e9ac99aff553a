"""How fast targets are: means over recent calls, and nothing from too few of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core import latency
from extproc.core.latency import MAX_SAMPLES, MAX_US, MIN_SAMPLES, WINDOW_MS, Latencies, Speed


def streams(latencies: Latencies, *calls: tuple[int, int, int], now_ms: int = 0) -> None:
    """Calls of (output tokens, time to first byte, time to last byte)."""
    for tokens, first_us, answered_us in calls:
        latencies.add("t", tokens, first_us, answered_us, now_ms, streamed=True)


def test_a_stream_tells_its_first_byte_and_what_each_token_took_after_it() -> None:
    latencies = Latencies()
    streams(latencies, (10, 1_000, 6_000), (10, 2_000, 5_000), (20, 3_000, 7_000))
    speed = latencies.speed("t", 0)
    assert speed == Speed(token_us=(500 + 300 + 200) // 3, first_us=2_000)
    assert speed.answer_us(100) == 2_000 + 100 * 333


def test_an_answer_in_one_piece_is_spread_over_its_tokens() -> None:
    latencies = Latencies()
    for _ in range(MIN_SAMPLES):
        latencies.add("t", 10, 5_000, 5_000, 0, streamed=False)
    assert latencies.speed("t", 0) == Speed(token_us=500, first_us=0)


def test_too_few_calls_or_none_of_late_say_nothing() -> None:
    latencies = Latencies()
    streams(latencies, *[(1, 1, 2)] * (MIN_SAMPLES - 1))
    assert latencies.speed("t", 0) is None
    assert latencies.speed("other", 0) is None
    streams(latencies, (1, 1, 2), now_ms=1)
    assert latencies.speed("t", WINDOW_MS - 1) is not None
    assert latencies.speed("t", WINDOW_MS) is None


def test_what_cannot_be_is_not_counted() -> None:
    latencies = Latencies()
    impossible = [(0, 1, 2), (1, 3, 2), (1, -1, 2), (1, 0, 0), (1, 1, MAX_US + 1)]
    streams(latencies, *impossible * MIN_SAMPLES)
    assert latencies.speed("t", 0) is None


@given(
    st.lists(
        st.tuples(
            st.integers(1, 50), st.integers(0, 900), st.integers(1_000, 9_000), st.booleans()
        ),
        min_size=MIN_SAMPLES,
        max_size=MAX_SAMPLES + 20,
    )
)
def test_the_means_are_those_of_the_last_calls(calls: list[tuple[int, int, int, bool]]) -> None:
    latencies = Latencies()
    for tokens, first_us, answered_us, streamed in calls:
        latencies.add("t", tokens, first_us, answered_us, 0, streamed=streamed)
    last = calls[-MAX_SAMPLES:]
    each = [
        (answered_us - first_us * streamed) // tokens
        for tokens, first_us, answered_us, streamed in last
    ]
    firsts = [first_us for _, first_us, _, streamed in last if streamed]
    assert latencies.speed("t", 0) == (
        sum(each) // len(each),
        sum(firsts) // max(1, len(firsts)),
    )


def test_the_target_that_was_quiet_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_TARGETS", 2)
    latencies = Latencies()
    for name in ("a", "b", "a", "c"):
        for _ in range(MIN_SAMPLES):
            latencies.add(name, 1, 1, 2, 0, streamed=True)
    known = [name for name in "abc" if latencies.speed(name, 0) is not None]
    assert known == ["a", "c"]
