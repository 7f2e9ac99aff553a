"""Books that are kept beside every ledger: what was granted, how it ended, and what was durable.

They are the invariants' own account of the world, from what the ledgers of all sidecars answered.
Nothing here knows how a ledger counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from schedule import ProcessLoop

from extproc.ledger.journal import Journal
from extproc.ledger.port import Account, Denied, Granted, Hold, LedgerUnavailableError
from extproc.values.limit import NO_CEILING, NOTHING, Amounts, Limit

CounterKey = tuple[str, str]


class Violation(AssertionError):
    """An invariant is broken. Its text begins with the invariant's id."""


@dataclass(eq=False)
class Booked:
    """One reservation, as its ledger's answers tell it."""

    id: str
    holds: Sequence[Hold]
    about: Any
    reserved: Amounts
    made_ms: int
    lease_until_ms: int
    durable: bool = False
    charged: Amounts | None = None
    """None while it is open."""
    ends: list[str] = field(default_factory=list)
    """``settled``, ``released``, ``expired``, in their order."""
    ended_ms: int = 0
    unsure: bool = False
    """The process died while this was being written: it may or may not have been."""

    @property
    def held(self) -> Amounts:
        """What it takes from its limits now."""
        return self.reserved if self.charged is None else self.charged

    def overrun(self, unit: int) -> int:
        """What was charged above the reservation: debt."""
        return 0 if self.charged is None else max(0, self.charged[unit] - self.reserved[unit])


class Books:
    """All reservations of all sidecars, by id."""

    def __init__(self) -> None:
        self.booked: dict[str, Booked] = {}
        self.limits: dict[CounterKey, Limit] = {}
        self.ceilings: dict[CounterKey, int] = {}
        """The highest ceiling that anything was granted under."""
        self.by_counter: dict[CounterKey, list[Booked]] = {}
        self.broken: list[Violation] = []
        """What was found inside of real code, which would take it for a fault of its own."""
        self.changed: set[CounterKey] = set()
        """Counters touched since the invariants last looked."""

    def granted(self, booked: Booked) -> None:
        """A ledger said ``Granted`` for a new id."""
        known = self.booked.get(booked.id)
        if known is not None:
            return
        self.booked[booked.id] = booked
        for hold in booked.holds:
            key = (hold.limit.key, hold.scope_value)
            self.limits[key] = hold.limit
            self.by_counter.setdefault(key, []).append(booked)
            if hold.ceiling < NO_CEILING:
                self.ceilings[key] = max(self.ceilings.get(key, 0), hold.ceiling)
        self._touch(booked)

    def ended(self, reservation_id: str, kind: str, charged: Amounts, late: bool, now: int) -> None:
        """A ledger said that a reservation has ended so. I3: each ends once, and only a settlement
        may correct an expiry or a release, once."""
        booked = self.booked.get(reservation_id)
        if booked is None:
            self.broken.append(Violation(f"I3: {reservation_id} was {kind} but never granted"))
            return
        if booked.unsure:
            booked.unsure = False
        elif late != bool(booked.ends):
            self.broken.append(
                Violation(f"I3: {kind} of {reservation_id} with late={late} after {booked.ends}")
            )
        if booked.ends and (kind != "settled" or "settled" in booked.ends):
            self.broken.append(
                Violation(f"I3: {reservation_id} ended twice: {booked.ends}, then {kind}")
            )
        booked.ends.append(kind)
        booked.charged = charged
        booked.ended_ms = now
        self._touch(booked)

    def renewed(self, booked: Booked, lease_until_ms: int, at_least: Amounts) -> None:
        """A live reservation's lease was extended, its hold perhaps raised."""
        booked.lease_until_ms = max(booked.lease_until_ms, lease_until_ms)
        booked.reserved = tuple(map(max, booked.reserved, at_least))  # type: ignore[assignment]
        self._touch(booked)

    def lost_grant(self, booked: Booked, *, torn: bool) -> None:
        """The process died before this grant was durable: nobody was told of it."""
        booked.unsure = torn
        if not torn:
            booked.charged, booked.ends = NOTHING, ["lost"]
        self._touch(booked)

    def lost_end(self, booked: Booked, *, torn: bool) -> None:
        """The process died before this end was durable: the reservation is open again."""
        booked.ends.pop()
        booked.charged = None
        booked.unsure = torn
        self._touch(booked)

    def total(self, key: CounterKey, now_ms: int) -> tuple[int, int, bool]:
        """Of one counter at ``now_ms``: what it surely holds, the debt in it, and whether that is
        all."""
        limit = self.limits[key]
        oldest = limit.window.oldest_slot(limit.window.slot(now_ms))
        total = debt = 0
        sure = True
        for booked in self.by_counter[key]:
            if booked.ends == ["lost"] or limit.window.slot(booked.made_ms) < oldest:
                continue
            if booked.unsure:
                sure = False
                continue
            total += booked.held[limit.unit]
            debt += booked.overrun(limit.unit)
        return total, debt, sure

    def open(self) -> list[Booked]:
        """Reservations that have not ended."""
        return [booked for booked in self.booked.values() if booked.charged is None]

    def _touch(self, booked: Booked) -> None:
        self.changed.update((hold.limit.key, hold.scope_value) for hold in booked.holds)


