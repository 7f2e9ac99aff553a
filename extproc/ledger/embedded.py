"""The embedded ledger: counters in this process's memory, durable by its journal.

For one sidecar. Every method is synchronous and runs on the event loop's thread, so each call is
atomic by itself. If the journal cannot be written nothing is admitted any more
(``LedgerUnavailableError``): money is never spent that a restart would not know of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from extproc.ledger.counter import Counter
from extproc.ledger.journal import Journal
from extproc.ledger.port import Denied, Granted, Hold, Settlement, Standing
from extproc.values.limit import NO_CEILING, Amounts, Limit, Unit
from extproc.values.money import MAX_AMOUNT
from extproc.values.window import parse_window

MAX_ENDED = 100_000
"""Ended reservations remembered, so that a repeated or late end is recognised; some 20 MB. The
access log delivers within milliseconds, and Envoy resends nothing."""
SWEEP_COUNTERS = 5_000
"""Counters looked at per ``tend``: a few milliseconds, so a million are seen in minutes."""
NOTHING: Amounts = (0, 0, 0, 0, 0)

_SETTLED, _EXPIRED, _RELEASED = "s", "x", "l"


class Reservation:
    """What one reservation took: counters, cells and amounts, in hold order."""

    __slots__ = ("amounts", "declared_in", "ended", "id", "lease_until_ms", "taken")

    def __init__(self, reservation_id: str, amounts: Amounts, lease_until_ms: int) -> None:
        self.id = reservation_id
        self.amounts = amounts
        self.lease_until_ms = lease_until_ms
        self.taken: list[tuple[Counter, Any, int]] = []
        """(counter, cell, unit)"""
        self.ended = ""
        self.declared_in = -1


class EmbeddedLedger:
    """Implements ``Ledger`` in one process. See the port for what the methods promise."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._counters: dict[tuple[str, str], Counter] = {}
        self._open: dict[str, Reservation] = {}
        self._ended: dict[str, Reservation] = {}
        self._next_number = 0
        self._undeclared: list[Counter | Reservation] = []
        self._sweep: list[tuple[str, str]] = []
        self._recover(journal.replay())
        self._begin_segment()

    # -- the port ---------------------------------------------------------------------------------

    def reserve(
        self,
        reservation_id: str,
        holds: Sequence[Hold],
        amounts: Amounts,
        now_ms: int,
        lease_until_ms: int,
        about: Mapping[str, object],
    ) -> Granted | Denied:
        """Takes all holds or none, in one pass without suspension."""
        if reservation_id in self._open or reservation_id in self._ended:
            raise ValueError(f"reservation {reservation_id} was made before")
        if not 0 <= min(amounts) <= max(amounts) <= MAX_AMOUNT:
            raise ValueError("an amount is out of range")
        counters = self._counters
        segment = self._journal.segment
        taken: list[tuple[Counter, Hold]] = []
        refusing: list[tuple[Counter, Hold]] = []
        for hold in holds:
            limit, scope_value, ceiling = hold
            counter = counters.get((limit.key, scope_value))
            if counter is None:
                counter = self._open_counter(limit, scope_value, now_ms)
            elif counter.window is not limit.window:
                counter.rewindow(limit.window, now_ms)
                counter.declared_in = -1
            if now_ms >= counter.ends_ms:
                counter.advance(now_ms)
            if counter.total + amounts[limit.unit] > ceiling:
                refusing.append((counter, hold))
            taken.append((counter, hold))
        if refusing:
            return Denied([_standing(c, h, amounts[h.limit.unit], now_ms) for c, h in refusing])
        numbers: list[int] = []
        for counter, hold in taken:
            if counter.declared_in != segment:
                self._declare_counter(counter)
            numbers += (counter.number, hold.limit.unit)
        # Written first: if that fails, nothing was taken.
        self._journal.append(["r", reservation_id, now_ms, lease_until_ms, amounts, numbers, about])
        reservation = Reservation(reservation_id, amounts, lease_until_ms)
        entries = reservation.taken
        for counter, hold in taken:
            unit = hold.limit.unit
            amount = amounts[unit]
            cell = counter.cell
            cell.amount += amount
            cell.reserved += amount
            counter.total += amount
            counter.reserved += amount
            entries.append((counter, cell, unit))
        reservation.declared_in = segment
        self._open[reservation_id] = reservation
        return _granted(taken)

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

    def renew(self, reservation_id: str, lease_until_ms: int) -> bool:
        """Extends the lease; leases are looked at in the order in which they were given."""
        reservation = self._open.pop(reservation_id, None)
        if reservation is None:
            return False
        reservation.lease_until_ms = lease_until_ms
        self._open[reservation_id] = reservation
        self._declare_reservation(reservation)
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
                standings.append(_standing(counter, hold, 0, now_ms))
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

    # -- inside -----------------------------------------------------------------------------------

    def _end(
        self, reservation_id: str, kind: str, amounts: Amounts, now_ms: int, about: Any
    ) -> Settlement | None:
        reservation = self._open.pop(reservation_id, None)
        late = reservation is None
        if reservation is None:
            reservation = self._ended.get(reservation_id)
            if reservation is None or reservation.ended == _SETTLED:
                return None
        if reservation.declared_in != self._journal.segment:
            self._declare_reservation(reservation)
        self._journal.append([kind, reservation_id, now_ms, amounts, about])
        self._apply_end(reservation, kind, amounts, late)
        return Settlement(reservation_id, amounts, late)

    def _apply_end(self, reservation: Reservation, kind: str, amounts: Amounts, late: bool) -> None:
        charged_before = reservation.amounts
        for counter, taken_cell, unit in reservation.taken:
            cell = taken_cell if taken_cell.live else taken_cell.counting()
            change = amounts[unit] - charged_before[unit]
            if counter.dropped:
                # It stood at zero and was forgotten since; it may even have been opened again.
                key = (counter.key, counter.scope_value)
                current = self._counters.setdefault(key, counter)
                counter.dropped = current is not counter
                if current is not counter:
                    counter, cell = current, current.cell_of(taken_cell.slot)
            if cell is None:
                continue
            cell.amount += change
            counter.total += change
            if not late:
                cell.reserved -= charged_before[unit]
                counter.reserved -= charged_before[unit]
        reservation.ended = kind
        reservation.amounts = amounts
        if kind == _SETTLED:
            reservation.taken = []
        self._ended[reservation.id] = reservation
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]

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

    def _declare_reservation(self, reservation: Reservation) -> None:
        taken = []
        for counter, cell, unit in reservation.taken:
            if counter.declared_in != self._journal.segment:
                self._declare_counter(counter)
            place = cell.counting()
            taken.append([counter.number, place.slot if place else -1, unit])
        self._journal.append(
            [
                "v",
                reservation.id,
                reservation.lease_until_ms,
                reservation.amounts,
                taken,
                reservation.ended,
            ]
        )
        reservation.declared_in = self._journal.segment

    def _recover(self, records: Iterable[list[Any]]) -> None:
        numbered: dict[int, Counter] = {}
        for record in records:
            kind = record[0]
            if kind == "c":
                self._recover_counter(record, numbered)
            elif kind == "r":
                self._recover_reserve(record, numbered)
            elif kind == "v":
                self._recover_reservation(record, numbered)
            elif kind in (_SETTLED, _EXPIRED, _RELEASED):
                _, reservation_id, _, amounts, _ = record
                reservation = self._open.pop(reservation_id, None)
                late = reservation is None
                reservation = reservation or self._ended.get(reservation_id)
                if reservation is not None:
                    self._apply_end(reservation, kind, tuple(amounts), late)

        # Leases are looked at in order.
        leased = sorted(self._open.items(), key=lambda item: item[1].lease_until_ms)
        self._open = dict(leased)

    def _recover_counter(self, record: list[Any], numbered: dict[int, Counter]) -> None:
        _, number, key, scope_value, text, zone, cells = record
        counter = self._counters.get((key, scope_value))
        window = parse_window(text, zone or "UTC")
        if counter is None or counter.window != window:
            counter = Counter(key, scope_value, window, 0)
            self._counters[key, scope_value] = counter
            counter.restore(cells)
        # A declaration repeats the state that this replay has reached, unless replay began here.
        counter.number = number
        numbered[number] = counter
        self._next_number = max(self._next_number, number + 1)

    def _recover_reserve(self, record: list[Any], numbered: dict[int, Counter]) -> None:
        _, reservation_id, now_ms, lease_until_ms, amounts, numbers, _ = record
        reservation = Reservation(reservation_id, tuple(amounts), lease_until_ms)
        for number, unit in zip(numbers[::2], numbers[1::2], strict=True):
            counter = numbered[number]
            counter.advance(now_ms)
            amount = amounts[unit]
            counter.cell.amount += amount
            counter.cell.reserved += amount
            counter.total += amount
            counter.reserved += amount
            reservation.taken.append((counter, counter.cell, unit))
        self._open[reservation_id] = reservation

    def _recover_reservation(self, record: list[Any], numbered: dict[int, Counter]) -> None:
        _, reservation_id, lease_until_ms, amounts, taken, ended = record
        known = self._open.get(reservation_id) or self._ended.get(reservation_id)
        if known is not None:
            known.lease_until_ms = lease_until_ms
            return
        reservation = Reservation(reservation_id, tuple(amounts), lease_until_ms)
        for number, slot, unit in taken:
            counter = numbered[number]
            for cell in counter.cells:
                if cell.slot == slot:
                    reservation.taken.append((counter, cell, unit))
        reservation.ended = ended
        (self._ended if ended else self._open)[reservation_id] = reservation


