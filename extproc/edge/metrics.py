"""Counts of what the sidecar did. Plain integers on the hot path; rendered when somebody asks."""

from __future__ import annotations

from collections import Counter

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from extproc.core.breaker import RESTING, BreakerState
from extproc.core.gate import Gate
from extproc.core.waiting import WaitingRoom
from extproc.ledger.port import ALL_WELL, StoreState
from extproc.values.refusal import RefusalCode

TARGET_STATES = (*(state.value for state in BreakerState), RESTING)


class Metrics:
    """The sidecar's counters. Every label value is from a fixed list or from policy."""

    __slots__ = (
        "admitted",
        "alert_tries_failed",
        "alerts_delivered",
        "alerts_dropped",
        "alerts_failed",
        "alerts_fired",
        "breached_fallbacks",
        "clamped",
        "degraded",
        "degraded_micro_usd",
        "expired",
        "first_token_timeouts",
        "generation",
        "google_tokens",
        "internal_errors",
        "killed",
        "policy_load_errors",
        "policy_warnings",
        "refused",
        "released",
        "settled",
        "settled_without_usage",
        "slow_turns",
        "suspect_usage",
        "target_states",
        "tool_calls",
        "untranslatable_answers",
        "velocity_open",
        "velocity_trips",
        "would_block",
    )

    def __init__(self) -> None:
        self.admitted = 0
        self.alerts_fired = 0
        self.alerts_delivered = 0
        self.alert_tries_failed = 0
        self.alerts_failed = 0
        self.alerts_dropped = 0
        self.breached_fallbacks = 0
        self.clamped = 0
        self.degraded = 0
        self.degraded_micro_usd = 0
        self.refused: Counter[RefusalCode] = Counter()
        self.would_block: Counter[str] = Counter()
        self.tool_calls: Counter[tuple[str, str, str]] = Counter()
        """By MCP server, tool (those that the policy names) and outcome."""
        self.settled = 0
        self.settled_without_usage = 0
        self.suspect_usage = 0
        self.untranslatable_answers = 0
        self.first_token_timeouts = 0
        self.released = 0
        self.expired = 0
        self.internal_errors = 0
        self.slow_turns = 0
        self.generation = 0
        self.policy_load_errors = 0
        self.policy_warnings: Counter[str] = Counter()
        self.velocity_trips: Counter[str] = Counter()
        self.velocity_open: Counter[str] = Counter()
        self.killed = 0
        self.google_tokens: dict[str, tuple[int, int]] = {}
        """By key file: seconds until its token expires, and renewals that failed since."""
        self.target_states: dict[str, str] = {}

    def render(self, gate: Gate, store: StoreState = ALL_WELL) -> bytes:
        """Prometheus text."""
        registry = CollectorRegistry()
        registry.register(_Snapshot(self, gate, store))
        return generate_latest(registry)


_COUNTERS = (
    ("admitted", "Requests that were let go"),
    ("breached_fallbacks", "Requests that a breached limit moved to another target"),
    ("clamped", "Requests and later attempts whose output was cut to what limits leave"),
    ("degraded", "Attempts let go by their rules while the store was away"),
    ("degraded_micro_usd", "What those attempts may cost at worst, in micro-USD"),
    ("settled", "Reservations replaced by reported usage"),
    ("settled_without_usage", "Reservations charged in full because no final usage came"),
    ("suspect_usage", "Usage reports that cannot be true"),
    ("untranslatable_answers", "Answers that were cut because they could not be translated"),
    ("first_token_timeouts", "Attempts given up because their stream had no token in time"),
    ("released", "Reservations of attempts that cost nothing"),
    ("expired", "Reservations charged because nothing was heard of them"),
    ("internal_errors", "Requests refused because of a fault of ours"),
    ("slow_turns", "Turns of the event loop longer than the watchdog allows"),
    ("policy_load_errors", "Policy folders that were refused"),
    ("alerts_fired", "Thresholds that were crossed and forecasts that came near"),
    ("alerts_delivered", "Notices that a channel took"),
    ("alert_tries_failed", "Tries to deliver a notice that failed"),
    ("alerts_failed", "Notices that could not be delivered, or not within a day"),
    ("alerts_dropped", "Notices that were given up because too many waited"),
)


