"""A sidecar's own part of a shared store: what it reserved and settled there, in its own journal.

The part is an embedded ledger that judges nothing, booked with the store's time. It tells what this
sidecar has a part in, names the ceilings that the store judged by for ``verify-ledger``, survives
``kill -9``, and puts its part back when the store has lost it. The journal also notes what the
store does not know yet:

- ``["e", epoch, sequence, members]``: the store's epoch, the highest sequence seen of it, and the
  sidecars that have a part in it (left out where they are as before);
- ``["u", id, kind, amounts]``: an end to be delivered (again noted in each segment, and for an
  abandoned reservation, which has no other record);
- ``["d", id, ...]``: ends that the store has confirmed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import orjson

from extproc.ledger.books import Reservation
from extproc.ledger.counter import Counter
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.ledger.port import LedgerUnavailableError
from extproc.ledger.redis_batch import Asked, Told, pack
from extproc.ledger.redis_names import Names, window_name
from extproc.ledger.replaced_file import replace_file
from extproc.values.limit import NOTHING

_log = logging.getLogger(__name__)

CHUNK_ITEMS = 200
"""Counters or reservations per chunk: a few milliseconds of the store's time, which others wait."""
LATE_MS = 86_400_000
"""How long the store knows an expired reservation, for usage that turns up late."""

Chunk = tuple[list[bytes], list[bytes], list[bytes], list[bytes]]
"""Keys and texts of counters, keys and texts of reservations."""


class Memory(NamedTuple):
    """What a sidecar remembers of the store over its own restarts."""

    epoch: str
    seen: int
    members: dict[str, int]
    """Sidecars with a part in the store, and until when it counts."""


