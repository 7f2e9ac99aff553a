"""What is remembered of sessions: for how long, of how many, and only their own."""

from __future__ import annotations

import pytest

from extproc.core import affinity
from extproc.core.affinity import WARM_1H_MS, WARM_MS, Affinity
from extproc.values.usage import TokenUsage

KEY = ("c", "u", "s")
CACHED = TokenUsage(100, 5, cached_input_tokens=60, cache_write_tokens=30)


def test_a_session_keeps_to_its_target_until_it_was_quiet_for_too_long() -> None:
    remembered = Affinity()
    assert remembered.stuck(KEY, 0) == ""
    remembered.stick(KEY, "a", 10)
    assert remembered.stuck(KEY, 9) == "a"
    assert remembered.stuck(("c", "u", "other"), 9) == ""
    assert remembered.stuck(KEY, 10) == ""
    remembered.stick(KEY, "b", 20)
    assert remembered.stuck(KEY, 19) == "b"


def test_a_cache_is_as_warm_as_the_last_call_left_it_and_only_at_its_target() -> None:
    remembered = Affinity()
    remembered.warmed(KEY, "a", CACHED, 0)
    assert remembered.warm_tokens(KEY, "a", WARM_MS - 1) == 90
    assert remembered.warm_tokens(KEY, "b", 0) == 0
    assert remembered.warm_tokens(("c", "v", "s"), "a", 0) == 0
    assert remembered.warm_tokens(KEY, "a", WARM_MS) == 0
    remembered.warmed(KEY, "a", TokenUsage(100, 5), 1)
    assert remembered.warm_tokens(KEY, "a", 1) == 0


def test_a_cache_that_is_kept_for_an_hour_is_after_it_was_read_too() -> None:
    remembered = Affinity()
    written = CACHED._replace(cache_write_1h_tokens=30)
    remembered.warmed(KEY, "a", written, 0)
    assert remembered.warm_tokens(KEY, "a", WARM_1H_MS - 1) == 90
    remembered.warmed(KEY, "a", TokenUsage(100, 5, cached_input_tokens=90), 1_000)
    assert remembered.warm_tokens(KEY, "a", WARM_1H_MS) == 90
    remembered.warmed(KEY, "a", CACHED, 2_000)
    assert remembered.warm_tokens(KEY, "a", 2_000 + WARM_MS) == 0


def test_what_was_not_used_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "MAX_REMEMBERED", 2)
    remembered = Affinity()
    for session in ("1", "2", "1", "3"):
        remembered.stick((session,), "a", 10)
        remembered.warmed((session,), "a", CACHED, 0)
    assert [remembered.stuck((session,), 0) for session in "123"] == ["a", "", "a"]
    assert [remembered.warm_tokens((session,), "a", 0) for session in "123"] == [90, 0, 90]
