"""What was set off and what was delivered, in an append-only file of the state folder.

One JSON object per line. What belongs together is one line, so that it is there whole or, if the
process died while writing it, not at all. A line says any of:

- ``mark``: an alert was set off; ``over``: the place of one that is over;
- ``notice`` and ``to``: what is to be told to whom;
- ``done``: key, whether it says "over", destination, and what became of it.

The file is written anew, without what is done, at start and when it has grown.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from extproc.core.alerts import MAX_MARKS, Mark
from extproc.ledger.replaced_file import replace_file
from extproc.values.notice import Notice, Severity

_log = logging.getLogger(__name__)

MAX_BYTES = 4_000_000
"""Some five thousand alerts. What is longer with open ones alone is written anew at twice that."""

Pending = tuple[Notice, str]
"""A notice, and the destination that has not got it yet."""
Record = dict[str, Any]


class AlertLog:
    """The file, and what it says. Writing is done in a thread, one write after the other."""

    def __init__(self, state: Path) -> None:
        self._path = state / "alerts.log"
        self._lock = asyncio.Lock()
        self._rewrite_at_bytes = MAX_BYTES
        self._torn = False
        self._marks: dict[tuple[str, str, str], Mark] = {}
        self._pending: dict[tuple[str, bool, str], Pending] = {}

    def load(self) -> tuple[list[Mark], list[Pending]]:
        """What is set off, and what is still to be told. Raises ``OSError``."""
        content = self._path.read_bytes() if self._path.exists() else b""
        bad = 0
        for line in filter(None, content.split(b"\n")):
            try:
                self._apply(line)
            except (ValueError, TypeError, KeyError, AttributeError):
                bad += 1
        if bad:
            # One is what a killed process leaves; more is a damaged file.
            _log.warning("%s: lines that cannot be read were left out: %d", self._path, bad)
        try:
            self._rewrite()
        except OSError as error:
            _log.error("alerts cannot be remembered: %s", error.strerror)
        return list(self._marks.values()), list(self._pending.values())

    async def append(self, records: Iterable[Record]) -> None:
        """Makes records survive the process and the machine. A disk that takes nothing costs only
        the memory of a restart: what is not written may be told again."""
        lines = [orjson.dumps(record) for record in records]
        async with self._lock:
            try:
                await asyncio.to_thread(self._append, lines)
            except OSError as error:
                _log.error("alerts cannot be remembered: %s", error.strerror)

    def _append(self, lines: list[bytes]) -> None:
        # What a failed write left of a line must not swallow the next one.
        content = b"\n" * self._torn + b"\n".join(lines) + b"\n"
        self._torn = True
        with open(self._path, "ab", opener=_private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        self._torn = False
        for line in lines:
            self._apply(line)
        if size > self._rewrite_at_bytes:
            self._rewrite()

    def _rewrite(self) -> None:
        records = [{"mark": dataclasses.asdict(mark)} for mark in self._marks.values()]
        records += [told(notice, [destination]) for notice, destination in self._pending.values()]
        content = b"".join([orjson.dumps(record) + b"\n" for record in records])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, content, mode=0o600, durable=True)
        self._rewrite_at_bytes = max(MAX_BYTES, 2 * len(content))

    def _apply(self, line: bytes) -> None:
        record = orjson.loads(line)
        if "over" in record:
            limit_key, scope_value, name = record["over"]
            self._marks.pop((limit_key, scope_value, name), None)
        if "mark" in record:
            mark = Mark(**record["mark"])
            mark.notify = tuple(mark.notify)
            self._marks.pop(mark.place, None)  # the newest is last
            self._marks[mark.place] = mark
            if len(self._marks) > MAX_MARKS:
                del self._marks[next(iter(self._marks))]
        if "notice" in record:
            notice = _notice(record["notice"])
            for destination in record["to"]:
                self._pending[notice.key, notice.resolved, destination] = notice, destination
        if "done" in record:
            key, resolved, destination, _ = record["done"]
            self._pending.pop((key, resolved, destination), None)


def told(notice: Notice, to: Iterable[str]) -> Record:
    """The record of a notice that is to be told."""
    return {"notice": dataclasses.asdict(notice), "to": list(to)}


def set_off(mark: Mark, notice: Notice, to: Iterable[str]) -> Record:
    """The record of an alert and what is told of it."""
    return {"mark": dataclasses.asdict(mark), **told(notice, to)}


def ended(mark: Mark, notice: Notice, to: Iterable[str]) -> Record:
    """The record of an alert that is over and what is told of that."""
    return {"over": mark.place, **told(notice, to)}


def done(notice: Notice, destination: str, outcome: str) -> Record:
    """The record of a delivery's end."""
    return {"done": [notice.key, notice.resolved, destination, outcome]}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _notice(fields: Record) -> Notice:
    facts = tuple((label, text) for label, text in fields["facts"])
    return Notice(**{**fields, "facts": facts, "severity": Severity(fields["severity"])})
