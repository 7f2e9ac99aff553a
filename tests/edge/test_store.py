from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest
from redis_server import running_redis

from extproc.edge.store import close_ledger, open_ledger, store_address
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.emergency import EmergencyLedger
from extproc.ledger.port import LedgerUnavailableError
from extproc.ledger.redis_ledger import RedisLedger


def test_an_address_gets_its_user_from_the_environment() -> None:
    environ = {"TOKENWEIR_STORE_USERNAME": "app", "TOKENWEIR_STORE_PASSWORD": "secret"}
    address = store_address("rediss://h:1/2", environ)
    assert (address.username, address.password, address.tls) == ("app", "secret", True)
    assert "secret" not in str(address)
    assert store_address("redis://h", {}).password == ""


def test_the_embedded_ledger_needs_no_server(tmp_path: Path) -> None:
    async def scenario() -> None:
        ledger = await open_ledger("embedded", "t", tmp_path, {}, Random(1))
        assert isinstance(ledger, EmbeddedLedger)
        with pytest.raises(LedgerUnavailableError, match="in use"):
            await open_ledger("embedded", "t", tmp_path, {}, Random(1))
        await close_ledger(ledger)

    asyncio.run(scenario())


def test_F70_a_store_that_would_forget_stops_the_start(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis") as server:
        client = server.client()
        client.config_set("maxmemory-policy", "allkeys-lru")

        async def scenario() -> None:
            with pytest.raises(LedgerUnavailableError, match="allkeys-lru") as error:
                await open_ledger(server.url, "t", tmp_path / "s", {}, Random(1))
            assert error.value.reason == "configuration"
            client.config_set("maxmemory-policy", "noeviction")
            ledger = await open_ledger(server.url, "t", tmp_path / "s", {}, Random(1))
            assert isinstance(ledger, EmergencyLedger)
            assert isinstance(ledger.remote, RedisLedger)
            assert ledger.state.condition == "ok"
            await close_ledger(ledger)
            await close_ledger(await open_ledger(server.url, "t", tmp_path / "s", {}, Random(1)))

        asyncio.run(scenario())
