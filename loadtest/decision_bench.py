"""The pure decision, without Envoy or I/O: headers and body in, a command out.

Timed: parsing the envelope, credential, matching, the worst case's price, the check of every limit
with its reservation in the ledger's memory, and the rewritten body. Not timed: protobuf, the
journal's write, settlement. Of N rules at most ten match the caller: the others are for other
projects, as in a company's policy.

    python -m loadtest.decision_bench
"""

from __future__ import annotations

import gc
import hashlib
import tempfile
import time
from pathlib import Path
from random import Random

from extproc.core.commands import Forward, Reserve
from extproc.core.events import RequestBody, RequestHeaders, Reserved
from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.core.queueing import QueueingMachine
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import PolicySnapshot
from loadtest.bodies import KEY, SMALL_BYTES, chat_body
from loadtest.latency import percentiles

RULE_COUNTS = (1, 10, 100, 1000)
MATCHING_RULES = 10
SAMPLES = 3_000
WARM_UP = 500
_ONE_OF_OURS = "  - {{id: rule-{0}, limit: {{requests: 1000000000, window: 1h}}, scope: user}}\n"
_ONE_OF_OTHERS = (
    "  - {{id: rule-{0}, when: {{metadata: {{X-TFY-Project: other-{0}}}}}, "
    "limit: {{requests: 1000000000, window: 1h}}, scope: user}}\n"
)
_GATEWAY = """
name: decision
type: gateway-config
envelope: {{prefix: X-TFY-, required: {{"*": [project, environment]}}}}
credentials:
  - {{id: load, sha256: {digest}, claims: {{projects: [p1], environments: [production]}}}}
providers:
  primary: {{dialect: openai, base_url: "http://127.0.0.1:1/v1"}}
prices:
  - {{provider: primary, model: m1, input_usd_per_mtok: 1, output_usd_per_mtok: 5,
     context_tokens: 200000, max_output_tokens: 64000}}
---
name: intent-fast
type: gateway-load-balancing-config
rules:
  - {{id: first, weight: 1, target: {{provider: primary, model: m1}}}}
"""


def policy(rules: int) -> PolicySnapshot:
    """A policy of ``rules`` rate rules, ten of them for the caller. Raises ``ValueError``."""
    lines = [
        (_ONE_OF_OURS if number < MATCHING_RULES else _ONE_OF_OTHERS).format(number)
        for number in range(rules)
    ]
    limits = "name: limits\ntype: gateway-rate-limit-config\nrules:\n" + "".join(lines)
    gateway = _GATEWAY.format(digest=hashlib.sha256(KEY.encode()).hexdigest())
    files = {"gateway.yaml": gateway.encode(), "limits.yaml": limits.encode()}
    compiled = compile_folder(files, 1, {})
    if not isinstance(compiled, PolicySnapshot):
        raise ValueError("\n".join(map(str, compiled)))
    return compiled


def run_decision(rules: int, samples: int = SAMPLES) -> list[int]:
    """Nanoseconds of ``samples`` decisions under a policy of ``rules`` rules, after a warm-up.

    Raises ``RuntimeError`` if a decision is anything but "forward": it would be another path.
    """
    with tempfile.TemporaryDirectory() as folder:
        ledger = EmbeddedLedger(Journal(Path(folder)))
        gate = Gate(Generation(policy(rules)))
        body = chat_body(SMALL_BYTES, 1)
        draw = Random(1).random
        gc.collect()
        gc.freeze()
        try:
            times_ns = [
                _decide(gate, ledger, _headers(number), RequestBody(body, _now_ms(), draw()))
                for number in range(WARM_UP + samples)
            ]
        finally:
            gc.unfreeze()
            ledger.close()
    return times_ns[WARM_UP:]


def _decide(gate: Gate, ledger: EmbeddedLedger, headers: RequestHeaders, body: RequestBody) -> int:
    began_ns = time.perf_counter_ns()
    machine = QueueingMachine(gate)
    machine.on_headers(headers)
    command = machine.on_body(body)
    while isinstance(command, Reserve):
        outcome = ledger.reserve(
            command.reservation_id,
            command.account,
            command.amounts,
            command.now_ms,
            command.lease_until_ms,
        )
        command = machine.on_reserved(Reserved(outcome, command.now_ms))
    took_ns = time.perf_counter_ns() - began_ns
    if not isinstance(command, Forward):
        raise RuntimeError(f"the load was not forwarded: {command}")
    # As after a settled request: nothing piles up from sample to sample.
    ledger.flush()
    ledger.release(machine.request_id + "/1", body.now_ms, "sample")
    gate.in_flight.clear()
    return took_ns


def _headers(number: int) -> RequestHeaders:
    pairs = [
        (":method", b"POST"),
        (":path", b"/v1/chat/completions"),
        (":authority", b"gateway"),
        ("authorization", b"Bearer " + KEY.encode()),
        ("content-type", b"application/json"),
        ("x-tfy-project", b"p1"),
        ("x-tfy-team", b"t1"),
        ("x-tfy-user-id", b"user-%03d" % (number % 256)),
        ("x-tfy-session-id", b"session-%03d" % (number % 256)),
        ("x-tfy-workflow-tag", b"classify-intent"),
        ("x-tfy-environment", b"production"),
        ("x-tfy-cost-center", b"eng-platform-002"),
        ("x-request-id", b"request-%d" % number),
    ]
    return RequestHeaders(pairs, False, _now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def main() -> None:
    """Prints one line per number of rules."""
    for rules in RULE_COUNTS:
        figures = percentiles(run_decision(rules))
        p50_us, p99_us = figures.p50_ms * 1000, figures.p99_ms * 1000
        print(f"{rules:>5} rules: p50 {p50_us:.1f} us, p99 {p99_us:.1f} us")


if __name__ == "__main__":
    main()
