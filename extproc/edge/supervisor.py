"""``tokenweir up``: Envoy, sidecar and demo provider as child processes, kept running.

A child that dies is started again, after a pause that grows. The sidecar's death closes the gateway
(Envoy answers 503) until it is back; its ledger is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from extproc.envoy.process import envoy_command
from extproc.envoy.settings import GatewaySettings

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
MAX_PAUSE_S = 10.0
MAX_SOCKET_PATH = 90
"""A unix socket's path is at most 107 bytes; longer state folders get their sockets under /tmp."""


_EXAMPLE = """
try:
  curl -i {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -H 'Authorization: Bearer tw-demo-key' \\
    -d '{{"model": "intent-fast", "messages": [{{"role": "user", "content": "hi"}}]}}'"""


class StartError(Exception):
    """A child did not come up. Says which, and shows the end of its log."""


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


class Child:
    """One process and its log."""

    def __init__(self, name: str, command: list[str], log: Path, environ: Mapping[str, str]):
        self.name = name
        self.command = command
        self.log = log
        self._environ = environ
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *, waits_for_ready: bool) -> str:
        """Starts it; gives its ``ready`` line when it prints one."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdout=asyncio.subprocess.PIPE if waits_for_ready else log,
                stderr=log,
                env=dict(self._environ),
                start_new_session=True,
            )
        if not waits_for_ready:
            return ""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while line := (await self.process.stdout.readline()).decode():
                    if line.startswith("ready"):
                        return line.strip()
        except TimeoutError:
            pass
        await self.stop()
        raise StartError(f"{self.name} did not start:\n{self.tail()}")

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-2000:]


class Supervisor:
    """Starts everything in order, restarts what dies, stops everything."""

    def __init__(self, settings: UpSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        settings.state.mkdir(parents=True, exist_ok=True)
        self._sockets = _socket_folder(settings.state)
        self._listen_port = settings.listen_port or free_port(settings.listen_host)
        self._console_port = settings.console_port or free_port(settings.console_host)
        self._children: list[Child] = []

    @property
    def url(self) -> str:
        """Where clients point their SDKs."""
        scheme = "https" if self._settings.tls_certificate else "http"
        return f"{scheme}://{self._settings.listen_host}:{self._listen_port}"

    @property
    def console_url(self) -> str:
        """Where the admin API is."""
        return f"http://{self._settings.console_host}:{self._console_port}"

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        keepers: list[asyncio.Task[None]] = []
        try:
            await self._start()
            keepers = [asyncio.create_task(self._keep(child)) for child in self._children]
            print(f"ready {self.url}", flush=True)  # noqa: T201
            print(f"console {self.console_url}", flush=True)  # noqa: T201
            print(_EXAMPLE.format(url=self.url), flush=True)  # noqa: T201
            await stop.wait()
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            # Envoy first, so that its last log entries still find the sidecar.
            for child in reversed(self._children):
                await child.stop()
            if self._sockets.parent != self._settings.state:
                with contextlib.suppress(OSError):
                    for socket_file in self._sockets.iterdir():
                        socket_file.unlink()
                    self._sockets.rmdir()

    async def _start(self) -> None:
        settings = self._settings
        logs = settings.state / "logs"
        logs.mkdir(exist_ok=True)
        python = [sys.executable, "-m", "extproc"]
        demo: list[str] = []
        if settings.demo_provider != "off":
            bill = str(settings.state / "demo-bill.jsonl")
            command = [*python, "demo-provider", "--listen", "127.0.0.1:0", "--bill", bill]
            child = Child("demo-provider", command, logs / "demo-provider.log", self._environ)
            ready = await child.start(waits_for_ready=True)
            demo_url = ready.removeprefix("ready ").strip()
            # Started again, it must be where the policy says that it is.
            child.command = [*command[:-3], demo_url.removeprefix("http://"), "--bill", bill]
            self._children.append(child)
            demo = ["--demo-url", demo_url]
            print(f"demo provider {demo_url}", flush=True)  # noqa: T201
        gateway = GatewaySettings(
            settings.listen_host,
            self._listen_port,
            self._sockets,
            settings.state / "envoy",
        )
        sidecar = Child(
            "sidecar",
            [
                *python,
                "sidecar",
                "--policy",
                str(settings.policy),
                "--state",
                str(settings.state),
                "--sockets",
                str(self._sockets),
                "--listen",
                f"{settings.listen_host}:{self._listen_port}",
                "--console",
                f"{settings.console_host}:{self._console_port}",
                "--transport",
                settings.transport,
                *self._tls_arguments(),
                *demo,
            ],
            logs / "sidecar.log",
            self._environ,
        )
        self._children.append(sidecar)
        await sidecar.start(waits_for_ready=True)
        command = envoy_command(gateway, concurrency=settings.concurrency)
        envoy = Child("envoy", command, logs / "envoy.log", self._environ)
        self._children.append(envoy)
        await envoy.start(waits_for_ready=False)
        await self._wait_for_listener(envoy)

    def _tls_arguments(self) -> list[str]:
        settings = self._settings
        arguments = []
        if settings.tls_certificate:
            arguments += ["--tls", settings.tls_certificate, settings.tls_key]
        if settings.ca_file:
            arguments += ["--ca-file", settings.ca_file]
        return arguments

    async def _wait_for_listener(self, envoy: Child) -> None:
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        connector = aiohttp.TCPConnector(ssl=False)
        async with aiohttp.ClientSession(connector=connector) as session:
            while asyncio.get_running_loop().time() < deadline:
                assert envoy.process is not None
                if envoy.process.returncode is not None:
                    break
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/v1/models") as response:
                        if response.status == 401:  # the sidecar's own answer: all is connected
                            return
                await asyncio.sleep(0.05)
        raise StartError(f"Envoy did not start:\n{envoy.tail()}")

    async def _keep(self, child: Child) -> None:
        pause_s = 0.1
        while True:
            assert child.process is not None
            started = asyncio.get_running_loop().time()
            if child.process.stdout is not None:
                while await child.process.stdout.readline():
                    pass
            code = await child.process.wait()
            print(f"{child.name} ended ({code}); starting it again", file=sys.stderr)  # noqa: T201
            if asyncio.get_running_loop().time() - started > MAX_PAUSE_S:
                pause_s = 0.1
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_PAUSE_S, pause_s * 2)
            try:
                await child.start(waits_for_ready=child.name != "envoy")
            except StartError as error:
                print(error, file=sys.stderr)  # noqa: T201


def free_port(host: str) -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _socket_folder(state: Path) -> Path:
    folder = state / "run"
    if len(str(folder)) > MAX_SOCKET_PATH:
        return Path(tempfile.mkdtemp(prefix="tokenweir-"))
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder
