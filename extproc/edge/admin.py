"""The admin API: health, metrics, policy, usage, alerts. On loopback, never on the listener."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from extproc import __version__
from extproc.edge.alerting import Alerting
from extproc.edge.reload import PolicyReloader
from extproc.edge.services import Sidecar

MAX_COUNTERS = 1_000
"""Counters shown by ``/usage``: more belongs into a report."""


class Admin:
    """The handlers of one sidecar's admin API."""

    def __init__(self, sidecar: Sidecar, reloader: PolicyReloader, alerting: Alerting) -> None:
        self._sidecar = sidecar
        self._reloader = reloader
        self._alerting = alerting

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application()
        for path, handler in (
            ("/", self._overview),
            ("/healthz", self._health),
            ("/metrics", self._metrics),
            ("/policy", self._policy),
            ("/usage", self._usage),
            ("/alerts", self._alerting.report),
        ):
            application.router.add_get(path, _answering(handler))
        return application

    def _overview(self) -> dict[str, object]:
        return {
            "tokenweir": __version__,
            "see": ["/healthz", "/metrics", "/policy", "/usage", "/alerts"],
        }

    def _health(self) -> dict[str, object]:
        return {"healthy": True, "generation": self._sidecar.gate.generation.number}

    def _metrics(self) -> bytes:
        return self._sidecar.metrics.render(
            len(self._sidecar.gate.in_flight), self._sidecar.ledger.state
        )

    def _policy(self) -> dict[str, object]:
        policy = self._sidecar.gate.generation.policy
        return {
            "generation": policy.generation,
            "digest": policy.digest,
            "virtual_models": sorted(policy.virtual_models),
            "limits": [limit.key for limit in policy.limits],
            "warnings": [str(warning) for warning in policy.warnings],
            "problems": [str(problem) for problem in self._reloader.problems],
            "breakers": self._sidecar.gate.breakers.states(),
        }

    def _usage(self) -> dict[str, object]:
        counters: list[dict[str, object]] = []
        truncated = False
        for key, scope_value, window, settled, reserved in self._sidecar.ledger.counters():
            if len(counters) >= MAX_COUNTERS:
                truncated = True
                break
            counters.append(
                {
                    "limit": key,
                    "scope_value": scope_value,
                    "window": window,
                    "settled": settled,
                    "reserved": reserved,
                }
            )
        state = self._sidecar.ledger.state
        return {
            "store": state._asdict(),
            "counters": counters,
            "truncated": truncated,
            "open_reservations": self._sidecar.ledger.open_count,
        }


def _answering(
    handler: Callable[[], dict[str, object] | bytes],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        content = handler()
        if isinstance(content, bytes):
            return web.Response(body=content, content_type="text/plain")
        body = orjson.dumps(content, option=orjson.OPT_INDENT_2)
        return web.Response(body=body, content_type="application/json")

    return answer
