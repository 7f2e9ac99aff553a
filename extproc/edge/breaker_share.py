"""Circuit breakers shared over the sidecars' store: a word for each target, and a mark that counts.

A word is a key that the store forgets by itself, and says nothing when it is gone. Times in the
store are the store's own, so that the clocks of two machines need not agree. A probe is whose lease
on it is: a key that is only set where there is none. No request waits for any of this.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Protocol

from extproc.core.breaker import Word, WordKind
from extproc.core.gate import Gate
from extproc.edge.clock import Clock
from extproc.edge.share_link import ANSWER_TIMEOUT_S, POLL_S, RETRY_S, connected
from extproc.ledger.redis_link import Link
from extproc.ledger.redis_names import Names
from extproc.values.store_address import StoreAddress

_log = logging.getLogger(__name__)

_NOW = "local now = redis.call('TIME') local ms = now[1] * 1000 + math.floor(now[2] / 1000) "
_TELL = (
    _NOW
    + """
local version = redis.call('INCR', KEYS[1])
local word = version .. ' ' .. ARGV[1] .. ' ' .. string.format('%d', ms + ARGV[2])
redis.call('SET', KEYS[2], word, 'PX', ARGV[3])
return word
"""
)
"""Keeps a word; its version tells it from every other."""
_HEAR = _NOW + "return {string.format('%d', ms), redis.call('MGET', unpack(KEYS))}"
"""The words about some targets, and the store's time."""
MAX_KEYS = 1_000
"""Of one such question: a script's stack has room for 8,000."""


class BreakerShare(Protocol):
    """How the sidecars of one policy tell each other which targets fail."""

    async def watch(self) -> None:
        """Goes on until cancelled."""
        ...


class OwnBreakers:
    """One sidecar alone."""

    async def watch(self) -> None:
        """Nothing ever comes."""
        await asyncio.Event().wait()


class RedisBreakerShare:
    """Keeps one sidecar's breakers and those of the others of its store and namespace together."""

    def __init__(self, address: StoreAddress, namespace: str, gate: Gate, clock: Clock) -> None:
        self._address = address
        self._names = Names(namespace)
        self._gate = gate
        self._clock = clock
        self._taken: dict[bytes, bytes] = {}
        """By key, the word that was heard or told last."""
        self._connected = False

    async def watch(self) -> None:
        """Goes on until cancelled. While the store is away, the breakers are this sidecar's own."""
        lost = False
        while True:
            try:
                await self._watch()
            except Exception as error:  # noqa: BLE001  what is known stays; it is asked again
                if self._connected or not lost:
                    _log.warning("circuit breakers are not shared now: %s", error)
                lost, self._connected = True, False
            await asyncio.sleep(RETRY_S)

    async def _watch(self) -> None:
        breakers, mark = self._gate.breakers, self._names.breakers_mark
        link = await connected(self._address, mark)
        seen: object = ...
        try:
            breakers.shared = self._connected = True
            while True:
                for word in breakers.untold():
                    await self._tell(link, word)
                    breakers.told(word)
                for target, lease_ms in breakers.wanted().items():
                    await self._ask_for_probe(link, target, lease_ms)
                now = await link.ask("GET", mark, timeout_s=ANSWER_TIMEOUT_S)
                if now != seen:
                    await self._hear_all(link)
                    seen = now
                await asyncio.sleep(POLL_S)
        finally:
            breakers.shared = False
            link.give_up("closed")

    async def _tell(self, link: Link, word: Word) -> None:
        names = self._names
        resting = word.kind is WordKind.RESTING
        key = names.rest(word.target) if resting else names.breaker(word.target)
        from_now_ms = word.at_ms - self._clock.now_ms()
        # What could not be told for a while may be old by now.
        keep_ms = from_now_ms if resting else word.keep_ms + from_now_ms
        if keep_ms <= 0:
            return
        words = (word.kind.value, from_now_ms, keep_ms)
        self._taken[key] = await link.ask(
            "EVAL", _TELL, 2, names.breakers_mark, key, *words, timeout_s=ANSWER_TIMEOUT_S
        )

    async def _ask_for_probe(self, link: Link, target: str, lease_ms: int) -> None:
        until_ms = self._clock.now_ms() + lease_ms
        key = self._names.probe(target)
        taken = await link.ask("SET", key, "1", "NX", "PX", lease_ms, timeout_s=ANSWER_TIMEOUT_S)
        if taken is not None:
            self._gate.breakers.grant(target, until_ms)

    async def _hear_all(self, link: Link) -> None:
        """Takes every word that is news about a target of the policy."""
        policy = self._gate.generation.policy
        models = policy.virtual_models.values()
        targets = {target.name for model in models for target in model.all_targets}
        names = self._names
        keys = {key: name for name in targets for key in (names.breaker(name), names.rest(name))}
        for key in self._taken.keys() - keys:
            del self._taken[key]
        listed = list(keys)
        for start in range(0, len(listed), MAX_KEYS):
            part = listed[start : start + MAX_KEYS]
            now, words = await link.ask("EVAL", _HEAR, len(part), *part, timeout_s=ANSWER_TIMEOUT_S)
            late_ms = self._clock.now_ms() - int(now)
            for key, word in zip(part, words, strict=True):
                if word is not None and word != self._taken.get(key):
                    self._taken[key] = word
                    self._hear(keys[key], word, late_ms)

    def _hear(self, target: str, word: bytes, late_ms: int) -> None:
        # What another version of the gateway keeps there is not for this one.
        with suppress(ValueError):
            _, kind, at_ms = word.decode().split(" ")
            heard = Word(target, WordKind(kind), int(at_ms) + late_ms, 0)
            self._gate.breakers.hear(heard, self._clock.now_ms())
