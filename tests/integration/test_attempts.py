"""What one target is asked otherwise, and how long it may take to begin: with real Envoy."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import httpx
import openai
import pytest
from gateway import KEY, Gateway, base_policy

MODELS = """
name: recorders
type: gateway-config
providers:
  first: {{dialect: openai, base_url: "{first}/v1"}}
  second: {{dialect: openai, base_url: "{second}/v1"}}
  gone: {{dialect: anthropic, base_url: "http://127.0.0.1:1"}}
  claude: {{dialect: anthropic, base_url: "https://c.invalid", credential: "env:NO", demo: native}}
prices:
  - {{provider: first, model: m, input_usd_per_mtok: 1, output_usd_per_mtok: 2,
     context_tokens: 100000, max_output_tokens: 4096}}
  - {{provider: second, model: m, input_usd_per_mtok: 1, output_usd_per_mtok: 2,
     context_tokens: 100000, max_output_tokens: 4096}}
  - {{provider: gone, model: claude-haiku-4-5, input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
---
name: money
type: gateway-budget-config
budgets:
  - {{id: all, ceiling_usd: 100, window: monthly}}
---
name: tuned
type: gateway-load-balancing-config
rules:
  - id: tuned-first
    target: {{provider: first, model: m}}
    override_params: {{temperature: 0, top_p: null, reasoning_effort: low}}
    headers_override: {{set: {{x-team-beta: "one, two", user-agent: tuned}}, remove: [x-debug]}}
    timeout_ms: 3000
fallbacks:
  - {{id: plain-second, provider: second, model: m, timeout_ms: 3000}}
circuit_breaker: &never
  {{failure_threshold: 10000, window_seconds: 60, cooldown_seconds: 1}}
---
name: tuned-later
type: gateway-load-balancing-config
rules:
  - {{id: later-first, target: {{provider: second, model: m}}, timeout_ms: 3000}}
fallbacks:
  - id: later-tuned
    provider: first
    model: m
    override_params: {{temperature: 1, stop: null}}
    headers_override: {{set: {{x-team-beta: three}}}}
    timeout_ms: 3000
circuit_breaker: {{failure_threshold: 10000, window_seconds: 60, cooldown_seconds: 1}}
---
name: tuned-claude
type: gateway-load-balancing-config
rules:
  - id: translated
    target: {{provider: claude, model: claude-haiku-4-5}}
    override_params: {{top_k: 7, temperature: null}}
    timeout_ms: 3000
---
name: prompt
type: gateway-load-balancing-config
rules:
  - {{id: prompt-first, target: {{provider: first, model: m}}, timeout_ms: 6000,
     first_token_timeout_ms: 500}}
fallbacks:
  - {{id: prompt-second, provider: second, model: m, timeout_ms: 6000,
     first_token_timeout_ms: 2500}}
circuit_breaker: {{failure_threshold: 10000, window_seconds: 60, cooldown_seconds: 1}}
---
name: prompt-claude
type: gateway-load-balancing-config
rules:
  - {{id: claude-first, target: {{provider: claude, model: claude-haiku-4-5}}, timeout_ms: 6000,
     first_token_timeout_ms: 700}}
fallbacks:
  - {{id: claude-second, provider: second, model: m, timeout_ms: 6000}}
circuit_breaker: {{failure_threshold: 2, window_seconds: 60, cooldown_seconds: 60}}
---
name: short
type: gateway-load-balancing-config
request_timeout_ms: 900
rules:
  - {{id: short-first, target: {{provider: first, model: m}}, timeout_ms: 600}}
fallbacks:
  - {{id: short-second, provider: second, model: m, timeout_ms: 600}}
circuit_breaker: {{failure_threshold: 10000, window_seconds: 60, cooldown_seconds: 1}}
---
name: counted
type: gateway-load-balancing-config
rules:
  - {{id: counted-gone, target: {{provider: gone, model: claude-haiku-4-5}}, timeout_ms: 3000}}
fallbacks:
  - {{id: counted-there, provider: anthropic, model: claude-haiku-4-5, timeout_ms: 3000}}
circuit_breaker: {{failure_threshold: 10000, window_seconds: 60, cooldown_seconds: 1}}
---
name: blind
type: gateway-load-balancing-config
rules:
  - {{id: sees, target: {{provider: first, model: m}}, timeout_ms: 3000}}
fallbacks:
  - {{id: blind-second, provider: second, model: m, lacks: [vision], timeout_ms: 3000}}
circuit_breaker: {{failure_threshold: 10000, window_seconds: 60, cooldown_seconds: 1}}
""".replace("circuit_breaker: &never\n  ", "circuit_breaker: ")
HI: list[Any] = [{"role": "user", "content": "hello"}]
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"


class Recorder:
    """A provider of chat completions that remembers headers and bodies."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.status = 200
        self.headers_after_s = self.token_after_s = self.pause_s = 0.0
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                recorder.serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        self.asked.clear()
        self.status = 200
        self.headers_after_s = self.token_after_s = self.pause_s = 0.0

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["content-length"])))
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((headers, body))
        time.sleep(self.headers_after_s)
        if self.status != 200:
            self._whole(request, b'{"error":{"message":"busy","type":"server_error"}}')
        elif body.get("stream"):
            with contextlib.suppress(OSError):  # given up
                self._stream(request)
        else:
            message = {"role": "assistant", "content": "hi there"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
            answer: Any = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
            self._whole(
                request, json.dumps(answer | {"choices": [choice], "usage": usage}).encode()
            )

    def _whole(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        request.send_response(self.status)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _stream(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("content-type", "text/event-stream")
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        pieces = [(0.0, {"role": "assistant", "content": ""}, None)]
        pieces += [(self.token_after_s, {"content": "hi"}, None)]
        pieces += [(self.pause_s, {"content": " there"}, None), (0.0, {}, "stop")]
        for wait_s, delta, finish in pieces:
            request.wfile.flush()
            time.sleep(wait_s)
            self._chunk(request, {"index": 0, "delta": delta, "finish_reason": finish})
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        self._chunk(request, None, usage)
        self._write(request, b"data: [DONE]\n\n")
        request.wfile.write(b"0\r\n\r\n")

    def _chunk(self, request: BaseHTTPRequestHandler, choice: Any, usage: Any = None) -> None:
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        chunk |= {"choices": [] if choice is None else [choice], "usage": usage}
        self._write(request, b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _write(self, request: BaseHTTPRequestHandler, data: bytes) -> None:
        request.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


@pytest.fixture(scope="module")
def recorders() -> Iterator[tuple[Recorder, Recorder]]:
    both = Recorder(), Recorder()
    yield both
    for recorder in both:
        recorder.close()


@pytest.fixture
def first(recorders: tuple[Recorder, Recorder]) -> Recorder:
    recorders[0].reset()
    return recorders[0]


@pytest.fixture
def second(recorders: tuple[Recorder, Recorder]) -> Recorder:
    recorders[1].reset()
    return recorders[1]


@pytest.fixture
def gateway(module_gateway, first: Recorder, second: Recorder) -> Iterator[Gateway]:
    gateway = module_gateway(base_policy(more=MODELS.format(first=first.url, second=second.url)))
    yield gateway
    gateway.clear_faults()


def client(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0, timeout=20)


def ask(gateway: Gateway, model: str, **fields: Any) -> tuple[str, str]:
    """The target that answered, and what it said."""
    headers = fields.pop("headers", {})
    request = {"model": model, "messages": HI, "max_tokens": 50, **fields}
    raw = client(gateway).chat.completions.with_raw_response.create(
        **request, extra_headers=headers
    )
    answer: Any = raw.parse()
    target = raw.headers["x-tfy-resolved-model"]
    if not fields.get("stream"):
        return target, answer.choices[0].message.content
    return target, "".join(c.choices[0].delta.content or "" for c in answer if c.choices)


# -- overrides ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_first_attempt_has_the_fields_and_headers_of_its_rule(
    gateway: Gateway, first: Recorder, stream: bool
) -> None:
    sent = {"temperature": 0.7, "top_p": 0.5, "seed": 9, "stream": stream}
    headers = {"x-debug": "yes", "x-kept": "yes"}
    assert ask(gateway, "tuned", headers=headers, **sent) == ("first/m", "hi there")
    (got, body), = first.asked  # fmt: skip
    assert body["temperature"] == 0
    assert body["reasoning_effort"] == "low"
    assert "top_p" not in body
    assert (body["seed"], body["model"], body["max_tokens"]) == (9, "m", 50)
    assert (got["x-team-beta"], got["user-agent"], got["x-kept"]) == ("one, two", "tuned", "yes")
    assert "x-debug" not in got
    assert "authorization" not in got


def test_nothing_of_it_is_left_in_the_next_attempt(
    gateway: Gateway, first: Recorder, second: Recorder
) -> None:
    first.status = 503
    headers = {"x-debug": "yes", "x-team-beta": "mine"}
    found = ask(gateway, "tuned", temperature=0.7, top_p=0.5, headers=headers)
    assert found == ("second/m", "hi there")
    (before, _), = first.asked  # fmt: skip
    (after, body), = second.asked  # fmt: skip
    assert before["x-team-beta"] == "one, two"
    assert (body["temperature"], body["top_p"]) == (0.7, 0.5)
    assert "reasoning_effort" not in body
    assert (after["x-debug"], after["x-team-beta"]) == ("yes", "mine")
    assert after["user-agent"].startswith("OpenAI/")


def test_a_later_attempt_has_its_own(gateway: Gateway, first: Recorder, second: Recorder) -> None:
    second.status = 503
    assert ask(gateway, "tuned-later", stop=["x"]) == ("first/m", "hi there")
    assert "temperature" not in second.asked[0][1]
    assert "x-team-beta" not in second.asked[0][0]
    got, body = first.asked[0]
    assert (body["temperature"], got["x-team-beta"]) == (1, "three")
    assert "stop" not in body


@pytest.mark.parametrize("operation", ["chat", "responses", "messages"])
def test_fields_are_those_of_the_targets_own_api(gateway: Gateway, operation: str) -> None:
    gateway.faults("claude", strict=True, keep_bodies=True)
    if operation == "chat":
        ask(gateway, "tuned-claude", temperature=0.5)
    elif operation == "responses":
        client(gateway).responses.create(model="tuned-claude", input="hello", temperature=0.5)
    else:
        anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0).messages.create(
            model="tuned-claude", max_tokens=9, messages=HI, extra_body={"temperature": 0.5}
        )
    body = json.loads(gateway.bill()[-1]["body"])
    assert body["top_k"] == 7
    assert "temperature" not in body
    assert gateway.settled("all/usd") >= gateway.billed_micro_usd()


def test_responses_are_asked_in_the_api_whose_fields_are_set(
    gateway: Gateway, first: Recorder
) -> None:
    answer = client(gateway).responses.create(model="tuned", input="hello", temperature=1)
    assert answer.output_text == "hi there"
    body = first.asked[0][1]
    assert "messages" in body  # chat completions
    assert (body["temperature"], body["reasoning_effort"]) == (0, "low")


# -- first token ----------------------------------------------------------------------------------


def test_a_stream_that_says_nothing_in_time_moves_on(
    gateway: Gateway, first: Recorder, second: Recorder
) -> None:
    """Although the provider has sent its headers and a first event."""
    first.token_after_s = 5
    settled = gateway.settled("all/usd")
    late = gateway.metric("tokenweir_first_token_timeouts_total")
    began = time.monotonic()
    assert ask(gateway, "prompt", stream=True) == ("second/m", "hi there")
    assert 0.4 < time.monotonic() - began < 3
    assert (len(first.asked), len(second.asked)) == (1, 1)
    assert gateway.metric("tokenweir_first_token_timeouts_total") == late + 1
    # What nobody waited for may be billed all the same: it is charged as it was reserved, the
    # answer as it was reported.
    answer = 5 * 1 + 2 * 2
    assert gateway.settled("all/usd") - settled > answer + 50 * 2


def test_headers_that_come_too_late_for_a_token_move_on_too(
    gateway: Gateway, first: Recorder, second: Recorder
) -> None:
    first.headers_after_s = 1
    assert ask(gateway, "prompt", stream=True)[0] == "second/m"
    assert len(first.asked) == 1


def test_headers_that_never_come_do_not_cost_more_than_the_longest_wait_for_a_token(
    gateway: Gateway, first: Recorder, second: Recorder
) -> None:
    first.headers_after_s = 9
    began = time.monotonic()
    assert ask(gateway, "prompt", stream=True)[0] == "second/m"
    assert 2.4 < time.monotonic() - began < 5


@pytest.mark.parametrize("stream", [False, True])
def test_once_it_speaks_a_stream_may_take_its_time(
    gateway: Gateway, first: Recorder, second: Recorder, stream: bool
) -> None:
    first.pause_s = 1.5
    first.headers_after_s = 0.0 if stream else 1.0
    settled = gateway.settled("all/usd")
    assert ask(gateway, "prompt", stream=stream) == ("first/m", "hi there")
    assert not second.asked
    assert gateway.settled("all/usd") - settled == 5 * 1 + 2 * 2


def test_when_nobody_speaks_the_caller_is_told_in_its_dialect(
    gateway: Gateway, first: Recorder, second: Recorder
) -> None:
    first.token_after_s = second.token_after_s = 9
    began = time.monotonic()
    with pytest.raises(openai.InternalServerError) as refused:
        ask(gateway, "prompt", stream=True)
    assert 2.5 < time.monotonic() - began < 6
    assert refused.value.code == "no_healthy_target"
    assert "in time" in refused.value.message
    with pytest.raises(anthropic.InternalServerError) as failed:
        anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0).messages.create(
            model="prompt", max_tokens=9, messages=HI, stream=True
        )
    document: Any = failed.value.body
    assert document["type"] == "error"


def test_a_translated_stream_is_waited_for_in_the_same_way(
    gateway: Gateway, second: Recorder
) -> None:
    gateway.faults("claude", hang="after_headers")
    for _ in range(2):
        assert ask(gateway, "prompt-claude", stream=True) == ("second/m", "hi there")
    time.sleep(0.3)
    # The breaker counted both: the target is left out.
    began = time.monotonic()
    assert ask(gateway, "prompt-claude", stream=True)[0] == "second/m"
    assert time.monotonic() - began < 0.5


# -- the whole request ----------------------------------------------------------------------------


def test_a_request_may_take_so_long_with_all_its_attempts(
    gateway: Gateway, first: Recorder, second: Recorder
) -> None:
    first.headers_after_s = second.headers_after_s = 5
    began = time.monotonic()
    with pytest.raises(openai.InternalServerError) as refused:
        ask(gateway, "short")
    assert 0.8 < time.monotonic() - began < 1.6  # the second attempt was begun at 600 ms
    assert refused.value.code == "no_healthy_target"
    assert len(second.asked) == 1


def test_a_stream_that_takes_longer_is_cut_and_charged(gateway: Gateway, first: Recorder) -> None:
    first.pause_s = 5
    settled = gateway.settled("all/usd")
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        ask(gateway, "short", stream=True)
    assert gateway.settled("all/usd") - settled > 50 * 2


# -- chains ---------------------------------------------------------------------------------------


def test_a_token_count_fails_over(gateway: Gateway) -> None:
    claude = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0)
    raw = claude.messages.with_raw_response.count_tokens(model="counted", messages=HI)
    assert raw.headers["x-tfy-resolved-model"] == "anthropic/claude-haiku-4-5"
    assert raw.parse().input_tokens > 0
    time.sleep(0.2)
    assert gateway.metric("tokenweir_in_flight") == 0


