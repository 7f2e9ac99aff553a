"""From Envoy's message to the answer while the store is away, with rules from policy text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from emergency_rig import Fate, Rig
from gateway import KEY, chat
from policies import snapshot

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge.clock import Clock
from extproc.edge.services import RequestService, Sidecar
from extproc.pb import extproc_pb2 as pb

LIMITS = """
name: limits
type: gateway-rate-limit-config
rules:
  - id: guarded
    when: {metadata: {X-TFY-Project: p2}}
    limit: {requests: 100, window: 1h}
  - id: loose
    limit: {requests: 100, window: 1h}
    on_store_failure: open
---
name: budgets
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 1, window: daily, on_store_failure: emergency_quota,
     emergency_quota_pct: 5}
"""


class Answers:
    """A stream that keeps what was sent on it."""

    def __init__(self) -> None:
        self.state: Any = None
        self.sent: list[Any] = []

    def send(self, message: bytes, *, end: bool = False) -> None:
        self.sent.append(pb.ProcessingResponse.FromString(message))

    def fail(self) -> None:
        raise AssertionError("the stream failed")


class Front:
    """A sidecar without a socket."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        gate = Gate(Generation(snapshot(limits=LIMITS)))
        self.sidecar = Sidecar(gate, self.rig.ledger, Clock(), random.Random(1))
        self.service = RequestService(self.sidecar)
        self.asked = 0

    def ask(self, project: str = "p1", max_tokens: int = 16) -> Any:
        self.asked += 1
        said = {
            ":method": "POST",
            ":path": "/v1/chat/completions",
            "x-request-id": f"r{self.asked}",
            "authorization": f"Bearer {KEY}",
            "content-type": "application/json",
            "x-tfy-project": project,
        }
        message = pb.ProcessingRequest()
        for name, value in said.items():
            message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
        stream = Answers()
        self.service.message(stream, message.SerializeToString())
        body = json.dumps(chat(max_tokens=max_tokens)).encode()
        message = pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=True))
        self.service.message(stream, message.SerializeToString())
        self.rig.remote.run()
        self.service.before_write()
        return stream.sent[-1]


@pytest.fixture
def front(tmp_path: Path):
    front = Front(tmp_path)
    yield front
    front.rig.close()


def degraded(answer: Any) -> str:
    assert answer.HasField("request_body")
    verdict = answer.dynamic_metadata.fields["tokenweir"].struct_value
    return str(verdict.fields["degraded"].string_value)


@pytest.mark.parametrize("fate", [Fate.REFUSED, Fate.REQUEST_LOST, Fate.REPLY_LOST])
def test_F60_each_rule_does_what_it_says_and_the_answer_says_so(front: Front, fate: Fate) -> None:
    assert degraded(front.ask()) == ""
    front.rig.remote.away(fate)
    metrics = front.sidecar.metrics
    assert degraded(front.ask()) == "store_unavailable"
    assert metrics.degraded == 1
    assert 0 < metrics.degraded_micro_usd <= 50_000

    refused = front.ask(project="p2").immediate_response  # a closed rule counts it too
    said = {each.header.key: each.header.raw_value for each in refused.headers.set_headers}
    assert refused.status.code == 503
    assert said["retry-after"] == b"1"
    assert said["x-tfy-degraded"] == b"store_unavailable"
    assert json.loads(refused.body)["error"]["code"] == "store_unavailable"

    too_dear = front.ask(max_tokens=60_000).immediate_response
    assert too_dear.status.code == 503
    assert metrics.degraded == 1

    front.rig.remote.back()
    front.rig.now_ms = front.sidecar.clock.now_ms()
    front.rig.tend()
    assert degraded(front.ask()) == ""
