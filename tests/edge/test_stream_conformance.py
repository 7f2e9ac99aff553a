"""Both transports keep the promises of ``extproc.edge.stream``, seen by grpcio's own client."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from extproc.edge.grpcio_transport import ACCESS_LOG, EXT_PROC, GrpcioServer
from extproc.edge.lean_server import LeanServer
from extproc.edge.stream import StreamKind

OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)


class Echo:
    """Answers as each message's first byte says."""

    def __init__(self, kind: StreamKind = StreamKind.BIDIRECTIONAL) -> None:
        self.kind = kind
        self.closed_count = 0
        self.received: list[bytes] = []
        self.refuse_write = False
        self.writes = 0

    def message(self, stream: Any, data: bytes) -> None:
        self.received.append(data)
        if self.kind is StreamKind.CLIENT:
            return
        match data[:1]:
            case b"r":
                raise ValueError("told to raise")
            case b"f":
                stream.fail()
            case b"l":
                asyncio.get_running_loop().call_later(0.05, lambda: stream.send(data, end=True))
            case b"m":
                stream.send(data)
            case b"h":  # a word that the answer takes longer, and later the answer
                stream.send(b"hold")
                asyncio.get_running_loop().call_later(0.3, lambda: stream.send(data, end=True))
            case b"n":
                pass
            case b"t":
                stream.send(b"one")
                stream.send(b"two", end=True)
            case _:
                stream.send(data, end=True)

    def closed(self, stream: Any) -> None:
        self.closed_count += 1

    def before_write(self) -> None:
        self.writes += 1
        if self.refuse_write:
            raise OSError("the disk is full")


@pytest.fixture(params=[LeanServer, GrpcioServer], ids=["lean", "grpcio"])
def server_type(request: pytest.FixtureRequest) -> Any:
    return request.param


def run(server_type: Any, service: Echo, scenario: Any) -> Any:
    async def main() -> Any:
        with tempfile.TemporaryDirectory(prefix="tw-") as folder:
            path = Path(folder) / "s.sock"
            server = server_type(path, service)
            await server.start()
            assert path.stat().st_mode & 0o777 == 0o600
            try:
                async with aio.insecure_channel(f"unix:{path}", options=OPTIONS) as channel:
                    async with asyncio.timeout(20):
                        return await scenario(channel)
            finally:
                await server.stop(0.2)

    return asyncio.run(main())


async def ask(channel: aio.Channel, *messages: bytes) -> list[bytes]:
    call = channel.stream_stream(EXT_PROC)()
    answers = []
    for message in messages:
        await call.write(message)
        answer = await call.read()
        if answer is aio.EOF:
            break
        answers.append(answer)
    assert await call.code() is not None
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.RpcError(code)
    return answers


async def code_of(channel: aio.Channel, *messages: bytes, done: bool = False) -> grpc.StatusCode:
    call = channel.stream_stream(EXT_PROC)()
    try:
        for message in messages:
            await call.write(message)
        if done:
            await call.done_writing()
        while await call.read() is not aio.EOF:
            pass
    except aio.AioRpcError as error:
        return error.code()
    return await call.code()


def test_messages_are_answered_in_order_and_end_with_ok(server_type) -> None:
    messages = [b"m1", b"m2" * 1000, b"x"]
    assert run(server_type, Echo(), lambda c: ask(c, *messages)) == messages


def test_messages_of_any_size(server_type) -> None:
    for size in (0, 1, 16_379, 16_384, 1 << 20, 20 << 20):
        message = b"x" * size
        assert run(server_type, Echo(), lambda c, m=message: ask(c, m)) == [message]


def test_an_answer_may_come_later(server_type) -> None:
    assert run(server_type, Echo(), lambda c: ask(c, b"later")) == [b"later"]


