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
from extproc.values.window import Window


@dataclass
class _Part:
    """What an entry counts in one counter."""

    key: str
    scope_value: str
    unit: int
    counts_from_ms: int
    """When it was made; or when the counter's window was edited, if it counted then."""
    counts: bool = True
    """False for what had left the window that was edited."""


@dataclass
class _Entry:
    parts: list[_Part]
    amounts: Amounts
    lease_until_ms: int
    ended: str = ""


class MemoryLedger:
    """Implements ``Ledger`` by definition."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._windows: dict[tuple[str, str], Window] = {}
        self._renamed: dict[str, str] = {}
        self._latest_ms = 0

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
        now_ms = self._time(now_ms)
        holds = [self._as_of_now(hold, now_ms) for hold in account.holds]
        full = [
            self._standing(hold, now_ms)
            for hold in holds
            if self.used(hold, now_ms) + amounts[hold.limit.unit] > hold.ceiling
        ]
        if full:
            return Denied(full)
        parts = [_Part(self._name(h), h.scope_value, h.limit.unit, now_ms) for h in holds]
        self._entries[reservation_id] = _Entry(parts, amounts, lease_until_ms)
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
        now_ms = self._time(now_ms)
        hold = self._as_of_now(Hold(limit, scope_value, NO_CEILING), now_ms)
        settled = self.used(hold, now_ms) - self.used(hold, now_ms, open_only=True)
        if settled + amount < 0:
            return False
        amounts = [0] * len(NOTHING)
        amounts[limit.unit] = amount
        part = _Part(self._name(hold), scope_value, limit.unit, now_ms)
        self._entries[f"correction {len(self._entries)}"] = _Entry(
            [part], cast("Amounts", tuple(amounts)), now_ms, "settled"
        )
        return True

    def peek(self, holds: Sequence[Hold], now_ms: int) -> Sequence[Standing]:
        """See the port."""
        return [self._standing(hold, now_ms) for hold in holds]

    def expire(self, now_ms: int) -> Sequence[Settlement]:
        """See the port."""
        now_ms = self._time(now_ms)
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
        now_ms = max(now_ms, self._latest_ms)
        total = 0
        for key in {self._name(hold), hold.limit.renamed_from}:
            window = self._windows.get((key, hold.scope_value), hold.limit.window)
            oldest = window.oldest_slot(window.slot(now_ms))
            for entry in self._entries.values():
                if open_only and entry.ended:
                    continue
                for part in entry.parts:
                    if (part.key, part.scope_value) != (key, hold.scope_value) or not part.counts:
                        continue
                    if window.slot(part.counts_from_ms) >= oldest:
                        total += entry.amounts[part.unit]
        return total

    def _time(self, now_ms: int) -> int:
        """A clock that steps back stands still."""
        self._latest_ms = max(self._latest_ms, now_ms)
        return self._latest_ms

    def _name(self, hold: Hold) -> str:
        """The limit's key, or what it was renamed to."""
        key = hold.limit.key
        while key in self._renamed:
            key = self._renamed[key]
        return key

    def _as_of_now(self, hold: Hold, now_ms: int) -> Hold:
        """Sees to it that edits of the rule's window and name have taken effect."""
        limit, value = hold.limit, hold.scope_value
        if limit.renamed_from:
            self._renamed.pop(limit.key, None)
            self._renamed[limit.renamed_from] = limit.key
        name = self._name(hold)
        if name == limit.key:
            self._edit(name, value, limit.window, now_ms)
        if limit.renamed_from:
            self._edit(limit.renamed_from, value, limit.window, now_ms)
            for part in self._parts(limit.renamed_from, value):
                part.key = name
            self._windows.pop((limit.renamed_from, value), None)
        return hold

    def _edit(self, key: str, scope_value: str, window: Window, now_ms: int) -> None:
        """What counts now goes on to count, from now on; what had left never counts again."""
        before = self._windows.setdefault((key, scope_value), window)
        if before == window:
            return
        oldest = before.oldest_slot(before.slot(now_ms))
        for part in self._parts(key, scope_value):
            part.counts = part.counts and before.slot(part.counts_from_ms) >= oldest
            part.counts_from_ms = now_ms
        self._windows[key, scope_value] = window

    def _parts(self, key: str, scope_value: str) -> list[_Part]:
        entries = self._entries.values()
        parts = [part for entry in entries for part in entry.parts]
        return [part for part in parts if (part.key, part.scope_value) == (key, scope_value)]

    def _standing(self, hold: Hold, now_ms: int) -> Standing:
        reserved = self.used(hold, now_ms, open_only=True)
        return Standing(hold, self.used(hold, now_ms) - reserved, reserved, None)
