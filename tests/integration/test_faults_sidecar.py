"""A sidecar that is broken, slow or gone: no request passes, and no dollar is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web
from envoy_process import start_envoy
from gateway import BUDGET, HEADERS, KEY, base_policy, chat

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge.clock import Clock
from extproc.edge.grpcio_transport import GrpcioServer
from extproc.edge.lean_server import LeanServer
from extproc.edge.services import RequestService, Sidecar
from extproc.edge.sidecar_process import _watch_loop
from extproc.edge.stream import StreamKind
from extproc.edge.supervisor import free_port
from extproc.envoy.delivery import FileDelivery
from extproc.envoy.render import render
from extproc.envoy.settings import GatewaySettings
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.pb import extproc_pb2 as pb
from extproc.policy.compiler import compile_folder
from extproc.values.wire_names import REQUEST_SOCKET


class Broken:
    """An ext_proc service with one fault."""

    kind = StreamKind.BIDIRECTIONAL

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def message(self, stream: Any, data: bytes) -> None:
        message = pb.ProcessingRequest.FromString(data)
        headers = message.HasField("request_headers")
        if self.fault == "raises":
            raise AssertionError("a bug")
        if self.fault == "fails":
            stream.fail()
        elif self.fault == "ends at once":
            # What no service of ours does: an OK end that decided nothing.
            answer = pb.ProcessingResponse(request_headers=pb.HeadersResponse())
            stream.send(answer.SerializeToString(), end=True)
        elif self.fault == "wrong phase":
            answer = pb.ProcessingResponse(request_body=pb.BodyResponse())
            stream.send(answer.SerializeToString(), end=not headers)
        elif self.fault == "garbage":
            stream.send(b"\xff\xff\xff\xff", end=True)
        elif self.fault == "says continue":
            field = "request_headers" if headers else "request_body"
            kind = pb.HeadersResponse if headers else pb.BodyResponse
            answer = pb.ProcessingResponse(**{field: kind()})
            stream.send(answer.SerializeToString(), end=not headers)

    def closed(self, stream: Any) -> None:
        pass

    def before_write(self) -> None:
        if self.fault == "cannot be durable":
            raise OSError("the disk is full")


async def through_envoy(service: Any, server_type: Any) -> tuple[int, str, int]:
    """One request through the real Envoy with this service: status, body, provider's calls."""
    calls = 0

    async def provider(_: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.json_response({})

    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        root = Path(folder)
        (root / "s").mkdir()
        application = web.Application()
        application.router.add_route("*", "/{any:.*}", provider)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        files = {name: text.encode() for name, text in base_policy().items()}
        policy = compile_folder(files, 1, {}, f"http://127.0.0.1:{runner.addresses[0][1]}")
        settings = GatewaySettings("127.0.0.1", free_port("127.0.0.1"), root / "s", root / "c")
        FileDelivery(settings).write_first(render(policy, settings))
        server = server_type(root / "s" / REQUEST_SOCKET, service)
        await server.start()
        envoy = await start_envoy(settings, root / "log", concurrency=1)
        try:
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{settings.listen_port}/v1/chat/completions"
                for _ in range(200):
                    try:
                        async with session.post(url, json=chat(), headers=HEADERS) as answer:
                            return answer.status, await answer.text(), calls
                    except aiohttp.ClientConnectorError:
                        await asyncio.sleep(0.05)
                raise AssertionError((root / "log").read_text())
        finally:
            envoy.terminate()
            await envoy.wait()
            await server.stop(0)
            await runner.cleanup()


@pytest.mark.parametrize("server_type", [LeanServer, GrpcioServer], ids=["lean", "grpcio"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("ends at once", id="F31-ends-at-once"),
        pytest.param("says continue", id="F31-says-continue-without-a-verdict"),
        pytest.param("raises", id="F32-raises"),
        pytest.param("fails", id="F32-fails"),
        pytest.param("garbage", id="F33-garbage"),
        pytest.param("wrong phase", id="F33-wrong-phase"),
        pytest.param("cannot be durable", id="F36-cannot-be-durable"),
    ],
)
def test_F31_F32_F33_a_broken_sidecar_lets_nothing_through(fault: str, server_type: Any) -> None:
    status, body, calls = asyncio.run(through_envoy(Broken(fault), server_type))
    assert status in (500, 503, 504), body
    assert json.loads(body)["error"]["code"]
    assert calls == 0


def test_F34_without_its_sidecar_envoy_answers_503_at_once(start_gateway) -> None:
    gateway = start_gateway(base_policy())
    for socket_file in (gateway.state / "run").glob("request.sock"):
        socket_file.chmod(0)
        socket_file.unlink()
    sidecar = gateway.child("sidecar")
    sidecar.send_signal(signal.SIGSTOP)
    os.kill(sidecar.pid, signal.SIGKILL)
    started = time.monotonic()
    answer = gateway.post()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"]
    assert time.monotonic() - started < 1
    assert gateway.bill() == []


def test_F35_a_stopped_sidecar_is_a_504_and_costs_nothing(start_gateway) -> None:
    gateway = start_gateway(base_policy(budget=BUDGET))
    sidecar = gateway.child("sidecar")
    sidecar.send_signal(signal.SIGSTOP)
    try:
        answer = gateway.post()
    finally:
        sidecar.send_signal(signal.SIGCONT)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"]
    assert gateway.bill() == []
    deadline = time.monotonic() + 5
    while gateway.post().status_code != 200:
        assert time.monotonic() < deadline


def make_sidecar(folder: Path) -> Sidecar:
    files = {name: text.encode() for name, text in base_policy(budget=BUDGET).items()}
    policy = compile_folder(files, 1, {}, "http://127.0.0.1:9")
    import random

    ledger = EmbeddedLedger(Journal(folder / "ledger"))
    return Sidecar(Gate(Generation(policy)), ledger, Clock(), random.Random(1))


class FakeStream:
    """Records what a service sends."""

    def __init__(self) -> None:
        self.state: Any = None
        self.sent: list[tuple[bytes, bool]] = []
        self.failed = False

    def send(self, message: bytes, *, end: bool = False) -> None:
        self.sent.append((message, end))

    def fail(self) -> None:
        self.failed = True


def headers_message(request_id: bytes = b"r1") -> bytes:
    message = pb.ProcessingRequest()
    for name, value in (
        (":path", b"/v1/chat/completions"),
        ("x-request-id", request_id),
        ("authorization", b"Bearer " + KEY.encode()),
        ("content-type", b"application/json"),
    ):
        message.request_headers.headers.headers.add(key=name, raw_value=value)
    return message.SerializeToString()


def body_message() -> bytes:
    message = pb.ProcessingRequest()
    message.request_body.body = json.dumps(chat()).encode()
    return message.SerializeToString()


def test_F39_a_stream_that_begins_with_its_response_decides_nothing(tmp_path: Path) -> None:
    sidecar = make_sidecar(tmp_path)
    message = pb.ProcessingRequest()
    message.response_headers.end_of_stream = True
    for data in (message.SerializeToString(), b"", body_message()):
        stream = FakeStream()
        RequestService(sidecar).message(stream, data)
        assert stream.failed
        assert stream.sent == []
    assert sidecar.gate.in_flight == {}
    assert sidecar.ledger.open_count == 0


def test_F41_a_bug_of_ours_is_a_503_for_that_request_only(tmp_path: Path, monkeypatch) -> None:
    sidecar = make_sidecar(tmp_path)
    service = RequestService(sidecar)
    stream = FakeStream()
    service.message(stream, headers_message())
    with monkeypatch.context() as patch:
        patch.setattr("extproc.core.machine.parse_inference_request", None)
        service.message(stream, body_message())
    refusal = pb.ProcessingResponse.FromString(stream.sent[-1][0]).immediate_response
    assert refusal.status.code == 503
    assert json.loads(refusal.body)["error"]["code"] == "internal_error"
    assert sidecar.metrics.internal_errors == 1
    stream = FakeStream()
    service.message(stream, headers_message())
    service.message(stream, body_message())
    assert pb.ProcessingResponse.FromString(stream.sent[-1][0]).HasField("request_body")


def test_F42_a_blocked_loop_is_noticed(tmp_path: Path) -> None:
    sidecar = make_sidecar(tmp_path)

    async def scenario() -> None:
        watch = asyncio.create_task(_watch_loop(sidecar))
        await asyncio.sleep(0.15)
        time.sleep(0.3)
        await asyncio.sleep(0.25)
        watch.cancel()

    asyncio.run(scenario())
    assert sidecar.metrics.slow_turns == 1


def test_the_ledger_is_asked_before_the_answer_and_a_dead_disk_admits_nothing(
    tmp_path: Path, monkeypatch
) -> None:
    sidecar = make_sidecar(tmp_path)
    service = RequestService(sidecar)
    stream = FakeStream()
    service.message(stream, headers_message())
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    service.message(stream, body_message())
    with pytest.raises(Exception, match="cannot be written"):
        service.before_write()
    monkeypatch.undo()
    stream = FakeStream()
    service.message(stream, headers_message(b"r2"))
    service.message(stream, body_message())
    refusal = pb.ProcessingResponse.FromString(stream.sent[-1][0]).immediate_response
    assert json.loads(refusal.body)["error"]["code"] == "store_unavailable"


def test_sigterm_ends_everything_with_0(start_gateway) -> None:
    gateway = start_gateway(base_policy())
    assert gateway.post().status_code == 200
    assert gateway.stop() == 0
    host, port = gateway.url.removeprefix("http://").split(":")
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection((host, int(port)), timeout=1),
    ):
        pass


