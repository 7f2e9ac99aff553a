"""Kills ordered by operators: in effect at once, on disk before they are confirmed.

A confirmed kill outlives ``kill -9``: the sidecar reads the file before it admits anything,
and does not start on one that it cannot read. With several sidecars a ``KillShare`` carries the
orders to the others; of two orders about the same value the later one holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from extproc.core.gate import Gate
from extproc.edge.clock import Clock
from extproc.edge.share_link import RETRY_S
from extproc.ledger.replaced_file import replace_file
from extproc.policy.kill_documents import MAX_REASON_CHARACTERS, is_kill_value
from extproc.policy.matching import MATCH_FIELDS
from extproc.policy.snapshot import Kill

_log = logging.getLogger(__name__)

FILE = "kill-switch.json"
MAX_ORDERS = 10_000
"""Values stopped at a time, and revivals remembered: 2 MB of file. More is policy, not alarm."""


class Order(NamedTuple):
    """A value was stopped, or revived."""

    field: str
    value: str
    reason: str
    at_ms: int
    killed: bool

    @property
    def is_sound(self) -> bool:
        """Whether it can be obeyed: from a file or a share it may be anything."""
        sound = self.field in MATCH_FIELDS and is_kill_value(self.value)
        return sound and len(self.reason) <= MAX_REASON_CHARACTERS


Apply = Callable[[Iterable[Order]], Awaitable[None]]
Known = Callable[[], Iterable[Order]]


class KillShare(Protocol):
    """How the sidecars of one policy tell each other. Orders may come twice and in any order."""

    async def publish(self, order: Order) -> None:
        """Makes an order known, and keeps it for sidecars that start later."""
        ...

    async def watch(self, apply: Apply, known: Known) -> None:
        """Applies every order that is kept, and each new one within a second, until cancelled. What
        is known here and was lost there is made known again.

        Returning or raising means that the share was lost: it is watched again.
        """
        ...


class NoShare:
    """One sidecar alone."""

    async def publish(self, order: Order) -> None:
        """Nobody is to be told."""

    async def watch(self, apply: Apply, known: Known) -> None:
        """Nothing ever comes."""
        await asyncio.Event().wait()


class KillBoardError(Exception):
    """The kill switch's file cannot be read, so it is not known who must not spend."""


class TooManyKillsError(Exception):
    """``MAX_ORDERS`` values are stopped already."""


class KillBoard:
    """The orders of one sidecar's operators."""

    def __init__(self, gate: Gate, state: Path, clock: Clock, share: KillShare) -> None:
        """Reads what is on disk and puts it into effect. Raises ``KillBoardError``."""
        self._gate = gate
        self._path = state / FILE
        self._clock = clock
        self._share = share
        self._saving = asyncio.Lock()
        self._orders: dict[tuple[str, str], Order] = {}
        for order in _read(self._path):
            self._orders[order.field, order.value] = order
        self._obey()

    @property
    def killed(self) -> list[Order]:
        """What is stopped by order, oldest first."""
        return [order for order in self._orders.values() if order.killed]

    async def kill(self, field: str, value: str, reason: str) -> Order:
        """Stops a value. It is in effect when this begins, and durable when it returns.

        Raises ``TooManyKillsError``, and ``OSError`` where it holds only until the next restart.
        """
        order = Order(field, value, reason, self._clock.now_ms(), True)
        self._take(order)
        self._obey()
        async with self._saving:
            await self._save()
        await self._tell(order)
        return order

    async def revive(self, field: str, value: str) -> Order | None:
        """Lets a value spend again; None where it was not stopped by order. The file comes first:
        raises ``OSError``, and the value stays stopped, where it cannot be written."""
        async with self._saving:
            before = self._orders.get((field, value))
            if before is None or not before.killed:
                return None
            order = Order(field, value, "", self._clock.now_ms(), False)
            self._take(order)
            try:
                await self._save()
            except OSError:
                self._take(before)
                raise
            finally:
                self._obey()
        await self._tell(order)
        return order

    async def apply(self, orders: Iterable[Order]) -> None:
        """Takes orders of other sidecars, as far as they are news."""
        news = False
        for order in orders:
            known = self._orders.get((order.field, order.value))
            if order.is_sound and (known is None or known.at_ms < order.at_ms):
                try:
                    self._take(order)
                except TooManyKillsError:
                    _log.error("too many kills: %s %s is not obeyed", order.field, order.value)
                    continue
                news = True
        if news:
            self._obey()
            try:
                async with self._saving:
                    await self._save()
            except OSError as error:
                _log.error("kills of other sidecars hold until the next restart: %s", error)

    async def watch(self) -> None:
        """Obeys the share until cancelled."""
        while True:
            try:
                await self._share.watch(self.apply, self._known)
            except Exception as error:  # noqa: BLE001  what is obeyed stays; it is asked again
                _log.warning("the kill switch's share is lost: %s", error)
            await asyncio.sleep(RETRY_S)

    def _known(self) -> list[Order]:
        return list(self._orders.values())

    def _take(self, order: Order) -> None:
        orders = self._orders
        key = (order.field, order.value)
        if key not in orders and len(orders) >= MAX_ORDERS:
            revived = next((one for one, old in orders.items() if not old.killed), None)
            if revived is None:
                raise TooManyKillsError
            del orders[revived]
        orders.pop(key, None)
        orders[key] = order

    def _obey(self) -> None:
        self._gate.kill(Kill(order.field, order.value, order.reason) for order in self.killed)

    async def _save(self) -> None:
        content = msgspec.json.encode(list(self._orders.values()))
        await asyncio.to_thread(_write, self._path, content)

    async def _tell(self, order: Order) -> None:
        try:
            await self._share.publish(order)
        except Exception as error:  # noqa: BLE001  it holds here; ``watch`` tells it again
            _log.warning("the other sidecars are not told of a kill yet: %s", error)


def _read(path: Path) -> list[Order]:
    try:
        orders = msgspec.json.decode(path.read_bytes(), type=list[Order])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError, UnicodeError) as error:
        raise KillBoardError(
            f"{path} cannot be read, so it is not known who is stopped: {error}"
        ) from None
    return [order for order in orders if order.is_sound]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content, durable=True)
