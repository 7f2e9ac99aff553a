"""Claude Code and Codex, by requests in the shape that they really send (``recorded/``): passed on
byte for byte where the API is theirs, translated elsewhere, and refused by name what cannot be."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import psutil
import pytest
from anthropic.types import RawMessageStreamEvent
from gateway import KEY, Gateway, native_policy, virtual_model
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

RECORDED = Path(__file__).parent / "recorded"
PROVIDERS = {
    "claude": ("anthropic", "claude-opus-4-6"),
    "gpt": ("openai", "gpt-5"),
    "gem": ("vertex", "gemini-2.0-flash"),
    "rock": ("bedrock", "anthropic.claude-haiku-4-5"),
}
MONEY = """
name: money
type: gateway-budget-config
budgets:
  - {id: all, scope: {metadata: {X-TFY-Project: p1}}, ceiling_usd: 1000, window: monthly}
  - {id: none, scope: {metadata: {X-TFY-Project: intern-sandbox}}, ceiling_usd: 0.00001,
     window: monthly}
"""
UNBUDGETED = {"x-tfy-project": "p2"}
SPENT = {"x-tfy-project": "intern-sandbox"}
OF_ANTHROPIC: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
OF_OPENAI: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
LARGEST_BYTES = 32 * 1024 * 1024
MOST_SECONDS = 15.0
"""For one body of the largest size, on a busy machine; it takes about one second."""
MOST_COPIES = 10
"""Of a body in a sidecar's memory while it is translated: as bytes, as text, parsed and written."""


@pytest.fixture(scope="module")
def gateway(module_gateway: Any) -> Gateway:
    models = {
        name: virtual_model(name, provider, model, timeout_ms=20_000)
        for name, (provider, model) in PROVIDERS.items()
    }
    return module_gateway(native_policy(**models, money=MONEY))


@pytest.fixture(autouse=True)
def strict(gateway: Gateway) -> Iterator[None]:
    """Every provider refuses what the real one would."""
    providers(gateway)
    yield
    gateway.clear_faults()


def providers(gateway: Gateway, **faults: Any) -> None:
    gateway.clear_faults()
    for provider, _ in PROVIDERS.values():
        gateway.faults(provider, **{"strict": True, "keep_bodies": True, **faults})


class Recording:
    """One recorded request, to be sent for a model of ours."""

    def __init__(self, name: str, model: str) -> None:
        document = json.loads((RECORDED / f"{name}.json").read_text())
        self.path: str = document["path"]
        self.headers: dict[str, str] = document["headers"]
        self.body: dict[str, Any] = {**document["body"], "model": model}

    @property
    def raw(self) -> bytes:
        """As JavaScript and serde write it: nothing between, nothing escaped."""
        return json.dumps(self.body, separators=(",", ":"), ensure_ascii=False).encode()

    def send(self, gateway: Gateway, raw: bytes = b"", **headers: str) -> httpx.Response:
        """Sends it, or other bytes, with the key as the client would."""
        sent = {**self.headers, "authorization": f"Bearer {KEY}", **headers}
        url = gateway.url + self.path
        return httpx.post(url, content=raw or self.raw, headers=sent, timeout=60)


