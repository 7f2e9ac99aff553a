"""A counter as the proof sees it: what is settled and reserved in each slot of its window.

Written for ``verification``, and without the ledger's own counters: two programs that agree.
"""

from __future__ import annotations

from extproc.values.window import Window


class Tally:
    """Settled and reserved amounts by slot. Slots at zero are not kept."""

    def __init__(self, key: str, scope_value: str, window: Window, slot: int) -> None:
        self.key = key
        self.scope_value = scope_value
        self.window = window
        self.newest = slot
        """The latest slot that time has reached."""
        self.slots: dict[int, list[int]] = {}
        self.settled = 0
        self.reserved = 0
        self.overruns = 0
        """What was used above what had been reserved, in all."""
        self.first_window, self.first_slot = window, slot
        self.edits: list[tuple[int, int]] = []
        """For each edit of the window: the oldest slot that counted, and where all of it went."""
        self.taken_over_by: tuple[Tally, int] | None = None
        self.forgotten = False
        self.segment = 0
        """Where it was declared last."""
        self._next_ms = window.slot_ends_ms(slot)

    @property
    def total(self) -> int:
        """All that counts."""
        return self.settled + self.reserved

    @property
    def era(self) -> int:
        """How often the window was edited."""
        return len(self.edits)

    def total_at(self, now_ms: int) -> int:
        """All that counts at a time which may be later than the latest record of this counter."""
        oldest = self.window.oldest_slot(max(self.newest, self.window.slot(now_ms)))
        return sum(sum(pair) for slot, pair in self.slots.items() if slot >= oldest)

    def advance(self, now_ms: int) -> None:
        """Time passes: slots leave the window. A clock that steps back changes nothing."""
        if now_ms >= self._next_ms:
            self.advance_to(self.window.slot(now_ms))

    def advance_to(self, slot: int) -> None:
        """As ``advance``, to a slot."""
        if slot <= self.newest:
            return
        self.newest = slot
        self._next_ms = self.window.slot_ends_ms(slot)
        oldest = self.window.oldest_slot(slot)
        for gone in [slot for slot in self.slots if slot < oldest]:
            settled, reserved = self.slots.pop(gone)
            self.settled -= settled
            self.reserved -= reserved

    def counts(self, slot: int) -> bool:
        """Whether a slot is in the window."""
        return slot >= self.window.oldest_slot(self.newest)

    def change(self, slot: int, settled: int, reserved: int) -> None:
        """Adds to a slot's amounts."""
        slot = min(slot, self.newest)
        pair = self.slots.setdefault(slot, [0, 0])
        pair[0] += settled
        pair[1] += reserved
        self.settled += settled
        self.reserved += reserved
        if pair == [0, 0]:
            del self.slots[slot]

    def add_reserved(self, amount: int, now_ms: int) -> int:
        """A reservation; the slot that it belongs to from now on."""
        self.advance(now_ms)
        if amount:
            self.change(self.newest, 0, amount)
        return self.newest

    def settled_in(self, slot: int) -> int:
        """What is settled in one slot."""
        return self.slots.get(min(slot, self.newest), (0, 0))[0]

    def negative(self, slot: int) -> bool:
        """Whether a slot holds less than nothing."""
        return min(self.slots.get(min(slot, self.newest), (0, 0))) < 0

    def slots_as_pairs(self) -> dict[int, tuple[int, int]]:
        """Settled and reserved by slot."""
        return {slot: (pair[0], pair[1]) for slot, pair in sorted(self.slots.items())}

    def restore(self, slots: dict[int, tuple[int, int]]) -> None:
        """Takes a declared state."""
        for slot, (settled, reserved) in slots.items():
            self.change(slot, settled, reserved)

    def correct(self, amount: int) -> None:
        """More is settled in the newest slot; less is taken newest first."""
        for slot in sorted(self.slots, reverse=True) if amount < 0 else ():
            taken = max(0, min(self.slots[slot][0], -amount))
            self.change(slot, -taken, 0)
            amount += taken
        if amount:
            self.change(self.newest, amount, 0)

    def slot_now(self, slot: int, era: int) -> int | None:
        """The slot in the present window; None for one that had left an earlier window."""
        for oldest, merged in self.edits[era:]:
            if slot < oldest:
                return None
            slot = merged
        return slot

    def rewindow(self, window: Window, now_ms: int) -> None:
        """All that counts at an edit counts in the new window from then on."""
        self.advance(now_ms)
        oldest, settled, reserved = (
            self.window.oldest_slot(self.newest),
            self.settled,
            self.reserved,
        )
        self.window, self.newest = window, window.slot(now_ms)
        self._next_ms = window.slot_ends_ms(self.newest)
        self.edits.append((oldest, self.newest))
        self.slots = {self.newest: [settled, reserved]} if settled or reserved else {}

    def take_over(self, other: Tally, now_ms: int) -> None:
        """What a renamed rule's counter had counts here."""
        if other.window != self.window:
            other.rewindow(self.window, now_ms)
        other.advance(now_ms)
        self.advance(now_ms)
        for slot, (settled, reserved) in other.slots_as_pairs().items():
            if self.counts(slot):
                self.change(slot, settled, reserved)
        other.slots = {}
        other.settled = other.reserved = 0
        other.taken_over_by = (self, self.era)
        self.overruns += other.overruns
