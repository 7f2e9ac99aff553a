"""The proof of the bound: a usage log replayed without the ledger's own code.

Records come in, in the order of the log; the first one that breaks a rule raises
``LogDamagedError``, which names it. The rules are in ``docs/ledger.md``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from extproc.ledger.log_replay import Broken, LogReplay, Part
from extproc.ledger.tally import Tally
from extproc.ledger.usage_log import Line, LogDamagedError
from extproc.values.limit import UNIT_NAMES

MAX_DEBTS = 1_000
"""Overruns listed one by one; all of them are counted."""
MAX_CORRECTIONS = 1_000
SKEW_MS = 1_000
"""Sidecars of one store are told its time with every answer. An end is stamped by their own clocks
in between, so it is taken for up to a second earlier than it says."""


@dataclass(slots=True)
class Debt:
    """What a counter holds above a ceiling because more was used than was reserved."""

    where: str
    limit: str
    scope_value: str
    unit: str
    amount: int


@dataclass(slots=True)
class Correction:
    """What an operator added to a counter, or took from it."""

    where: str
    limit: str
    scope_value: str
    amount: int
    about: dict[str, object]


@dataclass(slots=True)
class Peak:
    """The most that a limit's counters ever held at an admission, and the ceiling then."""

    unit: str
    ceiling: int
    highest: int
    debt: int = 0


@dataclass(slots=True)
class Report:
    """What was found."""

    records: int = 0
    reserved: int = 0
    settled: int = 0
    released: int = 0
    expired: int = 0
    late: int = 0
    corrections: list[Correction] = field(default_factory=list)
    correction_count: int = 0
    adopted: int = 0
    open: int = 0
    on_trust: int = 0
    """Counters and reservations whose state was declared where the log begins: taken as it is."""
    debts: list[Debt] = field(default_factory=list)
    debt_count: int = 0
    peaks: dict[str, Peak] = field(default_factory=dict)
    unproven: list[str] = field(default_factory=list)


class Verification:
    """Checks lines in the order in which they are given. Lines of several sidecars of one store are
    given by time; then ceilings are compared with what all of them hold together."""

    def __init__(self) -> None:
        self.report = Report()
        self._logs: dict[Path, LogReplay] = {}

    def check(self, line: Line) -> None:
        """Raises ``LogDamagedError``, which names the line, when it breaks a rule."""
        log = self._logs.get(line.segment.parent)
        if log is None:
            log = self._logs[line.segment.parent] = LogReplay(self)
        self.report.records += 1
        try:
            log.apply(line)
        except Broken as broken:
            what, expected, found = broken.what, broken.expected, broken.found
            raise LogDamagedError(line.where, what, expected, found) from broken
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise LogDamagedError(
                line.where, "the record cannot be understood", "", f"{line.record!r:.200}"
            ) from error

    def finish(self) -> Report:
        """What is left over at the end of the log."""
        self.report.open = sum(len(log.open) for log in self._logs.values())
        for log in self._logs.values():
            if log.on_trust and log.segment:
                self.report.unproven.append(
                    f"{log.segment_name}: the log begins here, and not everything is declared yet"
                )
        return self.report

    def total(self, tally: Tally, now_ms: int) -> int:
        """Settled and reserved of a counter, over all sidecars."""
        if len(self._logs) == 1:
            return tally.total
        return sum(other.total_at(now_ms) for other in self._everywhere(tally))

    def overruns(self, tally: Tally) -> int:
        """What was used above what had been reserved, over all sidecars."""
        return sum(other.overruns for other in self._everywhere(tally))

    def _everywhere(self, tally: Tally) -> Iterator[Tally]:
        for log in self._logs.values():
            other = log.tallies.get((tally.key, tally.scope_value))
            if other is not None:
                yield other

    def admitted(self, tally: Tally, unit: int, ceiling: int, total: int) -> None:
        """Notes how close a limit came to its ceiling."""
        peak = self.report.peaks.get(tally.key)
        if peak is None:
            self.report.peaks[tally.key] = Peak(UNIT_NAMES[unit], ceiling, total)
        elif total * peak.ceiling >= peak.highest * ceiling:
            peak.ceiling, peak.highest = ceiling, total

    def corrected(self, where: str, tally: Tally, amount: int, about: dict[str, object]) -> None:
        """Notes a correction."""
        report = self.report
        report.correction_count += 1
        if len(report.corrections) < MAX_CORRECTIONS:
            entry = Correction(where, tally.key, tally.scope_value, amount, about)
            report.corrections.append(entry)

    def owed(self, where: str, part: Part, amount: int) -> None:
        """Notes an overrun."""
        tally, report = part.tally, self.report
        report.debt_count += 1
        if tally.key in report.peaks:
            report.peaks[tally.key].debt += amount
        if len(report.debts) < MAX_DEBTS:
            unit = UNIT_NAMES[part.unit]
            report.debts.append(Debt(where, tally.key, tally.scope_value, unit, amount))


def by_time(logs: Iterable[Iterator[Line]]) -> Iterator[Line]:
    """The lines of several logs in one order: by time, and ends of reservations before others."""
    for _, _, line in heapq.merge(*map(_timed, logs), key=lambda item: item[:2]):
        yield line


def _timed(lines: Iterator[Line]) -> Iterator[tuple[int, int, Line]]:
    time_ms = 0
    for line in lines:
        record = line.record
        is_end = record[0] in ("s", "x", "l")
        if is_end:
            time_ms = max(time_ms, int(record[2]) - SKEW_MS)
        elif record[0] == "r":
            time_ms = max(time_ms, int(record[2]))
        yield time_ms, not is_end, line
