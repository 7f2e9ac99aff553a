"""The real Envoy between a scripted sidecar and scripted providers, in one process.

Nothing here decides: the sidecar does what the request's body asks for, so that a test says in one
place what happens at every hop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from envoy_process import start_envoy

from extproc.core import settlement
from extproc.edge import log_codec
from extproc.edge.lean_server import LeanServer
from extproc.edge.stream import StreamKind
from extproc.edge.supervisor import free_port
from extproc.envoy.delivery import FileDelivery
from extproc.envoy.render import render
from extproc.envoy.settings import GatewaySettings
from extproc.pb import extproc_pb2 as pb
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import PolicySnapshot, Target
from extproc.values.dialect import OPERATION_BY_PATH, Operation
from extproc.values.wire_names import (
    ACCESS_LOG_SOCKET,
    ATTEMPT_SOCKET,
    DECIDED_HEADER,
    REFUSED_DETAILS,
    REQUEST_SOCKET,
)
from extproc.wire.usage import Reported

PLAIN = '{endpoints: {openai: "http://127.0.0.1:PORT/v1", anthropic: "http://127.0.0.1:PORT"}}'
"""A provider without TLS that speaks both dialects."""

GATEWAY = """
name: test
type: gateway-config
credentials:
  - {{id: app, sha256: "{zero}"}}
providers:
{providers}
prices:
{prices}
---
name: any
type: gateway-load-balancing-config
rule_type: weight-based
rules:
{rules}
"""


def policy_text(providers: dict[str, str]) -> str:
    """A policy with these providers (YAML by name), each with a target of the model ``any``."""
    price = (
        "input_usd_per_mtok: 1, output_usd_per_mtok: 1, context_tokens: 1000, "
        "max_output_tokens: 10, as_of: 2026-11-01, source: test"
    )
    return GATEWAY.format(
        zero="00" * 32,
        providers="\n".join(f"  {name}: {text}" for name, text in providers.items()),
        prices="\n".join(f"  - {{provider: {n}, model: m-{n}, {price}}}" for n in providers),
        rules="\n".join(
            f"  - {{id: {name}, weight: 1, target: {{provider: {name}, model: m-{name}}}}}"
            for name in providers
        ),
    )


def compiled(text: str, generation: int = 1) -> PolicySnapshot:
    """A snapshot of one policy file."""
    snapshot = compile_folder({"p.yaml": text.encode()}, generation, {})
    assert isinstance(snapshot, PolicySnapshot), "\n".join(map(str, snapshot))
    return snapshot


@dataclass
class Received:
    """A request as a provider got it."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """A header's value; all of them joined if it came more than once."""
        values = [value for key, value in self.headers if key == name]
        return ", ".join(values) if values else None


Respond = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def answer(
    body: bytes = b'{"ok":true}', status: int = 200, content_type: str = "application/json"
) -> Respond:
    """A whole response with a content length."""

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 %d X\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s"
            % (status, content_type.encode(), len(body), body)
        )

    return respond


def chunked(
    pieces: list[bytes],
    content_type: str = "text/event-stream",
    pause_s: float = 0.001,
    finish: bool = True,
) -> Respond:
    """A chunked response whose pieces are written apart, so that Envoy reads them apart."""

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n"
            % content_type.encode()
        )
        for piece in pieces:
            await writer.drain()
            await asyncio.sleep(pause_s)
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if finish:
            await writer.drain()
            await asyncio.sleep(pause_s)
            writer.write(b"0\r\n\r\n")
        else:
            writer.close()

    return respond


