"""The reference ledger: slow, obvious, and the oracle that the others are compared with.

It keeps every reservation for ever and computes each counter from scratch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from extproc.ledger.port import (
    ALL_WELL,
    Account,
    Denied,
    Granted,
    Hold,
    Settlement,
    Standing,
    StoreState,
)
from extproc.values.limit import NO_CEILING, NOTHING, Amounts, Limit


@dataclass
class _Entry:
    holds: Sequence[Hold]
    amounts: Amounts
    made_ms: int
    lease_until_ms: int
    ended: str = ""


class MemoryLedger:
    """Implements ``Ledger`` by definition."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def reserve(
        self,
        reservation_id: str,
        account: Account,
        amounts: Amounts,
        now_ms: int,
        lease_until_ms: int,
    ) -> Granted | Denied:
        """See the port."""
        known = self._entries.get(reservation_id)
        if known is not None:
            if known.ended:
                raise ValueError("has ended")
            return Granted([], [], NO_CEILING, NO_CEILING)
        full = [
            self._standing(hold, now_ms)
            for hold in account.holds
            if self.used(hold, now_ms) + amounts[hold.limit.unit] > hold.ceiling
        ]
        if full:
            return Denied(full)
        self._entries[reservation_id] = _Entry(account.holds, amounts, now_ms, lease_until_ms)
        return Granted([], [], NO_CEILING, NO_CEILING)

    def settle(
        self, reservation_id: str, amounts: Amounts, now_ms: int, about: Mapping[str, object]
    ) -> Settlement | None:
        """See the port."""
        entry = self._entries.get(reservation_id)
        if entry is None or entry.ended == "settled":
            return None
        late = bool(entry.ended)
        entry.amounts, entry.ended = amounts, "settled"
        return Settlement(reservation_id, amounts, late)

    def release(self, reservation_id: str, now_ms: int, reason: str) -> Settlement | None:
        """See the port."""
        entry = self._entries.get(reservation_id)
        if entry is None or entry.ended:
            return None
        entry.amounts, entry.ended = NOTHING, "released"
        return Settlement(reservation_id, entry.amounts, False)

    def renew(self, reservation_id: str, lease_until_ms: int, at_least: Amounts = NOTHING) -> bool:
        """See the port."""
        entry = self._entries.get(reservation_id)
        if entry is None or entry.ended:
            return False
        entry.lease_until_ms = lease_until_ms
        entry.amounts = cast("Amounts", tuple(map(max, entry.amounts, at_least)))
        return True

    def correct(
        self, limit: Limit, scope_value: str, amount: int, now_ms: int, about: Mapping[str, object]
    ) -> bool:
        """See the port."""
        hold = Hold(limit, scope_value, NO_CEILING)
        settled = self.used(hold, now_ms) - self.used(hold, now_ms, open_only=True)
        if settled + amount < 0:
            return False
        amounts = [0] * len(NOTHING)
        amounts[limit.unit] = amount
        self._entries[f"correction {len(self._entries)}"] = _Entry(
            [hold], cast("Amounts", tuple(amounts)), now_ms, now_ms, "settled"
        )
        return True

    def peek(self, holds: Sequence[Hold], now_ms: int) -> Sequence[Standing]:
        """See the port."""
        return [self._standing(hold, now_ms) for hold in holds]

    def expire(self, now_ms: int) -> Sequence[Settlement]:
        """See the port."""
        expired = []
        for reservation_id, entry in self._entries.items():
            if not entry.ended and entry.lease_until_ms <= now_ms:
                entry.ended = "expired"
                expired.append(Settlement(reservation_id, entry.amounts, False))
        return expired

    @property
    def state(self) -> StoreState:
        """See the port."""
        return ALL_WELL

    def used(self, hold: Hold, now_ms: int, *, open_only: bool = False) -> int:
        """What a counter holds, settled and reserved, by looking at everything."""
        window = hold.limit.window
        oldest = window.oldest_slot(window.slot(now_ms))
        total = 0
        for entry in self._entries.values():
            if open_only and entry.ended:
                continue
            if window.slot(entry.made_ms) < oldest:
                continue
            for other in entry.holds:
                if (other.limit.key, other.scope_value) == (hold.limit.key, hold.scope_value):
                    total += entry.amounts[hold.limit.unit]
        return total

    def _standing(self, hold: Hold, now_ms: int) -> Standing:
        reserved = self.used(hold, now_ms, open_only=True)
        return Standing(hold, self.used(hold, now_ms) - reserved, reserved, None)
