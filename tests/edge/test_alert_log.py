"""What a restart knows of alerts: all that was written, and nothing twice."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
import os
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.core.alerts import Mark
from extproc.edge import alert_log as alert_log_module
from extproc.edge.alert_log import AlertLog, Record, done, ended, set_off, told
from extproc.values.notice import Notice, Severity

MARK = Mark(
    "a/usd", "ann", "80%", "daily UTC", 1, 2, 100, "Budget a", ("slack:#x", "email:a@b.c"), 3, 4
)
NOTICE = Notice(
    MARK.key, "Budget a", Severity.ERROR, (("Rule", "a"),), 3, {"rule_id": "a", "spent": 5}
)
TO = ("slack:#x", "email:a@b.c")


def append(state: Path, *records: Record) -> None:
    log = AlertLog(state)
    log.load()
    asyncio.run(log.append(records))


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    assert AlertLog(tmp_path / "new").load() == ([], [])


def test_what_was_set_off_and_is_still_to_be_told_comes_back_as_it_was(tmp_path: Path) -> None:
    append(tmp_path, set_off(MARK, NOTICE, TO))
    for _ in range(2):  # the second time from the file that was written anew
        marks, pending = AlertLog(tmp_path).load()
        assert marks == [MARK]
        assert pending == [(NOTICE, TO[0]), (NOTICE, TO[1])]


def test_what_is_done_is_not_told_again(tmp_path: Path) -> None:
    append(tmp_path, set_off(MARK, NOTICE, TO))
    append(tmp_path, done(NOTICE, TO[0], "delivered"))
    assert AlertLog(tmp_path).load() == ([MARK], [(NOTICE, TO[1])])


def test_an_alert_that_is_over_is_forgotten_and_its_end_is_told(tmp_path: Path) -> None:
    over = dataclasses.replace(NOTICE, resolved=True)
    append(tmp_path, set_off(MARK, NOTICE, ()), ended(MARK, over, ("pagerduty:p",)))
    assert AlertLog(tmp_path).load() == ([], [(over, "pagerduty:p")])
    append(tmp_path, done(over, "pagerduty:p", "delivered"))
    assert AlertLog(tmp_path).load() == ([], [])


def test_the_notices_of_others_are_kept_too(tmp_path: Path) -> None:
    append(tmp_path, told(NOTICE, TO[:1]))
    assert AlertLog(tmp_path).load() == ([], [(NOTICE, TO[0])])


def test_the_newest_marks_are_the_ones_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_log_module, "MAX_MARKS", 3)
    marks = [dataclasses.replace(MARK, scope_value=str(number)) for number in range(6)]
    append(tmp_path, *(set_off(mark, NOTICE, ()) for mark in marks))
    assert AlertLog(tmp_path).load()[0] == marks[3:]


def test_the_file_is_written_anew_when_it_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_log_module, "MAX_BYTES", 5_000)

    async def scenario() -> None:
        log = AlertLog(tmp_path)
        log.load()
        await log.append([set_off(MARK, NOTICE, TO)])
        for _ in range(200):
            await log.append([told(NOTICE, TO[:1]), done(NOTICE, TO[0], "delivered")])
            assert (tmp_path / "alerts.log").stat().st_size < 6_000

    asyncio.run(scenario())
    assert AlertLog(tmp_path).load() == ([MARK], [(NOTICE, TO[1])])


@settings(max_examples=40)
@given(cut=st.integers(0, 2_000))
def test_F36_a_process_that_dies_while_writing_loses_at_most_the_last_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    state = tmp_path_factory.mktemp("s")
    other = dataclasses.replace(MARK, scope_value="bob")
    append(state, set_off(MARK, NOTICE, TO[:1]))
    path = state / "alerts.log"
    whole = path.read_bytes()
    line = orjson.dumps(set_off(other, NOTICE, TO[1:]))
    path.write_bytes(whole + line[: min(cut, len(line) - 1)])
    assert AlertLog(state).load() == ([MARK], [(NOTICE, TO[0])])
    append(state, set_off(other, NOTICE, TO[1:]))
    assert AlertLog(state).load() == ([MARK, other], [(NOTICE, TO[0]), (NOTICE, TO[1])])


def test_lines_that_cannot_be_read_do_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(tmp_path, set_off(MARK, NOTICE, TO[:1]))
    path = tmp_path / "alerts.log"
    bad = b'nonsense\n{"mark": {"x": 1}}\n7\n{"over": 7}\n{"notice": {}}\n\n'
    path.write_bytes(bad + path.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert AlertLog(tmp_path).load() == ([MARK], [(NOTICE, TO[0])])
    assert "left out: 5" in caplog.text


def test_a_full_disk_is_said_and_what_comes_after_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def scenario() -> None:
        log = AlertLog(tmp_path)
        log.load()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            await log.append([told(NOTICE, TO[:1])])
        await log.append([set_off(MARK, NOTICE, TO[1:])])

    asyncio.run(scenario())
    assert "cannot be remembered: No space left" in caplog.text
    marks, pending = AlertLog(tmp_path).load()
    assert marks == [MARK]
    assert (NOTICE, TO[1]) in pending


def test_only_the_gateways_user_may_read_it(tmp_path: Path) -> None:
    append(tmp_path, told(NOTICE, TO))
    assert (tmp_path / "alerts.log").stat().st_mode & 0o777 == 0o600
