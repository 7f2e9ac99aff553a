"""Usage logs for tests: written by a real ledger, read back, verified, spoiled."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from extproc.ledger.port import Account, Hold
from extproc.ledger.usage_log import UsageLog, segments
from extproc.ledger.verification import Report, Verification, by_time
from extproc.values.limit import Breach, BreachKind, Limit, Unit
from extproc.values.window import parse_window

NOW = 1_790_000_000_000


def limit(
    key: str, ceiling: int, window: str = "1h", unit: Unit = Unit.TOKENS, zone: str = "UTC",
    renamed_from: str = "",
) -> Limit:  # fmt: skip
    """A limit whose action is to block."""
    return Limit(
        key, key, unit, ceiling, parse_window(window, zone), (), Breach(BreachKind.HARD_BLOCK),
        fallback_ceiling=ceiling, renamed_from=renamed_from,
    )  # fmt: skip


def account(*limits: Limit, value: str = "") -> Account:
    """What a request is booked on."""
    return Account([Hold(each, value, each.ceiling) for each in limits], {"credential": "app"})


def amounts(tokens: int) -> tuple[int, int, int, int, int, int]:
    """One request of so many tokens, at ten micro-USD each."""
    return (1, tokens, tokens, 0, tokens * 10, tokens * 10)


def verified(*folders: Path) -> Report:
    """The report of the folders' logs, merged. Raises ``LogDamagedError``."""
    verification = Verification()
    for line in by_time(UsageLog(folder).lines() for folder in folders):
        verification.check(line)
    return verification.finish()


def records(path: Path) -> list[list[Any]]:
    """The records of a segment."""
    return [orjson.loads(line[9:]) for line in path.read_bytes().splitlines()]


def rewrite(
    folder: Path, edit: Callable[[list[list[Any]]], None], segment: int = 1, *, chain: bool = True
) -> None:
    """Edits a segment's records. With ``chain`` every checksum is made to fit again, in the
    following segments too; without, only that of each line by itself."""
    before = 0
    for path in segments(folder):
        was = path.read_bytes().splitlines()
        content = [orjson.loads(line[9:]) for line in was]
        if path.name == f"usage-{segment:06d}.log":
            edit(content)
        checksum, lines = 0, []
        for number, record in enumerate(content):
            if number == 0 and record[1] > 1 and before:
                record[3] = before
            text = orjson.dumps(record)
            checksum = zlib.crc32(text, checksum)
            lines.append(b"%08x %b\n" % (checksum, text))
        if chain:
            before = checksum
        elif path.name == f"usage-{segment:06d}.log":
            kept = [
                line + b"\n" if line[9:] == new[9:-1] else new
                for line, new in zip(was, lines, strict=False)
            ]
            lines = kept
        path.write_bytes(b"".join(lines))
