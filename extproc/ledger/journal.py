"""The usage log: every change of the ledger, one checksummed line each, append-only.

Durability point: ``flush`` has handed every appended record to the kernel in one write, so nothing
that was answered is lost when the process is killed. ``sync`` (called about once a second) makes it
survive the machine: a power cut may lose the last second, which the next start cannot know.

A new segment does not begin with a checkpoint of everything, which would stop the world. Instead
each counter and each live reservation is *declared* with its whole state the first time it is
touched in a segment, a background sweep declares the rest, and then a ``complete`` record is
written: recovery starts at the newest complete segment.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from extproc.ledger.port import LedgerUnavailableError

_log = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024
"""About a quarter of a million requests; replayed in a second or two."""
KEPT_SEGMENTS = 32
"""Two gigabytes of usage log. Older segments are deleted; copy them away to keep history longer."""
MAX_BUFFER_BYTES = 16 * 1024 * 1024
"""Records appended but not flushed; the edge flushes every turn, so this is never reached unless
flushing fails, and then the ledger closes."""
FORMAT_VERSION = 2
"""Format 1 had no ceilings in bookings, no records of edited windows and renamed rules, and a
checksum of each line by itself."""


class JournalCorruptError(Exception):
    """A record in the middle of the log is damaged. Names the file and line."""


class Journal:
    """Appends records to the newest segment of a folder. One process at a time."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES, arbiter: str = "") -> None:
        self.arbiter = arbiter
        """Empty when the ledger that writes here judges by itself; else the name of the store that
        does, for which this is one sidecar's part of the log."""
        self._folder = folder
        self._checksum = 0
        self._segment_bytes = segment_bytes
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._file = -1
        self._size = 0
        self._failed = False
        self.segment = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise LedgerUnavailableError(f"{folder} is in use by another process") from None

    def replay(self) -> Iterator[list[Any]]:
        """Every record from the newest complete segment on. A torn last line is cut off."""
        segments = self._segments()
        start = 0
        for place in range(len(segments) - 1, 0, -1):
            if _is_complete(segments[place]):
                start = place
                break
        for place, path in enumerate(segments[start:], start):
            yield from self._records(path, last=place == len(segments) - 1)
        self.segment = int(segments[-1].stem.rpartition("-")[2]) if segments else 0

    def start_segment(self) -> bool:
        """Opens the next segment. The caller then declares everything afresh.

        False when there is no file to be had (too many open ones, no room): the old segment goes
        on, and the caller asks again later. Raises ``OSError`` when there is no old one.
        """
        self.flush()
        path = self._folder / f"usage-{self.segment + 1:06d}.log"
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if self._file < 0:
                raise
            _log.error("the usage log goes on in its old segment: %s", error)
            return False
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
        self._file = file
        self.segment += 1
        self._size = 0
        before, self._checksum = self._checksum, 0
        self.append(["h", FORMAT_VERSION, self.arbiter, before])
        return True

    @property
    def full(self) -> bool:
        """Whether the segment has reached its size."""
        return self._size >= self._segment_bytes

    @property
    def failed(self) -> bool:
        """Whether a write has failed: nothing is taken any more."""
        return self._failed

    def append(self, record: list[Any]) -> None:
        """Buffers one record. Raises ``LedgerUnavailableError`` once writing has failed."""
        if self._failed or self._buffered_bytes > MAX_BUFFER_BYTES:
            raise LedgerUnavailableError("the usage log cannot be written")
        text = orjson.dumps(record)
        # Over all lines of the segment, so that none can be taken out or changed by itself.
        self._checksum = checksum = zlib.crc32(text, self._checksum)
        self._buffer.append(b"%08x %b\n" % (checksum, text))
        self._buffered_bytes += len(text)

    def flush(self) -> None:
        """Hands all buffered records to the kernel in one write.

        Raises ``LedgerUnavailableError`` when that fails. The journal then stays closed: a record
        that may or may not be in the log must not be followed by others.
        """
        if not self._buffer:
            return
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._buffered_bytes = 0
        if self._failed:
            raise LedgerUnavailableError("the usage log cannot be written")
        try:
            written = os.write(self._file, data)
        except OSError as error:
            self._failed = True
            raise LedgerUnavailableError(f"the usage log cannot be written: {error}") from error
        if written != len(data):
            self._failed = True
            raise LedgerUnavailableError("the usage log cannot be written: the disk is full")
        self._size += written

    def sync(self) -> None:
        """Makes what was flushed survive the machine. Blocks: call it from a thread."""
        if self._file >= 0:
            os.fsync(self._file)

    def complete(self, now_ms: int) -> None:
        """Everything is declared in this segment: older ones are history only.

        Raises ``LedgerUnavailableError`` when that cannot be written.
        """
        self.append(["complete", now_ms])
        # The marker tells the next start to read no further back. It must not be on disk before
        # what it speaks of: all that was ever counted would be forgotten.
        self.flush()
        self.sync()
        (self._folder / f"usage-{self.segment:06d}.complete").touch()
        for path in self._segments()[:-KEPT_SEGMENTS]:
            path.with_suffix(".complete").unlink(missing_ok=True)
            path.unlink()

    def close(self) -> None:
        """Flushes, syncs and gives the folder free."""
        try:
            self.flush()
            self.sync()
        finally:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            os.close(self._lock)

    def _segments(self) -> list[Path]:
        return sorted(self._folder.glob("usage-*.log"))

    def _records(self, path: Path, *, last: bool) -> Iterator[list[Any]]:
        data = path.read_bytes()
        at = number = checksum = 0
        version = FORMAT_VERSION
        while at < len(data):
            number += 1
            end = data.find(b"\n", at)
            line = data[at : end if end >= 0 else len(data)]
            text = line[9:]
            try:
                found = int(line[:8], 16)
            except ValueError:
                found = -1
            if version == 1:
                checksum = 0
            checksum = zlib.crc32(text, checksum)
            if end < 0 or found != checksum:
                # Only the very end of the newest segment may be torn: a write the process died in.
                if last and (end < 0 or end == len(data) - 1):
                    os.truncate(path, at)
                    return
                raise JournalCorruptError(f"{path}:{number}: damaged record")
            record = orjson.loads(text)
            if number == 1:
                version = record[1]
                if not 1 <= version <= FORMAT_VERSION:
                    raise JournalCorruptError(f"{path}: format {version} is of a later version")
            self._checksum = checksum
            yield record
            at = end + 1


def _is_complete(path: Path) -> bool:
    return path.with_suffix(".complete").exists()