def events(answer: httpx.Response, shape: TypeAdapter[Any]) -> list[dict[str, Any]]:
    """The events of a stream, each as the official SDK's types know it."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for text in answer.text.split("\n\n"):
        name, _, data = text.partition("\ndata: ")
        if data:
            found.append(json.loads(data))
            assert name.endswith(f"event: {found[-1]['type']}")
            if found[-1]["type"] == "ping":
                found.pop()  # no event to the SDKs
            else:
                shape.validate_python(found[-1])
    return found


def message_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """The blocks of a streamed message, put together as Claude Code does it."""
    blocks: list[dict[str, Any]] = []
    told = events(answer, OF_ANTHROPIC)
    assert [one["type"] for one in told].count("message_start") == 1
    assert told[0]["type"] == "message_start"
    assert told[-1]["type"] == "message_stop"
    for event in told:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            block, delta = blocks[event["index"]], event["delta"]
            kinds = {"text": "text_delta", "tool_use": "input_json_delta"}
            thoughts = ("thinking_delta", "signature_delta")
            assert delta["type"] == kinds.get(block["type"]) or delta["type"] in thoughts
            for key in ("text", "thinking", "signature"):
                block[key] = block.get(key, "") + delta.get(key, "")
            block["json"] += delta.get("partial_json", "")
    keys = {
        "text": ("type", "text"),
        "thinking": ("type", "thinking", "signature"),
        "tool_use": ("type", "id", "name", "input"),
    }
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["json"])
    return [{key: block[key] for key in keys[block["type"]]} for block in blocks]


def items_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """The items of a streamed response, as Codex takes them: each when it is done."""
    told = events(answer, OF_OPENAI)
    assert [one["type"] for one in told][-1] == "response.completed"
    done = [one["item"] for one in told if one["type"] == "response.output_item.done"]
    assert told[-1]["response"]["output"] == done
    assert told[-1]["response"]["usage"]["total_tokens"] > 0
    return done


def sent_body(gateway: Gateway) -> Any:
    """What the provider got last."""
    return json.loads(gateway.bill()[-1]["body"])


# -- passed on ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["claude_code_main", "claude_code_title", "claude_code_count_tokens"]
)
def test_claude_codes_requests_reach_anthropic_byte_for_byte(gateway: Gateway, name: str) -> None:
    recording = Recording(name, "claude")
    answer = recording.send(gateway)
    assert answer.status_code == 200, answer.text
    if "count_tokens" in name:
        assert answer.json()["input_tokens"] > 0
        return  # counted, not billed: the provider's bill has no line of it
    line = gateway.bill()[-1]
    assert line["body"].encode() == recording.raw.replace(b'"claude"', b'"claude-opus-4-6"', 1)
    assert line["path"].endswith("/v1/messages")
    for header in ("anthropic-beta", "anthropic-version"):
        assert line["anthropic"][header] == recording.headers[header]
    # Who asks is ours to know.
    assert not [name for name in line["headers"] if name.startswith(("x-claude-code", "x-tfy"))]
    assert message_of(answer)


@pytest.mark.parametrize("name", ["codex_turn", "codex_old"])
def test_codexs_requests_reach_openai_byte_for_byte(gateway: Gateway, name: str) -> None:
    """But for the maximum that a budget injects. Headers with underscores, as an older Codex sends
    them, are no reason to refuse it."""
    recording = Recording(name, "gpt")
    headers = UNBUDGETED if name == "codex_turn" else {}
    assert items_of(recording.send(gateway, **headers))
    line = gateway.bill()[-1]
    passed, injected = re.subn(r',"max_output_tokens":[0-9]+', "", line["body"])
    assert passed.encode() == recording.raw.replace(b'"gpt"', b'"gpt-5"', 1)
    assert injected == (name == "codex_old")
    assert not [name for name in line["headers"] if "_" in name or name == "session-id"]


def test_a_hosted_search_is_beyond_a_strict_budget_at_openai_only(gateway: Gateway) -> None:
    """OpenAI bills each search: no token price bounds it. A translated request leaves it behind."""
    answer = Recording("codex_turn", "gpt").send(gateway)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
    assert Recording("codex_turn", "claude").send(gateway).status_code == 200


# -- translated -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt", "gem", "rock"])
@pytest.mark.parametrize("name", ["claude_code_main", "claude_code_title"])
def test_claude_code_is_served_by_every_other_api(gateway: Gateway, name: str, model: str) -> None:
    answer = Recording(name, model).send(gateway)
    blocks = message_of(answer)
    assert any(block["type"] == "text" and block["text"] for block in blocks)
    dropped = answer.headers.get("x-tfy-dropped", "").split(",")
    if name == "claude_code_main":
        assert {"context_management", "diagnostics", "safeguards"} <= set(dropped)
        sent = gateway.bill()[-1]["body"]
        for words in ("Be concise.", "pytest -q", "return a - b", "return a + b", "1 failed",
                      "The file tests/test_sum.py was changed", "iVBORw0KGgo"):  # fmt: skip
            assert words in sent
        if model != "rock":
            assert "The user wants the failing test fixed" not in sent  # Claude's own thoughts


@pytest.mark.parametrize("model", ["claude", "gem", "rock"])
@pytest.mark.parametrize("name", ["codex_turn", "codex_old"])
def test_codex_is_served_by_every_other_api(gateway: Gateway, name: str, model: str) -> None:
    answer = Recording(name, model).send(gateway)
    items = items_of(answer)
    assert items[-1]["type"] == "message"
    assert items[-1]["content"][0]["text"]
    dropped = set(answer.headers["x-tfy-dropped"].split(","))
    assert {"include", "prompt_cache_key", "store"} <= dropped
    if name == "codex_turn":
        assert {"client_metadata", "text.verbosity", "tools.web_search"} <= dropped
        sent = gateway.bill()[-1]["body"]
        for words in ("Use tabs.", "assert 3 == 4", "mcp__github__list_issues", "a/b",
                      "*** Update File: sum.py", "Success. Updated", "iVBORw0KGgo"):  # fmt: skip
            assert words in sent


@pytest.mark.parametrize("model", ["gpt", "gem", "rock"])
def test_tool_inputs_survive_a_loop_of_claude_code(gateway: Gateway, model: str) -> None:
    """What the model asked for is what it is told that it asked for, turn after turn: a dropped
    input makes Claude Code ask for the same again, forever."""
    providers(gateway, answer="parallel_tools")
    recording = Recording("claude_code_main", model)
    asked: list[dict[str, Any]] = []
    for _ in range(3):
        blocks = message_of(recording.send(gateway))
        calls = [block for block in blocks if block["type"] == "tool_use"]
        assert [call["name"] for call in calls] == ["Bash", "Edit"]
        assert all(call["input"] for call in calls)
        asked += [call["input"] for call in calls]
        results = [
            {"tool_use_id": call["id"], "type": "tool_result", "content": f"done {number}"}
            for number, call in enumerate(calls)
        ]
        recording.body["messages"] += [
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": results},
        ]
        recording.body["diagnostics"] = {"previous_message_id": "msg_x"}
    recording.send(gateway)
    told = list(inputs(sent_body(gateway)))
    for given in asked:
        assert told.count(given) == asked.count(given)


def inputs(value: Any) -> Iterator[Any]:
    """The inputs of all calls in a provider's request, whatever API it is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("input", "args"):
                yield inner
            elif key == "arguments":
                yield json.loads(inner)
            else:
                yield from inputs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from inputs(inner)


