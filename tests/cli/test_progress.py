"""A bar for those who watch, and nothing for those who do not."""

from __future__ import annotations

import io

import pytest

from extproc.cli import progress as progress_module
from extproc.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_the_first_two_seconds_are_silent(clock: list[float]) -> None:
    out = Terminal()
    bar = Progress("verifying", 200, out)
    clock[0] += 1.9
    bar.at(50)
    assert out.getvalue() == ""
    clock[0] += 0.2
    bar.at(50)
    assert out.getvalue().startswith("\rverifying [##########....")
    assert out.getvalue().endswith("]  25%")
    before = out.getvalue()
    bar.at(60)  # too soon to draw again
    assert out.getvalue() == before
    bar.done()
    assert out.getvalue().endswith("\r\x1b[K")


def test_a_file_gets_no_bar(clock: list[float]) -> None:
    out = io.StringIO()
    bar = Progress("verifying", 0, out)
    clock[0] += 60
    bar.at(1)
    bar.done()
    assert out.getvalue() == ""
