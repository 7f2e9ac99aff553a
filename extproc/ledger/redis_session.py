"""What a sidecar and a shared store settle before anything is admitted: is this the store that we
know, and does it hold everything that we know of?

A store that was emptied, restarted or replaced by a stale replica stays closed until every sidecar
that has a part in it has confirmed it or put it back, or an operator has taken the loss
(``tokenweir acknowledge-loss``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple
from uuid import uuid4

import hiredis

from extproc.ledger.redis_errors import unavailable
from extproc.ledger.redis_link import Link, connect
from extproc.ledger.redis_names import Names
from extproc.ledger.redis_part import Part
from extproc.ledger.redis_scripts import Scripts
from extproc.values.store_address import StoreAddress

_log = logging.getLogger(__name__)

MIN_VERSION = (6, 2)
LEARN_MS = 2_000
"""How long an empty store stays closed: sidecars that know what was in it come back within this."""
MEMBER_MS = 100 * 86_400_000
"""A sidecar's part counts at most as long as the longest window, a quarter."""
DAY_MS = 86_400_000
"""It is told in whole days, so that the journals that remember it are not written every second."""
JOIN_TIMEOUT_S = 2.0
"""Scripts that are run once per connection may be slower than a request would wait."""


class StoreRefusedError(Exception):
    """This store must not be used as it is configured."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself."""

    run: str
    """Changes when it restarts or is replaced."""
    version: tuple[int, int]
    eviction: str
    persistent: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """What the store answered to a sidecar's first word."""

    state: str
    epoch: str
    sequence: int
    now_ms: int
    part: str
    """``here``, or ``push``: the store has not this sidecar's part."""
    missing: list[str]
    """Sidecars whose part is not in the store yet."""
    members: dict[str, int]


class Loss(NamedTuple):
    """What an operator has acknowledged."""

    state: str
    """Of the store before: ``empty``, ``checking``, ``rebuilding``; ``open``: nothing was lost."""
    epoch: str
    missing: list[str]
    """Sidecars whose part is not in the store."""


def read_server(info: str) -> Server:
    """Reads the answer to ``INFO``. Raises ``hiredis.ReplyError`` while the server reads its files:
    until it has, it says of itself that it writes none."""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    if fields.get("loading", "0").strip() == "1":
        raise hiredis.ReplyError("LOADING the server reads its files")
    major, minor, *_ = [*fields.get("redis_version", "0.0").split("."), "0"]
    return Server(
        run=f"{fields.get('run_id', '')[:16]}/{fields.get('master_replid', '')[:16]}",
        version=(int(major), int(minor)),
        eviction=fields.get("maxmemory_policy", "unknown"),
        persistent=fields.get("aof_enabled", "0").strip() == "1",
    )


def check_server(server: Server) -> None:
    """Raises ``StoreRefusedError`` for a store that could forget money by design."""
    if server.version < MIN_VERSION:
        version = ".".join(map(str, server.version))
        raise StoreRefusedError(f"Redis {version} is too old: 6.2 or Valkey is needed")
    if server.eviction != "noeviction":
        raise StoreRefusedError(
            f"maxmemory-policy is {server.eviction}: it may delete a budget; set noeviction"
        )


