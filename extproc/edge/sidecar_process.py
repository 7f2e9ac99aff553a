"""The sidecar process: policy, ledger, transports and admin API, put together and kept running."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from aiohttp import web

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge.admin import Admin
from extproc.edge.alerting import Alerting
from extproc.edge.allocator import keep_freed_blocks
from extproc.edge.answer_service import AnswerService
from extproc.edge.channels.channel import Outside
from extproc.edge.clock import Clock
from extproc.edge.grpcio_transport import GrpcioServer
from extproc.edge.key_watch import KeyWatch
from extproc.edge.kill_board import KillBoard
from extproc.edge.lean_server import LeanServer
from extproc.edge.notices import report_velocity
from extproc.edge.reload import PolicyReloader
from extproc.edge.services import AccessLogService, AttemptService, RequestService, Sidecar
from extproc.edge.store import breaker_share, close_ledger, kill_share, open_ledger
from extproc.envoy.delivery import FileDelivery
from extproc.envoy.process import write_bootstrap
from extproc.envoy.render import render
from extproc.envoy.settings import GatewaySettings
from extproc.policy.snapshot import Finding
from extproc.values.wire_names import (
    ACCESS_LOG_SOCKET,
    ANSWER_SOCKET,
    ATTEMPT_SOCKET,
    REQUEST_SOCKET,
)

_log = logging.getLogger(__name__)

TEND_S = 1.0
"""How often leases are looked at, the journal is synced, and idle counters are dropped."""
WATCH_S = 0.1
SLOW_TURN_S = 0.05
"""A turn of the event loop this long delays every request behind it: counted, and logged."""
DRAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    """Everything a sidecar is told at start."""

    policy: Path
    state: Path
    gateway: GatewaySettings
    console_host: str
    console_port: int
    demo_url: str | None
    transport: str = "lean"
    store: str = ""
    """Wins over the policy's ``store``; empty: the policy says."""


class PolicyRefusedError(Exception):
    """The policy folder cannot be used, and there is no earlier one."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = findings


async def run_sidecar(settings: SidecarSettings, environ: Mapping[str, str]) -> None:
    """Runs until SIGTERM or SIGINT. Prints ``ready`` once Envoy may call.

    Raises ``PolicyRefusedError``, ``LedgerUnavailableError`` and ``KillBoardError`` when it cannot
    start.
    """
    keep_freed_blocks()
    gateway = settings.gateway
    delivery = FileDelivery(gateway)
    reloader = PolicyReloader(
        settings.policy, gateway, delivery, environ, settings.demo_url, settings.state
    )
    policy = reloader.load_first()
    if isinstance(policy, list):
        raise PolicyRefusedError(policy)
    draw = Random()  # noqa: S311  no secret
    store = settings.store or policy.store
    reloader.keeps_store = not settings.store
    ledger = await open_ledger(store, policy.store_namespace, settings.state, environ, draw)
    sidecar = Sidecar(Gate(Generation(policy)), ledger, Clock(), draw)
    share = kill_share(store, policy.store_namespace, environ)
    breakers = breaker_share(store, policy.store_namespace, environ, sidecar)
    kills = KillBoard(sidecar.gate, settings.state, sidecar.clock, share)
    sidecar.metrics.generation = policy.generation
    sidecar.metrics.policy_warnings = Counter(warning.code for warning in policy.warnings)

    # Before anything is decided by it: an Envoy that outlived a sidecar runs an older policy.
    delivery.write_first(render(policy, gateway))
    await reloader.confirm_first()
    keys = KeyWatch(gateway, delivery)
    await keys.look(sidecar)
    gateway.socket_folder.mkdir(parents=True, exist_ok=True)
    servers = _servers(sidecar, settings)
    for server in servers:
        await server.start(gateway.socket_mode)
    write_bootstrap(gateway)
    alerting = Alerting(sidecar, settings.state, Outside(environ, gateway.ca_file))
    await alerting.start()
    sidecar.notify = alerting.tell
    console = Admin(sidecar, reloader, alerting, kills)
    admin = web.AppRunner(console.application(), access_log=None)
    await admin.setup()
    await web.TCPSite(admin, settings.console_host, settings.console_port).start()

    # What was built so far lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = [
        asyncio.create_task(reloader.watch(sidecar)),
        asyncio.create_task(_tend(sidecar)),
        asyncio.create_task(kills.watch()),
        asyncio.create_task(keys.watch(sidecar)),
        asyncio.create_task(breakers.watch()),
        asyncio.create_task(_watch_loop(sidecar)),
        asyncio.create_task(alerting.run()),
    ]
    print("ready", flush=True)  # noqa: T201  the supervisor waits for this line
    await stop.wait()

    # Who waits is told at once: the next sidecar, or another one, can serve it.
    sidecar.queue.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await alerting.close()
    # The access log is served last: it settles what the others let go.
    for server in servers:
        await server.stop(DRAIN_S if server is not servers[-1] else 0.2)
    await admin.cleanup()
    await close_ledger(ledger)


def _servers(sidecar: Sidecar, settings: SidecarSettings) -> list[LeanServer | GrpcioServer]:
    """What Envoy calls; the access log is the last to be stopped."""
    sockets = settings.gateway.socket_folder
    server_type = LeanServer if settings.transport == "lean" else GrpcioServer
    return [
        server_type(sockets / REQUEST_SOCKET, RequestService(sidecar)),
        server_type(sockets / ATTEMPT_SOCKET, AttemptService(sidecar)),
        server_type(sockets / ANSWER_SOCKET, AnswerService(sidecar)),
        server_type(sockets / ACCESS_LOG_SOCKET, AccessLogService(sidecar)),
    ]


async def _tend(sidecar: Sidecar) -> None:
    while True:
        await asyncio.sleep(TEND_S)
        try:
            now_ms = sidecar.clock.now_ms()
            for settlement in sidecar.ledger.expire(now_ms):
                sidecar.gate.forget(settlement.reservation_id)
                sidecar.metrics.expired += 1
            sidecar.gate.forget_silent(now_ms)
            # Also for whatever freed capacity without a word: a lease, a clock that was set.
            sidecar.queue.anything_may_have_changed()
            sidecar.ledger.tend(now_ms)
            sidecar.ledger.flush()
            report_velocity(sidecar.gate.velocity, sidecar.metrics, sidecar.notify)
            await asyncio.to_thread(sidecar.ledger.sync)
        except Exception:  # noqa: BLE001  the next second tries again; admission fails closed
            sidecar.fault("upkeep of the ledger")


async def _watch_loop(sidecar: Sidecar) -> None:
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(WATCH_S)
        late = loop.time() - before - WATCH_S
        if late > SLOW_TURN_S:
            sidecar.metrics.slow_turns += 1
            _log.warning("the event loop was blocked for %.0f ms", late * 1000)