class MortalJournal(Journal):
    """The real journal; its process may die before, in, and after each of its writes."""

    watched: WatchedLedger | None = None

    def flush(self) -> None:
        if self.watched is None:
            super().flush()
        else:
            self.watched.written(super().flush)


class WatchedLedger:
    """A real ledger that tells the books what it answers, and may be killed before and after."""

    def __init__(self, ledger: Any, books: Books, loop: ProcessLoop, *, exact: bool) -> None:
        self.inner = ledger
        self._books = books
        self._loop = loop
        self._exact = exact
        self._undurable: list[tuple[str, Booked]] = []
        """Grants and ends since the last flush, in their order."""
        self._unwritten: list[tuple[str, Booked]] = []
        """Those that a flush could not write: only this process knows of them."""
        self.torn = False
        self._asked: dict[str, Booked] = {}
        """Of a remote ledger."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def reserve(
        self, reservation_id: str, account: Account, amounts: Amounts, now_ms: int, lease: int
    ) -> Any:
        self._loop.may_die("before reserve")
        outcome = self.inner.reserve(reservation_id, account, amounts, now_ms, lease)
        booked = Booked(reservation_id, account.holds, account.about, amounts, now_ms, lease)
        if isinstance(outcome, Granted | Denied):
            self._reserved(booked, outcome)
        else:
            self._asked[reservation_id] = booked
        self._loop.may_die("after reserve")
        return outcome

    def answered(self, reservation_id: str, outcome: Any) -> None:
        """The remote ledger has its answer, which the service will hear of in a moment."""
        self._reserved(self._asked[reservation_id], outcome)

    def _reserved(self, booked: Booked, outcome: Any) -> None:
        if not isinstance(outcome, Granted) or booked.id in self._books.booked:
            return
        self._books.granted(booked)
        self._undurable.append(("grant", booked))
        if self._exact:
            self._fits(booked)

    def _fits(self, booked: Booked) -> None:
        """I2 at its sharpest: whatever is granted fits below its ceiling, debt and all."""
        for hold in booked.holds:
            if hold.ceiling >= NO_CEILING:
                continue
            key = (hold.limit.key, hold.scope_value)
            total, _, sure = self._books.total(key, booked.made_ms)
            if sure and total > hold.ceiling:
                self._books.broken.append(
                    Violation(f"I2: {booked.id} was granted {total} of {hold.ceiling} on {key}")
                )

    def settle(self, reservation_id: str, amounts: Amounts, now_ms: int, about: Any) -> Any:
        self._loop.may_die("before settle")
        end = self.inner.settle(reservation_id, amounts, now_ms, about)
        self._ended("settled", end, now_ms)
        return end

    def release(self, reservation_id: str, now_ms: int, reason: str) -> Any:
        self._loop.may_die("before release")
        end = self.inner.release(reservation_id, now_ms, reason)
        self._ended("released", end, now_ms)
        return end

    def expire(self, now_ms: int) -> Any:
        ends = self.inner.expire(now_ms)
        for end in ends:
            self._ended("expired", end, now_ms)
        return ends

    def _ended(self, kind: str, end: Any, now_ms: int) -> None:
        if end is not None:
            self._books.ended(end.reservation_id, kind, end.charged, end.late, now_ms)
            self._undurable.append(("end", self._books.booked[end.reservation_id]))
        self._loop.may_die("after " + kind)

    def renew(self, reservation_id: str, lease_until_ms: int, at_least: Amounts = NOTHING) -> bool:
        renewed = self.inner.renew(reservation_id, lease_until_ms, at_least)
        if renewed:
            self._books.renewed(self._books.booked[reservation_id], lease_until_ms, at_least)
        self._loop.may_die("after renew")
        return bool(renewed)

    def written(self, write: Callable[[], None]) -> None:
        """Runs what makes everything until now durable: the journal's own flush, say."""
        self._loop.may_die("before flush")
        self.torn = bool(self._undurable)
        if self.torn:
            self._loop.may_die("torn write")
        self.torn = False
        try:
            write()
        except LedgerUnavailableError:
            self._unwritten += self._undurable
            self._undurable.clear()
            raise
        for kind, booked in self._undurable:
            booked.durable = booked.durable or kind == "grant"
        self._undurable.clear()
        self._loop.may_die("after flush")

    def died(self) -> None:
        """What the process knew and had not written is gone, newest first."""
        for records, torn in ((self._undurable, self.torn), (self._unwritten, False)):
            for kind, booked in reversed(records):
                if kind == "grant":
                    self._books.lost_grant(booked, torn=torn)
                else:
                    self._books.lost_end(booked, torn=torn)
