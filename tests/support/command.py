"""The command line as a shell sees it: a real process, its exit code and its two outputs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tokenweir(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs ``tokenweir ARGUMENTS`` to its end, from the root of the repository."""
    return subprocess.run(
        [sys.executable, "-m", "extproc", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
