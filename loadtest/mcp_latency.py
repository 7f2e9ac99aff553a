"""What a call of a tool takes longer because it passes the gateway.

    python -m loadtest.mcp_latency [--calls N] [--json]

One server, three ways to it: directly, through an Envoy that does nothing, and through the gateway
with an allow list, three limits, a budget and a loop guard. Calls go one at a time, each way in
turn, so that whatever the machine does hits all of them. Envoy and sidecar share core 0, client and
server core 1, as in ``loadtest.bench``.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from extproc.edge.supervisor import free_port
from extproc.envoy.process import envoy_command, envoy_path
from extproc.envoy.settings import GatewaySettings
from loadtest.envoy_config import plain
from loadtest.latency import Percentiles, percentiles
from loadtest.processes import GATEWAY_CPU, LOAD_CPU, START_S, Processes, StartError
from loadtest.stack import pin_client

HOST = "127.0.0.1"
WARM_UP_CALLS = 200
KEY = "tw-demo-key"
POLICY = """
name: mcp
type: gateway-config
envelope: {required: {"*": [project, environment]}}
credentials:
  - id: app
    sha256: 3b799562c0c9a0dc62f1ced38dfe8614e0ca4559d604ce22e82b346e407da494
    claims: {projects: [p], environments: [load]}
    mcp_servers: ["files/read_*", files/search]
mcp_servers:
  files:
    url: "http://%s/mcp"
    tools: {allow: [search, read_file]}
    usd_per_call: {read_file: 0.0001}
    loop_guard: {repeats: 5, window: 10m}
---
name: limits
type: gateway-rate-limit-config
rules:
  - {id: session, limit: {tool_calls: 10000000, window: 1h}, scope: session}
  - {id: tool, when: {tools: ["read_*"]}, limit: {tool_calls: 10000000, window: 1h}, scope: tool}
  - {id: app, limit: {tool_calls: 10000000, window: 1d}, scope: credential}
---
name: budgets
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 100000, window: daily}
"""
HEADERS = {
    "authorization": f"Bearer {KEY}",
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "x-tfy-project": "p",
    "x-tfy-environment": "load",
    "x-tfy-session-id": "s",
}


class Way:
    """One kept connection to the server."""

    def __init__(self, name: str, address: str, path: str) -> None:
        self.name = name
        self._connection = http.client.HTTPConnection(address, timeout=10)
        self._path = path
        self.samples_ns: list[int] = []

    def call(self, number: int) -> int:
        """Calls the tool; how long it took, in nanoseconds. Raises ``ValueError`` for anything but
        its result."""
        arguments = {"path": "values/money.py", "first_line": 1 + number % 50}
        params = {"name": "read_file", "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        body = json.dumps(message).encode()
        began = time.perf_counter_ns()
        self._connection.request("POST", self._path, body, HEADERS)
        answer = self._connection.getresponse()
        text = answer.read()
        took = time.perf_counter_ns() - began
        if answer.status != 200 or b'"isError": false' not in text:
            raise ValueError(f"{self.name}: {answer.status} {text[:300]!r}")
        return took

    def wait(self) -> None:
        """Until it serves. Raises ``StartError``."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.call(0)
                return
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._connection.close()
                if time.monotonic() > deadline:
                    raise StartError(f"{self.name} does not serve: {error}") from error
            time.sleep(0.05)


def ways(processes: Processes, root: Path) -> Iterator[Way]:
    """Starts all three."""
    command = [sys.executable, "-m", "extproc", "demo-provider", "--listen", f"{HOST}:0"]
    _, url = processes.start("server", command, cpu=LOAD_CPU, ready="ready ")
    server = url.removeprefix("http://")
    yield Way("direct", server, "/mcp")

    port = free_port(HOST)
    config = root / "plain.json"
    config.write_text(json.dumps(plain(port, int(server.rpartition(":")[2]), [])))
    envoy = [str(envoy_path()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
    processes.start("plain-envoy", envoy, cpu=GATEWAY_CPU)
    yield Way("envoy", f"{HOST}:{port}", "/mcp")

    port, console = free_port(HOST), free_port(HOST)
    policy, state = root / "policy", root / "state"
    policy.mkdir()
    (policy / "policy.yaml").write_text(POLICY % server)
    (state / "run").mkdir(parents=True)
    sidecar = [
        *(sys.executable, "-m", "extproc", "sidecar", "--policy", str(policy)),
        *("--state", str(state), "--listen", f"{HOST}:{port}", "--console", f"{HOST}:{console}"),
    ]
    processes.start("sidecar", sidecar, cpu=GATEWAY_CPU, ready="ready")
    settings = GatewaySettings(HOST, port, state / "run", state / "envoy")
    processes.start("gateway-envoy", envoy_command(settings, concurrency=1), cpu=GATEWAY_CPU)
    yield Way("gateway", f"{HOST}:{port}", "/mcp/files")


def measure(calls: int) -> dict[str, Percentiles]:
    """Latencies of each way, and of what the gateway adds to Envoy, call by call."""
    pin_client()
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder) / "logs")
        try:
            every = list(ways(processes, Path(folder)))
            for way in every:
                way.wait()
            for number in range(WARM_UP_CALLS + calls):
                for way in every:
                    took = way.call(number)
                    if number >= WARM_UP_CALLS:
                        way.samples_ns.append(took)
        finally:
            processes.stop_all()
    found = {way.name: percentiles(way.samples_ns) for way in every}
    _, envoy, gateway = every
    pairs = zip(envoy.samples_ns, gateway.samples_ns, strict=True)
    return found | {"added": percentiles([theirs - plain for plain, theirs in pairs])}


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--calls", type=int, default=3_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.calls)
    if arguments.json:
        print(json.dumps({name: asdict(one) for name, one in found.items()}))
        return 0
    print(f"{'ms':<10}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}")
    for name, one in found.items():
        figures = (one.p50_ms, one.p90_ms, one.p99_ms, one.max_ms)
        print(f"{name:<10}" + "".join(f"{figure:>8.3f}" for figure in figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
