"""A remote ledger that may go away, and what each rule then lets go: ``on_store_failure``.

While the store answers, its answers are passed on. When it does not, the enforced limits of the
request decide together: one ``closed`` limit refuses it; ``open`` limits let it go uncounted;
``emergency_quota`` limits let it go if it fits what is left of this sidecar's allowances
(``allowance.py``), all of them or none. Limits that are only watched (shadow rules, overflow)
refuse nothing and count nothing then. What goes in this way is booked in the *book*, an embedded
ledger of this sidecar's own, which is durable before the request is sent.

**A question without an answer.** The store may have heard it: the request timed out, not the
reservation. Say X is such a request.

- X is refused: nothing is sent. Its reservation is ended at nothing, should there be one.
- X is let go: from then on it lives in the book alone. Whatever is said of X later (``settle``,
  ``release``, ``renew``, the end of its lease) goes where X was made, and ``EmbeddedLedger.knows``
  says where that was, also after a restart. In the store X is ended at nothing. So what X costs is
  counted once: in its allowance, which the store counts as reserved until it is settled.
- That end at nothing may overtake the question itself, and then finds nothing to end; it is told
  again later (``contact.py``), and until then X is not asked for again. Should the store hear the
  question later still, or this process die before it could repeat the end, X is charged a second
  time, in full, when its lease runs out: too much and never too little. No order of events charges
  too little, because nothing lowers the store's counters but the end of what was granted there.
- ``flush`` makes the store's side durable before the book. A process that dies in between has not
  answered X, so X was not sent, and is in neither. The other order would leave X in both.
"""

from __future__ import annotations

from asyncio import CancelledError, Future
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from extproc.ledger.allowance import PREFIX, Allowances, CounterKey
from extproc.ledger.contact import Contact
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.port import (
    Account,
    Denied,
    Granted,
    Hold,
    Ledger,
    LedgerUnavailableError,
    Outcome,
    Remaining,
    Settlement,
    Standing,
    StoreState,
)
from extproc.values.limit import NO_CEILING, NOTHING, Amounts, Limit, StoreFailure

_Question = tuple[str, Account, Amounts, int, int]
"""The arguments of ``reserve``."""

DEGRADED = "store_unavailable"
"""What ``Granted.degraded`` says of a request that was let go without the store."""


