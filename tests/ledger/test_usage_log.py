"""Reading a log while a ledger writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from usage_logs import NOW, account, amounts, limit, verified

from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.ledger.usage_log import LogDamagedError, UsageLog, segment_number, segments

SMALL = account(limit("all", 10**6))


def busy(folder: Path, requests: int = 100) -> EmbeddedLedger:
    ledger = EmbeddedLedger(Journal(folder, 1_500))
    for n in range(requests):
        ledger.reserve(f"r{n}", SMALL, amounts(1), NOW + n, NOW + 99_000)
        ledger.settle(f"r{n}", amounts(1), NOW + n, {})
        ledger.flush()
        ledger.tend(NOW + n)
    return ledger


def test_a_live_folder_is_read_without_its_lock_and_without_a_change(tmp_path: Path) -> None:
    ledger = busy(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert verified(tmp_path).settled == 100
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    ledger.close()


def test_what_is_written_after_the_beginning_is_left_out(tmp_path: Path) -> None:
    ledger = busy(tmp_path, 3)
    lines = UsageLog(tmp_path).lines()
    first = next(lines)
    busy_size = UsageLog(tmp_path).size_bytes
    ledger.reserve("later", SMALL, amounts(1), NOW + 9, NOW + 99_000)
    ledger.flush()
    names = [line.record[1] for line in lines if line.record[0] == "r"]
    assert first.record[0] == "h"
    assert "later" not in names
    assert UsageLog(tmp_path).size_bytes > busy_size
    ledger.close()


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    busy(tmp_path, 3).close()
    newest = segments(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-7])
    assert verified(tmp_path).settled in (2, 3)
    oldest = segments(tmp_path)[0]
    if oldest == newest:
        return
    oldest.write_bytes(oldest.read_bytes()[:-7])
    with pytest.raises(LogDamagedError, match=r"usage-000001\.log:\d+: the line has no end"):
        verified(tmp_path)


def test_segments_deleted_while_others_are_read_are_said_so(tmp_path: Path) -> None:
    busy(tmp_path).close()
    assert len(segments(tmp_path)) > 5
    log = UsageLog(tmp_path)
    gone = segments(tmp_path)[:3]
    for path in gone:
        path.unlink()
    numbers = {segment_number(line.segment) for line in log.lines()}
    assert log.deleted == gone
    assert min(numbers) == 4


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda data: data.replace(b'["r"', b'["R"', 1), "checksum does not go on"),
        (lambda data: data[9:], "the checksum is wrong"),
        (lambda data: b"\n" + data, "the checksum is wrong"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path: Path, spoil, what: str) -> None:
    busy(tmp_path, 5).close()
    path = segments(tmp_path)[0]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(LogDamagedError, match=rf"usage-000001\.log:\d+: .*{what}") as caught:
        verified(tmp_path)
    assert caught.value.expected != caught.value.found
