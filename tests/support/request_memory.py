"""What a sidecar's memory does over many requests, in a process of its own.

    python request_memory.py FOLDER REQUESTS [small]

Prints JSON pairs of requests served and resident bytes. Every request is a new session. With
``small`` the memories that are bounded by a number (ended reservations, sessions, callers) are
bounded by a small one, so that a short run is past all bounds; what is left is what leaks.
"""

from __future__ import annotations

import gc
import json
import random
import sys
from pathlib import Path
from typing import Any

from gateway import KEY, base_policy, chat

from extproc.core import callers, sessions
from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge.allocator import keep_freed_blocks
from extproc.edge.services import AccessLogService, RequestService, Sidecar
from extproc.ledger import books
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.pb import extproc_pb2 as pb
from extproc.policy.compiler import compile_folder
from extproc.values.wire_names import REQUEST_LOG, USAGE_METADATA

SMALL = 1_000
BATCH = 50
MS_PER_REQUEST = 10
LIMITS = """
name: l
type: gateway-rate-limit-config
rules:
  - {id: session, limit: {requests: 9, tokens: 90000, window: 30s}, scope: session}
  - {id: user, limit: {requests: 100000000, window: 1h}, scope: user}
---
name: b
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 1000000, window: monthly, on_exceed: hard_block}
"""


class Clock:
    """Time that passes with requests, so that windows do."""

    now = 1_790_000_000_000

    def now_ms(self) -> int:
        return self.now


class Stream:
    """Answers go nowhere."""

    state: Any = None
    answer = b""

    def send(self, message: bytes, *, end: bool = False) -> None:
        self.answer = message

    def fail(self) -> None:
        raise AssertionError("a stream failed")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def make_sidecar(folder: Path, clock: Clock) -> Sidecar:
    policy = base_policy(limits=LIMITS)
    policy["gateway.yaml"] = policy["gateway.yaml"].replace(
        "    claims:", "    max_sessions: 10000000\n    claims:"
    )
    files = {name: text.encode() for name, text in policy.items()}
    snapshot = compile_folder(files, 1, {}, "http://127.0.0.1:9")
    assert not isinstance(snapshot, list), list(map(str, snapshot))
    ledger = EmbeddedLedger(Journal(folder, 4_000_000))
    return Sidecar(Gate(Generation(snapshot)), ledger, clock, random.Random(1))  # type: ignore[arg-type]


def headers_message(number: int) -> bytes:
    message = pb.ProcessingRequest()
    add = message.request_headers.headers.headers.add
    add(key=":path", raw_value=b"/v1/chat/completions")
    add(key="x-request-id", raw_value=b"request-%09d" % number)
    add(key="authorization", raw_value=b"Bearer " + KEY.encode())
    add(key="content-type", raw_value=b"application/json")
    add(key="x-tfy-user-id", raw_value=b"user-%d" % (number % 100))
    add(key="x-tfy-session-id", raw_value=b"session-%09d" % number)
    return message.SerializeToString()


def log_message(numbers: range) -> bytes:
    message = pb.StreamAccessLogsMessage()
    message.identifier.log_name = REQUEST_LOG
    for number in numbers:
        entry = message.http_logs.log_entry.add()
        entry.common_properties.stream_id = f"request-{number:09}"
        entry.common_properties.upstream_request_attempt_count = 1
        entry.response.response_code.value = 200
        usage = entry.common_properties.metadata.filter_metadata[USAGE_METADATA].fields
        usage["tail"].string_value = '"usage":{"prompt_tokens":9,"completion_tokens":4}}'
    return message.SerializeToString()


def main() -> None:
    folder, requests = Path(sys.argv[1]), int(sys.argv[2])
    if "small" in sys.argv:
        books.MAX_ENDED = SMALL
        sessions.MAX_KNOWN_SESSIONS = SMALL
        callers.MAX_CALLERS = SMALL
    keep_freed_blocks()
    clock = Clock()
    sidecar = make_sidecar(folder, clock)
    decides, hears = RequestService(sidecar), AccessLogService(sidecar)
    message = pb.ProcessingRequest()
    message.request_body.body = json.dumps(chat()).encode()
    body = message.SerializeToString()
    checkpoints = []
    log = Stream()
    for first in range(0, requests, BATCH):
        numbers = range(first, first + BATCH)
        for number in numbers:
            stream = Stream()
            decides.message(stream, headers_message(number))
            decides.message(stream, body)
            assert stream.answer.startswith(b"\x1a"), stream.answer
        decides.before_write()
        hears.message(log, log_message(numbers))
        clock.now += BATCH * MS_PER_REQUEST
        if first % 1_000 == 0:
            sidecar.ledger.expire(clock.now)
            sidecar.ledger.tend(clock.now)
            sidecar.ledger.flush()
        if first % (requests // 40) == 0:
            gc.collect()
            checkpoints.append((first, resident_bytes()))
    assert sidecar.ledger.open_count == 0
    assert sidecar.gate.in_flight == {}
    print(json.dumps(checkpoints))


if __name__ == "__main__":
    main()
