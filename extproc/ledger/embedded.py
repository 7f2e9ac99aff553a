"""The embedded ledger: counters in this process's memory, durable by its journal.

For one sidecar. Every method is synchronous and runs on the event loop's thread, so each call is
atomic by itself. If the journal cannot be written nothing is admitted any more
(``LedgerUnavailableError``): money is never spent that a restart would not know of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from extproc.ledger.books import EXPIRED, RELEASED, SETTLED, Booking, Entry, Reservation
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
from extproc.ledger.recovery import RecoveredBooks
from extproc.values.limit import NO_CEILING, NOTHING, Amounts, Limit, Unit
from extproc.values.money import MAX_AMOUNT
from extproc.values.window import Window

SWEEP_COUNTERS = 5_000
"""Counters looked at per ``tend``: a few milliseconds, so a million are seen in minutes."""
RENAMED_MS = 1_200_000
"""How long bookings on a rule's former name are led to the new one. Requests of the policy before
the change live 16 minutes at most (a lease and an upload); later the name may be another rule's."""
MAX_RENAMED = 10_000
"""Renames led at a time: more than a policy has rules."""

_SHOWN = (0, 1, 1, 1, 2, 3)
"""By unit: requests, the three kinds of tokens, strict money, statistical money."""
_MONEY, _LIKELY_MONEY, _UNSHOWN = 2, 3, 4


