"""One counter: what was used and what is held, by slot of its window."""

from __future__ import annotations

from collections import deque

from extproc.values.window import Window


class Cell:
    """The amounts of one slot. ``amount`` includes what is still ``reserved``."""

    __slots__ = ("amount", "era", "live", "reserved", "slot")

    def __init__(self, slot: int, amount: int = 0, reserved: int = 0, era: int = 0) -> None:
        self.slot = slot
        self.amount = amount
        self.reserved = reserved
        self.era = era
        """How often the counter's window had been edited when this slot was current."""
        self.live = True
        """False once the cell is no part of its counter: late changes look where they count now."""


class Counter:
    """A sum over a window, kept up to date in constant time.

    ``total`` is settled plus reserved. A reservation belongs to the slot in which it was made, and
    so does its settlement: time passing moves both out together.
    """

    __slots__ = (
        "cell",
        "cells",
        "declared_in",
        "dropped",
        "edits",
        "ends_ms",
        "first_slot",
        "first_window",
        "key",
        "number",
        "scope_value",
        "successor",
        "total",
        "window",
    )

    def __init__(self, key: str, scope_value: str, window: Window, now_ms: int) -> None:
        self.key = key
        self.scope_value = scope_value
        self.window = window
        self.total = 0
        self.cell = Cell(window.slot(now_ms))
        self.cells: deque[Cell] = deque((self.cell,))
        self.ends_ms = window.slot_ends_ms(self.cell.slot)
        self.number = -1
        self.dropped = False
        """The ledger forgot it because it stood at zero."""
        self.edits: tuple[tuple[int, int], ...] = ()
        """For each edit of the window: the oldest slot that still counted, and the slot of the
        next window in which everything that counted was put."""
        self.first_window = window
        self.first_slot = self.cell.slot
        self.successor: tuple[Counter, int] | None = None
        """The counter that took this one over, and how often its window had been edited then."""
        self.declared_in = -1
        """Journal segment that holds this counter's declaration."""

    @property
    def reserved(self) -> int:
        """The part of ``total`` that is not settled yet. Summed when somebody asks."""
        return sum([cell.reserved for cell in self.cells])

    @property
    def empties_ms(self) -> int:
        """When all that counts now has left the window."""
        return self.window.leaves_ms(self.cell.slot)

    def advance(self, now_ms: int) -> None:
        """Moves to the slot of ``now_ms``. A clock that steps back changes nothing."""
        if now_ms < self.ends_ms:
            return
        slot = self.window.slot(now_ms)
        oldest = self.window.oldest_slot(slot)
        cells = self.cells
        while cells and cells[0].slot < oldest:
            gone = cells.popleft()
            gone.live = False
            self.total -= gone.amount
        before, self.cell = self.cell, Cell(slot, 0, 0, len(self.edits))
        if before.live and before.amount == 0 and before.reserved == 0:
            # Empty slots are not kept; a late change of one makes it again (``cell_at``).
            cells.pop()
            before.live = False
        cells.append(self.cell)
        self.ends_ms = self.window.slot_ends_ms(slot)

    def fits_at_ms(self, amount: int, ceiling: int) -> int | None:
        """When ``amount`` fits by time alone; None when it is above the ceiling itself."""
        if amount > ceiling:
            return None
        excess = self.total + amount - ceiling
        for cell in self.cells:
            if excess <= 0:
                break
            excess -= cell.amount
            leaves_ms = self.window.leaves_ms(cell.slot)
        else:
            return None if excess > 0 else leaves_ms
        return leaves_ms if self.total + amount > ceiling else self.ends_ms

    def correct(self, amount: int) -> None:
        """Adds to, or with a negative amount takes from, what is settled. What the newest slot does
        not have is taken from the older ones, newest first."""
        self.total += amount
        for cell in reversed(self.cells):
            change = max(amount, min(0, cell.reserved - cell.amount))
            cell.amount += change
            amount -= change
        # Of a shared store's counter this may be the part that has less than is taken back.
        self.cell.amount += amount

    def slot_now(self, slot: int, era: int) -> int | None:
        """The slot that stands for one of an earlier window; None for one that had left it when
        the window was edited."""
        for oldest, merged in self.edits[era:]:
            if slot < oldest:
                return None
            slot = merged
        return slot

    def cell_at(self, slot: int) -> Cell | None:
        """The cell of a slot, made if there is none; None for a slot that has left the window."""
        if slot < self.window.oldest_slot(self.cell.slot):
            return None
        for place, cell in enumerate(self.cells):
            if cell.slot == slot:
                return cell
            if cell.slot > slot:
                made = Cell(slot, 0, 0, len(self.edits))
                self.cells.insert(place, made)
                return made
        return self.cell

    def restore(self, cells: list[list[int]]) -> None:
        """Takes over recorded cells (slot, amount, reserved), oldest first."""
        for cell in self.cells:
            cell.live = False
        era = len(self.edits)
        restored = [Cell(slot, amount, reserved, era) for slot, amount, reserved in cells]
        restored = restored or [self.cell]
        self.cells = deque(restored)
        self.cell = restored[-1]
        self.cell.live = True
        self.total = sum(cell.amount for cell in restored)
        self.ends_ms = self.window.slot_ends_ms(self.cell.slot)

    def rewindow(self, window: Window, now_ms: int) -> None:
        """Takes an edited window. What counts now goes on to count, in the new window from now on:
        an edit gives nobody a fresh allowance."""
        self.advance(now_ms)
        total, reserved = self.total, self.reserved
        slot = window.slot(now_ms)
        self.edits += ((self.window.oldest_slot(self.cell.slot), slot),)
        for cell in self.cells:
            cell.live = False
        self.window = window
        self.cell = Cell(slot, total, reserved, len(self.edits))
        self.cells = deque((self.cell,))
        self.ends_ms = window.slot_ends_ms(slot)

    def absorb(self, other: Counter, now_ms: int) -> None:
        """Takes over what another counter has, because its rule was renamed to this one's."""
        if other.window != self.window:
            other.rewindow(self.window, now_ms)
        other.advance(now_ms)
        self.advance(now_ms)
        for cell in other.cells:
            cell.live = False
            mine = self.cell_at(cell.slot)
            if mine is not None:
                mine.amount += cell.amount
                mine.reserved += cell.reserved
                self.total += cell.amount
        other.total = 0
        other.successor = (self, len(self.edits))