class Session:
    """One sidecar's standing with one store, over one connection at a time."""

    def __init__(
        self, names: Names, scripts: Scripts, part: Part, learn_ms: int = LEARN_MS
    ) -> None:
        self._names = names
        self._scripts = scripts
        self._part = part
        self._learn_ms = learn_ms
        self._push = ""
        self.server = Server("", (0, 0), "", False)

    async def greet(self, link: Link) -> None:
        """Checks the server and gives it the scripts. Raises ``StoreRefusedError``,
        ``hiredis.ReplyError``, ``LedgerUnavailableError``."""
        info = await link.ask("INFO")
        self.server = read_server(info.decode("utf-8", "replace"))
        check_server(self.server)
        for source in self._scripts.sources.values():
            await link.ask("SCRIPT", "LOAD", source, timeout_s=JOIN_TIMEOUT_S)

    async def join(self, link: Link) -> Joined:
        """Asks whether the store is open to us; puts our part back when it is not there."""
        joined = await self._join(link)
        if joined.part == "push":
            await self._push_part(link, joined)
            joined = await self._join(link)
        return joined

    async def still_open(self, link: Link, now_ms: int) -> bool:
        """Whether the store is as we know it, also when we have nothing to ask of it. Tells it that
        we are there, and remembers who else is: an emptied store does not."""
        names, part, memory = self._names, self._part, self._part.memory
        entry = f"{_until_ms(now_ms)} 0 {now_ms}"
        answer = await self._call(
            link,
            "look",
            [names.meta, names.members],
            [memory.epoch, memory.seen, part.name, entry],
            timeout_s=None,
        )
        if not answer:
            return False
        sequence, members = answer
        part.note_seen(memory.epoch, memory.seen, _members(members))
        if sequence > memory.seen:
            part.note_sequence(sequence)
        return True

    async def leave(self, link: Link) -> None:
        """Tells that this sidecar stops in order: nobody waits for its word after a restart."""
        until_ms = self._part.until_ms(0)
        await self._call(link, "leave", [self._names.members], [self._part.name, until_ms])

    async def _join(self, link: Link) -> Joined:
        names, memory = self._names, self._part.memory
        self._push = self._push or uuid4().hex[:12]
        arguments: list[bytes | str | int] = [
            self.server.run,
            self._part.name,
            memory.epoch,
            memory.seen,
            int(not self._part.empty),
            self._push,
            uuid4().hex[:12],
            self._learn_ms,
            MEMBER_MS,
        ]
        for name, until_ms in memory.members.items():
            arguments += [name, until_ms]
        keys = [names.meta, names.members, names.joined, names.pushed]
        answer = await self._call(link, "join", keys, arguments)
        if answer[0] == b"format":
            raise StoreRefusedError("the store is used by another version of tokenweir")
        joined = Joined(
            answer[0].decode(),
            answer[1].decode(),
            answer[2],
            answer[3],
            answer[4].decode(),
            [name.decode() for name in answer[5]],
            _members(answer[6]),
        )
        if joined.part == "here":
            self._push = ""
            self._part.note_seen(joined.epoch, joined.sequence, joined.members)
        return joined

    async def _push_part(self, link: Link, joined: Joined) -> None:
        names, part = self._names, self._part
        keys = [names.meta, names.members, names.joined, names.pushed, names.leases(joined.epoch)]
        _log.warning("the store lost this sidecar's part: it is put back (%s)", joined.epoch)
        undelivered = list(part.undelivered)
        part.undelivered.clear()
        chunks = part.chunks(names, joined.epoch, joined.now_ms)
        sequence = 0
        try:
            for number, (counters, texts, records, record_texts) in enumerate(chunks):
                last = number == len(chunks) - 1
                arguments: list[bytes | str | int] = [
                    joined.epoch,
                    self.server.run,
                    part.name,
                    self._push,
                    number,
                    int(last),
                    len(counters),
                    *texts,
                    *record_texts,
                ]
                answer = await self._call(link, "push", [*keys, *counters, *records], arguments)
                if answer[0] == b"again":
                    raise unavailable("amnesia", "the store is being rebuilt once more")
                sequence = answer[2]
        except BaseException:
            # What ended meanwhile is in the next attempt's part; the same name would not be taken.
            self._push = ""
            part.undelivered.extendleft(reversed(undelivered))
            raise
        part.note_delivered([told.id for told in undelivered])
        part.note_seen(joined.epoch, sequence, joined.members)

    async def _call(
        self,
        link: Link,
        script: str,
        keys: list[bytes],
        arguments: list[Any],
        timeout_s: float | None = JOIN_TIMEOUT_S,
    ) -> Any:
        digest = self._scripts.digests[script]
        words = ("EVALSHA", digest, len(keys), *keys, *arguments)
        try:
            return await link.ask(*words, timeout_s=timeout_s)
        except hiredis.ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        await link.ask("SCRIPT", "LOAD", self._scripts.sources[script], timeout_s=JOIN_TIMEOUT_S)
        return await link.ask(*words, timeout_s=timeout_s)


def _until_ms(now_ms: int) -> int:
    """Until when a part that grows now may count."""
    return (now_ms + MEMBER_MS) // DAY_MS * DAY_MS


def _members(pairs: list[bytes]) -> dict[str, int]:
    """Sidecars, and until when their part counts."""
    return {
        pairs[place].decode(): int(pairs[place + 1].split()[0]) for place in range(0, len(pairs), 2)
    }


async def acknowledge_loss(address: StoreAddress, namespace: str, epoch: str) -> Loss:
    """Opens a store without the parts that are missing. Raises ``StoreRefusedError``,
    ``LedgerUnavailableError``, ``hiredis.ReplyError``."""
    names, scripts = Names(namespace), Scripts()
    link = await connect(address)
    try:
        info = await link.ask("INFO")
        server = read_server(info.decode("utf-8", "replace"))
        check_server(server)
        keys = (names.meta, names.members, names.joined)
        answer = await link.ask(
            "EVAL",
            scripts.sources["acknowledge"],
            len(keys),
            *keys,
            server.run,
            epoch,
            timeout_s=JOIN_TIMEOUT_S,
        )
    finally:
        link.give_up("done")
    state = answer[0].decode()
    if state == "format":
        raise StoreRefusedError("the store is used by another version of tokenweir")
    return Loss(state, answer[1].decode(), [name.decode() for name in answer[2]])


def pause_s(attempt: int, draw: Random) -> float:
    """Before the next attempt: growing, and never the same for two sidecars."""
    return float(min(1.0, 0.05 * 2 ** min(attempt, 5)) * (0.5 + draw.random()))
