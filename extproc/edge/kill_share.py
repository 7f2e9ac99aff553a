"""Kills shared over the sidecars' store: a hash of orders, and a mark that each order replaces.

Every sidecar looks at the mark, and reads the orders when it is another one (``share_link``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from uuid import uuid4

import msgspec

from extproc.edge.kill_board import MAX_ORDERS, Apply, Known, Order
from extproc.edge.share_link import ANSWER_TIMEOUT_S, POLL_S, connected
from extproc.ledger.redis_link import Link
from extproc.ledger.redis_names import Names
from extproc.values.store_address import StoreAddress

MAX_KEPT = 2 * MAX_ORDERS
"""Orders in the store: as many as a board keeps, and revivals that it has dropped."""

_PUBLISH = f"""
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if kept and tonumber(string.match(kept, '^%d+')) >= tonumber(ARGV[2]) then return 0 end
if not kept and redis.call('HLEN', KEYS[1]) >= {MAX_KEPT} then
  return redis.error_reply('ERR too many kills are kept')
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
redis.call('SET', KEYS[2], ARGV[4])
return 1
"""
"""Keeps an order unless a later one about the same value is kept. It tells whether it did."""


class RedisKillShare:
    """The share of the sidecars on one store and namespace. See ``KillShare``."""

    def __init__(self, address: StoreAddress, namespace: str) -> None:
        self._address = address
        names = Names(namespace)
        self._orders, self._mark = names.kills, names.kills_mark
        self._untold = False

    async def publish(self, order: Order) -> None:
        """Makes an order known. Raises what ``connect`` and ``Link.ask`` raise; then ``watch``
        tells it when it can."""
        self._untold = True
        link = await connected(self._address, self._mark)
        try:
            await self._publish(link, order)
            self._untold = False
        finally:
            link.give_up("closed")

    async def watch(self, apply: Apply, known: Known) -> None:
        """Applies what is kept, and tells what is known here and is not: the store may have lost
        it. Raises when the store cannot be asked."""
        link = await connected(self._address, self._mark)
        seen: object = ...
        try:
            while True:
                mark = await link.ask("GET", self._mark, timeout_s=ANSWER_TIMEOUT_S)
                # No mark, and something is known: lost again since it was told.
                lost = mark is None and any(True for _ in known())
                if mark != seen or self._untold or lost:
                    self._untold = False
                    kept = await self._kept(link)
                    await apply(kept.values())
                    for order in known():
                        other = kept.get((order.field, order.value))
                        if other is None or other.at_ms < order.at_ms:
                            await self._publish(link, order)
                    seen = mark
                await asyncio.sleep(POLL_S)
        finally:
            link.give_up("closed")

    async def _kept(self, link: Link) -> dict[tuple[str, str], Order]:
        words = await link.ask("HVALS", self._orders, timeout_s=ANSWER_TIMEOUT_S)
        return {(order.field, order.value): order for order in _decoded(words)}

    async def _publish(self, link: Link, order: Order) -> None:
        name = msgspec.json.encode((order.field, order.value))
        words = (name, order.at_ms, msgspec.json.encode(order), uuid4().hex)
        await link.ask(
            "EVAL", _PUBLISH, 2, self._orders, self._mark, *words, timeout_s=ANSWER_TIMEOUT_S
        )


def _decoded(words: Iterable[bytes]) -> Iterable[Order]:
    for word in words:
        # What another version of the gateway keeps there is not for this one.
        with suppress(msgspec.MsgspecError, UnicodeError):
            yield msgspec.json.decode(word.partition(b" ")[2], type=Order)
