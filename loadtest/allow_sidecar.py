"""Sidecars that decide nothing, to tell the cost of the decision from the cost of being asked.

``null``: answers both phases with "continue"; for an Envoy with nothing but the ext_proc filter.
``allow``: for the very configuration that the governed gateway runs. The first request of each size
is decided by the real service; its answer is kept and given to every later one, so Envoy does the
same work (header and body mutations, metadata, routing) while Python does none. Access logs are
received and dropped.

    python -m loadtest.allow_sidecar {null|allow} {lean|grpcio} STATE HOST PORT [POLICY]
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge.clock import Clock
from extproc.edge.codec import AWAIT_BODY_MESSAGE
from extproc.edge.grpcio_transport import GrpcioServer
from extproc.edge.lean_server import LeanServer
from extproc.edge.services import RequestService, Sidecar
from extproc.edge.stream import Service, Stream, StreamKind
from extproc.envoy.delivery import FileDelivery
from extproc.envoy.process import envoy_command
from extproc.envoy.render import render
from extproc.envoy.settings import GatewaySettings
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.pb import extproc_pb2 as pb
from extproc.policy.loader import load_folder
from extproc.policy.snapshot import PolicySnapshot
from extproc.values.wire_names import ACCESS_LOG_SOCKET, ATTEMPT_SOCKET, REQUEST_SOCKET

_CONTINUE_BODY = pb.ProcessingResponse(request_body=pb.BodyResponse()).SerializeToString()


class _Recorder:
    """A stream that keeps what the real service says."""

    def __init__(self) -> None:
        self.state: Any = None
        self.said: list[bytes] = []

    def send(self, message: bytes, *, end: bool = False) -> None:
        self.said.append(message)

    def fail(self) -> None:
        raise RuntimeError("the real service did not answer")


class AllowService:
    """Headers: await the body. Body: the answer kept for its size, at once."""

    kind = StreamKind.BIDIRECTIONAL

    def __init__(self, real: Service | None) -> None:
        self._real = real
        self._answers: dict[int, bytes] = {}

    def message(self, stream: Stream, data: bytes) -> None:
        """Not even parsed: the first message of a stream is its headers, the second its body."""
        if stream.state is None:
            stream.state = data
            stream.send(AWAIT_BODY_MESSAGE)
        elif self._real is None:
            stream.send(_CONTINUE_BODY, end=True)
        else:
            # The loads differ in their body's size, so its size says which answer fits.
            answer = self._answers.get(len(data))
            if answer is None:
                answer = self._answers[len(data)] = self._decide(self._real, stream.state, data)
            stream.send(answer, end=True)

    @staticmethod
    def _decide(real: Service, headers: bytes, body: bytes) -> bytes:
        recorder = _Recorder()
        real.message(recorder, headers)
        real.message(recorder, body)
        return recorder.said[-1]

    def closed(self, stream: Stream) -> None:
        """Nothing was held for it."""

    def before_write(self) -> None:
        """Nothing is to be made durable."""


class DropLogs(AllowService):
    """Receives access logs."""

    kind = StreamKind.CLIENT

    def message(self, stream: Stream, data: bytes) -> None:
        """Envoy's work is done; ours is left out."""


async def run(mode: str, transport: str, gateway: GatewaySettings, policy: Path | None) -> None:
    """Serves until it is killed."""
    real: RequestService | None = None
    if mode == "allow":
        assert policy is not None
        snapshot = load_folder(policy, 1, os.environ)
        if not isinstance(snapshot, PolicySnapshot):
            raise SystemExit("\n".join(map(str, snapshot)))
        ledger = EmbeddedLedger(Journal(gateway.config_folder.parent / "ledger"))
        # The draw is fixed: the target that nine of ten governed requests go to.
        sidecar = Sidecar(Gate(Generation(snapshot)), ledger, Clock(), Random(1))
        real = RequestService(sidecar)
        FileDelivery(gateway).write_first(render(snapshot, gateway))
        envoy_command(gateway, concurrency=1)
    gateway.socket_folder.mkdir(parents=True, exist_ok=True)
    server_type = LeanServer if transport == "lean" else GrpcioServer
    allow = AllowService(real)
    for name, service in (
        (REQUEST_SOCKET, allow),
        (ATTEMPT_SOCKET, allow),
        (ACCESS_LOG_SOCKET, DropLogs(None)),
    ):
        await server_type(gateway.socket_folder / name, service).start(0o600)
    print("ready", flush=True)
    await asyncio.Event().wait()


def main(arguments: list[str]) -> None:
    """Entry point."""
    mode, transport, state, host, port, *policy = arguments
    folder = Path(state)
    gateway = GatewaySettings(host, int(port), folder / "run", folder / "envoy")
    uvloop.run(run(mode, transport, gateway, Path(policy[0]) if policy else None))


if __name__ == "__main__":
    main(sys.argv[1:])