@pytest.mark.parametrize("model", ["claude", "gem", "rock"])
def test_tool_inputs_survive_a_loop_of_codex(gateway: Gateway, model: str) -> None:
    """Its patches are free text, its MCP tools have a namespace, in both directions."""
    providers(gateway, answer="parallel_tools")
    recording = Recording("codex_turn", model)
    tools = {tool.get("name"): tool for tool in recording.body["tools"]}
    recording.body["tools"] = [tools["apply_patch"], tools["mcp__github"], tools["exec_command"]]
    recording.body["input"] = recording.body["input"][:4:3] + recording.body["input"][-1:]
    del recording.body["input"][1]  # a thought without what follows it
    for _ in range(3):
        items = items_of(recording.send(gateway))
        calls = [item for item in items if "call_id" in item]
        assert [call["type"] for call in calls] == ["custom_tool_call", "function_call"]
        patch, listed = calls
        assert patch["name"] == "apply_patch"
        assert patch["input"]
        assert "{" not in patch["input"]
        assert (listed["namespace"], listed["name"]) == ("mcp__github", "list_issues")
        assert json.loads(listed["arguments"])["repo"]
        recording.body["input"] += [
            *items,
            {"type": "custom_tool_call_output", "call_id": patch["call_id"], "output": "Success"},
            {"type": "function_call_output", "call_id": listed["call_id"], "output": "[]"},
        ]
    recording.send(gateway)
    told = list(inputs(sent_body(gateway)))
    assert told.count({"input": patch["input"]}) == 3
    assert told.count(json.loads(listed["arguments"])) == 3


@pytest.mark.parametrize("model", ["claude", "gpt", "gem", "rock"])
def test_a_background_call_that_thinks_too_little_is_never_our_error(
    gateway: Gateway, model: str
) -> None:
    """Claude refuses budgets below 1,024 tokens: so does the gateway by name, where it asks Claude;
    other models think little."""
    answer = Recording("claude_code_background", model).send(gateway)
    if answer.status_code != 200:
        assert model in ("claude", "rock")
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert "budget_tokens" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "model", "field"),
    [
        ("claude_code_web_search", "gpt", "tools[0].type"),
        ("claude_code_web_search", "gem", "tools[0].type"),
        ("claude_code_web_search", "rock", "tools[0].type"),
        ("codex_local_shell", "claude", "tools[0].type"),
    ],
)
def test_what_only_its_own_provider_can_do_is_refused_by_name(
    gateway: Gateway, name: str, model: str, field: str
) -> None:
    before = len(gateway.bill())
    answer = Recording(name, model).send(gateway, **UNBUDGETED)
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert len(gateway.bill()) == before


# -- retries --------------------------------------------------------------------------------------


def test_a_spent_budget_is_the_end_for_both_clients(gateway: Gateway) -> None:
    """Claude Code reads ``x-should-retry`` and gives up on a ``retry-after`` above a minute; Codex
    never tries a 429 again."""
    before = len(gateway.bill())
    for name in ("claude_code_title", "codex_old"):
        answer = Recording(name, "claude").send(gateway, **SPENT)
        error = answer.json()["error"]
        code = error["code"] if name == "codex_old" else error["metadata"]["code"]
        assert (answer.status_code, code) == (429, "budget_exceeded")
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers
    assert len(gateway.bill()) == before


