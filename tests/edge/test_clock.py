"""Time never goes back, whatever the machine's clock does."""

from __future__ import annotations

import pytest

from extproc.edge import clock as clock_module
from extproc.edge.clock import Clock

START_MS = 1_790_000_000_000
HOUR_MS = 3_600_000


class Machine:
    """A wall clock that can be set, and one that cannot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ms, self.passed_ms = START_MS, 1_000
        monkeypatch.setattr(clock_module.time, "time_ns", lambda: self.wall_ms * 1_000_000)
        monkeypatch.setattr(clock_module.time, "monotonic_ns", lambda: self.passed_ms * 1_000_000)

    def wait(self, milliseconds: int) -> None:
        self.wall_ms += milliseconds
        self.passed_ms += milliseconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_it_is_the_time(machine: Machine) -> None:
    clock = Clock()
    assert clock.now_ms() == START_MS
    machine.wait(5)
    assert clock.now_ms() == START_MS + 5


def test_F71_a_clock_that_is_set_back_an_hour_goes_on_at_half_its_pace(machine: Machine) -> None:
    clock = Clock()
    before = clock.now_ms()
    machine.wall_ms -= HOUR_MS
    assert clock.now_ms() == before
    for _ in range(60):
        machine.wait(HOUR_MS // 60)
        assert clock.now_ms() > before
    assert clock.now_ms() == before + HOUR_MS // 2
    for _ in range(60):
        machine.wait(HOUR_MS // 60)
        clock.now_ms()
    # Caught up: it is the machine's time again.
    assert clock.now_ms() == machine.wall_ms == before + HOUR_MS
    machine.wait(7)
    assert clock.now_ms() == machine.wall_ms


def test_F71_two_steps_back_never_lead_backwards(machine: Machine) -> None:
    clock = Clock()
    seen = [clock.now_ms()]
    for step, wait in ((HOUR_MS, 10_000), (HOUR_MS, 500), (-3 * HOUR_MS, 1), (1, 0), (0, 9)):
        machine.wall_ms -= step
        seen.append(clock.now_ms())
        machine.wait(wait)
        seen.append(clock.now_ms())
    assert seen == sorted(seen)
    assert seen[-1] == machine.wall_ms
