"""The embedded ledger: counters in this process's memory, durable by its journal.

For one sidecar. Every method is synchronous and runs on the event loop's thread, so each call is
atomic by itself. If the journal cannot be written nothing is admitted any more
(``LedgerUnavailableError``): money is never spent that a restart would not know of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from extproc.ledger.counter import Cell, Counter
from extproc.ledger.journal import Journal
from extproc.ledger.port import (
    ALL_WELL,
    Account,
    Denied,
    Granted,
    Hold,
    LedgerUnavailableError,
    Remaining,
    Settlement,
    Standing,
    StoreState,
)
from extproc.values.limit import NO_CEILING, NOTHING, Amounts, Limit, Unit
from extproc.values.money import MAX_AMOUNT
from extproc.values.window import parse_window

MAX_ENDED = 100_000
"""Ended reservations remembered, so that a repeated or late end is recognised; some 20 MB. The
access log delivers within milliseconds, and Envoy resends nothing."""
SWEEP_COUNTERS = 5_000
"""Counters looked at per ``tend``: a few milliseconds, so a million are seen in minutes."""

_SETTLED, _EXPIRED, _RELEASED = "s", "x", "l"

Entry = tuple[Counter, int, int, int]
"""A counter, the unit it counts (its place in ``Amounts``), the ceiling, and the group of limits
that the answer's headers show it in (``_SHOWN``)."""
Shadow = tuple[Counter, Limit]
"""A counter without a ceiling, and the limit that would have refused."""

_SHOWN = (0, 1, 1, 1, 2, 3)
"""By unit: requests, the three kinds of tokens, strict money, statistical money."""
_MONEY, _LIKELY_MONEY, _UNSHOWN = 2, 3, 4


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