def _standing(counter: Counter, hold: Hold, amount: int, now_ms: int) -> Standing:
    fits = counter.fits_at_ms(amount, hold.ceiling)
    return Standing(hold, counter.total - counter.reserved, counter.reserved, fits)


_SHOWN = ((Unit.REQUESTS,), (Unit.TOKENS, Unit.INPUT_TOKENS, Unit.OUTPUT_TOKENS), (Unit.MICRO_USD,))
_SHOWN_PLACE = {unit: place for place, units in enumerate(_SHOWN) for unit in units}


def _granted(taken: Sequence[tuple[Counter, Hold]]) -> Granted:
    tightest: list[tuple[int, Counter, Hold] | None] = [None, None, None]
    would_block = []
    for counter, hold in taken:
        ceiling = hold.ceiling
        if ceiling >= NO_CEILING:
            if counter.total > hold.limit.ceiling:
                would_block.append(hold.limit.rule_id)
            continue
        left = ceiling - counter.total
        place = _SHOWN_PLACE[hold.limit.unit]
        best = tightest[place]
        if best is None or left < best[0]:
            tightest[place] = (left, counter, hold)
    money = tightest[2]
    return Granted(
        [
            Standing(hold, counter.total - counter.reserved, counter.reserved, counter.ends_ms)
            for _, counter, hold in islice(filter(None, tightest), 3)
        ],
        would_block,
        money[0] if money else NO_CEILING,
    )
