"""Many small worlds, each from its own seed, in each of which every invariant holds at every step.

TOKENWEIR_SIM_SEED=17 pytest tests/sim    replays one story exactly
TOKENWEIR_SIM_SEEDS=5000 pytest tests/sim runs more of them, from TOKENWEIR_SIM_FIRST on
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from fake_envoy import ENDINGS
from simulation import FAULTS, Simulation

FIRST = int(os.environ.get("TOKENWEIR_SIM_FIRST", "0"))
COUNT = int(os.environ.get("TOKENWEIR_SIM_SEEDS", "100"))
REPLAYED = os.environ.get("TOKENWEIR_SIM_SEED")
BLOCK = 20
BLOCKS = [int(REPLAYED)] if REPLAYED else range(FIRST, FIRST + COUNT, BLOCK)


EVERYTHING = {
    **{fault: most * 0.4 for fault, most in FAULTS.items()},
    "envoy_dies": 0.5,
    "kills": 0.003,
    "answer": 1.0,
    "stream": 1.0,
}


@pytest.mark.parametrize("first", BLOCKS)
def test_every_invariant_holds_at_every_step(first: int, sim_folder: Path) -> None:
    for seed in range(first, first + (1 if REPLAYED else BLOCK)):
        Simulation(seed, sim_folder / str(seed)).run()


def test_what_can_happen_does_happen(sim_folder: Path) -> None:
    seen: Counter[str] = Counter()
    died: set[str] = set()
    for seed in range(16):
        folder = sim_folder / str(seed)
        world = Simulation(seed, folder, mix=EVERYTHING, calls=120, length_ms=60_000)
        world.run()
        seen.update(world.verdicts)
        died.update(world.killed)
        seen["remote"] += world.remote
        seen["reloaded"] += world.sidecars[0].generation > 1
        seen.update(end for booked in world.books.booked.values() for end in booked.ends)
    expected = {
        *ENDINGS, "forward", "client left", "envoy died", "no sidecar", "stream failed",
        "message timeout", "refused budget_exceeded", "refused rate_limit_exceeded",
        "refused store_unavailable", "refused no_healthy_target", "remote", "reloaded",
        "settled", "released", "expired", "lost", "answer lost",
    }  # fmt: skip
    assert expected <= set(seen), expected - set(seen)
    assert {"before flush", "after flush", "before a message", "read", "callback"} <= died


@pytest.mark.parametrize("seed", [3, 6])
def test_a_seed_is_one_story(seed: int, sim_folder: Path) -> None:
    worlds = [Simulation(seed, sim_folder / name) for name in "ab"]
    for world in worlds:
        world.run()
    assert worlds[0].schedule.digest == worlds[1].schedule.digest
    code = (
        "import sys; from pathlib import Path; from simulation import FAULTS, Simulation;"
        "world = Simulation(int(sys.argv[1]), Path(sys.argv[2])); world.run();"
        "print(world.schedule.digest)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    for hash_seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code, str(seed), str(sim_folder / hash_seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.strip() == worlds[0].schedule.digest
