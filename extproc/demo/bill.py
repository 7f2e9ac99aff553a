"""The demo provider's own bill: its own prices, its own counts, nothing shared with the gateway."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from pathlib import Path
from typing import Any

MAX_LINES = 200_000
"""Bill lines kept in memory; the totals go on."""

# Micro-USD per million tokens: input, cached input, cache write, output. List prices of 2026-11.
PRICES: dict[str, tuple[int, int, int, int]] = {
    "claude-haiku-4-5": (1_000_000, 100_000, 1_250_000, 5_000_000),
    "claude-sonnet-4-5": (3_000_000, 300_000, 3_750_000, 15_000_000),
    "gpt-4o-mini": (150_000, 75_000, 150_000, 600_000),
    "gpt-4o": (2_500_000, 1_250_000, 2_500_000, 10_000_000),
    "gemini-2.0-flash": (100_000, 25_000, 100_000, 400_000),
    "text-embedding-3-small": (20_000, 20_000, 20_000, 0),
}
DEAREST = (15_000_000, 1_500_000, 18_750_000, 75_000_000)
"""What a model without a price is billed at."""

_TOKEN = re.compile(r"\w{1,6}|[^\w\s]")


def count_tokens(text: str, mode: str) -> int:
    """Tokens of a text: pieces of words and punctuation, or one per byte."""
    if mode == "byte":
        return len(text.encode())
    return sum(1 for _ in _TOKEN.finditer(text))


class Bill:
    """What the providers would charge, line by line."""

    def __init__(self, file: Path | None) -> None:
        self.lines: deque[dict[str, Any]] = deque(maxlen=MAX_LINES)
        self.total_micro_usd = 0
        self.requests = 0
        self._file = file.open("a", buffering=1) if file else None

    def add(self, line: dict[str, Any]) -> None:
        """Prices a line and books it."""
        model = (
            str(line["model"]).rpartition(".")[2]
            if "anthropic." in line["model"]
            else line["model"]
        )
        plain, cached, written, output = PRICES.get(model, DEAREST)
        cached_tokens, written_tokens = line["cached_tokens"], line["cache_write_tokens"]
        rest = line["input_tokens"] - cached_tokens - written_tokens
        millionths = (
            rest * plain
            + cached_tokens * cached
            + written_tokens * written
            + line["output_tokens"] * output
        )
        line["micro_usd"] = -(-millionths // 1_000_000)
        self.requests += 1
        line["n"] = self.requests
        line["time"] = time.time()
        self.total_micro_usd += line["micro_usd"]
        self.lines.append(line)
        if self._file:
            self._file.write(json.dumps(line) + "\n")

    def clear(self) -> None:
        """Forgets everything; the file stays."""
        self.lines.clear()
        self.total_micro_usd = 0
        self.requests = 0
