"""The ledger port: what every store of counters promises.

``settled + reserved <= ceiling`` holds for every enforced hold at every moment. A store that cannot
be sure refuses: it never guesses in the caller's favour.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from extproc.values.limit import NOTHING, Amounts, Limit


class Hold(NamedTuple):
    """One counter that a reservation touches."""

    limit: Limit
    scope_value: str
    """Length-safe key of the scope's values; empty for a shared counter."""
    ceiling: int
    """What this request may fill the counter up to: usually ``limit.ceiling``; the fallback share
    of a budget; ``NO_CEILING`` to count without refusing (shadow, overflow)."""


class Account:
    """What one kind of request is booked on: its holds, and what the usage log says of it.

    Made once per kind and shared by all its requests: compared by identity on purpose, so that a
    store may keep what it found for it in ``memo``.
    """

    __slots__ = ("about", "holds", "memo", "store_failure")

    def __init__(self, holds: Sequence[Hold], about: Mapping[str, object]) -> None:
        self.holds = tuple(holds)
        self.about = about
        self.memo: Any = None
        """The store's own."""
        self.store_failure: Any = None
        """What the rules of the holds say for when the store is away: kept by ``EmergencyLedger``,
        which wraps a store and must not touch ``memo``."""


class Standing(NamedTuple):
    """One counter that is too full for a request, in its limit's unit."""

    hold: Hold
    settled: int
    reserved: int
    resets_at_ms: int | None
    """When enough capacity returns by time alone; None when it never fits."""


class Remaining(NamedTuple):
    """What a granted reservation leaves of one counter."""

    hold: Hold
    amount: int
    """Below the ceiling; never negative."""
    resets_at_ms: int
    """When all that counts now has left the window."""


class Granted(NamedTuple):
    """All holds were taken."""

    remaining: Sequence[Remaining]
    """Of the tightest request limit, token limit, strict money limit and statistical money limit,
    in this order, as far as there are such: what the answer's headers show."""
    would_block: Sequence[str]
    """Rule ids of shadow limits that would have refused."""
    money_left_micro_usd: int
    """The least that any enforced strict money limit has left."""
    likely_left_micro_usd: int
    """The least that any enforced statistical money limit has left."""
    degraded: str = ""
    """Empty; or why the store could not be asked, where rules let the request go without it."""


class Denied(NamedTuple):
    """Nothing was taken."""

    standings: Sequence[Standing]
    """Every hold that does not fit, in hold order."""


Outcome = Granted | Denied


class Settlement(NamedTuple):
    """What the end of a reservation charged."""

    reservation_id: str
    charged: Amounts
    late: bool
    """It had ended before; the difference was appended as a correction."""


class LedgerUnavailableError(Exception):
    """The store could not be asked or could not make the answer durable. Nothing is admitted.

    ``reason`` is one stable word for metrics and headers, e.g. ``timeout``, ``amnesia``."""

    def __init__(self, message: str, reason: str = "journal") -> None:
        super().__init__(message)
        self.reason = reason


class StoreState(NamedTuple):
    """How the store is, for operators."""

    condition: str
    """``ok``; ``degraded``: it decides, but something is to be looked at; ``closed``: it cannot
    decide, nothing is admitted by it."""
    reason: str
    """One stable word; empty when ok."""
    detail: str
    """For people."""
    undelivered: int = 0
    """Ends of reservations that the store has not been told yet."""


ALL_WELL = StoreState("ok", "", "")


class Ledger(Protocol):
    """Counters with reservations. Every call is idempotent by reservation id.

    A store in this process answers at once. A remote one gives a future for what it must be asked
    for (``reserve``, ``peek``), and takes what it must only be told (the ends of reservations) at
    its word: those are journaled here and delivered when the store can be reached.
    ``LedgerUnavailableError`` is raised when a question was not asked; as a future's exception it
    says that there is no answer, though the question may have been heard.
    """

    def reserve(
        self,
        reservation_id: str,
        account: Account,
        amounts: Amounts,
        now_ms: int,
        lease_until_ms: int,
    ) -> Outcome | Future[Outcome]:
        """Takes all holds of the account or none.

        Asked again with the id of a reservation that is open, it says ``Granted`` once more and
        takes nothing. Raises ``ValueError`` for an id that has ended, and for amounts out of range.
        """
        ...

    def settle(
        self, reservation_id: str, amounts: Amounts, now_ms: int, about: Mapping[str, object]
    ) -> Settlement | None:
        """Replaces the reserved amounts by the real ones; None when the id is unknown or was
        settled before. After an expiry or a release the difference is charged, once."""
        ...

    def release(self, reservation_id: str, now_ms: int, reason: str) -> Settlement | None:
        """Gives everything back: only for an attempt that provably cost nothing."""
        ...

    def renew(self, reservation_id: str, lease_until_ms: int, at_least: Amounts = NOTHING) -> bool:
        """Extends a live reservation's lease, and raises what it holds to ``at_least``, unit by
        unit: a call that is known to have cost more already is held at that, as debt if need be.
        False for a reservation that is not open."""
        ...

    def expire(self, now_ms: int) -> Sequence[Settlement]:
        """Ends reservations past their lease by *charging* them in full."""
        ...

    def correct(
        self, limit: Limit, scope_value: str, amount: int, now_ms: int, about: Mapping[str, object]
    ) -> bool:
        """Appends a correction of mispriced history to a counter's current slot: ``amount`` is in
        the limit's unit and may be negative, but takes nothing below zero (False then, and nothing
        is changed). History itself is never edited."""
        ...

    def peek(
        self, holds: Sequence[Hold], now_ms: int
    ) -> Sequence[Standing] | Future[Sequence[Standing]]:
        """Reads counters without changing them: what is settled and reserved of each hold now."""
        ...

    def counters(self) -> Iterable[tuple[str, str, str, int, int]]:
        """(limit key, scope value, window, settled, reserved) of every counter this process has
        a part in; of a shared store, this process's own part."""
        ...

    @property
    def state(self) -> StoreState:
        """How the store is now. Cheap: asked by the admin API and the metrics."""
        ...

    @property
    def open_count(self) -> int:
        """Reservations of this process that have not ended."""
        ...

    def flush(self) -> None:
        """The durability point: what was granted before is durable when this returns.

        Raises ``LedgerUnavailableError``; then no answer may leave.
        """
        ...

    def sync(self) -> None:
        """Makes what was flushed survive the machine. Blocks: called from a thread."""
        ...

    def tend(self, now_ms: int) -> None:
        """Bounded upkeep, about once a second."""
        ...

    def close(self) -> None:
        """Gives everything free."""
        ...
