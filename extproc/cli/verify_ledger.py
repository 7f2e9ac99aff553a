"""``tokenweir verify-ledger STATE...``: proves the bound from the usage log."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from extproc.cli.progress import Progress
from extproc.ledger.usage_log import Line, LogDamagedError, UsageLog, segments
from extproc.ledger.verification import Report, Verification, by_time

EXAMPLE = "tokenweir verify-ledger .state"

LINES_PER_LOOK = 2_000
"""Lines between two looks at the clock of the progress bar."""
SHOWN = 20
"""Overruns, and corrections, that are shown to people."""


def log_folders(path: Path) -> list[Path]:
    """The folders with a usage log: the one that is named, or those in it."""
    places = (path, *sorted(path.iterdir())) if path.is_dir() else ()
    return [folder for folder in places if folder.is_dir() and segments(folder)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``verify-ledger``."""
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="STATE",
        help="state folder, or a folder with a usage log; of sidecars that share a store, all of "
        "them. A gateway may be running there: nothing is locked or changed",
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """0: proven. 1: the first entry that breaks the bound, or the log, is named."""
    folders: dict[Path, None] = {}
    for path in arguments.folders:
        found = log_folders(path)
        if not found:
            what = "holds no usage log (usage-000001.log ...)" if path.is_dir() else "is no folder"
            print(f"tokenweir verify-ledger: {str(path)!r} {what}", file=sys.stderr)
            return 2
        folders.update(dict.fromkeys(found))
    reports = []
    for logs in _together([UsageLog(folder) for folder in folders]):
        verification = Verification()
        broken: LogDamagedError | None = None
        progress = Progress("verifying", sum(log.size_bytes for log in logs))
        try:
            for count, line in enumerate(_lines(logs)):
                verification.check(line)
                if count % LINES_PER_LOOK == 0:
                    progress.at(sum(log.read_bytes for log in logs))
        except LogDamagedError as error:
            broken = error
        finally:
            progress.done()
        report = verification.finish()
        for log in logs:
            report.unproven += [f"{path}: deleted while it was read" for path in log.deleted]
        reports.append(_fields(logs, report, broken))
        if not arguments.json:
            _print(logs, report, broken)
    proven = all(report["proven"] for report in reports)
    if arguments.json:
        document = {"proven": proven, "ledgers": reports}
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    return 0 if proven else 1


def _together(logs: Sequence[UsageLog]) -> list[list[UsageLog]]:
    """Logs of sidecars that share a store are one proof; any other log is its own."""
    alone = [[log] for log in logs if not log.arbiter]
    shared: dict[str, list[UsageLog]] = {}
    for log in logs:
        if log.arbiter:
            shared.setdefault(log.arbiter, []).append(log)
    return alone + list(shared.values())


def _lines(logs: Sequence[UsageLog]) -> Iterator[Line]:
    return logs[0].lines() if len(logs) == 1 else by_time([log.lines() for log in logs])


def _fields(
    logs: Sequence[UsageLog], report: Report, broken: LogDamagedError | None
) -> dict[str, object]:
    finding = broken and {
        "where": broken.where,
        "what": broken.what,
        "expected": broken.expected,
        "found": broken.found,
    }
    return {
        "folders": [str(log.folder) for log in logs],
        "proven": broken is None,
        "broken": finding,
        **dataclasses.asdict(report),
    }


def _print(logs: Sequence[UsageLog], report: Report, broken: LogDamagedError | None) -> None:
    size_mb = sum(log.size_bytes for log in logs) / 1_000_000
    print(f"{', '.join(str(log.folder) for log in logs)}: {size_mb:.1f} MB")
    print(
        f"  {report.records} records: {report.reserved} reserved, {report.settled} settled, "
        f"{report.released} released, {report.expired} expired, {report.open} open"
    )
    print(
        f"  {report.late} late ends, {report.correction_count} corrections, "
        f"{report.adopted} counters of renamed rules"
    )
    for key, peak in sorted(report.peaks.items()):
        above = f", {peak.debt} above it by overruns" if peak.debt else ""
        print(f"  {key}: at most {peak.highest} of {peak.ceiling} {peak.unit} admitted{above}")
    for debt in report.debts[:SHOWN]:
        name = f"{debt.limit} {debt.scope_value}".rstrip()
        print(f"  overrun {debt.where}: {name}: {debt.amount} {debt.unit}")
    if report.debt_count > SHOWN:
        print(f"  overruns: {report.debt_count} in all; --json lists more")
    for entry in report.corrections[:SHOWN]:
        name = f"{entry.limit} {entry.scope_value}".rstrip()
        said = " ".join(f"{key}: {word!r}" for key, word in entry.about.items() if word)
        print(f"  correction {entry.where}: {name}: {entry.amount:+} ({said})")
    for text in report.unproven:
        print(f"  not proven: {text}")
    if broken is None:
        but = ", but for what is not proven above" if report.unproven else ""
        print(f"proven: settled + reserved <= ceiling at every admission{but}")
        return
    print(f"broken at {broken}")
    if broken.expected:
        print(f"  expected {broken.expected}")
    if broken.found:
        print(f"  found    {broken.found}")
