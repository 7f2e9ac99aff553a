"""Providers that hang, break off, refuse and lie, asked in the caller's own dialect and through a
translation: what the client sees, who is asked next, what is charged, and who is left alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import openai
import pytest
from gateway import HEADERS, KEY, Gateway
from since import Since

KINDS = ("plain", "foreign")
"""Targets of an OpenAI caller: one that speaks the same, and one that is asked in another API."""
CASES = ("hang", "cut", "wait", "down", "probe", "flap", "many", "lie")
MODELS = {"plain": "gpt-4o-mini", "foreign": "claude-haiku-4-5", "spare": "gpt-4o-mini"}
PATH = "/v1/chat/completions"
BREAKERS = {
    "hang": "{failure_threshold: 2, window_seconds: 60, cooldown_seconds: 60}",
    "cut": "{failure_threshold: 2, window_seconds: 60, cooldown_seconds: 60}",
    "down": "{failure_threshold: 3, window_seconds: 60, cooldown_seconds: 60}",
    "probe": "{failure_threshold: 1, window_seconds: 60, cooldown_seconds: 2}",
    "flap": "{failure_percentage: 50, minimum_requests: 4, cooldown_seconds: 1}",
}
NEVER = "{failure_threshold: 10000, window_seconds: 60, cooldown_seconds: 1}"
BUDGET = """
name: b
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 100, window: monthly, on_exceed: hard_block}
  - id: nearly-nothing
    scope: {metadata: {X-TFY-Workflow-Tag: poor}}
    ceiling_usd: 0.001
    window: monthly
    on_exceed: hard_block
