"""The demo provider's own bill: its own prices, its own counts, nothing shared with the gateway."""

from __future__ import annotations

import json
import time
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any

from extproc.demo.prices import (
    DEAREST,
    LONG_CONTEXT_PRICES,
    LONG_CONTEXT_TOKENS,
    PRICES,
    Price,
    cost_micro_usd,
)

MAX_LINES = 200_000
"""Bill lines kept in memory, some 150 MB; the totals go on."""


class Bill:
    """What the providers would charge, one line per attempt."""

    def __init__(self, file: Path | None = None) -> None:
        self.total_micro_usd = 0
        self.requests = 0
        self._lines: deque[dict[str, Any]] = deque(maxlen=MAX_LINES)
        self._prices: dict[str, Price] = {}
        # Unbuffered: a line is with the kernel before the client can see that its call ended.
        self._file = file.open("ab", buffering=0) if file else None

    def set_price(self, model: str, price: Price) -> None:
        """Bills a model at this price from now on, whatever its length of context."""
        self._prices[model] = price

    def price(self, model: str, input_tokens: int) -> Price:
        """The price that a request of this length pays; an unknown model pays the dearest."""
        if model in self._prices:
            return self._prices[model]
        if input_tokens > LONG_CONTEXT_TOKENS and model in LONG_CONTEXT_PRICES:
            return LONG_CONTEXT_PRICES[model]
        return PRICES.get(model, DEAREST)

    def add(self, line: dict[str, Any]) -> None:
        """Numbers, prices and books a line.

        It names ``model`` and ``input_tokens`` (of which ``cached_tokens`` were read from the
        cache and ``cache_write_tokens`` written to it) and ``output_tokens``.
        """
        cached, written = line["cached_tokens"], line["cache_write_tokens"]
        counted = Price(
            input=line["input_tokens"] - cached - written,
            cached_input=cached,
            cache_write=written,
            output=line["output_tokens"],
        )
        cost = cost_micro_usd(self.price(line["model"], line["input_tokens"]), counted)
        self.requests += 1
        self.total_micro_usd += cost
        line = {"n": self.requests, "time": time.time(), **line, "micro_usd": cost}
        self._lines.append(line)
        if self._file:
            self._file.write(json.dumps(line).encode() + b"\n")

    def since(self, number: int) -> list[dict[str, Any]]:
        """The lines kept in memory whose ``n`` is above ``number``."""
        first = self.requests - len(self._lines)
        return list(islice(self._lines, max(0, number - first), None))

    def clear(self) -> None:
        """Forgets lines and totals; the prices and the file stay."""
        self._lines.clear()
        self.total_micro_usd = self.requests = 0

    def close(self) -> None:
        """Closes the file."""
        if self._file:
            self._file.close()