def test_a_fallback_that_lacks_what_the_request_needs_is_never_asked(
    gateway: Gateway, first: Recorder, second: Recorder
) -> None:
    first.status = 503
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    with pytest.raises(openai.InternalServerError):
        ask(gateway, "blind", messages=[{"role": "user", "content": [image]}])
    assert not second.asked
    assert ask(gateway, "blind")[0] == "second/m"


def test_translated_answers_and_first_tokens_on_the_grpcio_transport(
    start_gateway, first: Recorder, second: Recorder
) -> None:
    policy = base_policy(more=MODELS.format(first=first.url, second=second.url))
    gateway = start_gateway(policy, "--transport", "grpcio")
    gateway.faults("claude", strict=True)
    for stream in (False, True):
        target, said = ask(gateway, "prompt-claude", stream=stream)
        assert (target, bool(said)) == ("claude/claude-haiku-4-5", True)
    assert gateway.settled("all/usd") == gateway.billed_micro_usd() > 0
    assert ask(gateway, "tuned", temperature=1)[0] == "first/m"
    assert first.asked[0][1]["temperature"] == 0
    first.token_after_s = 5
    assert ask(gateway, "prompt", stream=True) == ("second/m", "hi there")
    gateway.faults("claude", cut_after_events=5, chunk_delay_ms=50)
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        ask(gateway, "prompt-claude", stream=True)
