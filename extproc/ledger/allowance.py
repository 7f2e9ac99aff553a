"""Allowances: what one sidecar may spend of a limit while the store cannot be asked.

An allowance is an ordinary reservation in the store, of ``Limit.emergency_amount`` on one counter,
taken ahead of time. So the bound needs no new argument: what may be spent without the store is
counted there as reserved, and is settled there at what was really spent.

    taken  ->  untouched: replaced by a fresh one while it is still good, or given back when idle
           ->  touched: ended when its requests have ended and the store is back
    ended: spent no more, told to the store as settled, then forgotten

What an allowance has paid for is booked in a journal of this sidecar's own (the *book*, an embedded
ledger), on two counters per allowance: ``taken`` (its amount) and ``spent`` (the requests it pays
for, with the amount as their ceiling). Both are there before anybody relies on them:

- ``taken`` is in the kernel's hands before the store is asked, so no allowance is ever forgotten;
- ``spent`` is before the request is sent (``Ledger.flush``);
- an allowance is spent no more before its end is told, so the amount that is told is final, and
  telling it again changes nothing (``settle`` is idempotent);
- ``taken`` and ``spent`` are erased after the store's side has the end durably.

A request of the book that is settled *after* its lease ended and its allowance was told changes the
book alone: what the lease charged stays charged. The gateway never does that (``Gate.forget``).

A process that starts ends every allowance that it finds in the book and spends from none of them:
whether the end of one was already told is then of no importance.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import cast

from extproc.ledger.contact import Contact
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.port import (
    Account,
    Denied,
    Hold,
    Ledger,
    LedgerUnavailableError,
    Outcome,
    Standing,
)
from extproc.values.limit import NO_CEILING, NOTHING, Amounts, Breach, BreachKind, Limit, Unit
from extproc.values.window import MAX_LENGTH_MS, SlidingWindow

PREFIX = "emergency/"
"""Of the reservation ids of allowances: no request's id has it, because those are UUIDs."""
LEASE_MS = 900_000
"""How long the store holds an allowance for a sidecar that is never heard of again, and so the
longest outage that it helps through. As long as the lease of a request, because a ledger looks at
leases in the order in which they were given."""
REFRESH_MS = 300_000
"""Age at which an untouched allowance is replaced: ten minutes of lease are always left."""
END_BEFORE_MS = 60_000
"""An allowance is spent no more this long before its lease ends: the store's clock is another one,
and charges it in full then."""
RETRY_MS = 10_000
"""Between two attempts to take an allowance that the store did not grant."""
IDLE_MS = 300_000
"""After which an allowance that no request could have used is given back."""
MAX_ALLOWANCES = 1_024
"""Counters with an allowance at a time; the least recently used eighth makes room for others."""
MAX_ASKED = 64
"""Allowances asked for at the same time: each is a write to the book and a question."""

CounterKey = tuple[str, str]
"""Limit key and scope value."""

_WINDOW = SlidingWindow(MAX_LENGTH_MS)
"""Of the book's counters. Allowances live for minutes; this only has to be longer."""
_BLOCK = Breach(BreachKind.HARD_BLOCK)


def _book_limits(kind: str) -> tuple[Limit, ...]:
    return tuple(
        Limit("emergency", f"{kind}/{unit:d}", unit, NO_CEILING, _WINDOW, (), _BLOCK)
        for unit in Unit
    )


_TAKEN = _book_limits("taken")
_SPENT = _book_limits("spent")
"""By unit. The scope value is the allowance's id."""


class Grant:
    """One allowance that was asked of the store."""

    __slots__ = (
        "amount", "id", "in_doubt", "limit", "renew_at_ms", "scope_value", "touched",
        "usable_until_ms",
    )  # fmt: skip

    def __init__(self, grant_id: str, limit: Limit, scope_value: str, amount: int) -> None:
        self.id = grant_id
        self.limit = limit
        """The rule's own, or after a restart the book's, which knows the unit."""
        self.scope_value = scope_value
        self.amount = amount
        self.usable_until_ms = 0
        """When its window or its lease ends."""
        self.renew_at_ms = 0
        self.touched = False
        """A request was paid from it."""
        self.in_doubt = False
        """The store may hear of it yet."""

    @property
    def hold(self) -> Hold:
        """What a request reserves in the book to be paid from it."""
        return Hold(_SPENT[self.limit.unit], self.id, self.amount)


class Allowance:
    """A counter's place among the allowances: the grant that is good now, if there is one."""

    __slots__ = ("asking", "grant", "key", "limit", "look_at_ms", "scope_value", "used_ms")

    def __init__(self, key: CounterKey, hold: Hold) -> None:
        self.key = key
        self.limit = hold.limit
        self.scope_value = hold.scope_value
        self.grant: Grant | None = None
        self.asking = False
        self.look_at_ms = 0
        """When a grant, or a fresher one, is due."""
        self.used_ms = 0
        """When a request last could have needed it."""


