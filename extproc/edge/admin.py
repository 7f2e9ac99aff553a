"""The admin API: health, metrics, policy, usage, alerts, corrections. Not on the listener."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from extproc import __version__
from extproc.core.breaker import BreakerState
from extproc.edge.alerting import Alerting
from extproc.edge.corrections import Corrections
from extproc.edge.kill_api import PATH as KILL_SWITCH
from extproc.edge.kill_api import KillApi
from extproc.edge.kill_board import KillBoard
from extproc.edge.notices import report_velocity
from extproc.edge.reload import PolicyReloader
from extproc.edge.services import Sidecar
from extproc.wire.error_body import amount_text, rfc3339

MAX_COUNTERS = 1_000
"""Counters shown by ``/usage``: more belongs into a report."""


class Admin:
    """The handlers of one sidecar's admin API."""

    def __init__(
        self, sidecar: Sidecar, reloader: PolicyReloader, alerting: Alerting, kills: KillBoard
    ) -> None:
        self._sidecar = sidecar
        self._reloader = reloader
        self._corrections = Corrections(sidecar)
        self._alerting = alerting
        self._kills = KillApi(kills, sidecar.gate, lambda: sidecar.notify)

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
        self._kills.add_to(application)
        application.router.add_post("/corrections", self._corrections.post)
        return application

    def _overview(self) -> dict[str, object]:
        return {
            "tokenweir": __version__,
            "see": ["/healthz", "/metrics", "/policy", "/usage", "/alerts", KILL_SWITCH],
        }

    def _health(self) -> dict[str, object]:
        return {"healthy": True, "generation": self._sidecar.gate.generation.number}

    def _metrics(self) -> bytes:
        sidecar = self._sidecar
        report_velocity(sidecar.gate.velocity, sidecar.metrics, sidecar.notify)
        sidecar.metrics.killed = sidecar.gate.kills.count
        sidecar.metrics.target_states = self._target_states()
        return sidecar.metrics.render(sidecar.gate, sidecar.ledger.state)

    def _target_states(self) -> dict[str, str]:
        """Of every target of the policy."""
        gate, now_ms = self._sidecar.gate, self._sidecar.clock.now_ms()
        models = gate.generation.policy.virtual_models.values()
        known = gate.breakers.states(now_ms)
        names = sorted({target.name for model in models for target in model.all_targets})
        return {name: known.get(name, BreakerState.CLOSED.value) for name in names}

    def _policy(self) -> dict[str, object]:
        policy = self._sidecar.gate.generation.policy
        return {
            "generation": policy.generation,
            "digest": policy.digest,
            "virtual_models": sorted(policy.virtual_models),
            "limits": [limit.key for limit in policy.limits],
            "warnings": [str(warning) for warning in policy.warnings],
            "problems": [str(problem) for problem in self._reloader.problems],
            "breakers": self._sidecar.gate.breakers.states(self._sidecar.clock.now_ms()),
            "velocity": self._velocity(),
        }

    def _velocity(self) -> list[dict[str, object]]:
        """The velocity breakers that are not closed."""
        now_ms = self._sidecar.clock.now_ms()
        return [
            {
                "rule_id": meter.rule.id,
                "scope_value": meter.scope_value,
                "state": meter.state.value,
                "enforce": "enforce" if meter.rule.enforced else "shadow",
                "limit_usd_per_minute": amount_text("usd", meter.limit),
                "spent_usd_last_minute": amount_text("usd", meter.rate(now_ms)),
                "until": rfc3339(meter.retry_at_ms),
            }
            for meter in self._sidecar.gate.velocity.not_closed()[:MAX_COUNTERS]
        ]

    def _usage(self) -> dict[str, object]:
        emergency = getattr(self._sidecar.ledger, "emergency", None)
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
            # Of a store that can be away; the embedded one is simply there.
            **({"emergency": dict(emergency)} if emergency else {}),
            "corrections": self._corrections.made,
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
