"""``tokenweir up``: Envoy, sidecar and demo provider as child processes, kept running.

A child that dies is started again, after a pause that grows. The sidecar's death closes the gateway
(Envoy answers 503) until it is back; its ledger is on disk. A child that keeps dying ends the
gateway: an operator, or what restarts ``up``, is to see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson

from extproc.edge.child import START_TIMEOUT_S, Child, StartError, describe
from extproc.edge.google_tokens import GoogleTokens
from extproc.envoy.drain import drain_envoy
from extproc.envoy.process import EnvoyMissingError, envoy_command, envoy_path
from extproc.envoy.settings import SYSTEM_CA_FILE, GatewaySettings
from extproc.envoy.token_folder import memory_folder
from extproc.values.wire_names import ADMIN_SOCKET

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 10.0
MAX_RESTARTS = 6
"""In a row, none of them lasting ``STABLE_S``: six seconds of pauses, more than any passing cause
(a port not free yet, a short lack of memory) needs."""
STABLE_S = 10.0
MAX_SOCKET_PATH = 90
"""A unix socket's path is at most 107 bytes; longer state folders get their sockets under /tmp."""
TOKENS_S = 3.0
"""How long it waits for Google's tokens before it serves: longer, and the others go first."""

_TOKENWEIR = (sys.executable, "-m", "extproc")
_EXAMPLE = """
try:
  curl -i {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -H 'Authorization: Bearer tw-demo-key' \\
    -d '{{"model": "intent-fast", "messages": [{{"role": "user", "content": "hi"}}]}}'"""


@dataclass(frozen=True, slots=True)
class UpSettings:
    """The arguments of ``up``."""

    policy: Path
    state: Path
    listen_host: str
    listen_port: int
    console_host: str
    console_port: int
    demo_provider: str
    transport: str
    concurrency: int | None
    tls_certificate: str = ""
    tls_key: str = ""
    ca_file: str = ""
    store: str = ""
    """Wins over the policy's; empty: the policy says."""
    json: bool = False
    """One JSON line when it serves, instead of lines for people."""