"""


def policy() -> dict[str, str]:
    """Of every case its own providers and models: ``hang-plain`` with the fallback ``hang-spare``,
    and ``hang-plain-alone`` without."""
    providers, prices, models = [], [], []
    for case in CASES:
        for kind in (*KINDS, "spare"):
            dialect = "anthropic" if kind == "foreign" else "openai"
            name, model = f"{case}-{kind}", MODELS[kind]
            cost = (1, 5) if kind == "foreign" else (0.15, 0.60)
            providers.append(
                f"  {name}: {{dialect: {dialect}, base_url: 'https://x.invalid', "
                "credential: 'env:NO', demo: native}"
            )
            prices.append(
                f"  - {{provider: {name}, model: {model}, input_usd_per_mtok: {cost[0]}, "
                f"output_usd_per_mtok: {cost[1]}, context_tokens: 200000, "
                "max_output_tokens: 100000, as_of: 2026-11-01, source: test}"
            )
        for kind in KINDS:
            target = f"{{provider: {case}-{kind}, model: {MODELS[kind]}}}"
            fallback = f"fallbacks: [{{provider: {case}-spare, model: {MODELS['spare']}}}]\n"
            models += [
                f"name: {case}-{kind}{suffix}\ntype: gateway-load-balancing-config\n"
                f"rules: [{{id: {case}-{kind}{suffix}, target: {target}, timeout_ms: 5000, "
                f"idle_timeout_seconds: {1 if case == 'hang' else 300}}}]\n{more}"
                f"circuit_breaker: {BREAKERS.get(case, NEVER)}\n"
                for suffix, more in (
                    ("", fallback.replace("}]", ", idle_timeout_seconds: 1}]")
                     if case == "hang" else fallback),
                    ("-alone", ""),
                )
            ]  # fmt: skip
    models.append(
        "name: many-first-token\ntype: gateway-load-balancing-config\n"
        f"rules: [{{id: mft, target: {{provider: many-plain, model: {MODELS['plain']}}}, "
        f"first_token_timeout_ms: 5000}}]\ncircuit_breaker: {NEVER}\n"
    )
    gateway = (
        "name: test\ntype: gateway-config\nenvelope: {prefix: X-TFY-}\ncredentials:\n"
        f"  - {{id: app, sha256: {hashlib.sha256(KEY.encode()).hexdigest()}, "
        "claims: {projects: [p1], environments: [test]}, "
        "defaults: {project: p1, environment: test}}\n"
        "providers:\n" + "\n".join(providers) + "\nprices:\n" + "\n".join(prices) + "\n"
    )
    return {"gateway.yaml": gateway, "models.yaml": "---\n".join(models), "b.yaml": BUDGET}


@pytest.fixture(scope="module")
def running(module_gateway) -> Gateway:
    return module_gateway(policy())


@pytest.fixture
def gateway(running: Gateway) -> Iterator[Gateway]:
    running.clear_faults()
    yield running
    running.clear_faults()


def ask(model: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Which intent is this?"}]
    return {"model": model, "max_tokens": 64, "messages": messages, **fields}


def states(gateway: Gateway) -> dict[str, str]:
    return httpx.get(f"{gateway.console}/policy").json()["breakers"]


def until(gateway: Gateway, target: str, state: str | None, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while states(gateway).get(target) != state:
        assert time.monotonic() < deadline, states(gateway)
        time.sleep(0.02)


def name_of(case: str, kind: str) -> str:
    return f"{case}-{kind}/{MODELS[kind]}"


# -- F51: silence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_F51_a_provider_that_hangs_after_its_headers_is_cut_and_counted(
    gateway: Gateway, kind: str
) -> None:
    provider = f"hang-{kind}"
    since = Since(gateway)
    for fault in ("after_headers", "mid_stream"):
        gateway.faults(provider, hang=fault, output_tokens=20)
        began = time.monotonic()
        with pytest.raises(httpx.RemoteProtocolError):
            gateway.post(ask(provider, stream=True))
        assert 0.9 < time.monotonic() - began < 5
    # The client had seen the beginning: nobody else was asked. It is charged at the reservation.
    settled, billed = since.money
    assert settled >= billed
    assert settled > 0
    assert since.asked == [provider, provider]
    until(gateway, name_of("hang", kind), "open")
    answer = gateway.post(ask(provider, stream=True))
    assert answer.status_code == 200
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert answer.headers["x-tfy-resolved-model"] == name_of("hang", "spare")


def test_F51_a_whole_answer_that_hangs_after_its_headers_is_cut_too(gateway: Gateway) -> None:
    gateway.faults("hang-spare", hang="after_headers")
    # The other target is out since the test before, or fails now.
    gateway.faults("hang-plain", status=503)
    since = Since(gateway)
    with pytest.raises(httpx.RemoteProtocolError):
        gateway.post(ask("hang-plain"))
    settled, _ = since.money
    assert settled > 0
    assert since.asked[-1] == "hang-spare"


# -- F52: a reset after the first token -----------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_F52_a_stream_that_is_reset_is_seen_as_cut_charged_and_not_failed_over(
    gateway: Gateway, kind: str
) -> None:
    provider = f"cut-{kind}"
    gateway.faults(provider, cut_after_events=6, chunk_delay_ms=10, output_tokens=30)
    since = Since(gateway)
    for _ in range(2):
        pieces: list[bytes] = []
        body = ask(provider, stream=True)
        with httpx.stream("POST", gateway.url + PATH, json=body, headers=HEADERS) as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                pieces.extend(answer.iter_bytes())
        # Some tokens came, and no event that ends an answer.
        text = b"".join(pieces).decode()
        assert '"content":"' in text.replace(" ", "")
        assert "[DONE]" not in text
        assert '"finish_reason":"' not in text.replace(" ", "")
    settled, billed = since.money
    assert settled >= billed > 0
    assert since.asked == [provider, provider]
    until(gateway, name_of("cut", kind), "open")


@pytest.mark.parametrize("kind", KINDS)
def test_no_fallback_after_the_first_byte_reached_the_client(gateway: Gateway, kind: str) -> None:
    """Also by the SDK: it raises, and repeats nothing of its own accord."""
    provider = f"many-{kind}"
    gateway.faults(provider, cut_after_events=4, chunk_delay_ms=10, output_tokens=30)
    since = Since(gateway)
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=2)
    seen: list[Any] = []
    with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
        seen.extend(client.chat.completions.create(**ask(provider, stream=True)))
    assert seen
    assert since.asked == [provider]


@pytest.mark.parametrize("retries", [0, 2])
def test_no_failover_on_a_budget_stop(gateway: Gateway, retries: int) -> None:
    """The fallback would be cheap enough, and an SDK could ask again: neither happens."""
    client = openai.OpenAI(
        base_url=gateway.url + "/v1", api_key=KEY, max_retries=retries,
        default_headers={"x-tfy-workflow-tag": "poor"},
    )  # fmt: skip
    since = Since(gateway)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**ask("many-foreign"))
    assert refused.value.code == "budget_exceeded"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert since.asked == []
    # The fallback's own model would have passed.
    assert client.chat.completions.create(**ask("many-plain-alone")).choices


# -- F53: errors ----------------------------------------------------------------------------------


WAITS = ("", "1", "99999999999", "-7", "Fri, 31 Dec 9999 23:59:59 GMT", "whenever")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "fault",
    [{"status": status} for status in (429, 500, 503, 529)]
    + [{"status": 500, "html_error": True}, {"redirect": True}],
    ids=str,
)
def test_F53_a_refused_attempt_costs_nothing_and_the_next_target_answers(
    gateway: Gateway, kind: str, fault: dict[str, Any]
) -> None:
    model = f"many-{kind}"
    # Without a wait: what it does is another test.
    gateway.faults(model, **fault)
    for stream in (False, True):
        since = Since(gateway)
        answer = gateway.post(ask(model, stream=stream))
        assert answer.status_code == 200
        assert answer.headers["x-tfy-resolved-model"] == name_of("many", "spare")
        settled, billed = since.money
        assert settled == billed > 0
        assert since.asked == [model, "many-spare"]


@pytest.mark.parametrize("kind", KINDS)
def test_F53_the_last_targets_error_reaches_the_client_and_no_log(
    gateway: Gateway, kind: str
) -> None:
    model = f"lie-{kind}"
    for fault in ({"status": 500}, {"status": 500, "html_error": True}, {"status": 401}):
        gateway.faults(model, **fault)
        since = Since(gateway)
        answer = gateway.post(ask(model + "-alone"))
        assert answer.status_code == fault["status"]
        if kind == "foreign":
            assert answer.json()["error"]["message"]
        elif "html_error" not in fault:
            assert "told to fail" in answer.text
        assert since.money == (0, 0)
    gateway.faults(model, redirect=True)
    answer = gateway.post(ask(model + "-alone"))
    assert answer.status_code == 502
    assert "location" not in answer.headers
    assert answer.json()["error"]["code"] == "no_healthy_target"
    for log in (gateway.state / "logs").glob("*.log"):
        text = log.read_text(errors="replace")
        assert "told to fail" not in text, log
        assert "<html" not in text.lower(), log


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True])
def test_F53_an_error_with_status_200_is_no_answer_and_is_charged(
    gateway: Gateway, kind: str, stream: bool
) -> None:
    model = f"lie-{kind}"
    gateway.faults(model, error_200=True)
    since = Since(gateway)
    answer = gateway.post(ask(model, stream=stream))
    if kind == "plain":
        assert "choices" not in answer.text
    else:
        # What cannot be translated is told as an error, and that it was paid for.
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "no_healthy_target"
        assert answer.headers["x-should-retry"] == "false"
    settled, billed = since.money
    assert settled > billed == 0
    assert since.asked == [model]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [0, 400, 503])
def test_F53_an_answer_without_a_body_is_an_error_in_the_callers_dialect(
    gateway: Gateway, status: int, stream: bool
) -> None:
    gateway.faults("lie-foreign", empty=True, status=status)
    since = Since(gateway)
    answer = gateway.post(ask("lie-foreign-alone", stream=stream))
    assert answer.status_code == (status or 503)
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()["error"]["message"]
    assert f"status {status}" in said if status else "could not be read" in said
    settled, billed = since.money
    assert billed == 0
    assert (settled > 0) is (status == 0)  # an answer of nothing may have cost something


@pytest.mark.parametrize("wait", WAITS)
def test_F53_what_a_provider_says_about_waiting_is_clamped_for_the_client(
    gateway: Gateway, wait: str
) -> None:
    # 500: a status that makes nobody rest, so that each wait is asked for.
    gateway.faults("lie-plain", status=500, retry_after=wait)
    answer = gateway.post(ask("lie-plain-alone"))
    assert answer.status_code == 500
    sent = answer.headers.get("retry-after")
    if wait in ("", "-7", "whenever"):
        assert sent is None
    else:
        assert 0 <= int(sent) <= 86_400
    assert answer.headers.get("x-should-retry") == ("false" if len(wait) > 10 else None)


@pytest.mark.parametrize("kind", KINDS)
def test_F53_a_target_that_said_for_how_long_is_not_asked_until_then(
    gateway: Gateway, kind: str
) -> None:
    model, target = f"wait-{kind}", name_of("wait", kind)
    gateway.faults(model, status=429, retry_after="2")
    since = Since(gateway)
    began = time.monotonic()
    assert gateway.post(ask(model)).status_code == 200
    assert time.monotonic() - began < 1.5  # nobody slept on it
    until(gateway, target, "resting")
    gateway.clear_faults()
    assert gateway.post(ask(model)).headers["x-tfy-resolved-model"] == name_of("wait", "spare")
    # Alone it is a refusal that says when, and the provider is spared.
    refused = gateway.post(ask(model + "-alone"))
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "no_healthy_target"
    assert refused.headers["retry-after"] in ("1", "2")
    assert since.asked == [model, "wait-spare", "wait-spare"]
    until(gateway, target, "closed")
    assert gateway.post(ask(model)).headers["x-tfy-resolved-model"] == target


# -- F54, F55: what translated answers report -----------------------------------------------------


@pytest.mark.parametrize("lie", ["negative", "huge", "string", "float", "missing_field", "zero"])
@pytest.mark.parametrize("stream", [False, True])
def test_F54_usage_that_lies_never_lowers_the_charge_of_a_translated_answer(
    gateway: Gateway, lie: str, stream: bool
) -> None:
    gateway.faults("lie-foreign", falsify_usage=lie)
    since = Since(gateway)
    answer = gateway.post(ask("lie-foreign", stream=stream))
    assert answer.status_code == 200
    settled, billed = since.money
    assert settled >= billed > 0
    if not stream:
        counts = answer.json().get("usage") or {}
        assert all(count >= 0 for count in counts.values() if isinstance(count, int))


@pytest.mark.parametrize("stream", [False, True])
def test_F55_a_translated_answer_is_asked_for_uncompressed_and_one_that_is_not_is_charged(
    gateway: Gateway, stream: bool
) -> None:
    since = Since(gateway)
    body = ask("lie-foreign", stream=stream)
    assert gateway.post(body, headers={"accept-encoding": "gzip, br"}).status_code == 200
    settled, billed = since.money
    assert settled == billed > 0
    gateway.faults("lie-foreign", gzip=True)
    since = Since(gateway)
    answer = gateway.post(body)
    assert answer.status_code == 503
    assert "could not be read" in answer.text
    settled, billed = since.money
    assert settled >= billed > 0


# -- F56: clients slower than their provider ------------------------------------------------------


LONG_TOKENS = {"plain": 50_000, "foreign": 90_000}
"""Streams of 10 MB and more, from the provider too: sockets alone take some megabytes."""
MAX_GROWTH_BYTES = 9_000_000
"""Envoy keeps a few buffers of 1 MB for a connection. A stream that was held whole would need
more."""


def in_use_bytes(gateway: Gateway) -> dict[str, int]:
    """By process. Of Envoy what it holds, by its own count: its allocator gives pages back, and
    takes them again, when it likes."""
    transport = httpx.HTTPTransport(uds=str(gateway.state / "run" / "admin.sock"))
    with httpx.Client(transport=transport) as admin:
        held = int(admin.get("http://envoy/memory").json()["allocated"])
    return {"envoy": held, "sidecar": gateway.child("sidecar").memory_info().rss}


def start_stream(gateway: Gateway, model: str, max_tokens: int) -> socket.socket:
    """Asks for a stream on a connection that takes few bytes at a time."""
    host, port = gateway.url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.settimeout(30)
    client.connect((host, int(port)))
    body = json.dumps(ask(model, stream=True, max_tokens=max_tokens)).encode()
    lines = [f"POST {PATH} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return client


@pytest.mark.parametrize("kind", KINDS)
def test_F56_a_slow_reader_of_ten_megabytes_holds_up_its_provider_and_no_memory(
    gateway: Gateway, kind: str
) -> None:
    model = f"many-{kind}"
    gateway.faults(model, output_tokens=LONG_TOKENS[kind])
    assert gateway.post(ask(model + "-alone")).status_code == 200
    processes = [gateway.child(name) for name in ("envoy", "sidecar")]
    before = in_use_bytes(gateway)
    since = Since(gateway)
    with start_stream(gateway, model + "-alone", LONG_TOKENS[kind]) as client:
        for _ in range(30):
            time.sleep(0.1)
            for name, in_use in in_use_bytes(gateway).items():
                assert in_use - before[name] < MAX_GROWTH_BYTES, name
        # The provider was made to wait: it has not written its bill.
        assert len(gateway.bill()) == since.lines
        size, last = 0, b""
        while not last.endswith(b"0\r\n\r\n"):
            data = client.recv(65_536)
            assert data, (size, last)
            size, last = size + len(data), (last + data)[-64:]
    assert size > 9_000_000
    assert b"data: [DONE]" in last
    # The same Envoy and the same sidecar, and the provider is not to blame for the wait.
    assert [process.is_running() for process in processes] == [True, True]
    settled, billed = since.money
    assert settled == billed > 0
    assert states(gateway).get(name_of("many", kind), "closed") == "closed"


@pytest.mark.parametrize("kind", [*KINDS, "first-token"])
def test_F56_a_fast_answer_of_many_windows_reaches_an_http2_client_whole(
    gateway: Gateway, kind: str
) -> None:
    """The provider is done while bytes are still on their way: Envoy died of it when those filled
    the client's buffer, which for HTTP/2 is 64 KiB."""
    provider = "many-plain" if kind == "first-token" else f"many-{kind}"
    envoy = gateway.child("envoy")
    for tokens in (600, 4_000, 600, 4_000):
        gateway.faults(provider, output_tokens=tokens)
        with httpx.Client(http1=False, http2=True, timeout=30) as client:
            body = ask(f"{provider}-alone", stream=True, max_tokens=tokens)
            if kind == "first-token":
                body["model"] = "many-first-token"
            answer = client.post(gateway.url + PATH, json=body, headers=HEADERS)
        assert answer.http_version == "HTTP/2"
        assert answer.text.rstrip().endswith("data: [DONE]")
        assert len(answer.content) > tokens * 100
        assert envoy.is_running()


