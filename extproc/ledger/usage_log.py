"""Reading a usage log that somebody else may be writing: read-only, without a lock.

Each line is ``CHECKSUM RECORD``: eight hexadecimal digits, then a JSON array. From format 2 on, the
checksum is over this line and all lines before it in the segment, and the first record of a segment
repeats the last checksum of the segment before. So a line or a segment that was lost, put in, moved
or changed is found where the chain breaks, even if its own checksum was made to fit.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

FORMATS = (1, 2)
MAX_LINE_BYTES = 1024 * 1024
"""A counter's declaration has 61 slots at most, a booking as many holds as policy has rules."""

Record = list[Any]


class Line(NamedTuple):
    """One record and where it stands."""

    segment: Path
    number: int
    record: Record

    @property
    def where(self) -> str:
        """``usage-000003.log:17``, with the folder as it was named."""
        return f"{self.segment}:{self.number}"


class LogDamagedError(Exception):
    """The log is not what a ledger wrote."""

    def __init__(self, where: str, what: str, expected: str = "", found: str = "") -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what
        self.expected = expected
        self.found = found


def segments(folder: Path) -> list[Path]:
    """The segments of a folder, oldest first."""
    return sorted(folder.glob("usage-*.log"))


def segment_number(path: Path) -> int:
    """Segments are numbered from 1 without a gap."""
    return int(path.stem.rpartition("-")[2])


class UsageLog:
    """The segments of one folder as they are at this moment."""

    def __init__(self, folder: Path) -> None:
        """Raises ``OSError`` when the folder cannot be read."""
        self.folder = folder
        self.sizes = {}
        for path in segments(folder):
            # A segment that was deleted since it was listed is no part of the log any more.
            try:
                self.sizes[path] = path.stat().st_size
            except FileNotFoundError:
                continue
        self.deleted: list[Path] = []
        """Segments that the sidecar deleted while others were read."""
        self.read_bytes = 0
        self._checksum = 0

    @property
    def size_bytes(self) -> int:
        """Of all segments."""
        return sum(self.sizes.values())

    @property
    def arbiter(self) -> str:
        """The store that judged what is booked here; empty when the log's own ledger did."""
        newest = max(self.sizes, default=None)
        if newest is None:
            return ""
        with newest.open("rb") as file:
            try:
                record = orjson.loads(file.readline(MAX_LINE_BYTES)[9:])
                return str(record[2]) if record[1] > 1 else ""
            except (orjson.JSONDecodeError, LookupError, TypeError):
                return ""  # whatever is wrong there is found when it is read

    def lines(self) -> Iterator[Line]:
        """Every record, oldest first. A line that is being written is left out.

        Raises ``LogDamagedError`` at the first line that cannot be believed.
        """
        before = 0
        newest = max(self.sizes, default=None)
        for path, size in self.sizes.items():
            try:
                file = path.open("rb")
            except FileNotFoundError:
                self.deleted.append(path)
                before = 0
                continue
            with file:
                number = segment_number(path)
                if before and number != before + 1:
                    gap = str(path)
                    expected = f"usage-{before + 1:06d}.log"
                    raise LogDamagedError(gap, "a segment is missing", expected, path.name)
                tail = path == newest
                yield from self._segment(path, file, size, follows=bool(before), tail=tail)
            before = number

    def _segment(
        self, path: Path, file: BinaryIO, size: int, *, follows: bool, tail: bool
    ) -> Iterator[Line]:
        version = checksum = number = 0
        while size > 0:
            text = file.readline(min(size, MAX_LINE_BYTES))
            size -= len(text)
            self.read_bytes += len(text)
            number += 1
            where = f"{path}:{number}"
            if not text.endswith(b"\n"):
                if tail and size <= 0:
                    return  # the sidecar is writing it, or died in it
                raise LogDamagedError(where, "the line has no end")
            body = text[9:-1]
            checksum = zlib.crc32(body, 0 if version == 1 else checksum)
            if text[:9] != b"%08x " % checksum:
                alone = version == 1 or number == 1
                raise LogDamagedError(
                    where,
                    "the checksum is wrong"
                    if alone
                    else "the checksum does not go on from the "
                    "lines before: this line, or one before it, was changed",
                    f"{checksum:08x}",
                    text[:8].decode("latin-1"),
                )
            record = _record(where, body)
            if number == 1:
                version = _version(where, record)
                if version > 1 and follows and record[3] != self._checksum:
                    what = "the segment does not go on from the end of the one before"
                    raise LogDamagedError(where, what, f"{self._checksum:08x}", f"{record[3]:08x}")
            self._checksum = checksum
            yield Line(path, number, record)


def _record(where: str, body: bytes) -> Record:
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError:
        record = None
    if not isinstance(record, list) or not record or not isinstance(record[0], str):
        raise LogDamagedError(where, "no record", "a JSON array", body[:80].decode("latin-1"))
    return record


def _version(where: str, record: Record) -> int:
    good = record[0] == "h" and len(record) > 1 and record[1] in FORMATS
    if not good or (record[1] > 1 and (len(record) != 4 or not isinstance(record[3], int))):
        known = " or ".join(map(str, FORMATS))
        raise LogDamagedError(where, "no format that this program knows", known, str(record)[:80])
    return int(record[1])
