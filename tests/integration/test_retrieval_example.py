"""The example that is run by ``make example-retrieval``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from command import ROOT

COMPARE = ROOT / "examples" / "retrieval_vs_stuffing" / "compare.py"


def test_retrieval_costs_a_fraction_of_stuffing() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, COMPARE, "--json"]
    run = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    stuffing, retrieval = json.loads(run.stdout)
    assert (stuffing["model_calls"], retrieval["model_calls"]) == (1, 3)
    assert retrieval["tool_calls"] == 2
    # The whole source is a third of a million tokens; what the tools bring is a few thousand.
    assert stuffing["input_tokens"] > 250_000
    assert 1_000 < retrieval["input_tokens"] < 20_000
    assert stuffing["usd"] > 20 * retrieval["usd"] > 0
    for row in (stuffing, retrieval):
        usd = row["input_tokens"] * 2e-6 + row["output_tokens"] * 8e-6
        assert abs(row["usd"] - usd) < 1e-5  # gpt-4.1: $2 and $8 per million