# -- F57: breakers --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_F57_with_all_targets_down_nobody_is_asked_in_vain(gateway: Gateway, kind: str) -> None:
    model = f"down-{kind}"
    gateway.faults(model, status=503)
    for _ in range(3):
        assert gateway.post(ask(model + "-alone")).status_code == 503
    until(gateway, name_of("down", kind), "open")
    since = Since(gateway)
    for _ in range(5):
        refused = gateway.post(ask(model + "-alone"))
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "no_healthy_target"
        assert 50 < int(refused.headers["retry-after"]) <= 60
    assert since.asked == []
    assert since.money == (0, 0)
    state = f'tokenweir_target_state{{state="open",target="{name_of("down", kind)}"}} 1.0'
    assert state in httpx.get(f"{gateway.console}/metrics").text


async def _crowd(gateway: Gateway, model: str, count: int) -> list[int]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one() -> int:
            url = gateway.url + PATH
            async with session.post(url, json=ask(model), headers=HEADERS) as answer:
                await answer.read()
                return answer.status

        return await asyncio.gather(*(one() for _ in range(count)))


@pytest.mark.parametrize("kind", KINDS)
def test_F57_a_crowd_after_the_cooldown_sends_one_probe(gateway: Gateway, kind: str) -> None:
    model, target = f"probe-{kind}", name_of("probe", kind)
    gateway.faults(model, status=503)
    assert gateway.post(ask(model + "-alone")).status_code == 503
    until(gateway, target, "open")
    for fate, state in ((503, "open"), (0, "closed")):
        time.sleep(2.1)
        gateway.faults(model, status=fate, delay_ms=500)
        since = Since(gateway)
        statuses = asyncio.run(_crowd(gateway, model + "-alone", 30))
        assert since.asked == [model]
        assert statuses.count(503) == (30 if fate else 29)
        until(gateway, target, state)
    assert gateway.post(ask(model + "-alone")).status_code == 200


