"""A sidecar's memory over many requests: every one of them a new session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import request_memory

LONG = int(os.environ.get("TOKENWEIR_MEMORY_REQUESTS", "0"))
SHORT = 30_000
MAX_BYTES_PER_REQUEST = 60


@pytest.mark.timeout(3_600 if LONG else 180)
def test_F43_memory_does_not_grow_with_requests(tmp_path: Path) -> None:
    """Short, with small bounds; or ``TOKENWEIR_MEMORY_REQUESTS=1000000`` with the real ones."""
    arguments = [str(LONG)] if LONG else [str(SHORT), "small"]
    done = subprocess.run(
        [sys.executable, request_memory.__file__, str(tmp_path), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Memory swings as memos fill and start afresh: lows are compared with lows. By 40 % every bound
    # is reached, of the long run too.
    points = json.loads(done.stdout)
    points = points[len(points) * 2 // 5 :]
    middle = len(points) // 2
    early, late = min(b for _, b in points[:middle]), min(b for _, b in points[middle:])
    requests = points[-1][0] - points[middle - 1][0]
    growth = (late - early) / requests
    print(f"{growth:.1f} bytes per request, {late / 1e6:.0f} MB")
    assert growth <= MAX_BYTES_PER_REQUEST, points