class _Snapshot(Collector):
    def __init__(self, metrics: Metrics, gate: Gate, store: StoreState) -> None:
        self._metrics = metrics
        self._gate = gate
        self._store = store

    def collect(self):  # type: ignore[no-untyped-def]
        """Every metric family."""
        for name, text in _COUNTERS:
            yield CounterMetricFamily(f"tokenweir_{name}", text, getattr(self._metrics, name))
        refused = CounterMetricFamily("tokenweir_refused", "Refusals by code", labels=["code"])
        for code, count in self._metrics.refused.items():
            refused.add_metric([code.value], count)
        yield refused
        calls = CounterMetricFamily(
            "tokenweir_tool_calls", "Calls of tools", labels=["server", "tool", "outcome"]
        )
        for labels, count in self._metrics.tool_calls.items():
            calls.add_metric(list(labels), count)
        yield calls
        shadow = CounterMetricFamily(
            "tokenweir_would_block", "What shadow rules would have refused", labels=["rule"]
        )
        for rule, count in self._metrics.would_block.items():
            shadow.add_metric([rule], count)
        yield shadow
        trips = CounterMetricFamily(
            "tokenweir_velocity_trips", "Velocity breakers that opened", labels=["rule"]
        )
        for rule, count in self._metrics.velocity_trips.items():
            trips.add_metric([rule], count)
        yield trips
        opened = GaugeMetricFamily(
            "tokenweir_velocity_open", "Velocity breakers that are not closed", labels=["rule"]
        )
        for rule, count in self._metrics.velocity_open.items():
            opened.add_metric([rule], count)
        yield opened
        states = GaugeMetricFamily(
            "tokenweir_target_state",
            "1 for what the circuit breaker of a target says",
            labels=["target", "state"],
        )
        for target, now in self._metrics.target_states.items():
            for state in TARGET_STATES:
                states.add_metric([target, state], int(state == now))
        yield states
        yield GaugeMetricFamily(
            "tokenweir_killed", "Values that the kill switch stops", self._metrics.killed
        )
        warnings = GaugeMetricFamily(
            "tokenweir_policy_warnings", "Warnings of the active policy", labels=["code"]
        )
        for kind, count in self._metrics.policy_warnings.items():
            warnings.add_metric([kind], count)
        yield warnings
        yield GaugeMetricFamily(
            "tokenweir_policy_generation", "Active policy generation", self._metrics.generation
        )
        yield from _google_tokens(self._metrics.google_tokens)
        in_flight = len(self._gate.in_flight) + len(self._gate.tool_calls)
        yield GaugeMetricFamily("tokenweir_in_flight", "Unsettled requests", in_flight)
        kept = self._gate.kept_bytes
        yield GaugeMetricFamily("tokenweir_kept_body_bytes", "Bodies kept for a next target", kept)
        yield from _queue(self._gate.waiting)
        yield from _store(self._store)


def _google_tokens(tokens: dict[str, tuple[int, int]]) -> list[Metric]:
    left = GaugeMetricFamily(
        "tokenweir_google_token_seconds_left", "Until a token expires; 0: none", labels=["key_file"]
    )
    failed = GaugeMetricFamily(
        "tokenweir_google_token_failures", "Renewals failed since the last one", labels=["key_file"]
    )
    for key_file, (seconds, failures) in tokens.items():
        left.add_metric([key_file], seconds)
        failed.add_metric([key_file], failures)
    return [left, failed] if tokens else []


def _queue(room: WaitingRoom) -> list[Metric]:
    left = CounterMetricFamily("tokenweir_queue_left", "How waits ended", labels=["how"])
    for how, count in room.left.items():
        left.add_metric([how.value], count)
    return [
        GaugeMetricFamily("tokenweir_waiting", "Requests that wait in a queue", room.count),
        CounterMetricFamily("tokenweir_queued", "Requests that had to wait", room.entered),
        left,
    ]


def _store(state: StoreState) -> list[Metric]:
    conditions = GaugeMetricFamily(
        "tokenweir_store_state", "1 for the store's condition", labels=["condition"]
    )
    for condition in ("ok", "degraded", "closed"):
        conditions.add_metric([condition], int(state.condition == condition))
    text = "Ends of reservations that the store does not know yet"
    return [
        conditions,
        GaugeMetricFamily("tokenweir_store_undelivered", text, state.undelivered),
    ]
