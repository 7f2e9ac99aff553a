"""What the embedded ledger knows: counters and reservations, and how each change moves them.

The same changes are made twice in a ledger's life: when they happen, after they were journaled, and
when the journal is replayed (``recovery``). Nothing here decides and nothing here writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.ledger.counter import Cell, Counter
from extproc.values.limit import Amounts, Limit

MAX_ENDED = 100_000
"""Ended reservations remembered, so that a repeated or late end is recognised; some 20 MB. The
access log delivers within milliseconds, and Envoy resends nothing."""

SETTLED, EXPIRED, RELEASED = "s", "x", "l"

Entry = tuple[Counter, int, int, int]
"""A counter, the unit it counts (its place in ``Amounts``), the ceiling, and the group of limits
that the answer's headers show it in."""
Shadow = tuple[Counter, Limit]
"""A counter without a ceiling, and the limit that would have refused."""


class Booking:
    """What the ledger found for an account: its counters, ready to be added to."""

    __slots__ = ("entries", "epoch", "number", "segment", "shadows")

    def __init__(self, entries: list[Entry], shadows: list[Shadow], epoch: object) -> None:
        self.entries = entries
        self.shadows = shadows
        self.epoch = epoch
        """The ledger's epoch in which the counters were found."""
        self.number = -1
        self.segment = -1
        """Journal segment that holds this booking's declaration."""


class Reservation:
    """What one reservation took: entries and their cells, in hold order."""

    __slots__ = ("amounts", "cells", "declared_in", "entries", "id", "lease_until_ms")

    def __init__(
        self,
        reservation_id: str,
        amounts: Amounts,
        lease_until_ms: int,
        entries: list[Entry],
        cells: list[Cell],
    ) -> None:
        self.id = reservation_id
        self.amounts = amounts
        self.lease_until_ms = lease_until_ms
        self.entries = entries
        self.cells = cells
        self.declared_in = -1


class Books:
    """Counters by limit key and scope value; reservations by id."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, str], Counter] = {}
        self._open: dict[str, Reservation] = {}
        self._ended: dict[str, Reservation | None] = {}
        self._next_number = 0
        self._now_ms = 0
        """The latest time that the ledger was told, but for what the log itself says."""
        self._epoch = object()
        """Replaced whenever a counter is forgotten, so that no booking keeps a forgotten one."""

    def _take(self, entries: Sequence[Entry], amounts: Amounts, now_ms: int) -> list[Cell]:
        """Adds a reservation's amounts, without a look at ceilings."""
        cells = []
        for counter, unit, _, _ in entries:
            counter.advance(now_ms)
            cell = counter.cell
            cell.amount += amounts[unit]
            cell.reserved += amounts[unit]
            counter.total += amounts[unit]
            cells.append(cell)
        return cells

    def _apply_end(self, reservation: Reservation, kind: str, amounts: Amounts, late: bool) -> None:
        held = reservation.amounts
        for (counter, unit, _, _), taken in zip(
            reservation.entries, reservation.cells, strict=True
        ):
            cell: Cell | None = taken
            if not taken.live or counter.dropped:
                counter, cell = self._late(counter, taken, held[unit])
            if cell is None:
                continue
            change = amounts[unit] - held[unit]
            if late:
                # Corrections may have taken back, meanwhile, what this would give back again.
                change = max(change, cell.reserved - cell.amount)
            else:
                cell.reserved -= held[unit]
            cell.amount += change
            counter.total += change
        reservation.amounts = amounts
        # A settled one can change no more: only its name is kept, to recognise it.
        self._ended[reservation.id] = None if kind == SETTLED else reservation
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]

    def _raise_hold(self, reservation: Reservation, amounts: Amounts) -> None:
        """Holds more for a live reservation: above the ceiling too, because it is spent already."""
        held = reservation.amounts
        for (counter, unit, _, _), taken in zip(
            reservation.entries, reservation.cells, strict=True
        ):
            cell: Cell | None = taken
            if not taken.live or counter.dropped:
                counter, cell = self._late(counter, taken, held[unit])
            if cell is not None:
                change = amounts[unit] - held[unit]
                cell.amount += change
                cell.reserved += change
                counter.total += change
        reservation.amounts = amounts

    def place_of(self, counter: Counter, taken: Cell, held: int) -> tuple[Counter, int] | None:
        """The counter and slot in which a cell of old counts now; None where it has left the
        window. ``held`` is what the reservation has in it."""
        slot: int | None = taken.slot
        era = taken.era
        while True:
            slot = counter.slot_now(slot, era) if slot is not None else None
            if slot is None:
                return None
            if counter.successor is not None:
                counter, era = counter.successor
                continue
            if not counter.dropped:
                return counter, slot
            current = self._counters.get((counter.key, counter.scope_value))
            if current is None:
                return counter, slot
            if current.first_window != counter.window:
                # Slots of two windows cannot be compared. A counter is forgotten at zero, so an
                # amount that is held had left its window before.
                if held:
                    return None
                slot = current.first_slot
            counter, era = current, 0

    def _late(self, counter: Counter, taken: Cell, held: int) -> tuple[Counter, Cell | None]:
        """Where a change counts now whose slot, or even whose counter, was forgotten since."""
        place = self.place_of(counter, taken, held)
        if place is None:
            return counter, None
        counter, slot = place
        if counter.dropped:
            counter.dropped = False
            self._counters[counter.key, counter.scope_value] = counter
            # A rule may have been renamed meanwhile: its bookings look again.
            self._epoch = object()
        return counter, counter.cell_at(slot)

    def _absorb(self, old: Counter, new: Counter, now_ms: int) -> None:
        """A renamed rule's counter takes over what was counted under the old name."""
        new.absorb(old, now_ms)
        if self._counters.get((old.key, old.scope_value)) is old:
            del self._counters[old.key, old.scope_value]
        self._epoch = object()
