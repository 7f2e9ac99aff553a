from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import hiredis
import pytest
from certificates import Authority, server_context
from redis_server import free_port, running_redis

from extproc.ledger.port import LedgerUnavailableError
from extproc.ledger.redis_link import Link, connect, encode
from extproc.values.store_address import StoreAddress

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def linked(answer: Answer) -> AsyncIterator[Link]:
    """A link to a server that answers as told."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = await connect(StoreAddress("127.0.0.1", port))
    try:
        yield link
    finally:
        link.give_up("test")
        server.close()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def test_answers_come_in_the_order_of_the_questions_however_they_are_cut() -> None:
    async def byte_by_byte(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        for byte in b"+one\r\n:2\r\n*2\r\n$1\r\na\r\n-ERR b\r\n-ERR three\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
        await silent(reader, writer)

    async def scenario() -> None:
        async with linked(byte_by_byte) as link:
            got: list[Any] = []
            for _ in range(4):
                link.send(encode("PING"), got.append, 2)
            async with asyncio.timeout(2):
                while link.in_flight:
                    await asyncio.sleep(0.001)
            assert got[:2] == [b"one", 2]
            assert got[2][0] == b"a"
            assert isinstance(got[3], hiredis.ReplyError)

    asyncio.run(scenario())


def test_F62_a_late_answer_ends_the_link_and_everything_on_it() -> None:
    async def scenario() -> None:
        async with linked(silent) as link:
            loop = asyncio.get_running_loop()
            began = loop.time()
            told: list[Any] = []
            link.send(encode("PING"), told.append, 0.1)
            link.send(encode("PING"), told.append)
            with pytest.raises(LedgerUnavailableError):
                await link.ask("PING", timeout_s=0.05)
            assert loop.time() - began < 2
            assert [error.reason for error in told] == ["timeout", "timeout"]
            assert link.lost.result() == "timeout"
            with pytest.raises(LedgerUnavailableError):
                await link.ask("PING")

    asyncio.run(scenario())


@pytest.mark.parametrize("words", [b"hello\r\n", b"+unasked\r\n", b"!\x00\xff"])
def test_what_is_not_the_protocol_ends_the_link(words: bytes) -> None:
    async def talks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        await silent(reader, writer)

    async def scenario() -> None:
        async with linked(talks) as link:
            assert await asyncio.wait_for(link.lost, 2) == "protocol"

    asyncio.run(scenario())


def test_F60_nobody_there() -> None:
    async def scenario() -> None:
        with pytest.raises(LedgerUnavailableError) as error:
            await connect(StoreAddress("127.0.0.1", free_port()))
        assert error.value.reason == "connection"
        with pytest.raises(LedgerUnavailableError) as error:
            await connect(StoreAddress("no-such-host.invalid", 6379))
        assert error.value.reason in ("connection", "timeout")

    asyncio.run(scenario())


def test_a_user_a_password_and_a_database_are_told_first(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        client = server.client()
        client.execute_command("ACL", "SETUSER", "app", "on", ">p@ss", "~*", "+@all")
        client.config_set("requirepass", "other")

        async def scenario() -> None:
            address = StoreAddress("127.0.0.1", server.port, 3, "app", "p@ss")
            link = await connect(address)
            await link.ask("SET", "where", "here")
            assert b"db=3" in await link.ask("CLIENT", "INFO")
            assert await link.ask("ACL", "WHOAMI") == b"app"
            link.give_up("test")
            with pytest.raises(hiredis.ReplyError, match="WRONGPASS"):
                await connect(StoreAddress("127.0.0.1", server.port, 0, "app", "wrong"))

        asyncio.run(scenario())


def test_tls_checks_who_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path, "ours")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))

    async def pongs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"+PONG\r\n")
        await silent(reader, writer)

    async def ask(names: tuple[str, ...]) -> bytes:
        context = server_context(authority.server(*names))
        server = await asyncio.start_server(pongs, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        try:
            link = await connect(StoreAddress("127.0.0.1", port, tls=True), 5)
            answer: bytes = await link.ask("PING", timeout_s=5)
            link.give_up("test")
            return answer
        finally:
            server.close()

    assert asyncio.run(ask(("127.0.0.1",))) == b"PONG"
    with pytest.raises(LedgerUnavailableError, match="certificate"):
        asyncio.run(ask(("cache.example",)))