class EmbeddedLedger:
    """Implements ``Ledger`` in one process. See the port for what the methods promise."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._counters: dict[tuple[str, str], Counter] = {}
        self._open: dict[str, Reservation] = {}
        self._ended: dict[str, Reservation | None] = {}
        self._next_number = 0
        self._next_booking = 0
        self._epoch = object()
        """Replaced whenever a counter is forgotten, so that no booking keeps a forgotten one."""
        self._undeclared: list[Counter | Reservation] = []
        self._sweep: list[tuple[str, str]] = []
        self._recover(journal.replay())
        self._begin_segment()

    # -- the port ---------------------------------------------------------------------------------

    def reserve(
        self,
        reservation_id: str,
        account: Account,
        amounts: Amounts,
        now_ms: int,
        lease_until_ms: int,
    ) -> Granted | Denied:
        """Takes all holds or none, in one pass without suspension."""
        if reservation_id in self._open:
            return self._granted_before(self._open[reservation_id], account, now_ms)
        if reservation_id in self._ended:
            raise ValueError(f"reservation {reservation_id} has ended")
        if not 0 <= min(amounts) <= max(amounts) <= MAX_AMOUNT:
            raise ValueError("an amount is out of range")
        booking: Booking | None = account.memo
        if booking is None or booking.epoch is not self._epoch:
            booking = account.memo = self._book(account, now_ms)
        segment = self._journal.segment
        if booking.segment != segment:
            self._declare_booking(booking, account)
        entries = booking.entries
        cells: list[Cell] = []
        least = [NO_CEILING, NO_CEILING, NO_CEILING, NO_CEILING, NO_CEILING]
        tightest: list[int | None] = [None, None, None, None, None]
        for counter, unit, ceiling, shown in entries:
            if now_ms >= counter.ends_ms:
                counter.advance(now_ms)
            amount = amounts[unit]
            total = counter.total + amount
            left = ceiling - total
            if left < 0:
                _give_back(entries, cells, amounts)
                return self._denied(account, entries, amounts, now_ms)
            if left < least[shown]:
                least[shown] = left
                tightest[shown] = len(cells)
            counter.total = total
            cell = counter.cell
            cell.amount += amount
            cell.reserved += amount
            cells.append(cell)
        try:
            self._journal.append(
                ["r", reservation_id, now_ms, lease_until_ms, amounts, booking.number]
            )
        except LedgerUnavailableError:
            _give_back(entries, cells, amounts)
            raise
        reservation = Reservation(reservation_id, amounts, lease_until_ms, entries, cells)
        reservation.declared_in = segment
        self._open[reservation_id] = reservation
        return Granted(
            [
                Remaining(account.holds[place], least[shown], entries[place][0].empties_ms)
                for shown, place in enumerate(tightest[:_UNSHOWN])
                if place is not None
            ],
            [limit.rule_id for counter, limit in booking.shadows if counter.total > limit.ceiling],
            least[_MONEY],
            least[_LIKELY_MONEY],
        )

    def settle(
        self, reservation_id: str, amounts: Amounts, now_ms: int, about: Mapping[str, object]
    ) -> Settlement | None:
        """Charges the real amounts. An overrun goes above the ceiling and stays there as debt."""
        if not 0 <= min(amounts) <= max(amounts) <= MAX_AMOUNT:
            raise ValueError("an amount is out of range")
        return self._end(reservation_id, _SETTLED, amounts, now_ms, about)

    def release(self, reservation_id: str, now_ms: int, reason: str) -> Settlement | None:
        """Gives everything back."""
        if reservation_id not in self._open:
            return None
        return self._end(reservation_id, _RELEASED, NOTHING, now_ms, {"reason": reason})

    def renew(self, reservation_id: str, lease_until_ms: int, at_least: Amounts = NOTHING) -> bool:
        """Extends the lease; leases are looked at in the order in which they were given."""
        reservation = self._open.pop(reservation_id, None)
        if reservation is None:
            return False
        self._open[reservation_id] = reservation
        held = reservation.amounts
        if reservation.declared_in != self._journal.segment:
            self._declare_reservation(reservation)
        raised = cast("Amounts", tuple(map(max, at_least, held)))
        self._journal.append(["b", reservation_id, lease_until_ms, raised])
        reservation.lease_until_ms = lease_until_ms
        if raised != held:
            self._raise_hold(reservation, raised)
        return True

    def expire(self, now_ms: int) -> Sequence[Settlement]:
        """Charges what was never settled."""
        late = []
        for reservation in self._open.values():
            if reservation.lease_until_ms > now_ms:
                break
            late.append(reservation)
        settlements = []
        for reservation in late:
            ended = self._end(reservation.id, _EXPIRED, reservation.amounts, now_ms, {})
            if ended is not None:
                settlements.append(ended)
        return settlements

    # -- for the edge -----------------------------------------------------------------------------

    def flush(self) -> None:
        """The durability point: see ``Journal.flush``."""
        self._journal.flush()

    def sync(self) -> None:
        """See ``Journal.sync``."""
        self._journal.sync()

    def tend(self, now_ms: int) -> None:
        """Bounded upkeep, about once a second: segment rotation, declarations, idle counters."""
        if self._journal.full and not self._undeclared:
            self._begin_segment()
        for _ in range(min(SWEEP_COUNTERS, len(self._undeclared))):
            self._declare(self._undeclared.pop())
            if not self._undeclared:
                self._journal.complete()
        if not self._sweep:
            self._sweep = list(self._counters)
        for _ in range(min(SWEEP_COUNTERS, len(self._sweep))):
            key = self._sweep.pop()
            counter = self._counters.get(key)
            if counter is None:
                continue
            counter.advance(now_ms)
            if counter.total == 0 and counter.reserved == 0:
                del self._counters[key]
                counter.dropped = True
                self._epoch = object()

    def correct(
        self, limit: Limit, scope_value: str, amount: int, now_ms: int, about: Mapping[str, object]
    ) -> bool:
        """Appends a correction entry; it counts in the current slot."""
        if not -MAX_AMOUNT <= amount <= MAX_AMOUNT:
            raise ValueError("an amount is out of range")
        counter = self._counters.get((limit.key, scope_value))
        if counter is None:
            counter = self._open_counter(limit, scope_value, now_ms)
        counter.advance(now_ms)
        if counter.total - counter.reserved + amount < 0:
            return False
        if counter.declared_in != self._journal.segment:
            self._declare_counter(counter)
        self._journal.append(["k", counter.number, now_ms, amount, about])
        counter.correct(amount)
        return True

    def close(self) -> None:
        """Flushes and gives the journal free."""
        self._journal.close()

    def peek(self, holds: Sequence[Hold], now_ms: int) -> list[Standing]:
        """Reads counters without changing them."""
        standings = []
        for hold in holds:
            counter = self._counters.get((hold.limit.key, hold.scope_value))
            if counter is None:
                standings.append(Standing(hold, 0, 0, now_ms))
            else:
                counter.advance(now_ms)
                standings.append(_standing(counter, hold, 0))
        return standings

    def counters(self) -> Iterable[tuple[str, str, str, int, int]]:
        """(limit key, scope value, window, settled, reserved) of every live counter."""
        for counter in self._counters.values():
            settled = counter.total - counter.reserved
            window = str(counter.window)
            yield counter.key, counter.scope_value, window, settled, counter.reserved

    @property
    def state(self) -> StoreState:
        """Closed once the journal cannot be written, until a restart on a sound disk."""
        failed = self._journal.failed
        return StoreState("closed", "journal", "the disk is full") if failed else ALL_WELL

    @property
    def open_count(self) -> int:
        """Reservations that have not ended."""
        return len(self._open)

    def live_counters(self, now_ms: int) -> Iterable[Counter]:
        """Every counter, moved on to ``now_ms``."""
        for counter in self._counters.values():
            counter.advance(now_ms)
            yield counter

    def reservations(self) -> Iterable[tuple[Reservation, bool]]:
        """Those that are open (True), and those that ended and may still be settled (False)."""
        yield from ((each, True) for each in self._open.values())
        yield from ((each, False) for each in self._ended.values() if each is not None)

    # -- inside -----------------------------------------------------------------------------------

    def _book(self, account: Account, now_ms: int) -> Booking:
        """Finds or opens the counters of an account."""
        entries: list[Entry] = []
        shadows = []
        for limit, scope_value, ceiling in account.holds:
            counter = self._counters.get((limit.key, scope_value))
            if counter is None:
                counter = self._open_counter(limit, scope_value, now_ms)
            elif counter.window is not limit.window:
                counter.rewindow(limit.window, now_ms)
                self._declare_counter(counter)
            watched = ceiling >= NO_CEILING
            if watched:
                shadows.append((counter, limit))
            entries.append(
                (counter, limit.unit, ceiling, _UNSHOWN if watched else _SHOWN[limit.unit])
            )
        return Booking(entries, shadows, self._epoch)

    def _granted_before(self, reservation: Reservation, account: Account, now_ms: int) -> Granted:
        """The answer to a question that is asked again: nothing is taken a second time."""
        remaining = []
        left = {Unit.MICRO_USD: NO_CEILING, Unit.LIKELY_MICRO_USD: NO_CEILING}
        for hold, entry in zip(account.holds, reservation.entries, strict=False):
            counter = entry[0]
            counter.advance(now_ms)
            if hold.ceiling < NO_CEILING:
                amount = max(0, hold.ceiling - counter.total)
                remaining.append(Remaining(hold, amount, counter.empties_ms))
                if hold.limit.unit in left:
                    left[hold.limit.unit] = min(left[hold.limit.unit], amount)
        return Granted(remaining, (), left[Unit.MICRO_USD], left[Unit.LIKELY_MICRO_USD])

    def _denied(
        self, account: Account, entries: Sequence[Entry], amounts: Amounts, now_ms: int
    ) -> Denied:
        standings = []
        for hold, (counter, unit, ceiling, _) in zip(account.holds, entries, strict=True):
            counter.advance(now_ms)
            if counter.total + amounts[unit] > ceiling:
                standings.append(_standing(counter, hold, amounts[unit]))
        return Denied(standings)

    def _end(
        self, reservation_id: str, kind: str, amounts: Amounts, now_ms: int, about: Any
    ) -> Settlement | None:
        reservation = self._open.pop(reservation_id, None)
        late = reservation is None
        if reservation is None:
            reservation = self._ended.get(reservation_id)
            if reservation is None:
                return None
        if reservation.declared_in != self._journal.segment:
            self._declare_reservation(reservation, late=late)
        self._journal.append([kind, reservation_id, now_ms, amounts, about])
        self._apply_end(reservation, kind, amounts, late)
        return Settlement(reservation_id, amounts, late)

    def _apply_end(self, reservation: Reservation, kind: str, amounts: Amounts, late: bool) -> None:
        held = reservation.amounts
        for (counter, unit, _, _), taken in zip(
            reservation.entries, reservation.cells, strict=True
        ):
            cell: Cell | None = taken
            if not taken.live or counter.dropped:
                counter, cell = self._late(counter, taken)
            if cell is None:
                continue
            change = amounts[unit] - held[unit]
            cell.amount += change
            counter.total += change
            if not late:
                cell.reserved -= held[unit]
        reservation.amounts = amounts
        # A settled one can change no more: only its name is kept, to recognise it.
        self._ended[reservation.id] = None if kind == _SETTLED else reservation
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
                counter, cell = self._late(counter, taken)
            if cell is not None:
                change = amounts[unit] - held[unit]
                cell.amount += change
                cell.reserved += change
                counter.total += change
        reservation.amounts = amounts

    def _late(self, counter: Counter, taken: Cell) -> tuple[Counter, Cell | None]:
        """Where a change counts now whose slot, or even whose counter, was forgotten since."""
        if counter.dropped:
            current = self._counters.setdefault((counter.key, counter.scope_value), counter)
            counter.dropped = current is not counter
            if current.window != counter.window:
                return current, current.cell  # slots of two windows cannot be compared
            if current is not counter:
                return current, current.cell_at(taken.slot)
        return counter, counter.counting(taken)

    def _open_counter(self, limit: Limit, scope_value: str, now_ms: int) -> Counter:
        counter = Counter(limit.key, scope_value, limit.window, now_ms)
        counter.number = self._next_number
        self._next_number += 1
        self._counters[limit.key, scope_value] = counter
        return counter

    def _begin_segment(self) -> None:
        self._journal.start_segment()
        self._undeclared = [*self._counters.values(), *self._open.values()]
        if not self._undeclared:
            self._journal.complete()

    def _declare(self, item: Counter | Reservation) -> None:
        if item.declared_in == self._journal.segment:
            return
        if isinstance(item, Counter):
            self._declare_counter(item)
        elif item.id in self._open:
            self._declare_reservation(item)

    def _declare_counter(self, counter: Counter) -> None:
        window = counter.window
        cells = [[cell.slot, cell.amount, cell.reserved] for cell in counter.cells]
        zone = getattr(window, "zone", "")
        self._journal.append(
            ["c", counter.number, counter.key, counter.scope_value, str(window), zone, cells]
        )
        counter.declared_in = self._journal.segment

    def _declare_booking(self, booking: Booking, account: Account) -> None:
        segment = self._journal.segment
        if booking.number < 0:
            booking.number = self._next_booking
            self._next_booking += 1
        places: list[int] = []
        for counter, unit, _, _ in booking.entries:
            if counter.declared_in != segment:
                self._declare_counter(counter)
            places += (counter.number, unit)
        self._journal.append(["a", booking.number, places, account.about])
        booking.segment = segment

    def _declare_reservation(self, reservation: Reservation, *, late: bool = False) -> None:
        taken = []
        for (counter, unit, _, _), cell in zip(reservation.entries, reservation.cells, strict=True):
            if counter.declared_in != self._journal.segment:
                self._declare_counter(counter)
            place = cell.merged()
            taken.append([counter.number, place.slot if place else cell.slot, unit])
        self._journal.append(
            [
                "v",
                reservation.id,
                reservation.lease_until_ms,
                reservation.amounts,
                taken,
                _EXPIRED if late else "",
            ]
        )
        reservation.declared_in = self._journal.segment

    def _recover(self, records: Iterable[list[Any]]) -> None:
        counters: dict[int, Counter] = {}
        bookings: dict[int, list[Entry]] = {}
        for record in records:
            kind = record[0]
            if kind == "c":
                self._recover_counter(record, counters)
            elif kind == "a":
                _, number, places, _ = record
                pairs = zip(places[::2], places[1::2], strict=True)
                bookings[number] = [(counters[place], unit, 0, 0) for place, unit in pairs]
            elif kind == "r":
                self._recover_reserve(record, bookings)
            elif kind == "v":
                self._recover_reservation(record, counters)
            elif kind == "b":
                _, reservation_id, lease_until_ms, amounts = record
                reservation = self._open.get(reservation_id)
                if reservation is not None:
                    reservation.lease_until_ms = lease_until_ms
                    self._raise_hold(reservation, tuple(amounts))
            elif kind == "k":
                _, number, now_ms, amount, _ = record
                counters[number].advance(now_ms)
                counters[number].correct(amount)
            elif kind in (_SETTLED, _EXPIRED, _RELEASED):
                _, reservation_id, _, amounts, _ = record
                reservation = self._open.pop(reservation_id, None)
                late = reservation is None
                reservation = reservation or self._ended.get(reservation_id)
                if reservation is not None:
                    self._apply_end(reservation, kind, tuple(amounts), late)
        # Leases are looked at in order.
        self._open = dict(sorted(self._open.items(), key=lambda item: item[1].lease_until_ms))

    def _recover_counter(self, record: list[Any], numbered: dict[int, Counter]) -> None:
        _, number, key, scope_value, text, zone, cells = record
        counter = self._counters.get((key, scope_value))
        window = parse_window(text, zone or "UTC")
        if counter is None or counter.window != window:
            counter = Counter(key, scope_value, window, 0)
            self._counters[key, scope_value] = counter
            counter.restore(cells)  # else it repeats the state that this replay has reached
        counter.number = number
        numbered[number] = counter
        self._next_number = max(self._next_number, number + 1)

    def _recover_reserve(self, record: list[Any], bookings: dict[int, list[Entry]]) -> None:
        _, reservation_id, now_ms, lease_until_ms, amounts, number = record
        entries = bookings[number]
        cells = []
        for counter, unit, _, _ in entries:
            counter.advance(now_ms)
            cell = counter.cell
            cell.amount += amounts[unit]
            cell.reserved += amounts[unit]
            counter.total += amounts[unit]
            cells.append(cell)
        self._open[reservation_id] = Reservation(
            reservation_id, tuple(amounts), lease_until_ms, entries, cells
        )

    def _recover_reservation(self, record: list[Any], counters: dict[int, Counter]) -> None:
        _, reservation_id, lease_until_ms, amounts, taken, ended = record
        known = self._open.get(reservation_id) or self._ended.get(reservation_id)
        if known is not None:
            known.lease_until_ms = lease_until_ms
            return
        entries: list[Entry] = []
        cells = []
        for number, slot, unit in taken:
            counter = counters[number]
            cell = counter.cell_at(slot)
            if cell is not None:
                entries.append((counter, unit, 0, 0))
                cells.append(cell)
        reservation = Reservation(reservation_id, tuple(amounts), lease_until_ms, entries, cells)
        if ended:
            self._ended[reservation_id] = reservation
        else:
            self._open[reservation_id] = reservation


def _give_back(entries: Sequence[Entry], cells: Sequence[Cell], amounts: Amounts) -> None:
    """Undoes the beginning of a pass that could not be finished."""
    for (counter, unit, _, _), cell in zip(entries, cells, strict=False):
        counter.total -= amounts[unit]
        cell.amount -= amounts[unit]
        cell.reserved -= amounts[unit]


def _standing(counter: Counter, hold: Hold, amount: int) -> Standing:
    reserved = counter.reserved
    fits_at_ms = counter.fits_at_ms(amount, hold.ceiling)
    return Standing(hold, counter.total - reserved, reserved, fits_at_ms)