class EmergencyLedger:
    """Implements ``Ledger`` over a remote one. See the port for what the methods promise."""

    def __init__(self, remote: Ledger, book: EmbeddedLedger, sidecar_id: str) -> None:
        """``book`` is this sidecar's alone, and ``sidecar_id`` its name among all sidecars of the
        store. Costs nothing until a limit with ``emergency_quota`` is seen."""
        self._remote = remote
        self._book = book
        self._contact = Contact(remote)
        self._allowances = Allowances(remote, book, sidecar_id, self._contact)
        self._now_ms = 0

    # -- the port ---------------------------------------------------------------------------------

    def reserve(
        self,
        reservation_id: str,
        account: Account,
        amounts: Amounts,
        now_ms: int,
        lease_until_ms: int,
    ) -> Outcome | Future[Outcome]:
        """Asks the store. An account with a ``closed`` limit pays two look-ups for all this."""
        rules: Rules | None = account.store_failure
        if rules is None:
            rules = account.store_failure = Rules(account.holds)
        if self._book.knows(reservation_id):
            return self._asked_again(reservation_id, account, amounts, now_ms, lease_until_ms)
        if self._contact.doubts(reservation_id):
            raise LedgerUnavailableError("what became of an earlier question is not known")
        if not rules.let_go:
            return self._remote.reserve(reservation_id, account, amounts, now_ms, lease_until_ms)
        for key, hold in rules.quotas:
            self._allowances.note(key, hold, now_ms)
        self._now_ms = max(self._now_ms, now_ms)
        question = (reservation_id, account, amounts, now_ms, lease_until_ms)
        try:
            answer = self._remote.reserve(*question)
        except LedgerUnavailableError:
            return self._without_store(*question)  # it was not asked
        if isinstance(answer, Future):
            return _Answer(answer, self, question)
        return answer

    def answer(self, remote: Future[Outcome], question: _Question) -> Outcome:
        """What becomes of a question when the store's future is done. Raises what it has raised,
        or ``LedgerUnavailableError`` for what the rules do not let go."""
        try:
            outcome = remote.result()
        except (LedgerUnavailableError, CancelledError):
            self._contact.doubt(question[0], max(question[3], self._now_ms), DEGRADED)
            return self._without_store(*question)
        if self._contact.away:
            self._contact.made(self._now_ms)
        return outcome

    def settle(
        self, reservation_id: str, amounts: Amounts, now_ms: int, about: Mapping[str, object]
    ) -> Settlement | None:
        """See the port."""
        return self._place(reservation_id).settle(reservation_id, amounts, now_ms, about)

    def release(self, reservation_id: str, now_ms: int, reason: str) -> Settlement | None:
        """See the port."""
        return self._place(reservation_id).release(reservation_id, now_ms, reason)

    def renew(self, reservation_id: str, lease_until_ms: int, at_least: Amounts = NOTHING) -> bool:
        """See the port."""
        return self._place(reservation_id).renew(reservation_id, lease_until_ms, at_least)

    def expire(self, now_ms: int) -> Sequence[Settlement]:
        """What ended, of requests: allowances are nobody's business."""
        expired = list(self._book.expire(now_ms))
        for settlement in self._remote.expire(now_ms):
            if not settlement.reservation_id.startswith(PREFIX):
                expired.append(settlement)
        return expired

    def correct(
        self, limit: Limit, scope_value: str, amount: int, now_ms: int, about: Mapping[str, object]
    ) -> bool:
        """See the port."""
        return self._remote.correct(limit, scope_value, amount, now_ms, about)

    def peek(
        self, holds: Sequence[Hold], now_ms: int
    ) -> Sequence[Standing] | Future[Sequence[Standing]]:
        """What the store says: allowances are in it as reserved."""
        return self._remote.peek(holds, now_ms)

    def counters(self) -> Iterable[tuple[str, str, str, int, int]]:
        """What the store's side says: allowances are in it as reserved."""
        return self._remote.counters()

    @property
    def state(self) -> StoreState:
        """How the remote store is."""
        return self._remote.state

    @property
    def open_count(self) -> int:
        """Reservations of both sides that have not ended; allowances are among them."""
        return self._remote.open_count + self._book.open_count

    def flush(self) -> None:
        """The durability point. The order matters: see the module."""
        self._remote.flush()
        self._book.flush()

    def sync(self) -> None:
        """See the port."""
        self._remote.sync()
        self._book.sync()

    def tend(self, now_ms: int) -> None:
        """Bounded upkeep, about once a second."""
        self._now_ms = max(self._now_ms, now_ms)
        self._remote.tend(now_ms)
        self._book.tend(now_ms)
        self._contact.tend(now_ms)
        self._allowances.tend(now_ms)

    def close(self) -> None:
        """Gives everything free."""
        self.give_back()
        try:
            self._remote.close()
        finally:
            self._book.close()

    @property
    def remote(self) -> Ledger:
        """The store's side: whoever opened it closes it."""
        return self._remote

    # -- for the edge -----------------------------------------------------------------------------

    def give_back(self) -> None:
        """Ends the allowances that no request in flight needs. Before a remote store is told its
        last, so that they do not wait for their leases; ``close`` does it too."""
        self._allowances.give_back(self._now_ms)

    @property
    def emergency(self) -> Mapping[str, object]:
        """For people: what ``/usage`` says of the time without the store."""
        return {
            "answers": not self._contact.away,
            "open_without_store": self._book.open_count,
            **self._allowances.state,
        }

    # -- inside -----------------------------------------------------------------------------------

    def _place(self, reservation_id: str) -> Ledger:
        """Where a reservation was made."""
        return self._book if self._book.knows(reservation_id) else self._remote

    def _asked_again(
        self, reservation_id: str, account: Account, amounts: Amounts, now_ms: int, lease_ms: int
    ) -> Outcome:
        again = Account((), account.about)
        outcome = self._book.reserve(reservation_id, again, amounts, now_ms, lease_ms)
        return outcome._replace(degraded=DEGRADED) if isinstance(outcome, Granted) else outcome

    def _without_store(
        self,
        reservation_id: str,
        account: Account,
        amounts: Amounts,
        asked_ms: int,
        lease_until_ms: int,
    ) -> Granted:
        """What the rules let go. Raises ``LedgerUnavailableError`` for what they do not."""
        now_ms = max(asked_ms, self._now_ms)
        self._contact.lost(account.holds)
        rules: Rules = account.store_failure
        grants = []
        for key, hold in rules.quotas:
            grant = self._allowances.usable(key, now_ms)
            if grant is None:
                raise LedgerUnavailableError(f"there is no allowance of {hold.limit.key}")
            grants.append(grant)
        booked = Account([grant.hold for grant in grants], {**account.about, "degraded": DEGRADED})
        outcome = self._book.reserve(reservation_id, booked, amounts, now_ms, lease_until_ms)
        if isinstance(outcome, Denied):
            raise LedgerUnavailableError("the allowance of this sidecar is used up")
        for grant in grants:
            grant.touched = True
        paid = {
            grant.id: (hold, grant.usable_until_ms)
            for grant, (_, hold) in zip(grants, rules.quotas, strict=True)
        }
        remaining = []
        for left in outcome.remaining:
            hold, until_ms = paid[left.hold.scope_value]
            remaining.append(Remaining(hold, left.amount, until_ms))
        return outcome._replace(remaining=remaining, degraded=DEGRADED)


class Rules:
    """What the limits of an account say for when the store is away. Found once per account."""

    __slots__ = ("let_go", "quotas")

    def __init__(self, holds: Sequence[Hold]) -> None:
        enforced = [hold for hold in holds if hold.ceiling < NO_CEILING]
        self.let_go = all(
            hold.limit.on_store_failure is not StoreFailure.CLOSED for hold in enforced
        )
        """No enforced limit is closed."""
        self.quotas: tuple[tuple[CounterKey, Hold], ...] = ()
        """The counters that have to pay from an allowance."""
        if self.let_go:
            self.quotas = tuple(
                ((hold.limit.key, hold.scope_value), hold)
                for hold in enforced
                if hold.limit.on_store_failure is StoreFailure.EMERGENCY_QUOTA
            )


class _Answer(Future[Outcome]):
    """The store's answer, or what is done instead.

    Whoever waits for it is called by the store's own future, in the same pass of the event loop:
    a future that waits for another one would cost every request one more pass. It is made up when
    the first of them is called.
    """

    def __init__(
        self, remote: Future[Outcome], ledger: EmergencyLedger, question: _Question
    ) -> None:
        super().__init__(loop=remote.get_loop())
        self._remote = remote
        self._ledger = ledger
        self._question = question

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Any = None) -> None:
        if self.done():
            super().add_done_callback(fn, context=context)
        else:
            self._remote.add_done_callback(partial(self._tell, fn), context=context)

    def _tell(self, fn: Callable[[Any], object], remote: Future[Outcome]) -> None:
        if not self.done():  # by another one who waited, or given up
            try:
                self.set_result(self._ledger.answer(remote, self._question))
            except Exception as error:  # noqa: BLE001  a future carries what it is given
                self.set_exception(error)
        fn(self)
