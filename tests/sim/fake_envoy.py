"""An Envoy of the simulated world: it speaks the real messages and does what Envoy was seen to do.

One request: ext_proc on the listener (headers, body, verdict), then attempts down the chain, each
after the first through the attempt service, then the access logs, in batches, on two streams that
know nothing of each other's order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

import sim_policy
import usage_reports
from fake_provider import Billed, Provider
from schedule import Schedule, Step
from transport import Process, SimStream

from extproc.envoy.ext_proc import (
    ATTEMPT_HEADER,
    CLUSTER_ATTRIBUTE,
    DETAILS_ATTRIBUTE,
    MESSAGE_TIMEOUT_S,
    REQUEST_ID_ATTRIBUTE,
)
from extproc.envoy.routes import RETRIABLE_STATUS_CODES
from extproc.pb import extproc_pb2 as pb
from extproc.values.dialect import Dialect
from extproc.values.wire_names import (
    ATTEMPT_LOG,
    METADATA,
    REQUEST_LOG,
    TRANSLATED_HEADER,
    USAGE_METADATA,
)

LOG_FLUSH_MS = 20
MAX_TOKENS = (1, 50, 300, 1_000, 3_000)
HEARTBEAT_MS = 30_000
PATHS = {Dialect.OPENAI: b"/v1/chat/completions", Dialect.ANTHROPIC: b"/v1/messages"}
ENDINGS = (
    "answer", "stream", "connect_failed", "status", "timeout", "reset", "cut", "lie", "overrun",
)  # fmt: skip


@dataclass(eq=False)
class Attempt:
    """What Envoy knows of one try."""

    number: int
    target: str
    sent_to: Billed | None = None
    ending: str = ""
    status: int = 0
    flags: tuple[str, ...] = ()
    dialect: Dialect = Dialect.OPENAI
    """Of the provider's API that it is sent to."""
    log_heard_by: int = 0
    """The process (by its serial number) that took in this attempt's own entry."""
    log_heard_ms: int = 0


@dataclass(eq=False)
class Call:
    """One request of a client."""

    request_id: str
    body: dict[str, Any]
    headers: dict[str, str]
    dialect: Dialect
    leaves_ms: int | None
    stage: str = "headers"
    verdict: str = ""
    """``forward``, ``refused CODE``, or how the gateway failed it."""
    status: int = 0
    decided_by: int = 0
    """The process (by its serial number) that decided."""
    generation_seen: int = 0
    """The one that was active when its headers arrived."""
    generation: int = 0
    variant: int = 0
    chain: list[str] = field(default_factory=list)
    retries: int = 0
    forwarded: bytes = b""
    path: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    stream: SimStream | None = None
    timer: Step | None = None
    usage: dict[str, str] = field(default_factory=dict)
    log_heard_by: int = 0
    log_heard_ms: int = 0
    held: bool = False
    """The sidecar asked for more time than a message usually gets."""
    asks_answer: bool = False
    """Its answer passes the sidecar."""
    details: str = ""
    """Why the answer is not its provider's."""
    over: bool = False
    left: bool = False