class Part:
    """The local ledger, and what is noted beside it."""

    def __init__(self, folder: Path, store: str) -> None:
        """Raises ``LedgerUnavailableError`` when the folder is in use."""
        self.name = _name(folder)
        self.journal = Journal(folder, arbiter=store)
        self._bridge = folder / "store.json"
        self.memory = Memory("", 0, {})
        undelivered: dict[str, list[Told]] = {}
        noted = any(record[0] == "e" for record in self.journal.replay())
        for record in chain([] if noted else self._kept(), self.journal.replay()):
            kind = record[0]
            if kind == "e":
                members = record[3] if len(record) > 3 else self.memory.members
                self.memory = Memory(record[1], record[2], members)
            elif kind == "u":
                undelivered[record[1]] = [Told(record[1], record[2], tuple(record[3]))]
            elif kind == "d":
                for reservation_id in record[1:]:
                    undelivered.pop(reservation_id, None)
            elif kind in ("s", "l", "x"):
                told = Told(record[1], kind, tuple(record[3]))
                undelivered.setdefault(record[1], []).append(told)
        self.undelivered: deque[Told] = deque()
        """What the store is to be told, oldest first."""
        if self.memory.epoch:
            self.undelivered.extend(told for each in undelivered.values() for told in each)
        self.ledger = EmbeddedLedger(self.journal)
        self._noted_in = -1

    def keep(self) -> None:
        """Bridges two segments: until the new one has its own notes, these are in a file."""
        notes = [["e", *self.memory], *(_note(told) for told in self.undelivered if told.journaled)]
        try:
            replace_file(self._bridge, orjson.dumps(notes), durable=True)
        except OSError as error:
            _log.error("what is known of the store cannot be kept: %s", error)

    def _kept(self) -> list[list[Any]]:
        try:
            notes: list[list[Any]] = orjson.loads(self._bridge.read_bytes())
            return notes
        except (OSError, ValueError):
            return []

    @property
    def empty(self) -> bool:
        """Whether it has no part in anything."""
        return not self.ledger.open_count and not any(self.ledger.counters())

    def book(self, asked: Asked, now_ms: int) -> None:
        """Books what the store has granted. Raises ``LedgerUnavailableError``, and ``ValueError``
        for an id that has ended here."""
        self.ledger.book(asked.id, asked.plan.twin, asked.amounts, now_ms, asked.lease_until_ms)

    def give_up(self, reservation_id: str, now_ms: int) -> None:
        """Unbooks a reservation that nobody was told of."""
        with suppress(LedgerUnavailableError):
            self.ledger.release(reservation_id, now_ms, "abandoned")

    def note_seen(self, epoch: str, seen: int, members: dict[str, int]) -> None:
        """Remembers the store's epoch and sequence; durable with the next flush."""
        changed = epoch != self.memory.epoch or members != self.memory.members
        self.memory = Memory(epoch, seen, members)
        if changed or self._noted_in != self.journal.segment:
            self.journal.append(["e", epoch, seen, members])
            self._noted_in = self.journal.segment

    def note_sequence(self, seen: int) -> None:
        """Remembers how far the store was when it granted something."""
        memory = self.memory
        self.memory = Memory(memory.epoch, seen, memory.members)
        if self._noted_in == self.journal.segment:
            self.journal.append(["e", memory.epoch, seen])
        else:
            self.note_seen(memory.epoch, seen, memory.members)

    def note_undelivered(self, told: Told) -> None:
        """Remembers an end that has no record of its own in this segment."""
        self.journal.append(_note(told))

    def note_delivered(self, ids: list[str]) -> None:
        """The store has confirmed these ends."""
        if ids:
            self.journal.append(["d", *ids])

    def chunks(self, names: Names, epoch: str, now_ms: int) -> list[Chunk]:
        """Everything the store must hold of this part, as it is at this moment."""
        counters = [
            (_key(names, epoch, counter), text)
            for counter in self.ledger.live_counters(now_ms)
            if (text := _counter_text(counter))
        ]
        records = list(self._records(names, epoch, now_ms))
        chunks: list[Chunk] = []
        for start in range(0, len(counters), CHUNK_ITEMS):
            some = counters[start : start + CHUNK_ITEMS]
            chunks.append(([key for key, _ in some], [text for _, text in some], [], []))
        for start in range(0, len(records), CHUNK_ITEMS):
            some = records[start : start + CHUNK_ITEMS]
            chunks.append(([], [], [key for key, _ in some], [text for _, text in some]))
        return chunks or [([], [], [], [])]

    def until_ms(self, now_ms: int) -> int:
        """When nothing of this part counts any more."""
        ends = [counter.empties_ms for counter in self.ledger.live_counters(now_ms)]
        return max(ends, default=now_ms)

    def _records(self, names: Names, epoch: str, now_ms: int) -> Iterator[tuple[bytes, bytes]]:
        for reservation, is_open in self.ledger.reservations():
            if is_open:
                lease_ms = max(0, reservation.lease_until_ms - now_ms)
                yield self._record(names, epoch, reservation, ("o", lease_ms, lease_ms + LATE_MS))
            elif reservation.amounts != NOTHING:
                yield self._record(names, epoch, reservation, ("x", 0, LATE_MS))

    def _record(
        self, names: Names, epoch: str, reservation: Reservation, words: tuple[str, int, int]
    ) -> tuple[bytes, bytes]:
        taken: list[object] = []
        held = reservation.amounts
        for (counter, unit, _, _), cell in zip(reservation.entries, reservation.cells, strict=True):
            place = self.ledger.place_of(counter, cell, held[unit])
            if place is not None:
                now_in, slot = place
                taken += (_key(names, epoch, now_in).decode(), int(unit), slot, 0)
        return names.record(epoch, reservation.id), pack((*words, held, taken))


def _note(told: Told) -> list[Any]:
    return ["u", told.id, told.kind, told.amounts]


def _key(names: Names, epoch: str, counter: Counter) -> bytes:
    return names.counter(epoch, counter.key, counter.scope_value)


def _counter_text(counter: Counter) -> bytes:
    cells: list[int] = []
    for cell in counter.cells:
        if cell.amount or cell.reserved:
            cells += (cell.slot, cell.amount, cell.reserved)
    if not cells:
        return b""
    newest = counter.cell.slot
    ends_ms = counter.window.slot_ends_ms(newest)
    return pack((window_name(counter.window), newest, ends_ms, *cells))


def _name(folder: Path) -> str:
    """This state folder's name among the sidecars, made once."""
    path = folder / "member"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        name = uuid4().hex[:16]
        path.write_text(name + "\n")
        return name