class Allowances:
    """Takes, replaces and ends the allowances of one sidecar."""

    def __init__(
        self, remote: Ledger, book: EmbeddedLedger, sidecar_id: str, contact: Contact
    ) -> None:
        self._remote = remote
        self._book = book
        self._sidecar_id = sidecar_id
        self._contact = contact
        self._kept: dict[CounterKey, Allowance] = {}
        self._ending: dict[str, Grant] = {}
        self._asked = 0
        self._made = 0
        self._now_ms = 0
        self._recover()

    def note(self, key: CounterKey, hold: Hold, now_ms: int) -> None:
        """A request on this counter: what it would need if the store went away now is made sure
        of. One look-up, unless something is due."""
        allowance = self._kept.get(key)
        if allowance is None:
            if len(self._kept) >= MAX_ALLOWANCES or hold.limit.emergency_amount <= 0:
                return
            allowance = self._kept[key] = Allowance(key, hold)
        allowance.used_ms = now_ms
        if now_ms >= allowance.look_at_ms:
            allowance.limit = hold.limit
            self._take(allowance, now_ms)

    def usable(self, key: CounterKey, now_ms: int) -> Grant | None:
        """What may be spent on this counter now."""
        allowance = self._kept.get(key)
        if allowance is None or allowance.grant is None:
            return None
        return allowance.grant if now_ms < allowance.grant.usable_until_ms else None

    def tend(self, now_ms: int) -> None:
        """About once a second. Bounded by ``MAX_ALLOWANCES``."""
        self._now_ms = now_ms
        for grant in list(self._ending.values()):
            self._end(grant, now_ms)
        for allowance in list(self._kept.values()):
            self._tend(allowance, now_ms)
        if len(self._kept) >= MAX_ALLOWANCES:
            by_use = sorted(self._kept.values(), key=lambda allowance: allowance.used_ms)
            for allowance in by_use[: MAX_ALLOWANCES // 8]:
                self._drop(allowance, now_ms)

    def give_back(self, now_ms: int) -> None:
        """The process ends: what is not needed for requests that still run is ended at once."""
        for allowance in list(self._kept.values()):
            self._drop(allowance, now_ms)

    @property
    def state(self) -> Mapping[str, object]:
        """For people: allowances that are held, and those that wait for requests to end."""
        held = sum(allowance.grant is not None for allowance in self._kept.values())
        return {"allowances": held, "ending": len(self._ending)}

    # -- taking -----------------------------------------------------------------------------------

    def _take(self, allowance: Allowance, now_ms: int) -> None:
        self._now_ms = max(self._now_ms, now_ms)
        limit, amount = allowance.limit, allowance.limit.emergency_amount
        if allowance.asking or self._contact.away or amount <= 0:
            return
        if self._asked >= MAX_ASKED or len(self._ending) >= MAX_ALLOWANCES:
            return
        allowance.look_at_ms = now_ms + RETRY_MS
        grant = Grant(self._new_id(allowance, now_ms), limit, allowance.scope_value, amount)
        try:
            self._book.correct(_TAKEN[limit.unit], grant.id, amount, now_ms, {"limit": limit.key})
            self._book.flush()
        except LedgerUnavailableError:
            return  # a full disk: nothing could be admitted from the allowance either
        # Up to what other traffic may fill the counter to: a fallback's share stays the fallback's.
        hold = Hold(limit, allowance.scope_value, limit.fallback_ceiling)
        account = Account((hold,), {"allowance_of": self._sidecar_id})
        try:
            outcome = self._remote.reserve(
                grant.id, account, _only(limit.unit, amount), now_ms, now_ms + LEASE_MS
            )
        except LedgerUnavailableError:  # it was not asked
            self._contact.lost((hold,))
            self._erase(grant, 0, now_ms)
            return
        if isinstance(outcome, Future):
            allowance.asking = True
            self._asked += 1
            outcome.add_done_callback(partial(self._answered, allowance, grant, now_ms))
        else:
            self._granted(allowance, grant, outcome, now_ms)

    def _answered(
        self, allowance: Allowance, grant: Grant, asked_ms: int, future: Future[Outcome]
    ) -> None:
        allowance.asking = False
        self._asked -= 1
        error = None if future.cancelled() else future.exception()
        if error is None and not future.cancelled():
            self._contact.made(self._now_ms)
            self._granted(allowance, grant, future.result(), asked_ms)
        elif isinstance(error, ValueError):
            self._end(grant, self._now_ms)  # the id has ended: this cannot be spent from
        else:
            self._contact.lost((Hold(grant.limit, grant.scope_value, NO_CEILING),))
            grant.in_doubt = True
            self._end(grant, self._now_ms)

    def _granted(self, allowance: Allowance, grant: Grant, outcome: Outcome, asked_ms: int) -> None:
        if isinstance(outcome, Denied):
            self._erase(grant, 0, self._now_ms)
            return
        if self._kept.get(allowance.key) is not allowance:
            self._end(grant, self._now_ms)  # given up while it was asked for
            return
        window = grant.limit.window
        if outcome.remaining:  # as the store's clock has it
            leaves_ms = outcome.remaining[0].resets_at_ms
        else:
            leaves_ms = window.leaves_ms(window.slot(asked_ms))
        grant.usable_until_ms = min(leaves_ms, asked_ms + LEASE_MS - END_BEFORE_MS)
        grant.renew_at_ms = asked_ms + REFRESH_MS
        fresh_ms = leaves_ms - asked_ms
        if isinstance(window, SlidingWindow):
            # What is spent from it counts with the slot in which it was taken, as the tokens of a
            # long stream do; so an outage shall find an allowance with half its window ahead.
            fresh_ms //= 2
        allowance.look_at_ms = asked_ms + min(REFRESH_MS, fresh_ms)
        replaced, allowance.grant = allowance.grant, grant
        if replaced is not None:
            self._end(replaced, self._now_ms)

    def _new_id(self, allowance: Allowance, now_ms: int) -> str:
        """Unique even if the clock steps back over a restart: what the book still has is known."""
        key, value = allowance.key
        slot = allowance.limit.window.slot(now_ms)
        while True:
            self._made += 1
            grant_id = f"{PREFIX}{self._sidecar_id}/{key}/{value}/{slot}/{now_ms:x}.{self._made}"
            if grant_id not in self._ending:
                return grant_id

    # -- keeping ----------------------------------------------------------------------------------

    def _tend(self, allowance: Allowance, now_ms: int) -> None:
        grant = allowance.grant
        if grant is not None and now_ms >= grant.usable_until_ms:
            allowance.grant = None
            self._end(grant, now_ms)
            grant = None
        if now_ms >= allowance.used_ms + IDLE_MS:
            self._drop(allowance, now_ms)
        elif self._contact.away:
            return
        elif grant is not None and grant.touched:
            if self._spent(grant, now_ms).reserved == 0:
                allowance.grant = None
                self._end(grant, now_ms)
                self._take(allowance, now_ms)
            else:
                self._renew(grant, now_ms)
        elif now_ms >= allowance.look_at_ms:
            self._take(allowance, now_ms)

    def _drop(self, allowance: Allowance, now_ms: int) -> None:
        del self._kept[allowance.key]
        grant, allowance.grant = allowance.grant, None
        if grant is not None:
            self._end(grant, now_ms)

    def _renew(self, grant: Grant, now_ms: int) -> None:
        if now_ms >= grant.renew_at_ms:
            grant.renew_at_ms = now_ms + REFRESH_MS
            self._remote.renew(grant.id, now_ms + LEASE_MS)

    # -- ending -----------------------------------------------------------------------------------

    def _end(self, grant: Grant, now_ms: int) -> None:
        """Settles a grant that is spent no more, once its requests have ended; until then, and
        until the end could be told, ``tend`` tries again."""
        self._ending[grant.id] = grant
        if grant.in_doubt and not self._contact.calm(now_ms):
            return
        standing = self._spent(grant, now_ms)
        if standing.reserved:
            self._renew(grant, now_ms)
            return
        spent, unit = standing.settled, grant.limit.unit
        try:
            about = {"allowance_of": self._sidecar_id, "taken": grant.amount}
            # Settled even at nothing: that also corrects an allowance whose lease was charged.
            self._remote.settle(grant.id, _only(unit, max(0, spent)), now_ms, about)
            self._remote.flush()  # before the book may forget it
        except LedgerUnavailableError:
            return
        self._erase(grant, spent, now_ms)

    def _erase(self, grant: Grant, spent: int, now_ms: int) -> None:
        """Takes a grant that has ended out of the book."""
        self._ending[grant.id] = grant
        unit = grant.limit.unit
        with suppress(LedgerUnavailableError):
            self._book.correct(_TAKEN[unit], grant.id, -grant.amount, now_ms, {"spent": spent})
            if spent:
                self._book.correct(_SPENT[unit], grant.id, -spent, now_ms, {})
            del self._ending[grant.id]

    def _spent(self, grant: Grant, now_ms: int) -> Standing:
        return self._book.peek((grant.hold,), now_ms)[0]

    def _recover(self) -> None:
        for key, grant_id, _, settled, reserved in self._book.counters():
            kind, _, number = key.partition("/")
            if settled or reserved:
                limit = _SPENT[int(number)]
                grant = self._ending.setdefault(grant_id, Grant(grant_id, limit, "", 0))
                grant.in_doubt = True
                if kind == "taken":
                    grant.amount = settled


def _only(unit: Unit, amount: int) -> Amounts:
    amounts: list[int] = [*NOTHING]
    amounts[unit] = amount
    return cast("Amounts", tuple(amounts))
