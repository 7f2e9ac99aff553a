"""A progress bar on stderr, for what takes longer than two seconds, where somebody watches."""

from __future__ import annotations

import sys
import time
from typing import TextIO

SHOWN_AFTER_S = 2.0
REDRAWN_S = 0.1
WIDTH = 40


class Progress:
    """Counts up to ``total``; draws nothing when stderr is no terminal."""

    def __init__(self, what: str, total: int, out: TextIO | None = None) -> None:
        self._what = what
        self._total = max(1, total)
        self._out = out or sys.stderr
        self._next_s = time.monotonic() + SHOWN_AFTER_S if self._out.isatty() else float("inf")
        self._drawn = False

    def at(self, done: int) -> None:
        """Tells how far it is. Cheap: call it often."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + REDRAWN_S
        self._drawn = True
        filled = min(WIDTH, WIDTH * done // self._total)
        percent = min(100, 100 * done // self._total)
        bar = "#" * filled + "." * (WIDTH - filled)
        self._out.write(f"\r{self._what} [{bar}] {percent:3}%")
        self._out.flush()

    def done(self) -> None:
        """Takes the bar away."""
        if self._drawn:
            self._out.write("\r\x1b[K")
            self._out.flush()
        self._next_s = float("inf")
