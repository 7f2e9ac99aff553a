"""One usage log, replayed by what it says and nothing else.

Amounts are added and taken away slot by slot, and after every record that touches a counter its
sums are looked at. Nothing here is shared with the ledger that wrote the log but the calendar.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from extproc.ledger.tally import Tally
from extproc.ledger.usage_log import Line, Record, segment_number
from extproc.values.limit import NOTHING, UNIT_NAMES, Amounts, Unit
from extproc.values.money import MAX_AMOUNT
from extproc.values.window import Window, parse_window

REMEMBERED_ENDED = 200_000
"""Ended reservations known by name: twice as many as a ledger remembers, so each late word about
one is understood. Some 60 MB."""
LATE_KNOWN = 100_000
"""So many ended reservations a ledger remembers: older ones are never spoken of again."""
OVERDUE_MS = 60_000
"""A ledger charges an overdue lease within seconds. One that is open for so much longer, while the
ledger works, has lost its end."""
SWEEP_TALLIES = 4_096
"""So many more counters than were left over last time, and the empty ones are forgotten."""

_ENDS = {"s": "settled", "x": "expired", "l": "released"}


@dataclass(slots=True)
class Part:
    """What a reservation has in one counter: the slot is of the window in ``era``."""

    tally: Tally
    era: int
    slot: int
    unit: int
    ceiling: int | None


@dataclass(slots=True)
class Held:
    """One reservation."""

    reserved: Amounts
    """What it was granted; ``amounts`` may be raised, and is what was charged once it has ended."""
    amounts: Amounts
    lease_until_ms: int
    parts: list[Part]
    segment: int
    ended: str = ""


class Broken(Exception):  # noqa: N818  a finding, not a failure
    """A rule does not hold. The place is added by who feeds the records."""

    def __init__(self, what: str, expected: object = "", found: object = "") -> None:
        super().__init__(what)
        self.what, self.expected, self.found = what, str(expected), str(found)


class Overview(Protocol):
    """What is known over all logs of one store, and what is told of it."""

    report: Any

    def total(self, tally: Tally, now_ms: int) -> int:
        """Settled and reserved of a counter, over all sidecars."""
        ...

    def overruns(self, tally: Tally) -> int:
        """What sidecars used above what they had reserved: the store may be told of it later."""
        ...

    def admitted(self, tally: Tally, unit: int, ceiling: int, total: int) -> None:
        """A request was let go with so much in the counter."""
        ...

    def corrected(self, where: str, tally: Tally, amount: int, about: dict[str, object]) -> None:
        """An operator added to a counter, or took from it."""
        ...

    def owed(self, where: str, part: Part, amount: int) -> None:
        """More was used than was reserved, and there was no room for it."""
        ...


class LogReplay:
    """The log of one folder."""

    def __init__(self, overview: Overview) -> None:
        self._all = overview
        self._report = overview.report
        self._arbiter = ""
        self._format = 0
        self.segment = 0
        self.segment_name = ""
        self._forget_all()

    def _forget_all(self) -> None:
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.open: dict[str, Held] = {}
        self._ended: dict[str, Held | None] = {}
        self._ended_count = 0
        self._numbered: dict[int, Tally] = {}
        self._bookings: dict[int, list[tuple[Tally, int, int | None]]] = {}
        self._leases: list[tuple[int, str]] = []
        self._overdue: dict[str, int] = {}
        """Open reservations whose lease has ended, and when that was seen."""
        self._now_ms = 0
        self._where = ""
        self._sweep_at = SWEEP_TALLIES
        self._is_cut = False
        """The log's beginning is gone."""
        self.on_trust = False
        """Until everything is declared in the first segment of a cut log."""

    def apply(self, line: Line) -> None:
        """One record."""
        record = line.record
        kind = record[0]
        if kind == "h":
            self._begin(line)
            return
        if self._format == 1:
            _check_whole(record)
            return
        self._where = line.where
        if kind == "r":
            self._reserve(record)
        elif kind in _ENDS:
            self._end(record)
        elif kind == "b":
            self._renew(record)
        elif kind == "a":
            self._declare_booking(record)
        elif kind == "c":
            self._declare_counter(record)
        elif kind == "v":
            self._declare_reservation(record)
        elif kind == "k":
            self._correct(record)
        elif kind == "w":
            _, number, now_ms, text, zone = record
            self._time(now_ms)
            self._numbered[number].rewindow(_window(text, zone), now_ms)
        elif kind == "n":
            self._adopt(record)
        elif kind == "complete":
            self._complete(record)
        elif kind not in ("e", "u", "d"):  # what a sidecar notes about its store
            raise Broken("no kind of record that this program knows", found=kind)

    # -- segments and declarations ----------------------------------------------------------------

    def _begin(self, line: Line) -> None:
        number, version = segment_number(line.segment), line.record[1]
        unproven = self._report.unproven
        if version == 1:
            if self._format != 1:
                what = "and on: format 1 has no ceilings; only checksums and amounts were checked"
                unproven.append(f"{line.segment} {what}")
            self._forget_all()
        elif number != self.segment + 1 or self._format == 1:
            # The beginning, or what was before is gone or cannot be replayed.
            self._forget_all()
            self.on_trust = self._is_cut = number != 1
            if self._is_cut:
                unproven.append(f"{line.segment}: what was before it is taken as it is declared")
        self.segment, self.segment_name, self._format = number, line.segment.name, version
        if version == 1:
            return
        if line.record[2] and not self._arbiter:
            what = (
                f"is one sidecar's part of {line.record[2]}: the proof is of the folders given here"
            )
            unproven.append(f"{line.segment.parent}: {what}")
        self._arbiter = line.record[2]
        self._numbered.clear()
        self._bookings.clear()
        # How long the ledger was not there to charge what was overdue, nobody knows.
        self._overdue = dict.fromkeys(self._overdue, 0)

    def _declare_counter(self, record: Record) -> None:
        _, number, key, scope_value, text, zone, cells, at_ms = record
        window = _window(text, zone)
        slots = {}
        for slot, amount, reserved in cells:
            _check_ints(slot, reserved, at_ms, *([] if self._arbiter else [amount]))
            if not self._arbiter and reserved > amount:
                raise Broken("a counter is negative", "0 <= reserved <= amount", [amount, reserved])
            if amount:
                slots[slot] = (amount - reserved, reserved)
        newest = cells[-1][0]
        known = self.tallies.get((key, scope_value))
        if known is not None and known.window != window:
            known.advance(at_ms)
            if known.slots or slots:
                raise Broken("a counter's window changed without a record", known.window, text)
            known = None  # forgotten at zero, and opened anew
        if known is None:
            tally = Tally(key, scope_value, window, newest)
            if slots and not self.on_trust:
                raise Broken(f"{_name(tally)}: declared, but nothing led to it", {}, slots)
            self._report.on_trust += bool(slots)
            tally.restore(slots)
            self.tallies[key, scope_value] = tally
        else:
            tally = known
            if newest > max(tally.newest, window.slot(max(at_ms, self._now_ms))):
                raise Broken("a counter is declared for a time that has not come", at_ms, newest)
            tally.advance_to(newest)
            if tally.slots_as_pairs() != slots:
                what = f"{_name(tally)}: declared otherwise than the records before add up to"
                raise Broken(what, tally.slots_as_pairs(), slots)
        tally.segment = self.segment
        self._numbered[number] = tally
        if len(self.tallies) > self._sweep_at:
            self._forget_empty(at_ms)

    def _forget_empty(self, now_ms: int) -> None:
        for key, tally in list(self.tallies.items()):
            tally.advance(now_ms)
            if not tally.slots:
                tally.forgotten = True
                del self.tallies[key]
        self._sweep_at = 2 * len(self.tallies) + SWEEP_TALLIES

    def _declare_booking(self, record: Record) -> None:
        _, number, places, about = record
        if not isinstance(about, dict) or len(places) % 3:
            raise Broken("a booking names a counter, a unit and a ceiling for each hold")
        self._bookings[number] = [
            (self._numbered[counter], int(Unit(unit)), ceiling)
            for counter, unit, ceiling in zip(places[::3], places[1::3], places[2::3], strict=True)
        ]
        for ceiling in places[2::3]:
            if ceiling is not None:
                _check_ints(ceiling)

    def _declare_reservation(self, record: Record) -> None:
        _, reservation_id, lease_until_ms, amounts, taken, ended = record
        held = self.open.get(reservation_id)
        if held is None:
            held = self._ended.get(reservation_id)
        if held is None:
            before_the_log = bool(ended) and self._ended_count < LATE_KNOWN and self._is_cut
            if not (self.on_trust or before_the_log):
                raise Broken("a reservation is declared that was never made", "", reservation_id)
            self._trust(record)
            return
        found = (tuple(amounts), lease_until_ms, bool(ended))
        expected = (held.amounts, held.lease_until_ms, bool(held.ended))
        if found != expected:
            raise Broken("a reservation is declared otherwise than it was left", expected, found)
        places = set()
        for part in held.parts:
            place = self._place(part, held.amounts[part.unit])
            if place is not None:
                places.add((id(place[0]), place[1], part.unit))
        for number, slot, unit in taken:
            if (id(self._numbered[number]), slot, unit) not in places:
                name = _name(self._numbered[number])
                raise Broken(
                    "a reservation is declared in a counter that it has no part in", "", name
                )
        held.segment = self.segment

    def _trust(self, record: Record) -> None:
        _, reservation_id, lease_until_ms, amounts, taken, ended = record
        self._report.on_trust += 1
        parts = []
        for number, slot, unit in taken:
            tally = self._numbered[number]
            parts.append(Part(tally, tally.era, slot, unit, None))
        held_amounts = _amounts(amounts)
        held = Held(held_amounts, held_amounts, lease_until_ms, parts, self.segment, ended)
        if ended:
            self._remember(reservation_id, held)
        else:
            self._open(reservation_id, held)

    def _complete(self, record: Record) -> None:
        _, at_ms = record
        for reservation_id, held in self.open.items():
            if held.segment != self.segment:
                what = "everything is said to be declared, but an open reservation is not"
                raise Broken(what, reservation_id, "its end is missing, or its declaration")
        for tally in self.tallies.values():
            if tally.segment != self.segment:
                tally.advance(at_ms)
                if tally.slots:
                    what = "everything is said to be declared, but a counter is not"
                    raise Broken(what, _name(tally), tally.slots_as_pairs())
        self.on_trust = False

    # -- reservations -----------------------------------------------------------------------------

    def _reserve(self, record: Record) -> None:
        _, reservation_id, now_ms, lease_until_ms, amounts, number = record
        self._time(now_ms)
        _check_ints(lease_until_ms)
        if reservation_id in self.open or reservation_id in self._ended:
            raise Broken("a reservation's name is used twice", "a new id", reservation_id)
        held = _amounts(amounts)
        self._report.reserved += 1
        parts = []
        for tally, unit, ceiling in self._bookings[number]:
            slot = tally.add_reserved(held[unit], now_ms)
            parts.append(Part(tally, tally.era, slot, unit, ceiling))
            if ceiling is None:
                continue
            total = self._all.total(tally, now_ms)
            allowed = ceiling + self._all.overruns(tally) if self._arbiter else ceiling
            if total > allowed:
                what = f"{_name(tally)}: settled + reserved is above the ceiling"
                raise Broken(what, f"at most {allowed} {UNIT_NAMES[unit]}", total)
            self._all.admitted(tally, unit, ceiling, total)
        self._open(reservation_id, Held(held, held, lease_until_ms, parts, self.segment))

    def _open(self, reservation_id: str, held: Held) -> None:
        self.open[reservation_id] = held
        heapq.heappush(self._leases, (held.lease_until_ms, reservation_id))

    def _end(self, record: Record) -> None:
        kind, reservation_id, now_ms, amounts, about = record
        self._time(now_ms)
        charged = _amounts(amounts)
        held = self.open.pop(reservation_id, None)
        late = held is None
        if held is None:
            held = self._ended.get(reservation_id)
            if reservation_id in self._ended and (held is None or kind != "s"):
                once = "settled" if held is None else _ENDS[held.ended]
                raise Broken(f"{reservation_id} ends twice", f"it was {once}", _ENDS[kind])
            if held is None:
                raise Broken("an end of a reservation that is not open", "", reservation_id)
        self._overdue.pop(reservation_id, None)
        if late:
            self._report.late += 1
        self._check_charge(kind, held, charged, now_ms, about)
        why = "late" if late else "end"
        for part in held.parts:
            self._move(part, held.amounts[part.unit], charged[part.unit], why, now_ms)
        held.amounts, held.ended = charged, kind
        held.segment = self.segment
        # As in the ledger: of a settled one only the name can matter again.
        self._remember(reservation_id, None if kind == "s" else held)
        setattr(self._report, _ENDS[kind], getattr(self._report, _ENDS[kind]) + 1)

    def _check_charge(
        self, kind: str, held: Held, charged: Amounts, now_ms: int, about: Any
    ) -> None:
        if kind == "x":
            if charged != held.amounts:
                raise Broken("an expired reservation is charged in full", held.amounts, charged)
            if now_ms < held.lease_until_ms:
                raise Broken("expired before its lease ended", held.lease_until_ms, now_ms)
        elif kind == "l":
            if charged != NOTHING:
                raise Broken("a released reservation costs nothing", NOTHING, charged)
        elif isinstance(about, dict) and "without_usage" in about:
            short = [unit for unit in Unit if charged[unit] < held.reserved[unit]]
            if short:
                what = "settled without reported usage: the reservation is charged"
                raise Broken(what, held.reserved, charged)

    def _remember(self, reservation_id: str, held: Held | None) -> None:
        self._ended_count += reservation_id not in self._ended
        self._ended[reservation_id] = held
        if len(self._ended) > REMEMBERED_ENDED:
            del self._ended[next(iter(self._ended))]

    def _renew(self, record: Record) -> None:
        _, reservation_id, lease_until_ms, amounts = record
        held = self.open.get(reservation_id)
        if held is None:
            raise Broken("a reservation is renewed that is not open", "", reservation_id)
        raised = _amounts(amounts)
        _check_ints(lease_until_ms)
        if any(new < old for new, old in zip(raised, held.amounts, strict=True)):
            raise Broken("a hold is raised, never lowered", held.amounts, raised)
        for part in held.parts:
            self._move(part, held.amounts[part.unit], raised[part.unit], "raise", self._now_ms)
        held.amounts, held.lease_until_ms = raised, lease_until_ms
        held.segment = self.segment
        self._overdue.pop(reservation_id, None)
        heapq.heappush(self._leases, (lease_until_ms, reservation_id))

    def _move(self, part: Part, before: int, after: int, why: str, now_ms: int) -> None:
        """Replaces what a reservation has in a counter, where it still counts."""
        place = self._place(part, before)
        if place is None:
            return
        tally, slot = place
        if tally.forgotten:
            tally.forgotten = False
            self.tallies[tally.key, tally.scope_value] = tally
        if not tally.counts(slot):
            return
        if why == "late":
            # What corrections took back meanwhile is not given back again.
            tally.change(slot, max(after - before, -tally.settled_in(slot)), 0)
        elif why == "raise":
            tally.change(slot, 0, after - before)
        else:
            tally.change(slot, after, -before)
        if not self._arbiter and tally.negative(slot):
            raise Broken(f"{_name(tally)} is negative", ">= 0", tally.slots_as_pairs())
        if after > before and part.ceiling is not None:
            tally.overruns += after - before
            above = self._all.total(tally, now_ms) - part.ceiling
            if above > 0:
                self._all.owed(self._where, part, min(after - before, above))

    def _place(self, part: Part, held: int) -> tuple[Tally, int] | None:
        """Where a part counts now: its counter may have been edited, renamed or opened anew."""
        tally, slot, era = part.tally, part.slot, part.era
        while True:
            moved = tally.slot_now(slot, era)
            if moved is None:
                return None
            slot = moved
            if tally.taken_over_by is not None:
                tally, era = tally.taken_over_by
                continue
            current = self.tallies.get((tally.key, tally.scope_value), tally)
            if current is tally:
                return tally, slot
            if current.first_window != tally.window:
                if held:
                    return None
                slot = current.first_slot
            tally, era = current, 0

    # -- the rest ---------------------------------------------------------------------------------

    def _correct(self, record: Record) -> None:
        _, number, now_ms, amount, about = record
        self._time(now_ms)
        if type(amount) is not int or not isinstance(about, dict):
            raise Broken("a correction is a whole number with a reason", "", record[3:])
        tally = self._numbered[number]
        tally.advance(now_ms)
        if not self._arbiter and tally.settled + amount < 0:
            raise Broken(f"{_name(tally)}: a correction takes more than was settled", "", amount)
        tally.correct(amount)
        self._all.corrected(self._where, tally, amount, about)

    def _adopt(self, record: Record) -> None:
        _, old, new, now_ms = record
        self._time(now_ms)
        former, present = self._numbered[old], self._numbered[new]
        if former is present or former.scope_value != present.scope_value:
            raise Broken("a renamed rule's counters have one scope value", former, present)
        present.take_over(former, now_ms)
        if self.tallies.get((former.key, former.scope_value)) is former:
            del self.tallies[former.key, former.scope_value]
        self._report.adopted += 1

    def _time(self, now_ms: int) -> None:
        _check_ints(now_ms)
        self._now_ms = max(self._now_ms, now_ms)
        while self._leases and self._leases[0][0] < now_ms:
            lease_until_ms, reservation_id = heapq.heappop(self._leases)
            held = self.open.get(reservation_id)
            if held is not None and held.lease_until_ms == lease_until_ms:
                self._overdue[reservation_id] = now_ms
        if self._overdue:
            reservation_id, since_ms = next(iter(self._overdue.items()))
            if not since_ms:
                self._overdue = {each: since or now_ms for each, since in self._overdue.items()}
            elif now_ms - since_ms > OVERDUE_MS:
                raise Broken(
                    f"{reservation_id} is open long after its lease: its end is missing",
                    f"an end by {since_ms + OVERDUE_MS}",
                    now_ms,
                )


def _name(tally: Tally) -> str:
    return f"{tally.key} {tally.scope_value}".rstrip()


def _window(text: str, zone: str) -> Window:
    return parse_window(text, zone or "UTC")


def _amounts(amounts: Sequence[Any]) -> Amounts:
    if len(amounts) != len(NOTHING):
        raise Broken("amounts are of six units", len(NOTHING), len(amounts))
    _check_ints(*amounts)
    return tuple(amounts)


def _check_ints(*numbers: Any) -> None:
    for number in numbers:
        if type(number) is int and 0 <= number <= MAX_AMOUNT:
            continue
        # JSON's true is Python's 1, and 1.0 equals it: the type is what is asked for.
        if type(number) is not int:
            raise Broken("a number is not whole", "an integer", repr(number))
        if not 0 <= number <= MAX_AMOUNT:
            raise Broken("a number is out of range", f"0 to {MAX_AMOUNT}", number)


def _check_whole(item: Any) -> None:
    """No number with a point anywhere in an older record."""
    if isinstance(item, list):
        for each in item:
            _check_whole(each)
    elif not isinstance(item, int | str | dict | None):
        raise Broken("a number is not whole", "an integer", repr(item))
