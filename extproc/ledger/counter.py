"""One counter: what was used and what is held, by slot of its window."""

from __future__ import annotations

from collections import deque

from extproc.values.window import Window


class Cell:
    """The amounts of one slot. ``amount`` includes what is still ``reserved``."""

    __slots__ = ("amount", "forward", "live", "reserved", "slot")

    def __init__(self, slot: int, amount: int = 0, reserved: int = 0) -> None:
        self.slot = slot
        self.amount = amount
        self.reserved = reserved
        self.live = True
        """False once the slot has left the window: late changes no longer count."""
        self.forward: Cell | None = None
        """The cell that this one was merged into, if it was."""

    def merged(self) -> Cell | None:
        """The cell that counts for a merged one now; None when it has left the window."""
        cell: Cell | None = self
        while cell is not None and not cell.live:
            cell = cell.forward
        return cell


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
        "ends_ms",
        "key",
        "number",
        "scope_value",
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
        before, self.cell = self.cell, Cell(slot)
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
            change = max(amount, cell.reserved - cell.amount)
            cell.amount += change
            amount -= change

    def counting(self, taken: Cell) -> Cell | None:
        """The cell in which a late change of ``taken`` counts; None when it counts no more."""
        if taken.live:
            return taken
        return self.cell_at(taken.slot) if taken.forward is None else taken.merged()

    def cell_at(self, slot: int) -> Cell | None:
        """The cell of a slot, made if there is none; None for a slot that has left the window."""
        if slot < self.window.oldest_slot(self.cell.slot):
            return None
        for place, cell in enumerate(self.cells):
            if cell.slot == slot:
                return cell
            if cell.slot > slot:
                made = Cell(slot)
                self.cells.insert(place, made)
                return made
        return self.cell

    def restore(self, cells: list[list[int]]) -> None:
        """Takes over recorded cells (slot, amount, reserved), oldest first."""
        for cell in self.cells:
            cell.live = False
        restored = [Cell(*values) for values in cells] or [self.cell]
        self.cells = deque(restored)
        self.cell = restored[-1]
        self.cell.live = True
        self.total = sum(cell.amount for cell in restored)
        self.ends_ms = self.window.slot_ends_ms(self.cell.slot)

    def rewindow(self, window: Window, now_ms: int) -> None:
        """Takes an edited window. What counted until now counts in the new window from now on:
        an edit gives nobody a fresh allowance."""
        if window == self.window:
            self.window = window
            return
        self.advance(now_ms)
        total, reserved = self.total, self.reserved
        self.window = window
        self.cell.slot = window.slot(now_ms)
        for cell in self.cells:
            if cell is not self.cell:
                # Open reservations of older slots still point to their cells.
                cell.live = False
                cell.forward = self.cell
        self.cells = deque((self.cell,))
        self.cell.amount, self.cell.reserved = total, reserved
        self.ends_ms = window.slot_ends_ms(self.cell.slot)
