"""The connection of shares: whom it asks in a cluster, and what it says when nobody is there."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import hiredis
import pytest
import redis
from redis_server import running_cluster, running_redis

from extproc.edge.share_link import connected
from extproc.ledger.port import LedgerUnavailableError
from extproc.values.store_address import parse_public_address

MARK = b"{space}:mark"


def asked(url: str) -> object:
    """What the store says about the mark, by a connection of its own."""

    async def scenario() -> object:
        link = await connected(parse_public_address(url), MARK)
        try:
            return await link.ask("GET", MARK, timeout_s=2)
        finally:
            link.give_up("closed")

    return asyncio.run(scenario())


def test_a_clusters_owner_of_the_mark_is_found_from_any_of_its_servers(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as (owner, other):
        deadline = time.monotonic() + 20
        found: object = None
        while found != (b"7", b"7") and time.monotonic() < deadline:
            # Until the servers know each other, they say that the cluster is down.
            with suppress(redis.RedisError, hiredis.ReplyError, LedgerUnavailableError):
                owner.client().set(MARK, "7")
                found = (asked(owner.url), asked(other.url))
        assert found == (b"7", b"7")


def test_a_store_that_is_away_or_refuses_is_said_to_be(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis") as server:
        server.client().lpush(MARK, "a list")
        with pytest.raises(hiredis.ReplyError):
            asked(server.url)
        server.kill()
        with pytest.raises(LedgerUnavailableError):
            asked(server.url)