class Provider:
    """An HTTP/1.1 server that remembers what it got and answers what a test says."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.respond: Respond = answer()
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, **options: Any) -> Provider:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, **options)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                pairs = [line.split(": ", 1) for line in head[1:-2]]
                received = Received(head[0], [(k.lower(), v) for k, v in pairs], b"")
                received.body = await _body(reader, received)
                self.requests.append(received)
                await self.respond(received, writer)
                await writer.drain()
        writer.close()


async def _body(reader: asyncio.StreamReader, received: Received) -> bytes:
    if received.header("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body
    return await reader.readexactly(int(received.header("content-length") or 0))


def _set(mutation: Any, name: str, value: bytes) -> None:
    option = mutation.set_headers.add()
    option.header.key = name
    option.header.raw_value = value
    option.append_action = 2


class RequestStage:
    """Lets a request go where its body says: ``{"chain": [provider...], "metadata": {...}}``."""

    kind = StreamKind.BIDIRECTIONAL

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def message(self, stream: Any, data: bytes) -> None:
        message = pb.ProcessingRequest.FromString(data)
        if message.HasField("request_headers"):
            stream.state = {h.key: h.raw_value for h in message.request_headers.headers.headers}
            self._rig.decided_headers.append(stream.state)
            if b"x-refuse" in map(str.encode, stream.state):
                stream.send(_refusal(), end=True)
            else:
                answer = pb.ProcessingResponse(request_headers=pb.HeadersResponse())
                stream.send(answer.SerializeToString())
            return
        wish = json.loads(message.request_body.body)
        if "chain" in wish:
            answer = self._forward(wish, stream.state[":path"].decode())
        else:  # a verdict that names no way
            response = pb.ProcessingResponse(request_body=pb.BodyResponse())
            response.dynamic_metadata.update({"tokenweir": wish["metadata"]})
            answer = response.SerializeToString()
        stream.send(answer, end=True)

    def _forward(self, wish: dict[str, Any], path: str) -> bytes:
        operation = OPERATION_BY_PATH[path.partition("?")[0]]
        targets = [self._rig.target(name) for name in wish["chain"]]
        answer = pb.ProcessingResponse()
        common = answer.request_body.response
        common.clear_route_cache = True
        body = wish.get("body", "first").encode()
        common.body_mutation.body = body
        endpoint = targets[0].endpoints[operation]
        mutation = common.header_mutation
        _set(mutation, ":path", f"{endpoint.base_path}/{operation.value}".encode())
        _set(mutation, ":authority", endpoint.authority.encode())
        _set(mutation, "content-length", b"%d" % len(body))
        _set(mutation, DECIDED_HEADER, b"1")
        _set(mutation, "x-envoy-max-retries", b"%d" % (len(targets) - 1))
        _set(mutation, "x-envoy-upstream-rq-per-try-timeout-ms", b"%d" % wish.get("ms", 2000))
        for name, value in wish.get("set", {}).items():
            _set(mutation, name, value.encode())
        groups = [
            {"name": t.name, "clusters": [{"cluster_name": t.clusters[operation]}]} for t in targets
        ]
        for group in groups:
            group["clusters"][0]["weight"] = 1
        verdict = {"ok": True, "priority_groups": groups, "gen": "7", **wish.get("metadata", {})}
        answer.dynamic_metadata.update({"tokenweir": verdict})
        return answer.SerializeToString()

    def closed(self, stream: Any) -> None:
        pass

    def before_write(self) -> None:
        pass


def _refusal() -> bytes:
    answer = pb.ProcessingResponse()
    answer.immediate_response.status.code = 429
    answer.immediate_response.body = b'{"error":{"code":"mine"}}'
    answer.immediate_response.details = REFUSED_DETAILS
    _set(answer.immediate_response.headers, "content-type", b"application/json")
    return answer.SerializeToString()


class AttemptStage:
    """Remembers what it got about a later attempt and sends it with the attempt's number."""

    kind = StreamKind.BIDIRECTIONAL

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def message(self, stream: Any, data: bytes) -> None:
        message = pb.ProcessingRequest.FromString(data)
        if message.HasField("request_headers"):
            headers = {h.key: h.raw_value for h in message.request_headers.headers.headers}
            clusters = [s.fields["xds.cluster_name"] for s in message.attributes.values()]
            stream.state = (headers, clusters[0].string_value)
            answer = pb.ProcessingResponse(request_headers=pb.HeadersResponse())
            stream.send(answer.SerializeToString())
            return
        headers, cluster = stream.state
        self._rig.attempts.append((headers, cluster, message.request_body.body))
        answer = pb.ProcessingResponse()
        common = answer.request_body.response
        body = b"attempt " + headers["x-envoy-attempt-count"]
        common.body_mutation.body = body
        _set(common.header_mutation, ":path", b"/later/" + headers["x-envoy-attempt-count"])
        _set(common.header_mutation, ":authority", b"later.test")
        _set(common.header_mutation, "content-length", b"%d" % len(body))
        common.header_mutation.remove_headers.extend(["authorization", "x-api-key"])
        stream.send(answer.SerializeToString(), end=True)

    def closed(self, stream: Any) -> None:
        pass

    def before_write(self) -> None:
        pass


class LogStage:
    """Keeps every entry."""

    kind = StreamKind.CLIENT

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def message(self, stream: Any, data: bytes) -> None:
        message = pb.StreamAccessLogsMessage.FromString(data)
        if message.HasField("identifier"):
            stream.state = message.identifier.log_name
        self._rig.logs += [(stream.state, entry) for entry in message.http_logs.log_entry]

    def closed(self, stream: Any) -> None:
        pass

    def before_write(self) -> None:
        pass