class Supervisor:
    """Starts everything in order, restarts what dies, stops everything."""

    def __init__(self, settings: UpSettings, environ: Mapping[str, str]) -> None:
        """Raises ``StartError`` for a port or folder that cannot be had, before anything runs."""
        self._settings = settings
        self._environ = environ
        try:
            (settings.state / "logs").mkdir(parents=True, exist_ok=True)
            self._sockets = _socket_folder(settings.state)
        except OSError as error:
            raise StartError(f"--state {settings.state}: {error.strerror}") from None
        self._listen_port = _usable_port("--listen", settings.listen_host, settings.listen_port)
        self._console_port = _usable_port("--console", settings.console_host, settings.console_port)
        self._gateway = GatewaySettings(
            settings.listen_host,
            self._listen_port,
            self._sockets,
            settings.state / "envoy",
            ca_file=settings.ca_file or SYSTEM_CA_FILE,
            token_folder=memory_folder(settings.state),
        )
        self._tokens = GoogleTokens(self._gateway)
        self._demo_url = ""
        self._children: list[Child] = []

    @property
    def url(self) -> str:
        """Where clients point their SDKs."""
        scheme = "https" if self._settings.tls_certificate else "http"
        return f"{scheme}://{_place(self._settings.listen_host, self._listen_port)}"

    @property
    def console_url(self) -> str:
        """Where the admin API is."""
        return f"http://{_place(self._settings.console_host, self._console_port)}"

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT. Raises ``StartError`` when it cannot start or go on."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopping = asyncio.create_task(stop.wait())
        serving = asyncio.create_task(self._serve())
        try:
            await asyncio.wait((stopping, serving), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            stopping.cancel()
            serving.cancel()
            await asyncio.gather(stopping, serving, return_exceptions=True)
            # Envoy first, so that its last log entries still find the sidecar.
            await self._drain()
            for child in reversed(self._children):
                await child.stop()
            shutil.rmtree(self._gateway.tokens, ignore_errors=True)
            if self._sockets.parent != self._settings.state:
                with contextlib.suppress(OSError):
                    for socket_file in self._sockets.iterdir():
                        socket_file.unlink()
                    self._sockets.rmdir()

    async def _drain(self) -> None:
        envoy = next((child for child in self._children if child.name == "envoy"), None)
        if envoy and envoy.process is not None and envoy.process.returncode is None:
            await drain_envoy(self._sockets / ADMIN_SOCKET)

    async def _serve(self) -> None:
        # Here and not in the sidecar: who reads what callers send holds no provider's key.
        keepers = [asyncio.create_task(self._tokens.run())]
        try:
            await self._start()
            self._announce()
            keepers += [asyncio.create_task(self._keep(child)) for child in self._children]
            await asyncio.gather(*keepers)
        finally:
            for keeper in keepers:
                keeper.cancel()

    def _announce(self) -> None:
        if self._settings.json:
            places = {"ready": self.url, "console": self.console_url}
            if self._demo_url:
                places["demo_provider"] = self._demo_url
            print(orjson.dumps(places).decode(), flush=True)  # noqa: T201
            return
        if self._demo_url:
            print(f"demo provider {self._demo_url}")  # noqa: T201
        print(f"ready {self.url}")  # noqa: T201
        print(f"console {self.console_url}")  # noqa: T201
        print(_EXAMPLE.format(url=self.url), flush=True)  # noqa: T201

    async def _start(self) -> None:
        settings = self._settings
        command = _envoy_command(self._gateway, settings.concurrency)
        if settings.demo_provider != "off":
            await self._start_demo_provider()
        await self._child("sidecar", self._sidecar_command()).start(waits_for_ready=True)
        envoy = self._child("envoy", command)
        await envoy.start(waits_for_ready=False)
        await self._tokens.first(TOKENS_S)
        await self._wait_for_listener(envoy)

    def _child(self, name: str, command: list[str]) -> Child:
        log = self._settings.state / "logs" / f"{name}.log"
        self._children.append(Child(name, command, log, self._environ))
        return self._children[-1]

    async def _start_demo_provider(self) -> None:
        bill = str(self._settings.state / "demo-bill.jsonl")
        command = [*_TOKENWEIR, "demo-provider", "--bill", bill, "--listen"]
        child = self._child("demo-provider", [*command, "127.0.0.1:0"])
        ready = await child.start(waits_for_ready=True)
        self._demo_url = ready.removeprefix("ready ")
        # Started again, it must be where the policy says that it is.
        child.command = [*command, self._demo_url.removeprefix("http://")]

    def _sidecar_command(self) -> list[str]:
        settings = self._settings
        options = {
            "--policy": settings.policy,
            "--state": settings.state,
            "--sockets": self._sockets,
            "--listen": _place(settings.listen_host, self._listen_port),
            "--console": _place(settings.console_host, self._console_port),
            "--transport": settings.transport,
            "--ca-file": self._gateway.ca_file,
            "--tokens": self._gateway.tokens,
        }
        if self._demo_url:
            options["--demo-url"] = self._demo_url
        if settings.store:
            options["--store"] = settings.store
        command = [*_TOKENWEIR, "sidecar"]
        for name, value in options.items():
            command += [name, str(value)]
        if settings.tls_certificate:
            command += ["--tls", settings.tls_certificate, settings.tls_key]
        return command

    async def _wait_for_listener(self, envoy: Child) -> None:
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        connector = aiohttp.TCPConnector(ssl=False)
        async with aiohttp.ClientSession(connector=connector) as session:
            while asyncio.get_running_loop().time() < deadline:
                assert envoy.process is not None
                if envoy.process.returncode is not None:
                    end = describe(envoy.process.returncode)
                    raise StartError(f"envoy ended at once ({end}):\n{envoy.tail()}")
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/v1/models") as response:
                        if response.status == 401:  # the sidecar's own answer: all is connected
                            return
                await asyncio.sleep(0.05)
        raise StartError(f"envoy does not serve {self.url}:\n{envoy.tail()}")

    async def _keep(self, child: Child) -> None:
        """Starts a child again whenever it ends. Raises ``StartError`` once that is no use."""
        loop = asyncio.get_running_loop()
        restarts = 0
        problem = ""
        while True:
            assert child.process is not None
            started = loop.time()
            if child.process.stdout is not None:
                while await child.process.stdout.readline():
                    pass
            end = describe(await child.process.wait())
            if loop.time() - started >= STABLE_S:
                restarts = 0
            if restarts == MAX_RESTARTS:
                raise StartError(
                    f"{child.name} keeps ending ({end}, {restarts} restarts):\n"
                    f"{problem or child.tail()}"
                )
            pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**restarts)
            restarts += 1
            print(f"{child.name} ended ({end}); starting it again", file=sys.stderr)  # noqa: T201
            await asyncio.sleep(pause_s)
            try:
                await child.start(waits_for_ready=child.name != "envoy")
                problem = ""
            except StartError as error:
                problem = str(error)


def free_port(host: str) -> int:
    """A port that is free now. Raises ``OSError`` for a host that is not this machine's."""
    return _bound_port(host, 0)


def _usable_port(option: str, host: str, port: int) -> int:
    """The port, or a free one for 0. Raises ``StartError``.

    Envoy itself would not notice a port that is taken: it shares ports (``SO_REUSEPORT``), and two
    gateways of one user would each get some of the requests.
    """
    try:
        return _bound_port(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = f"{option} {_place(host, 0)} takes a free port"
            raise StartError(f"{option} {_place(host, port)} is in use; {hint}") from None
        raise StartError(f"{option} {_place(host, port)}: {error.strerror}") from None


def _bound_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        if port:
            # As servers do: connections of an earlier run that still fade away are in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        bound: int = probe.getsockname()[1]
        return bound


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _envoy_command(gateway: GatewaySettings, concurrency: int | None) -> list[str]:
    try:
        binary = envoy_path()
        if not os.access(binary, os.X_OK):
            raise StartError(f"no Envoy binary at {binary} (TOKENWEIR_ENVOY names it)")
        return envoy_command(gateway, concurrency=concurrency)
    except EnvoyMissingError as error:
        raise StartError(str(error)) from None


def _socket_folder(state: Path) -> Path:
    folder = state / "run"
    if len(str(folder)) > MAX_SOCKET_PATH:
        return Path(tempfile.mkdtemp(prefix="tokenweir-"))
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder
