"""How many calls a budget refuses that it could have paid for, and how much of it stays unusable.

Coding agents ask for 64,000 output tokens and use some 900. A gateway that holds the worst case of
every call in flight refuses calls while most of the money is still there; one that holds less may
spend more than the ceiling. Both are measured here, on the same calls, under a virtual clock:

- *ample*: all calls together cost 90 % of the budget, so every refusal is a false one;
- *scarce*: they cost 140 % of it: what share is spent in the end, and how much above the ceiling.

    python -m loadtest.false_refusals [--seed N]
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import tempfile
from dataclasses import dataclass
from math import log
from pathlib import Path
from random import Random

from extproc.core import settlement
from extproc.core.commands import Command, Forward, Reserve, Settle
from extproc.core.events import Ending, RequestBody, RequestEnded, RequestHeaders, Reserved
from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.core.machine import RequestMachine
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import PolicySnapshot
from extproc.values.usage import TokenUsage

KEY = "tw-agent-key"
AGENTS = 20
CALLS_PER_AGENT = 60
ASKED_TOKENS = 64_000
MEDIAN_OUTPUT_TOKENS = 600
SPREAD = 0.9
"""Of the logarithm of output tokens: the mean is 900, one call in a hundred has 5,000."""
FIRST_BODY_BYTES = 20_000
BODY_GROWTH_BYTES = 3_000
"""Each turn's addition to the conversation."""
BYTES_PER_TOKEN = 4
CACHED_PCT = 90
MS_PER_OUTPUT_TOKEN = 12
FIRST_TOKEN_MS = 1_000
THINK_MS = 5_000
"""Tools run between an agent's calls."""
START_MS = 1_790_000_000_000
AMPLE_PCT, SCARCE_PCT = 90, 140

_POLICY = """
name: agents
type: gateway-config
envelope: {{prefix: X-TFY-, required: {{"*": [project]}}}}
credentials:
  - {{id: agents, sha256: {digest}, claims: {{projects: [p1]}}}}
providers:
  primary: {{dialect: openai, base_url: "http://127.0.0.1:1/v1"}}
prices:
  - {{provider: primary, model: m1, input_usd_per_mtok: 3, output_usd_per_mtok: 15,
     cached_input_usd_per_mtok: 0.3, cache_write_usd_per_mtok: 3.75, context_tokens: 200000,
     max_output_tokens: 64000}}
---
name: agent-strong
type: gateway-load-balancing-config
rules:
  - {{id: first, target: {{provider: primary, model: m1}}}}
---
name: budgets
type: gateway-budget-config
budgets:
  - {{id: agents, ceiling_usd: {usd}, window: monthly, mode: {mode}}}
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call as an agent makes it, and what it really uses."""

    body: bytes
    usage: TokenUsage
    think_ms: int


@dataclass(slots=True)
class Result:
    """What became of a run. Money in micro-USD."""

    asked: int = 0
    refused: int = 0
    cut_short: int = 0
    """Answers that a clamp made shorter than they would have been."""
    settled: int = 0
    ceiling: int = 0

    @property
    def refused_pct(self) -> float:
        """Share of calls refused."""
        return 100 * self.refused / self.asked

    @property
    def spent_pct(self) -> float:
        """Share of the budget that was spent in the end."""
        return 100 * self.settled / self.ceiling

    @property
    def over_usd(self) -> float:
        """Dollars above the ceiling."""
        return max(0, self.settled - self.ceiling) / 1e6


def agent_calls(draw: Random, calls: int) -> list[Call]:
    """One agent's session: the conversation grows with every turn."""
    made = []
    for turn in range(calls):
        body_bytes = FIRST_BODY_BYTES + turn * BODY_GROWTH_BYTES
        text = "x" * (body_bytes - 120)
        message = {"role": "user", "content": text}
        document = {"model": "agent-strong", "max_tokens": ASKED_TOKENS, "messages": [message]}
        tokens = body_bytes // BYTES_PER_TOKEN
        cached = tokens * CACHED_PCT // 100 if turn else 0
        output = min(ASKED_TOKENS, int(draw.lognormvariate(log(MEDIAN_OUTPUT_TOKENS), SPREAD)) + 1)
        usage = TokenUsage(tokens, output, cached)
        made.append(Call(json.dumps(document).encode(), usage, int(draw.expovariate(1 / THINK_MS))))
    return made


def workload(seed: int, agents: int = AGENTS, calls: int = CALLS_PER_AGENT) -> list[list[Call]]:
    """The sessions of all agents. The same for the same seed."""
    draw = Random(seed)
    return [agent_calls(draw, calls) for _ in range(agents)]


class Run:
    """All sessions against one budget, under a virtual clock."""

    def __init__(self, sessions: list[list[Call]], mode: str, demand_pct: int) -> None:
        self._sessions = sessions
        price = _compiled("1", mode).virtual_models["agent-strong"].targets[0].price
        total = sum(price.cost_micro_usd(call.usage) for calls in sessions for call in calls)
        self.result = Result(ceiling=total * 100 // demand_pct)
        usd = f"{self.result.ceiling // 10**6}.{self.result.ceiling % 10**6:06}"
        self._gate = Gate(Generation(_compiled(usd, mode)))
        self._events: list[tuple[int, int, int, str]] = []
        self._number = 0
        self._turn = [0] * len(sessions)

    def run(self) -> Result:
        """Every agent makes its calls, one after the other; all agents at once."""
        with tempfile.TemporaryDirectory() as folder:
            ledger = EmbeddedLedger(Journal(Path(folder)))
            for agent in range(len(self._sessions)):
                self._later(START_MS + 100 * agent, agent, "")
            while self._events:
                now_ms, _, agent, answered = heapq.heappop(self._events)
                if answered:
                    self._settle(ledger, agent, answered, now_ms)
                else:
                    self._ask(ledger, agent, now_ms)
            counters = {key: settled for key, _, _, settled, _ in ledger.counters()}
            self.result.settled = counters["agents/usd"]
            ledger.close()
        return self.result

    def _later(self, at_ms: int, agent: int, answered: str) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_ms, self._number, agent, answered))

    def _ask(self, ledger: EmbeddedLedger, agent: int, now_ms: int) -> None:
        calls = self._sessions[agent]
        if self._turn[agent] == len(calls):
            return
        call = calls[self._turn[agent]]
        self.result.asked += 1
        request_id = f"a{agent}-{self._turn[agent]}"
        command = self._decide(ledger, agent, call, request_id, now_ms)
        if isinstance(command, Forward):
            allowed = json.loads(command.body)["max_tokens"]
            output = min(call.usage.output_tokens, allowed)
            self.result.cut_short += output < call.usage.output_tokens
            took_ms = FIRST_TOKEN_MS + output * MS_PER_OUTPUT_TOKEN
            self._later(now_ms + took_ms, agent, f"{request_id} {output}")
        else:
            self.result.refused += 1
            self._turn[agent] += 1
            self._later(now_ms + call.think_ms, agent, "")

    def _decide(
        self, ledger: EmbeddedLedger, agent: int, call: Call, request_id: str, now_ms: int
    ) -> Command:
        machine = RequestMachine(self._gate)
        machine.on_headers(RequestHeaders(_headers(agent, request_id), False, now_ms))
        command: Command = machine.on_body(RequestBody(call.body, now_ms, 0.0))
        while isinstance(command, Reserve):
            outcome = ledger.reserve(
                command.reservation_id,
                command.account,
                command.amounts,
                command.now_ms,
                command.lease_until_ms,
            )
            command = machine.on_reserved(Reserved(outcome, command.now_ms))
        return command

    def _settle(self, ledger: EmbeddedLedger, agent: int, answered: str, now_ms: int) -> None:
        request_id, _, output = answered.partition(" ")
        call = self._sessions[agent][self._turn[agent]]
        usage = {
            "prompt_tokens": call.usage.input_tokens,
            "completion_tokens": int(output),
            "prompt_tokens_details": {"cached_tokens": call.usage.cached_input_tokens},
        }
        tail = b'"usage":' + json.dumps(usage).encode() + b"}"
        event = RequestEnded(request_id, 1, Ending(200), b"", b"", tail, now_ms)
        for command in settlement.request_ended(self._gate, event):
            if not isinstance(command, Settle):
                raise RuntimeError(f"an answered call was not settled: {command}")
            ledger.settle(command.reservation_id, command.amounts, now_ms, command.about)
        ledger.flush()
        self._turn[agent] += 1
        self._later(now_ms + call.think_ms, agent, "")


def _compiled(usd: str, mode: str) -> PolicySnapshot:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    text = _POLICY.format(digest=digest, usd=usd, mode=mode)
    policy = compile_folder({"policy.yaml": text.encode()}, 1, {})
    if not isinstance(policy, PolicySnapshot):
        raise ValueError("\n".join(map(str, policy)))
    return policy


def _headers(agent: int, request_id: str) -> list[tuple[str, bytes]]:
    return [
        (":path", b"/v1/chat/completions"),
        ("authorization", b"Bearer " + KEY.encode()),
        ("content-type", b"application/json"),
        ("x-tfy-project", b"p1"),
        ("x-tfy-session-id", b"agent-%d" % agent),
        ("x-tfy-workflow-tag", b"coding-agent"),
        ("x-request-id", request_id.encode()),
    ]


def main() -> None:
    """Prints one line per mode and demand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    sessions = workload(seed)
    print(f"{AGENTS} agents, {AGENTS * CALLS_PER_AGENT} calls, seed {seed}")
    for demand, demand_pct in (("ample", AMPLE_PCT), ("scarce", SCARCE_PCT)):
        for mode in ("strict", "statistical"):
            result = Run(sessions, mode, demand_pct).run()
            print(
                f"{demand:6} {mode:11} of ${result.ceiling / 1e6:.2f}: "
                f"{result.refused_pct:5.1f} % refused, {result.cut_short} cut short, "
                f"{result.spent_pct:5.1f} % spent, ${result.over_usd:.4f} over"
            )


if __name__ == "__main__":
    main()
