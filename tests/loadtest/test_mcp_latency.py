from __future__ import annotations

import json
import os
import subprocess
import sys

from command import ROOT


def test_every_way_is_measured_and_what_the_gateway_adds() -> None:
    command = [sys.executable, "-m", "loadtest.mcp_latency", "--calls", "20", "--json"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert set(found) == {"direct", "envoy", "gateway", "added"}
    assert all(one["count"] == 20 for one in found.values())
    # A call that is decided, booked and settled is not for nothing.
    assert found["gateway"]["p50_ms"] > found["direct"]["p50_ms"]