@dataclass
class Rig:
    """One Envoy with its sidecar and providers. Runs on a loop of its own, beside the test."""

    root: Path
    settings: GatewaySettings
    policy: PolicySnapshot
    providers: dict[str, Provider]
    decided_headers: list[dict[str, bytes]] = field(default_factory=list)
    attempts: list[tuple[dict[str, bytes], str, bytes]] = field(default_factory=list)
    logs: list[tuple[str, Any]] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    contexts: dict[str, Any] = field(default_factory=dict)
    """TLS contexts of the providers, where a test gives them any."""
    delivery: FileDelivery | None = None
    envoy: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.listen_port}"

    def target(self, provider: str) -> Target:
        targets = self.policy.virtual_models["any"].all_targets
        return next(target for target in targets if target.provider.name == provider)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    async def start(self, environ: dict[str, str]) -> None:
        sockets = self.settings.socket_folder
        sockets.mkdir()
        for name, service in (
            (REQUEST_SOCKET, RequestStage(self)),
            (ATTEMPT_SOCKET, AttemptStage(self)),
            (ACCESS_LOG_SOCKET, LogStage(self)),
        ):
            await LeanServer(sockets / name, service).start()
        self.delivery = FileDelivery(self.settings)
        self.delivery.write_first(render(self.policy, self.settings))
        self.envoy = await start_envoy(
            self.settings, self.root / "log", concurrency=1, environ=environ
        )
        for _ in range(400):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.settings.listen_port)
                writer.close()
                return
            await asyncio.sleep(0.025)
        raise AssertionError((self.root / "log").read_text())

    async def stop(self) -> None:
        if self.envoy is not None and self.envoy.returncode is None:
            self.envoy.send_signal(signal.SIGTERM)
            await self.envoy.wait()

    def end(self) -> None:
        """Envoy ends, then the loop."""
        self.run(self.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)

    def post(
        self, chain: list[str], path: str = "/v1/chat/completions", **wish: Any
    ) -> httpx.Response:
        headers = wish.pop("headers", {})
        body = json.dumps({"chain": chain, **wish})
        return httpx.post(self.url + path, content=body, headers=headers, timeout=20)

    def reported(
        self, request_id: str, operation: Operation = Operation.CHAT_COMPLETIONS
    ) -> Reported | None:
        """What the sidecar takes from the access log about a request's usage."""
        ended = log_codec.decode_request_ended(self.log(request_id), now_ms=0)
        return settlement.reported_usage(operation, ended)

    def log(self, request_id: str, name: str = "request", seconds: float = 3.0) -> Any:
        """The request's entry, waited for."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := self.entries(request_id, name):
                return found[0]
            time.sleep(0.005)
        raise AssertionError(f"no {name} entry for {request_id}")

    def entries(self, request_id: str, name: str = "request") -> list[Any]:
        """What has arrived about a request so far."""
        return [
            entry
            for kind, entry in list(self.logs)
            if kind == name
            and request_id
            in (
                entry.request.request_headers.get("x-request-id"),
                entry.common_properties.stream_id,
            )
        ]

    def admin(self, path: str) -> str:
        transport = httpx.HTTPTransport(uds=str(self.settings.socket_folder / "admin.sock"))
        with httpx.Client(transport=transport) as client:
            return client.get(f"http://envoy{path}").text

    def forget(self) -> None:
        """Providers answer well again and everybody's memory is empty."""
        for provider in self.providers.values():
            provider.requests.clear()
            provider.respond = answer()
        self.decided_headers.clear()
        self.attempts.clear()
        self.logs.clear()


def start_rig_in(
    root: Path,
    providers: dict[str, str],
    *,
    environ: dict[str, str] | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    **more: Any,
) -> Rig:
    """Starts a rig. ``providers`` is YAML by name, with ``PORT`` for the provider's own port;
    ``options`` are more arguments of its server, ``more`` of ``GatewaySettings``."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    servers = {}
    for name in providers:
        work = Provider().start(**(options or {}).get(name, {}))
        servers[name] = asyncio.run_coroutine_threadsafe(work, loop).result(5)
    texts = {n: t.replace("PORT", str(servers[n].port)) for n, t in providers.items()}
    settings = GatewaySettings("127.0.0.1", free_port("127.0.0.1"), root / "s", root / "c", **more)
    rig = Rig(root, settings, compiled(policy_text(texts)), servers, loop=loop)
    try:
        rig.run(rig.start(environ or {}))
    except BaseException:
        rig.end()
        raise
    return rig