class FakeEnvoy:
    """One Envoy in front of one sidecar."""

    def __init__(
        self,
        schedule: Schedule,
        draw: Random,
        provider: Provider,
        mix: dict[str, float],
        sidecar: Any,
        watch: Any,
    ) -> None:
        self._schedule = schedule
        self._draw = draw
        self._provider = provider
        self._mix = mix
        self._sidecar = sidecar
        """Where its process is: ``sidecar.process`` is a ``Process`` or None."""
        self._watch = watch
        """Told of what the invariants are about."""
        self.calls: list[Call] = []
        self._logs: dict[str, list[tuple[Any, Call, Attempt | None]]] = {
            REQUEST_LOG: [],
            ATTEMPT_LOG: [],
        }
        self._log_streams: dict[str, tuple[Process, SimStream] | None] = {}
        self._flushing: set[str] = set()

    # -- a request until its verdict --------------------------------------------------------------

    def call(self, body: dict[str, Any], headers: dict[str, str], leaves_ms: int | None) -> Call:
        """A client's request arrives."""
        dialect = Dialect.ANTHROPIC if "x-api-key" in headers else Dialect.OPENAI
        call = Call(f"{self._draw.getrandbits(128):032x}", body, headers, dialect, leaves_ms)
        self.calls.append(call)
        self._after(0, "request headers", self._open, call)
        if leaves_ms is not None:
            self._after(leaves_ms, "client leaves", self._client_leaves, call)
        return call

    def _after(self, delay_ms: int, name: str, callback: Any, *arguments: Any) -> Step:
        return self._schedule.after(delay_ms, name, callback, *arguments)

    def _open(self, call: Call) -> None:
        if call.over:
            return
        process: Process | None = self._sidecar.process
        if process is None:
            self._local_reply(call, "no sidecar", 503)
            return
        call.stream = process.requests.open(
            lambda data, end: self._answered(call, data, end),
            lambda: self._local_reply(call, "stream failed", 503),
        )
        message = pb.ProcessingRequest()
        add = message.request_headers.headers.headers.add
        add(key=":path", raw_value=PATHS[call.dialect])
        add(key="x-request-id", raw_value=call.request_id.encode())
        add(key="content-type", raw_value=b"application/json")
        for name, value in call.headers.items():
            add(key=name, raw_value=value.encode())
        self._deliver(call, message, lambda: self._headers_read(call, process))

    @staticmethod
    def _headers_read(call: Call, process: Process) -> None:
        call.generation_seen = process.generation

    def _deliver(self, call: Call, message: Any, then: Any = None) -> None:
        assert call.stream is not None
        call.timer = self._after(
            MESSAGE_TIMEOUT_S * 1000, "message timeout", self._message_timeout, call
        )
        call.stream.deliver(message.SerializeToString(), then)

    def _message_timeout(self, call: Call) -> None:
        if call.over:
            return
        assert call.stream is not None
        process = self._sidecar.process
        self._watch.unanswered(call, process is not None and process.serial == call.stream.serial)
        call.stream.reset()
        self._local_reply(call, "message timeout", 504)

    def _answered(self, call: Call, data: bytes, end: bool) -> None:
        if call.over:
            return
        assert call.timer is not None
        call.timer.cancel()
        answer = pb.ProcessingResponse.FromString(data)
        hold_ms = _hold_ms(answer)
        if hold_ms:
            self._schedule.note("held")
            call.held = True
            call.timer = self._after(hold_ms, "message timeout", self._message_timeout, call)
        elif answer.HasField("immediate_response"):
            self._refused(call, answer.immediate_response)
        elif call.stage == "headers" and answer.HasField("request_headers"):
            call.stage = "body"
            if end:
                self._watch.passed_undecided(call)
            self._after(self._draw.randint(0, 3), "request body", self._send_body, call)
        elif call.stage == "body" and answer.HasField("request_body") and end:
            self._forward(call, answer)
        elif call.stage == "attempt headers" and answer.HasField("request_headers"):
            call.stage = "attempt body"
            message = pb.ProcessingRequest()
            message.request_body.body = call.forwarded
            message.request_body.end_of_stream = True
            self._deliver(call, message)
        elif call.stage == "attempt body" and answer.HasField("request_body") and end:
            common = answer.request_body.response
            for option in common.header_mutation.set_headers:
                if option.header.key == ":path":
                    call.path = option.header.raw_value.decode()
            self._send(call, call.attempts[-1], common.body_mutation.body)
        elif call.stage == "answer":
            if answer.HasField("response_headers") and not end:
                return
            self._attempt_over(call, call.attempts[-1], call.attempts[-1].ending, 200)
        elif not answer.ListFields() or end:
            self._watch.passed_undecided(call)
            self._local_reply(call, "wrong answer", 500)

    def _send_body(self, call: Call) -> None:
        if call.over:
            return
        message = pb.ProcessingRequest()
        message.request_body.body = json.dumps(call.body).encode()
        message.request_body.end_of_stream = True
        self._deliver(call, message)

    def _refused(self, call: Call, immediate: Any) -> None:
        document = json.loads(immediate.body)
        code = document["error"]["metadata"]["code"]
        self._schedule.note(f"refused {code}")
        if call.stage == "answer":
            call.details = immediate.details
            self._answer_lost(call)
            return
        if call.stage.startswith("attempt"):
            # Terminal, and Envoy does not try again.
            self._attempt_over(call, call.attempts[-1], f"refused {code}", immediate.status.code)
            return
        self._local_reply(call, "refused " + code, immediate.status.code)

    def _local_reply(self, call: Call, verdict: str, status: int) -> None:
        if call.over:
            return
        if call.timer is not None:
            call.timer.cancel()
        if call.stage == "answer":
            call.details = "ext_proc_error"
            self._answer_lost(call)
            return
        if call.attempts:
            self._attempt_over(call, call.attempts[-1], verdict, status)
            return
        # Without a verdict there is no log entry.
        call.verdict, call.status, call.over = verdict, status, True

    def _client_leaves(self, call: Call) -> None:
        if call.over:
            return
        call.left = True
        if call.timer is not None:
            call.timer.cancel()
        if call.stream is not None:
            call.stream.reset()
        if not call.attempts:
            call.verdict, call.over = call.verdict or "client left", True
            if call.chain:
                self._finish(call, 0, ("downstream_connection_termination",))
            return
        attempt = call.attempts[-1]
        if call.stage != "answer":  # there the provider is done
            self._bill_more(attempt, self._draw.random() < self._mix["bills_after_disconnect"])
        attempt.ending = attempt.ending or "client left"
        flags = ("downstream_connection_termination",)
        if attempt.sent_to is not None and self._draw.random() < 0.5:
            self._log_attempt(call, attempt, attempt.status, flags)
        self._finish(call, attempt.status, flags)

    # -- attempts ---------------------------------------------------------------------------------

    def _forward(self, call: Call, answer: Any) -> None:
        verdict = answer.dynamic_metadata.fields[METADATA].struct_value.fields
        if not verdict["ok"].bool_value:
            self._watch.passed_undecided(call)
            self._local_reply(call, "guard", 503)
            return
        common = answer.request_body.response
        headers = {
            option.header.key: option.header.raw_value.decode()
            for option in common.header_mutation.set_headers
        }
        call.forwarded = common.body_mutation.body
        call.asks_answer = TRANSLATED_HEADER in headers
        call.path = headers[":path"]
        assert int(headers["content-length"]) == len(call.forwarded)
        call.retries = int(headers["x-envoy-max-retries"])
        call.chain = [
            group.struct_value.fields["name"].string_value
            for group in verdict["priority_groups"].list_value.values
        ]
        call.generation = int(verdict["gen"].string_value)
        assert call.stream is not None
        call.decided_by = call.stream.serial
        call.verdict = "forward"
        self._schedule.note("forward " + call.chain[0])
        self._watch.decided(call)
        if self._draw.random() < self._mix["lost_before_send"]:
            call.left = True
            self._finish(call, 0, ("downstream_connection_termination",))
            return
        self._attempt(call, 1)

    def _attempt(self, call: Call, number: int) -> None:
        if call.over:
            return
        cluster = call.chain[number - 1]
        attempt = Attempt(number, self._watch.target_of(call, cluster))
        call.attempts.append(attempt)
        if number == 1:
            self._send(call, attempt, call.forwarded)
            return
        process: Process | None = self._sidecar.process
        if process is None:
            self._local_reply(call, "no sidecar", 503)
            return
        call.stage = "attempt headers"
        call.stream = process.attempts.open(
            lambda data, end: self._answered(call, data, end),
            lambda: self._local_reply(call, "stream failed", 503),
        )
        message = pb.ProcessingRequest()
        add = message.request_headers.headers.headers.add
        add(key="x-request-id", raw_value=call.request_id.encode())
        add(key=ATTEMPT_HEADER, raw_value=b"%d" % number)
        fields = message.attributes["envoy.filters.http.ext_proc"].fields
        fields[CLUSTER_ATTRIBUTE].string_value = cluster
        self._deliver(call, message)

    def _send(self, call: Call, attempt: Attempt, body: bytes) -> None:
        """The attempt goes to its provider."""
        call.stage = "upstream"
        call.stream = None
        self._watch.sent(call, attempt)
        attempt.dialect = Dialect.ANTHROPIC if call.path.endswith("/messages") else Dialect.OPENAI
        billed = self._provider.receive(
            call.request_id, attempt.number, attempt.target, call.variant, body
        )
        attempt.sent_to = billed
        ending = self._draw.choices(ENDINGS, [self._mix[name] for name in ENDINGS])[0]
        if ending == "overrun" or ending == "lie":
            attempt.ending = ending
        self._schedule.note(ending)
        after_ms = self._draw.randint(1, 900)
        if ending == "timeout":
            after_ms = 8_000
        elif ending in ("stream", "cut") and self._draw.random() < self._mix["long_streams"]:
            after_ms = self._draw.randint(20_000, 2_400_000)
            self._after(HEARTBEAT_MS, "heartbeat", self._heartbeat, call)
        if ending not in ("connect_failed", "status"):
            self._after(after_ms // 3, "provider begins", self._begins, call, attempt)
        self._after(after_ms, "provider " + ending, self._provider_done, call, attempt, ending)

    def _begins(self, call: Call, attempt: Attempt) -> None:
        if not call.over and call.attempts[-1] is attempt and attempt.sent_to is not None:
            attempt.sent_to.started = self._draw.random() < 0.7
            self._bill_more(attempt, False)

    def _bill_more(self, attempt: Attempt, everything: bool) -> None:
        """The provider generates on: some more, or all that was asked for."""
        billed = attempt.sent_to
        if billed is None:
            return
        if everything:
            billed.started = True
            billed.output_tokens = billed.asked_tokens
        elif billed.started:
            billed.output_tokens = self._draw.randint(billed.output_tokens, billed.asked_tokens)

    def _heartbeat(self, call: Call) -> None:
        if call.over:
            return
        entry = self._entry(call, len(call.attempts), 200, ())
        entry.common_properties.intermediate_log_entry = True
        self._log(REQUEST_LOG, entry, call, None)
        self._after(HEARTBEAT_MS, "heartbeat", self._heartbeat, call)

    def _provider_done(self, call: Call, attempt: Attempt, ending: str) -> None:
        if call.over or call.attempts[-1] is not attempt:
            return
        billed = attempt.sent_to
        assert billed is not None
        if ending == "connect_failed":
            self._attempt_over(call, attempt, ending, 503, ("upstream_connection_failure",))
        elif ending == "status":
            status = self._draw.choice([400, 408, 429, 500, 503, 529])
            self._attempt_over(call, attempt, ending, status)
        elif ending == "timeout":
            self._bill_more(attempt, self._draw.random() < 0.5)
            self._attempt_over(call, attempt, ending, 504, ("upstream_request_timeout",))
        elif ending == "reset":
            self._bill_more(attempt, self._draw.random() < 0.5)
            self._attempt_over(call, attempt, ending, 503, ("upstream_remote_reset",))
        elif ending == "cut":
            self._bill_more(attempt, self._draw.random() < 0.5)
            if self._draw.random() < 0.5:
                call.usage = usage_reports.interim(call.dialect)
            self._attempt_over(call, attempt, ending, 200, ("upstream_protocol_error",))
        else:
            self._complete(call, attempt, ending, billed)

    def _complete(self, call: Call, attempt: Attempt, ending: str, billed: Billed) -> None:
        billed.started = True
        billed.output_tokens = self._draw.randint(billed.output_tokens, billed.asked_tokens)
        if ending == "overrun":
            billed.output_tokens = billed.asked_tokens + self._draw.randint(1, 4_000)
        counts = (billed.input_tokens, billed.output_tokens)
        if ending == "lie":
            call.usage = usage_reports.lie(call.dialect, self._draw)
        else:
            call.usage = usage_reports.final(call.dialect, *counts, stream=ending == "stream")
        if call.asks_answer:
            translated = attempt.dialect is not call.dialect
            if translated and ending != "lie":
                document = usage_reports.document(attempt.dialect, *counts)
            else:
                document = b"{}"
            if translated:
                call.usage = {}  # as Envoy would find it in our writing
            self._pass_answer(call, attempt, ending, document)
        else:
            self._attempt_over(call, attempt, ending, 200)

    def _pass_answer(self, call: Call, attempt: Attempt, ending: str, document: bytes) -> None:
        """The answer passes the sidecar: headers and body together."""
        process: Process | None = self._sidecar.process
        call.stage, attempt.ending = "answer", ending
        if process is None:
            self._local_reply(call, "no sidecar", 503)
            return
        stream = call.stream = process.answers.open(
            lambda data, end: self._answered(call, data, end),
            lambda: self._local_reply(call, "stream failed", 503),
        )
        message = pb.ProcessingRequest()
        fields = message.attributes["envoy.filters.http.ext_proc"].fields
        fields[REQUEST_ID_ATTRIBUTE].string_value = call.request_id
        fields[DETAILS_ATTRIBUTE].string_value = "via_upstream"
        add = message.response_headers.headers.headers.add
        add(key=":status", raw_value=b"200")
        add(key="content-type", raw_value=b"application/json")
        self._deliver(call, message)
        message = pb.ProcessingRequest()
        message.response_body.body = document
        message.response_body.end_of_stream = True
        stream.deliver(message.SerializeToString())

    def _answer_lost(self, call: Call) -> None:
        """The provider answered, and the client gets an error of the gateway's."""
        attempt = call.attempts[-1]
        # What was billed above what was asked for, nobody has heard of then.
        attempt.ending = "lie" if attempt.ending in ("lie", "overrun") else "answer lost"
        attempt.status, call.usage = 503, {}
        self._schedule.note("answer lost")
        self._finish(call, 503, ())

    def _attempt_over(
        self, call: Call, attempt: Attempt, ending: str, status: int, flags: tuple[str, ...] = ()
    ) -> None:
        attempt.ending, attempt.status, attempt.flags = ending, status, flags
        if status >= 400 or flags:
            self._log_attempt(call, attempt, status, flags)
        refused = attempt.sent_to is None
        failed = status >= 500 or status in RETRIABLE_STATUS_CODES or bool(flags)
        if failed and not refused and status != 200 and attempt.number <= call.retries:
            self._after(self._draw.randint(5, 20), "retry", self._attempt, call, attempt.number + 1)
            return
        self._finish(call, status, flags)

    def _finish(self, call: Call, status: int, flags: tuple[str, ...]) -> None:
        if call.timer is not None:
            call.timer.cancel()
        call.status, call.over = status, True
        entry = self._entry(call, len(call.attempts), status, flags)
        for name, text in call.usage.items():
            fields = entry.common_properties.metadata.filter_metadata[USAGE_METADATA].fields
            fields[name].string_value = text
        self._log(REQUEST_LOG, entry, call, None)

    # -- access logs ------------------------------------------------------------------------------

    def _entry(self, call: Call, attempts: int, status: int, flags: tuple[str, ...]) -> Any:
        entry = pb.HttpAccessLogEntry()
        common = entry.common_properties
        common.stream_id = call.request_id
        common.upstream_request_attempt_count = attempts
        entry.response.response_code_details = call.details
        for flag in flags:
            setattr(common.response_flags, flag, True)
        if status:
            entry.response.response_code.value = status
        return entry

    def _log_attempt(
        self, call: Call, attempt: Attempt, status: int, flags: tuple[str, ...]
    ) -> None:
        entry = self._entry(call, attempt.number, status, flags)
        headers = entry.request.request_headers
        headers["x-request-id"] = call.request_id
        headers[ATTEMPT_HEADER] = str(attempt.number)
        self._log(ATTEMPT_LOG, entry, call, attempt)

    def _log(self, name: str, entry: Any, call: Call, attempt: Attempt | None) -> None:
        self._logs[name].append((entry, call, attempt))
        if name not in self._flushing:
            self._flushing.add(name)
            late = self._draw.random() < self._mix["late_logs"]
            delay_ms = self._draw.randint(0, 20_000 if late else LOG_FLUSH_MS)
            self._after(delay_ms, name + " log", self._flush_log, name)

    def _flush_log(self, name: str) -> None:
        self._flushing.discard(name)
        batch, self._logs[name] = self._logs[name], []
        process: Process | None = self._sidecar.process
        if process is None or self._draw.random() < self._mix["lost_logs"]:
            self._log_streams.pop(name, None)
            return
        message = pb.StreamAccessLogsMessage()
        known = self._log_streams.get(name)
        if known is None or known[0] is not process:
            stream = process.logs.open(lambda *_: None, lambda: None)
            self._log_streams[name] = known = (process, stream)
            message.identifier.log_name = name
        message.http_logs.log_entry.extend(entry for entry, _, _ in batch)
        known[1].deliver(message.SerializeToString(), lambda: self._heard(process, batch))

    def _heard(self, process: Process, batch: list[tuple[Any, Call, Attempt | None]]) -> None:
        """The process took the batch in, to its end."""
        if self._sidecar.disk_is_full:
            return  # what it decided then was never written
        for entry, call, attempt in batch:
            if entry.common_properties.intermediate_log_entry:
                continue
            subject: Call | Attempt = call if attempt is None else attempt
            subject.log_heard_by = process.serial
            subject.log_heard_ms = self._schedule.now_ms

    def die(self) -> None:
        """Envoy is killed: its clients see a reset, its last entries are lost."""
        for call in self.calls:
            if not call.over:
                call.over, call.verdict = True, call.verdict or "envoy died"
                if call.timer is not None:
                    call.timer.cancel()
                if call.stream is not None:
                    call.stream.reset()
                if call.attempts:
                    if call.stage != "answer":
                        self._bill_more(call.attempts[-1], self._draw.random() < 0.5)
                    call.attempts[-1].ending = "envoy died"
        for entries in self._logs.values():
            entries.clear()
        self._log_streams.clear()


def _hold_ms(answer: Any) -> int:
    """How much longer the sidecar asks Envoy to wait; 0 when it does not."""
    if "override_message_timeout" not in answer.DESCRIPTOR.fields_by_name:
        return 0
    return int(answer.override_message_timeout.seconds * 1000)


def new_call(draw: Random, models: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a client asks for, and who it is."""
    body: dict[str, Any] = {
        "model": draw.choice(models),
        "messages": [{"role": "user", "content": "x" * draw.randint(1, 900)}],
    }
    key = sim_policy.KEYS[draw.choice(list(sim_policy.KEYS))]
    headers = {
        "x-tfy-project": draw.choice(["p1", "p2"]),
        "x-tfy-user-id": draw.choice(["ann", "bob", "cid"]),
        "x-tfy-session-id": draw.choice(["s1", "s2", "s3", "s4"]),
    }
    if draw.random() < 0.3:
        headers["x-tfy-workflow-tag"] = "classify"
    if draw.random() < 0.3:
        headers["x-api-key"] = key
        body["max_tokens"] = draw.choice(MAX_TOKENS)
        return body, headers
    headers["authorization"] = "Bearer " + key
    if draw.random() < 0.8:
        body["max_tokens"] = draw.choice(MAX_TOKENS)
    if draw.random() < 0.1:
        body["n"] = draw.randint(1, 3)
    return body, headers
