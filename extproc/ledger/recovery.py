"""The usage log, replayed: what the ledger knew when its process ended, however that was.

Replay begins at the newest complete segment. A declaration repeats the state that the replay has
reached, unless the replay began with it; so it is taken for counters and reservations that are not
known yet, and else only names them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from extproc.ledger.books import EXPIRED, RELEASED, SETTLED, Books, Entry, Reservation
from extproc.ledger.counter import Counter
from extproc.values.window import parse_window


class RecoveredBooks(Books):
    """Books filled from records. Formats 1 and 2."""

    def __init__(self, records: Iterable[list[Any]]) -> None:
        super().__init__()
        self._numbered: dict[int, Counter] = {}
        self._bookings: dict[int, list[Entry]] = {}
        self._format = 1
        for record in records:
            self._replay(record)
        self._numbered, self._bookings = {}, {}
        # Leases are looked at in order.
        leased = sorted(self._open.items(), key=lambda item: item[1].lease_until_ms)
        self._open = dict(leased)

    def _replay(self, record: list[Any]) -> None:
        kind = record[0]
        if kind == "r":
            self._replay_reserve(record)
        elif kind in (SETTLED, EXPIRED, RELEASED):
            self._replay_end(record)
        elif kind == "b":
            _, reservation_id, lease_until_ms, amounts = record
            renewed = self._open.get(reservation_id)
            if renewed is not None:
                renewed.lease_until_ms = lease_until_ms
                self._raise_hold(renewed, tuple(amounts))
        elif kind == "a":
            self._replay_booking(record)
        elif kind == "c":
            self._replay_counter(record)
        elif kind == "v":
            self._replay_reservation(record)
        elif kind == "k":
            _, number, now_ms, amount, _ = record
            self._numbered[number].advance(now_ms)
            self._numbered[number].correct(amount)
        elif kind == "w":
            _, number, now_ms, text, zone = record
            self._numbered[number].rewindow(parse_window(text, zone or "UTC"), now_ms)
        elif kind == "n":
            _, old, new, now_ms = record
            self._absorb(self._numbered[old], self._numbered[new], now_ms)
        elif kind == "h":
            self._format = record[1]

    def _replay_booking(self, record: list[Any]) -> None:
        _, number, places, _ = record
        step = 2 if self._format == 1 else 3
        pairs = zip(places[::step], places[1::step], strict=True)
        self._bookings[number] = [(self._numbered[place], unit, 0, 0) for place, unit in pairs]

    def _replay_counter(self, record: list[Any]) -> None:
        _, number, key, scope_value, text, zone, cells = record[:7]
        window = parse_window(text, zone or "UTC")
        counter = self._counters.get((key, scope_value))
        if counter is not None and counter.window != window and counter.number == number:
            # Format 1 declared a counter afresh when its window was edited.
            slot = cells[-1][0]
            counter.edits += ((counter.window.oldest_slot(counter.cell.slot), slot),)
            counter.window = window
            counter.restore(cells)
        elif counter is None or counter.window != window:
            if counter is not None:
                counter.dropped = True
            counter = Counter(key, scope_value, window, 0)
            counter.restore(cells)
            counter.first_slot = counter.cell.slot
            self._counters[key, scope_value] = counter
        counter.number = number
        self._numbered[number] = counter
        self._next_number = max(self._next_number, number + 1)
        if len(record) > 7:
            self._now_ms = max(self._now_ms, record[7])

    def _replay_reserve(self, record: list[Any]) -> None:
        _, reservation_id, now_ms, lease_until_ms, amounts, number = record
        entries = self._bookings[number]
        held = tuple(amounts)
        cells = self._take(entries, held, now_ms)
        self._open[reservation_id] = Reservation(
            reservation_id, held, lease_until_ms, entries, cells
        )

    def _replay_end(self, record: list[Any]) -> None:
        kind, reservation_id, _, amounts, _ = record
        reservation = self._open.pop(reservation_id, None)
        late = reservation is None
        reservation = reservation or self._ended.get(reservation_id)
        if reservation is not None:
            self._apply_end(reservation, kind, tuple(amounts), late)

    def _replay_reservation(self, record: list[Any]) -> None:
        _, reservation_id, lease_until_ms, amounts, taken, ended = record
        known = self._open.get(reservation_id) or self._ended.get(reservation_id)
        if known is not None:
            known.lease_until_ms = lease_until_ms
            return
        entries: list[Entry] = []
        cells = []
        for number, slot, unit in taken:
            counter = self._numbered[number]
            cell = counter.cell_at(slot)
            if cell is not None:
                entries.append((counter, unit, 0, 0))
                cells.append(cell)
        reservation = Reservation(reservation_id, tuple(amounts), lease_until_ms, entries, cells)
        if ended:
            self._ended[reservation_id] = reservation
        else:
            self._open[reservation_id] = reservation