class EmbeddedLedger(RecoveredBooks):
    """Implements ``Ledger`` in one process. See the port for what the methods promise."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal.replay())
        self._journal = journal
        self._next_booking = 0
        self._renamed: dict[str, tuple[str, int]] = {}
        """Former limit keys: the present one, and until when bookings are led there."""
        self._undeclared: list[Counter | Reservation] = []
        self._sweep: list[tuple[str, str]] = []
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

    def book(
        self,
        reservation_id: str,
        account: Account,
        amounts: Amounts,
        now_ms: int,
        lease_until_ms: int,
    ) -> None:
        """Takes what another store has granted, at that store's time. The account's ceilings are
        written down for ``verify-ledger`` and not judged. An open reservation is left as it is.

        Raises ``ValueError`` for an id that has ended."""
        if reservation_id in self._open:
            return
        if reservation_id in self._ended:
            raise ValueError(f"reservation {reservation_id} has ended")
        booking: Booking | None = account.memo
        if booking is None or booking.epoch is not self._epoch:
            booking = account.memo = self._book(account, now_ms)
        if booking.segment != self._journal.segment:
            self._declare_booking(booking, account)
        self._journal.append(["r", reservation_id, now_ms, lease_until_ms, amounts, booking.number])
        cells = self._take(booking.entries, amounts, now_ms)
        reservation = Reservation(reservation_id, amounts, lease_until_ms, booking.entries, cells)
        reservation.declared_in = self._journal.segment
        self._open[reservation_id] = reservation

    def settle(
        self, reservation_id: str, amounts: Amounts, now_ms: int, about: Mapping[str, object]
    ) -> Settlement | None:
        """Charges the real amounts. An overrun goes above the ceiling and stays there as debt."""
        if not 0 <= min(amounts) <= max(amounts) <= MAX_AMOUNT:
            raise ValueError("an amount is out of range")
        return self._end(reservation_id, SETTLED, amounts, now_ms, about)

    def release(self, reservation_id: str, now_ms: int, reason: str) -> Settlement | None:
        """Gives everything back."""
        if reservation_id not in self._open:
            return None
        return self._end(reservation_id, RELEASED, NOTHING, now_ms, {"reason": reason})

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
            ended = self._end(reservation.id, EXPIRED, reservation.amounts, now_ms, {})
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
        """Bounded upkeep, about once a second: segment rotation, declarations, idle counters, and
        counters of renamed rules that no request has touched."""
        self._now_ms = max(self._now_ms, now_ms)
        if self._journal.full and not self._undeclared:
            self._begin_segment()
        for _ in range(min(SWEEP_COUNTERS, len(self._undeclared))):
            self._declare(self._undeclared.pop())
            if not self._undeclared:
                self._journal.complete(self._now_ms)
        for former, (_, until_ms) in list(self._renamed.items()):
            if until_ms <= now_ms:
                del self._renamed[former]
                self._epoch = object()
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
            elif key[0] in self._renamed:
                present = (self._present(key[0]), key[1])
                new = self._counters.get(present)
                if new is None:
                    new = self._open_counter(*present, counter.window, now_ms)
                self._adopt(counter, new, now_ms)

    def correct(
        self, limit: Limit, scope_value: str, amount: int, now_ms: int, about: Mapping[str, object]
    ) -> bool:
        """Appends a correction entry; it counts in the current slot."""
        if not -MAX_AMOUNT <= amount <= MAX_AMOUNT:
            raise ValueError("an amount is out of range")
        counter = self._counter(limit, scope_value, now_ms)
        counter.advance(now_ms)
        if counter.total - counter.reserved + amount < 0 and not self._journal.arbiter:
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
        self._now_ms = max(self._now_ms, now_ms)
        standings = []
        for hold in holds:
            found = None
            for key in (hold.limit.renamed_from, self._present(hold.limit.key)):
                counter = self._counters.get((key, hold.scope_value))
                if counter is not None:
                    counter.advance(now_ms)
                    standing = _standing(counter, hold, 0)
                    found = standing if found is None else _both(found, standing)
            standings.append(found or Standing(hold, 0, 0, now_ms))
        return standings

    def counters(self) -> Iterable[tuple[str, str, str, int, int]]:
        """(limit key, scope value, window, settled, reserved) of every live counter."""
        for counter in self._counters.values():
            settled = counter.total - counter.reserved
            window = str(counter.window)
            yield counter.key, counter.scope_value, window, settled, counter.reserved

    @property
    def open_count(self) -> int:
        """Reservations that have not ended."""
        return len(self._open)

    @property
    def state(self) -> StoreState:
        """Closed once the journal cannot be written, until a restart on a sound disk."""
        failed = self._journal.failed
        return StoreState("closed", "journal", "the disk is full") if failed else ALL_WELL

    def live_counters(self, now_ms: int) -> Iterable[Counter]:
        """Every counter, moved on to ``now_ms``."""
        for counter in self._counters.values():
            counter.advance(now_ms)
            yield counter

    def reservations(self) -> Iterable[tuple[Reservation, bool]]:
        """Those that are open (True), and those that ended and may still be settled (False)."""
        yield from ((each, True) for each in self._open.values())
        yield from ((each, False) for each in self._ended.values() if each is not None)

    def knows(self, reservation_id: str) -> bool:
        """Whether a reservation was made here: it is open, or its end is remembered."""
        return reservation_id in self._open or reservation_id in self._ended

    # -- inside -----------------------------------------------------------------------------------

    def _book(self, account: Account, now_ms: int) -> Booking:
        """Finds or opens the counters of an account."""
        self._now_ms = max(self._now_ms, now_ms)
        entries: list[Entry] = []
        shadows = []
        for limit, scope_value, ceiling in account.holds:
            counter = self._counter(limit, scope_value, now_ms)
            watched = ceiling >= NO_CEILING
            if watched:
                shadows.append((counter, limit))
            entries.append(
                (counter, limit.unit, ceiling, _UNSHOWN if watched else _SHOWN[limit.unit])
            )
        return Booking(entries, shadows, self._epoch)

    def _counter(self, limit: Limit, scope_value: str, now_ms: int) -> Counter:
        """The counter of a limit, as its rule is named and windowed now."""
        former = limit.renamed_from
        if former:
            self._lead(former, limit.key, now_ms)
        # A request of the policy before a rename counts, and is judged, with the others.
        key = self._present(limit.key)
        counter = self._counters.get((key, scope_value))
        if counter is None:
            counter = self._open_counter(key, scope_value, limit.window, now_ms)
        elif counter.window is not limit.window and key == limit.key:
            self._rewindow(counter, limit.window, now_ms)
        old = self._counters.get((former, scope_value)) if former else None
        if old is not None:
            self._adopt(old, counter, now_ms)
        return counter

    def _rewindow(self, counter: Counter, window: Window, now_ms: int) -> None:
        if counter.window == window:
            counter.window = window
            return
        if counter.declared_in != self._journal.segment:
            self._declare_counter(counter)
        zone = getattr(window, "zone", "")
        self._journal.append(["w", counter.number, now_ms, str(window), zone])
        counter.rewindow(window, now_ms)
        # A request of the policy before may have asked for it: the others look again.
        self._epoch = object()

    def _lead(self, former: str, key: str, now_ms: int) -> None:
        """From now on, and for a while, bookings on a rule's former name go to the present one."""
        known = self._renamed.get(former)
        if (known is None or known[0] != key) and len(self._renamed) < MAX_RENAMED:
            self._renamed.pop(key, None)  # renamed back
            self._renamed[former] = (key, now_ms + RENAMED_MS)
            self._epoch = object()

    def _present(self, key: str) -> str:
        while key in self._renamed:
            key = self._renamed[key][0]
        return key

    def _adopt(self, old: Counter, new: Counter, now_ms: int) -> None:
        """What was counted under a rule's former name counts under the present one, once."""
        for counter in (old, new):
            if counter.declared_in != self._journal.segment:
                self._declare_counter(counter)
        self._journal.append(["n", old.number, new.number, now_ms])
        self._absorb(old, new, now_ms)

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
            self._now_ms = max(self._now_ms, now_ms)
            self._declare_reservation(reservation, late=late)
        self._journal.append([kind, reservation_id, now_ms, amounts, about])
        self._apply_end(reservation, kind, amounts, late)
        return Settlement(reservation_id, amounts, late)

    def _open_counter(self, key: str, scope_value: str, window: Window, now_ms: int) -> Counter:
        counter = Counter(key, scope_value, window, now_ms)
        counter.number = self._next_number
        self._next_number += 1
        self._counters[key, scope_value] = counter
        return counter

    def _begin_segment(self) -> None:
        if not self._journal.start_segment():
            return
        self._undeclared = [*self._counters.values(), *self._open.values()]
        if not self._undeclared:
            self._journal.complete(self._now_ms)

    def _declare(self, item: Counter | Reservation) -> None:
        if item.declared_in == self._journal.segment:
            return
        if isinstance(item, Counter):
            if not item.dropped and item.successor is None:
                self._declare_counter(item)
        elif item.id in self._open:
            self._declare_reservation(item)

    def _declare_counter(self, counter: Counter) -> None:
        window = counter.window
        cells = [[cell.slot, cell.amount, cell.reserved] for cell in counter.cells]
        zone = getattr(window, "zone", "")
        place = [counter.number, counter.key, counter.scope_value, str(window), zone]
        self._journal.append(["c", *place, cells, self._now_ms])
        counter.declared_in = self._journal.segment

    def _declare_booking(self, booking: Booking, account: Account) -> None:
        segment = self._journal.segment
        if booking.number < 0:
            booking.number = self._next_booking
            self._next_booking += 1
        places: list[int | None] = []
        for counter, unit, ceiling, _ in booking.entries:
            if counter.declared_in != segment:
                self._declare_counter(counter)
            places += (counter.number, unit, ceiling if ceiling < NO_CEILING else None)
        self._journal.append(["a", booking.number, places, account.about])
        booking.segment = segment

    def _declare_reservation(self, reservation: Reservation, *, late: bool = False) -> None:
        taken = []
        held = reservation.amounts
        for (counter, unit, _, _), cell in zip(reservation.entries, reservation.cells, strict=True):
            place = self.place_of(counter, cell, held[unit])
            if place is None:
                continue
            counter, slot = place
            if counter.declared_in != self._journal.segment:
                self._declare_counter(counter)
            taken.append([counter.number, slot, unit])
        ended = EXPIRED if late else ""
        self._journal.append(["v", reservation.id, reservation.lease_until_ms, held, taken, ended])
        reservation.declared_in = self._journal.segment


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


def _both(one: Standing, other: Standing) -> Standing:
    """Of a rule that is being renamed: what counts under its old and its new name."""
    resets_ms = (one.resets_at_ms, other.resets_at_ms)
    later = None if None in resets_ms else max(at for at in resets_ms if at is not None)
    settled, reserved = one.settled + other.settled, one.reserved + other.reserved
    return Standing(one.hold, settled, reserved, later)