def test_keys_of_providers_are_injected_rotated_and_never_leak(start_gateway, tmp_path) -> None:
    secret = tmp_path / "key"
    secret.write_text("sk-canary-one1")
    policy = base_policy(budget=BUDGET)
    gateway = start_gateway(policy)
    url = f"{gateway.demo}/openai/openai/v1"
    provider = f'  real: {{dialect: openai, base_url: "{url}", credential: "file:{secret}"}}\n'
    model = """
name: keyed
type: gateway-load-balancing-config
rules:
  - {id: keyed, weight: 1, timeout_ms: 2000, target: {provider: real, model: gpt-4o}}
"""
    price = (
        "prices:\n  - {provider: real, model: gpt-4o, input_usd_per_mtok: 2.5,"
        " output_usd_per_mtok: 10, context_tokens: 128000}\n"
    )
    gateway.save_policy("keyed.yaml", model)
    gateway.save_policy("gateway.yaml", policy["gateway.yaml"] + provider + price)
    deadline = time.monotonic() + 5
    while gateway.post(chat(model="keyed")).status_code != 200:
        assert time.monotonic() < deadline, gateway.policy_report()["problems"]
        time.sleep(0.05)
    assert gateway.bill()[-1]["key_end"] == "one1"
    rotated = tmp_path / "new"
    rotated.write_text("sk-canary-two2")
    os.replace(rotated, secret)
    deadline = time.monotonic() + 5
    while gateway.bill()[-1]["key_end"] != "two2":
        assert time.monotonic() < deadline
        assert gateway.post(chat(model="keyed")).status_code == 200
        time.sleep(0.05)
    transport = httpx.HTTPTransport(uds=str(gateway.state / "run" / "admin.sock"))
    with httpx.Client(transport=transport) as admin:
        assert "sk-canary" not in admin.get("http://envoy/config_dump").text
    for path in gateway.state.rglob("*"):
        if path.is_file() and path.name != "demo-bill.jsonl":
            assert b"sk-canary" not in path.read_bytes(), path
