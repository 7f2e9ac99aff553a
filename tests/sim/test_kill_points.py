"""``kill -9`` at every single place of small worlds, one run per place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulation import PEACE, Simulation

SMALL_WORLDS: dict[str, dict[str, Any]] = {
    "F66-embedded": {
        "seed": 2,
        "sidecars": 1,
        "mix": {**PEACE, "status": 3.0, "reset": 1.0, "cut": 1.0, "leaves": 0.3, "late_logs": 0.2},
    },
    "F66-embedded-small-segments-and-reloads": {
        "seed": 5,
        "sidecars": 1,
        "mix": {**PEACE, "connect_failed": 0.7, "small_segments": 1.0, "reloads": 1.0},
    },
    "F66-two-sidecars-on-one-ledger": {
        "seed": 4,
        "sidecars": 2,
        "mix": {**PEACE, "timeout": 0.5, "network_lost": 0.1, "ledger_empties": 0.7},
    },
}
POINTS = {
    "before reserve", "after reserve", "before flush", "torn write", "after flush",
    "before a message", "before the answers leave", "before settle", "after settled", "read",
    "callback", "thread",
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL_WORLDS)
def test_F66_a_death_at_every_kill_point(name: str, sim_folder: Path) -> None:
    story = {"calls": 7, "length_ms": 2_000, **SMALL_WORLDS[name]}
    whole = Simulation(folder=sim_folder / "whole", **story)
    whole.run()
    assert whole.killed == []
    died = set()
    for point in range(1, whole.kill_points_under_load + 1):
        world = Simulation(folder=sim_folder / str(point), kill_at=point, **story)
        try:
            world.run()
        except AssertionError as error:
            raise AssertionError(f"kill point {point}, {world.killed}: {error}") from error
        assert len(world.killed) == 1
        died.update(world.killed)
    assert died >= POINTS, POINTS - died