def test_F57_a_flapping_target_costs_its_callers_one_attempt_per_cooldown(
    gateway: Gateway,
) -> None:
    gateway.faults("flap-plain", status=503)
    began = time.monotonic()
    since = Since(gateway)
    answered = 0
    while time.monotonic() - began < 4:
        assert gateway.post(ask("flap-plain")).status_code == 200
        answered += 1
        time.sleep(0.02)
    tries = since.asked.count("flap-plain")
    # Four open it; then one a second.
    assert 4 <= tries <= 4 + 4, (tries, answered)
    assert since.asked.count("flap-spare") == answered > tries


# -- F59: many streams at once --------------------------------------------------------------------


STREAMS, CHUNKS = 200, 8


async def _streams(gateway: Gateway, model: str) -> list[str]:
    """Streams that all begin at once; each whole text."""
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def one() -> str:
            url, body = gateway.url + PATH, ask(model, stream=True)
            async with session.post(url, json=body, headers=HEADERS) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.text()

        return await asyncio.gather(*(one() for _ in range(STREAMS)))


@pytest.mark.parametrize("kind", KINDS)
def test_F59_no_stream_of_two_hundred_that_begin_at_once_is_lost(
    gateway: Gateway, kind: str
) -> None:
    gateway.faults(f"many-{kind}", output_tokens=CHUNKS, chunk_delay_ms=20)
    since = Since(gateway)
    for text in asyncio.run(_streams(gateway, f"many-{kind}-alone")):
        events = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
        assert sum(bool(delta.get("content")) for delta in deltas) == CHUNKS
    settled, billed = since.money
    assert settled == billed > 0
    assert since.asked == [f"many-{kind}"] * STREAMS
