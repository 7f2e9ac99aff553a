"""The same services on grpcio: for an Envoy that is not on this machine, or for comparison.

Ten times the cost of the lean transport, with everything a general gRPC stack has. Fails closed in
the same way: a stream ends with OK only where the service said so.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from extproc.edge.stream import MAX_MESSAGE_BYTES, Service, StreamKind

EXT_PROC = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ACCESS_LOG = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"

_OPTIONS = (
    # A body of 32 MiB comes in one message; the default of 4 MiB refuses it.
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Live streams of one Envoy share a connection.
    ("grpc.max_concurrent_streams", 65_536),
)


class GrpcioStream:
    """One stream. Answers are queued for the coroutine that owns the call."""

    __slots__ = ("answers", "ended", "state")

    def __init__(self) -> None:
        self.state: Any = None
        self.ended = False
        self.answers: asyncio.Queue[tuple[bytes, bool] | None] = asyncio.Queue()
        """Messages to send, and whether each is the last; None ends the stream with an error."""

    def send(self, message: bytes, *, end: bool = False) -> None:
        """See ``Stream``."""
        if not self.ended:
            self.ended = end
            self.answers.put_nowait((message, end))

    def fail(self) -> None:
        """See ``Stream``."""
        if not self.ended:
            self.ended = True
            self.answers.put_nowait(None)


class GrpcioServer:
    """One service on one address: a unix socket, or ``HOST:PORT`` (with TLS credentials)."""

    def __init__(
        self,
        address: Path | str,
        service: Service,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._address = f"unix:{address}" if isinstance(address, Path) else address
        self._path = address if isinstance(address, Path) else None
        self._service = service
        self._credentials = credentials
        self._server: aio.Server | None = None
        self.port = 0

    async def start(self, mode: int = 0o600) -> None:
        """Listens. On a unix socket ``mode`` is who may speak to us."""
        handler: grpc.RpcMethodHandler[bytes, bytes]
        if self._service.kind is StreamKind.BIDIRECTIONAL:
            method, handler = EXT_PROC, grpc.stream_stream_rpc_method_handler(self._exchange)
        else:
            method, handler = ACCESS_LOG, grpc.stream_unary_rpc_method_handler(self._collect)
        name, _, call = method[1:].partition("/")
        self._server = aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {call: handler}),)
        )
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        if self._credentials is None:
            self.port = self._server.add_insecure_port(self._address)
        else:
            self.port = self._server.add_secure_port(self._address, self._credentials)
        await self._server.start()
        if self._path is not None:
            self._path.chmod(mode)

    async def stop(self, grace_s: float) -> None:
        """Finishes open streams for at most ``grace_s`` seconds."""
        assert self._server is not None
        await self._server.stop(grace_s)

    async def _exchange(self, _: Any, context: Any) -> None:
        """ext_proc: each message is answered, possibly later, and by more than one message."""
        stream = GrpcioStream()
        # Read while an answer is awaited: that is how a peer that leaves meanwhile is noticed.
        reading = asyncio.create_task(self._read(stream, context))
        try:
            while (answer := await stream.answers.get()) is not None:
                message, end = answer
                self._service.before_write()
                await context.write(message)
                if end:
                    return  # the only way to end with OK
        finally:
            reading.cancel()
            if not stream.ended:
                stream.ended = True
                self._service.closed(stream)
        await context.abort(grpc.StatusCode.INTERNAL, "no answer")

    async def _read(self, stream: GrpcioStream, context: Any) -> None:
        """Hands on what arrives. The stream fails with what it cannot handle, and when the peer is
        done before it was told how it ends."""
        try:
            while not stream.ended:
                data = await context.read()
                if data is aio.EOF:
                    break
                self._service.message(stream, data)
        except Exception as error:  # noqa: BLE001  whatever it is, the stream must not end well
            self._report(error)
        if not stream.ended:
            stream.ended = True
            self._service.closed(stream)
            stream.answers.put_nowait(None)

    def _report(self, error: Exception) -> None:
        """Hands an exception to the loop's handler, which logs it; the process goes on."""
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "a stream failed", "exception": error})

    async def _collect(self, _: Any, context: Any) -> bytes:
        """The access log: messages until the peer is done."""
        stream = GrpcioStream()
        try:
            while True:
                data = await context.read()
                if data is aio.EOF:
                    return b""
                self._service.message(stream, data)
        finally:
            self._service.closed(stream)
