"""The listening socket: who may connect, and what it leaves behind."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from extproc.edge.lean_server import LeanServer
from extproc.edge.stream import Stream, StreamKind


class Silent:
    kind = StreamKind.BIDIRECTIONAL

    def message(self, stream: Stream, data: bytes) -> None:
        stream.fail()

    def closed(self, stream: Stream) -> None:
        pass

    def before_write(self) -> None:
        pass


def test_the_socket_has_its_mode_from_the_first_moment_and_goes_with_the_server(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"

    async def scenario() -> None:
        server = LeanServer(path, Silent())
        await server.start(0o660)
        assert stat.S_IMODE(path.lstat().st_mode) == 0o660
        await server.stop(0.1)
        assert not path.exists()

    asyncio.run(scenario())


def test_a_socket_left_by_a_killed_process_is_replaced_and_any_other_file_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"

    async def scenario() -> None:
        await LeanServer(path, Silent()).start()
        second = LeanServer(path, Silent())
        await second.start()
        await second.stop(0.1)
        path.write_text("somebody's file")
        with pytest.raises(OSError, match="in use"):
            await LeanServer(path, Silent()).start()
        assert path.read_text() == "somebody's file"

    asyncio.run(scenario())


def test_stop_does_not_wait_longer_than_its_grace_for_open_connections(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        server = LeanServer(path, Silent())
        await server.start()
        reader, writer = await asyncio.open_unix_connection(str(path))
        # A preface, empty settings, and a stream that never ends.
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        writer.write(bytes([0, 0, 0, 1, 4, 0, 0, 0, 1]))
        await reader.read(1)
        await asyncio.sleep(0.05)
        before = loop.time()
        await server.stop(0.2)
        assert await reader.read() is not None
        return loop.time() - before

    assert 0.15 < asyncio.run(scenario()) < 2