@pytest.mark.parametrize("status", [529, 503])
def test_an_overloaded_provider_is_tried_again_by_the_sdks(gateway: Gateway, status: int) -> None:
    """Translated as in their own API: nothing of ours tells them not to."""
    hi: Any = [{"role": "user", "content": "Hi"}]
    theirs = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=1)
    ours = openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=1)
    for model in ("rock", "claude"):
        gateway.faults(PROVIDERS[model][0], status=status, first_n=1)
    before = len(gateway.bill())
    assert theirs.messages.create(model="rock", max_tokens=9, messages=hi).content
    assert ours.responses.create(model="claude", input="Hi").output_text
    assert len(gateway.bill()) == before + 4


def test_a_websocket_is_declined_so_that_codex_goes_on_by_http(gateway: Gateway) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            b"GET /v1/responses HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\n"
            b"upgrade: websocket\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"openai-beta: responses_websockets=2026-02-06\r\n"
            b"authorization: Bearer " + KEY.encode() + b"\r\n\r\n"
        )
        status = int(connection.recv(65_536).split()[1])
    assert 400 <= status < 500
    assert Recording("codex_old", "claude").send(gateway).status_code == 200


# -- large bodies ---------------------------------------------------------------------------------


def with_images(recording: Recording, size_bytes: int) -> bytes:
    """The request with as many images as make it about so long: screenshots of an agent."""
    image = "QUJD" * (1024 * 1024)
    content = [{"type": "text", "text": "What is on these?"}]
    recording.body["messages"] = [{"role": "user", "content": content}]
    left = size_bytes - len(recording.raw)
    while left > 400:
        source = {
            "type": "base64",
            "media_type": "image/png",
            "data": image[: (left - 200) // 4 * 4],
        }
        content.append({"type": "image", "source": source})
        left -= len(json.dumps(content[-1]))
    return recording.raw


def highest_bytes(process: psutil.Process) -> int:
    """The most memory that the process ever had."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize("model", ["claude", "gpt"])
def test_a_body_of_32_mib_goes_through(gateway: Gateway, model: str) -> None:
    """To Anthropic as it is, to OpenAI translated."""
    recording = Recording("claude_code_title", model)
    raw = with_images(recording, LARGEST_BYTES)
    assert LARGEST_BYTES - 4096 < len(raw) <= LARGEST_BYTES
    providers(gateway, tokenizer="byte", keep_bodies=False)
    sidecar = gateway.child("sidecar")
    before = highest_bytes(sidecar)
    began = time.monotonic()
    answer = recording.send(gateway, raw, **UNBUDGETED)
    took_s = time.monotonic() - began
    assert message_of(answer)
    used = highest_bytes(sidecar) - before
    print(f"{model}: {took_s:.2f} s, {used / 1e6:.0f} MB more than ever before")
    assert took_s < MOST_SECONDS
    assert used < MOST_COPIES * LARGEST_BYTES


def test_a_body_above_32_mib_is_refused_in_the_clients_shape(gateway: Gateway) -> None:
    recording = Recording("claude_code_title", "claude")
    answer = recording.send(gateway, b" " * (LARGEST_BYTES + 1024 * 1024))
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "request_too_large"
    answer = Recording("codex_old", "gpt").send(gateway, b" " * (LARGEST_BYTES + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"]


# -- models and warm-up ---------------------------------------------------------------------------


def test_both_clients_find_the_models_they_may_use(gateway: Gateway) -> None:
    """Claude Code asks for a long page with its own headers, Codex names its version."""
    claude_code = Recording("claude_code_title", "claude").headers
    for query, headers in (("?limit=1000", claude_code), ("?client_version=0.154.0", {})):
        sent = {**headers, "x-api-key": KEY}
        answer = httpx.get(f"{gateway.url}/v1/models{query}", headers=sent, timeout=10)
        assert answer.status_code == 200, answer.text
        assert {model["id"] for model in answer.json()["data"]} >= set(PROVIDERS)
    theirs = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0)
    assert {model.id for model in theirs.models.list()} >= set(PROVIDERS)


def test_a_warm_up_that_nobody_serves_is_a_plain_404(gateway: Gateway) -> None:
    for method, path in (("HEAD", "/api/hello"), ("POST", "/v1/responses/compact")):
        answer = httpx.request(
            method, gateway.url + path, headers={"x-api-key": KEY}, content=b"{}", timeout=10
        )
        assert answer.status_code == 404