def test_a_message_may_be_answered_by_two_and_the_first_leaves_at_once(server_type) -> None:
    async def scenario(channel: aio.Channel) -> tuple[list[bytes], float]:
        call = channel.stream_stream(EXT_PROC)()
        started = asyncio.get_running_loop().time()
        await call.write(b"h")
        answers = [await call.read()]
        after_s = asyncio.get_running_loop().time() - started
        answers.append(await call.read())
        assert await call.code() is grpc.StatusCode.OK
        return answers, after_s

    answers, after_s = run(server_type, Echo(), scenario)
    assert answers == [b"hold", b"h"]
    assert after_s < 0.2


def test_two_answers_in_one_turn_both_arrive(server_type) -> None:
    async def scenario(channel: aio.Channel) -> list[bytes]:
        call = channel.stream_stream(EXT_PROC)()
        await call.write(b"two answers")
        return [await call.read(), await call.read()]

    assert run(server_type, Echo(), scenario) == [b"one", b"two"]


@pytest.mark.parametrize("done", [False, True], ids=["reset", "half-closed"])
def test_a_peer_that_leaves_while_its_answer_is_awaited_is_noticed(server_type, done: bool) -> None:
    service = Echo()

    async def scenario(channel: aio.Channel) -> int:
        call = channel.stream_stream(EXT_PROC)()
        await call.write(b"nothing yet")
        await asyncio.sleep(0.1)
        if done:
            await call.done_writing()
        else:
            call.cancel()
        await asyncio.sleep(0.1)
        return service.closed_count

    assert run(server_type, service, scenario) == 1
    assert service.closed_count == 1


def test_200_streams_at_once(server_type) -> None:
    async def scenario(channel: aio.Channel) -> list[list[bytes]]:
        return await asyncio.gather(*(ask(channel, b"m", b"%d" % n) for n in range(200)))

    answers = run(server_type, Echo(), scenario)
    assert answers == [[b"m", b"%d" % n] for n in range(200)]


def test_F31_a_stream_without_an_answer_never_ends_with_ok(server_type) -> None:
    service = Echo()
    code = run(server_type, service, lambda c: code_of(c, done=True))
    assert code is not grpc.StatusCode.OK
    assert service.closed_count == 1


def test_F31_a_stream_half_answered_never_ends_with_ok(server_type) -> None:
    code = run(server_type, Echo(), lambda c: code_of(c, b"m", done=True))
    assert code is not grpc.StatusCode.OK


def test_F32_a_service_that_raises_fails_its_stream_and_no_other(server_type) -> None:
    service = Echo()

    async def scenario(channel: aio.Channel) -> tuple[grpc.StatusCode, list[bytes]]:
        return await code_of(channel, b"raise"), await ask(channel, b"x")

    code, answers = run(server_type, service, scenario)
    assert code is not grpc.StatusCode.OK
    assert answers == [b"x"]


def test_F33_a_failed_stream_is_an_error(server_type) -> None:
    code = run(server_type, Echo(), lambda c: code_of(c, b"fail"))
    assert code is not grpc.StatusCode.OK


def test_nothing_is_written_when_the_journal_cannot_be(server_type) -> None:
    service = Echo()
    service.refuse_write = True
    code = run(server_type, service, lambda c: code_of(c, b"x"))
    assert code is not grpc.StatusCode.OK
    assert service.writes >= 1


def test_a_cancelled_stream_is_closed_once(server_type) -> None:
    service = Echo()

    async def scenario(channel: aio.Channel) -> None:
        call = channel.stream_stream(EXT_PROC)()
        await call.write(b"m")
        await call.read()
        call.cancel()
        await asyncio.sleep(0.1)

    run(server_type, service, scenario)
    assert service.closed_count == 1


def test_a_client_stream_is_collected_and_answered_once(server_type) -> None:
    service = Echo(StreamKind.CLIENT)

    async def scenario(channel: aio.Channel) -> bytes:
        async def entries() -> Any:
            for number in range(5):
                yield b"%d" % number

        return await channel.stream_unary(ACCESS_LOG)(entries())

    assert run(server_type, service, scenario) == b""
    assert service.received == [b"0", b"1", b"2", b"3", b"4"]
