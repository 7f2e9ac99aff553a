"""What happens between a caller of one dialect and targets of another beside the single cells (see
``test_dialect_matrix.py``): chains, sessions, streams that break or are left, real credentials."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from gateway import BUDGET, GATEWAY, KEY, Gateway, base_policy, native_policy, virtual_model
from since import Since

from extproc.demo.parts import PNG
from extproc.edge.answer_service import HELD_BYTES

PROVIDERS = {
    "claude": ("anthropic", "claude-haiku-4-5"),
    "gpt": ("openai", "gpt-4o-mini"),
    "gem": ("vertex", "gemini-2.0-flash"),
    "rock": ("bedrock", "anthropic.claude-haiku-4-5"),
}
BEDROCK_MODEL = "anthropic.claude-haiku-4-5-20251001-v1:0"
"""Its colon is escaped in the path, and so must be what is signed."""
FALLBACKS = """  - {id: chain-gpt, provider: openai, model: gpt-4o-mini, timeout_ms: 2000}
  - {id: chain-gem, provider: vertex, model: gemini-2.0-flash, timeout_ms: 2000}
"""
TOOLS: list[Any] = [
    {
        "name": name,
        "description": "Looks something up.",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
    for name in ("weather", "news")
]
HI: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    models = {
        name: virtual_model(name, provider, model) for name, (provider, model) in PROVIDERS.items()
    }
    models["chain"] = virtual_model("chain", "anthropic", "claude-haiku-4-5", fallbacks=FALLBACKS)
    policy = native_policy(**models, money=BUDGET)
    running = Gateway(tmp_path_factory.mktemp("translation"), policy).start()
    yield running
    assert running.stop() == 0


@pytest.fixture(autouse=True)
def well(gateway: Gateway) -> Iterator[None]:
    gateway.clear_faults()
    yield
    gateway.clear_faults()


def every_provider(gateway: Gateway, **faults: Any) -> None:
    for provider, _ in PROVIDERS.values():
        gateway.faults(provider, strict=True, **faults)


def ask(chat: openai.OpenAI, model: str, stream: bool, **fields: Any) -> Any:
    """A chat completion; a streamed one put together by the SDK."""
    request = {"model": model, "messages": HI, "max_completion_tokens": 4_000, **fields}
    if not stream:
        return chat.chat.completions.create(**request)
    with chat.chat.completions.stream(**request, stream_options={"include_usage": True}) as events:
        for _ in events:
            pass
        return events.get_final_completion()


@pytest.mark.parametrize("inside", ["question", "result"])
@pytest.mark.parametrize("model", ["gpt", "gem", "rock"])
def test_an_image_of_an_anthropic_caller_reaches_every_other_api(
    gateway: Gateway, claude: anthropic.Anthropic, model: str, inside: str
) -> None:
    """Also one that a tool gave back, which most agents' screenshots are."""
    every_provider(gateway, keep_bodies=True)
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    image: Any = {"type": "image", "source": source}
    messages: list[Any] = [{"role": "user", "content": [image]}]
    if inside == "result":
        call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image]}
        messages = [
            *HI,
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]
    message = claude.messages.create(model=model, max_tokens=50, messages=messages, tools=TOOLS)
    assert message.content
    assert PNG in json.dumps(gateway.bill()[-1])


@pytest.mark.parametrize("inside", ["question", "result"])
@pytest.mark.parametrize("model", ["claude", "gem", "rock"])
def test_an_image_of_a_responses_caller_reaches_every_other_api(
    gateway: Gateway, chat: openai.OpenAI, model: str, inside: str
) -> None:
    every_provider(gateway, keep_bodies=True)
    image: Any = {
        "type": "input_image",
        "detail": "auto",
        "image_url": f"data:image/png;base64,{PNG}",
    }
    items: list[Any] = [{"role": "user", "content": [image]}]
    if inside == "result":
        items = [
            *HI,
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": [image]},
        ]
    schema = TOOLS[0]["input_schema"]
    tools: Any = [{"type": "function", "name": "weather", "parameters": schema, "strict": True}]
    response = chat.responses.create(model=model, input=items, tools=tools)
    assert response.status == "completed"
    assert PNG in json.dumps(gateway.bill()[-1])


@pytest.mark.parametrize("stream", [False, True])
def test_a_chain_crosses_dialects_without_the_caller_noticing(
    gateway: Gateway, chat: openai.OpenAI, stream: bool
) -> None:
    """Anthropic, then OpenAI, then Vertex, for one OpenAI caller."""
    for failing, model in (
        ((), "anthropic"), (("anthropic",), "openai"), (("anthropic", "openai"), "vertex"),
    ):  # fmt: skip
        gateway.clear_faults()
        for provider in failing:
            gateway.faults(provider, status=503)
        since = Since(gateway)
        sent = chat.chat.completions.with_raw_response.create(
            model="chain", messages=HI, stream=stream
        )
        assert sent.headers["x-tfy-resolved-model"].startswith(model + "/")
        answer: Any = sent.parse()
        if stream:
            chunks = list(answer)
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            assert all(chunk.usage is None for chunk in chunks)  # the caller asked for none
            assert chunks[-1].choices[0].finish_reason
        else:
            text = answer.choices[0].message.content
        assert text
        settled, billed = since.money
        assert billed == settled > 0
        assert gateway.metric("tokenweir_kept_body_bytes") == 0


def test_nobody_reachable_is_said_in_the_callers_dialect(
    gateway: Gateway, chat: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    """Envoy's own reply: by then the path is the provider's."""
    for provider, _ in PROVIDERS.values():
        gateway.faults(provider, hang="before_headers")
    with pytest.raises(openai.APIStatusError) as refused:
        ask(chat, "claude", False)
    body: Any = refused.value.body
    assert body["code"] == "no_healthy_target"
    with pytest.raises(anthropic.APIStatusError) as failed:
        claude.messages.create(model="gpt", max_tokens=10, messages=HI)
    document: Any = failed.value.body
    assert document["type"] == "error"


def test_of_a_chain_the_targets_are_asked_that_can_take_the_request(
    gateway: Gateway, chat: openai.OpenAI
) -> None:
    since = Since(gateway)
    sent = chat.chat.completions.with_raw_response.create(
        model="chain", messages=HI, logit_bias={"1": 1}
    )
    assert sent.headers["x-tfy-resolved-model"] == "openai/gpt-4o-mini"
    settled, billed = since.money
    assert billed == settled > 0


def test_what_one_target_lacked_is_not_said_of_the_one_that_answered(
    gateway: Gateway, chat: openai.OpenAI
) -> None:
    create = chat.chat.completions.with_raw_response.create
    sent = create(model="chain", messages=HI, seed=7)
    assert sent.headers["x-tfy-resolved-model"] == "anthropic/claude-haiku-4-5"
    assert sent.headers["x-tfy-dropped"] == "seed"
    gateway.faults("anthropic", status=503)
    gateway.faults("openai", keep_bodies=True)
    sent = create(model="chain", messages=HI, seed=7)
    assert sent.headers["x-tfy-resolved-model"] == "openai/gpt-4o-mini"
    assert "x-tfy-dropped" not in sent.headers
    assert json.loads(gateway.bill()[-1]["body"])["seed"] == 7


def test_embeddings_have_no_translation(chat: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        chat.embeddings.create(model="claude", input="hi")
    body: Any = refused.value.body
    assert body["code"] == "no_healthy_target"


def test_a_client_that_leaves_a_translated_stream_is_charged(
    gateway: Gateway, chat: openai.OpenAI
) -> None:
    gateway.faults("anthropic", chunk_delay_ms=50, answer="long", bill_after_disconnect=True)
    since = Since(gateway)
    stream = chat.chat.completions.create(
        model="claude", messages=HI, stream=True, max_completion_tokens=400
    )
    for _, _chunk in zip(range(3), stream, strict=False):
        pass
    stream.close()
    settled, _ = since.money
    assert settled >= 400 * 5  # the whole maximum, at $5 per million


def test_a_stream_that_the_provider_cuts_is_no_whole_answer_and_is_charged(
    gateway: Gateway, chat: openai.OpenAI
) -> None:
    gateway.faults("anthropic", cut_after_events=6, chunk_delay_ms=30)
    since = Since(gateway)
    chunks: list[Any] = []
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        chunks.extend(chat.chat.completions.create(model="claude", messages=HI, stream=True))
    assert chunks
    assert not any(c.choices and c.choices[0].finish_reason for c in chunks)
    settled, billed = since.money
    assert settled >= billed
    assert settled > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("faults", [{"chunk_delay_ms": 50}, {"chunk_delay_ms": 1_500}])
def test_an_answer_whose_body_is_later_than_its_headers_arrives_whole(
    gateway: Gateway, chat: openai.OpenAI, faults: dict[str, int], stream: bool
) -> None:
    """Also later than its headers are held."""
    gateway.faults("anthropic", output_tokens=3, **faults)
    since = Since(gateway)
    answer = ask(chat, "claude", stream)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 3
    settled, billed = since.money
    assert settled == billed > 0


def test_a_document_longer_than_what_is_held_arrives_whole(
    gateway: Gateway, chat: openai.OpenAI
) -> None:
    gateway.faults("anthropic", output_tokens=60_000)
    answer = ask(chat, "claude", stream=False, max_completion_tokens=60_000)
    assert len(answer.choices[0].message.content) > 4 * HELD_BYTES
    assert answer.usage.completion_tokens == 60_000


def test_no_event_is_held_back(gateway: Gateway, chat: openai.OpenAI) -> None:
    gateway.faults("anthropic", chunk_delay_ms=100)
    began = time.monotonic()
    stream = chat.chat.completions.create(
        model="claude", messages=HI, stream=True, max_completion_tokens=8
    )
    arrived = [time.monotonic() - began for chunk in stream if chunk.choices]
    assert len(arrived) > 4
    assert arrived[-1] - arrived[1] > 0.3


def test_bedrock_is_signed_and_gemini_and_azure_get_their_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway: Gateway
) -> None:
    """Real credentials by ``base_url``, at another gateway's demo provider."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret")
    monkeypatch.setenv("GEMINI_KEY", "gemini-secret")
    monkeypatch.setenv("AZURE_KEY", "azure-secret")
    demo = gateway.demo
    providers = f"""providers:
  aws: {{dialect: bedrock, base_url: "{demo}/aws/bedrock", credential: "env:AWS_ACCESS_KEY_ID"}}
  google: {{dialect: gemini, base_url: "{demo}/g/gemini/v1beta", credential: "env:GEMINI_KEY"}}
  azure: {{dialect: azure-openai, base_url: "{demo}/az/openai/v1", credential: "env:AZURE_KEY"}}
prices:
  - {{provider: aws, model: '{BEDROCK_MODEL}', input_usd_per_mtok: 1, output_usd_per_mtok: 5}}
  - {{provider: google, model: gemini-2.0-flash, input_usd_per_mtok: 1, output_usd_per_mtok: 5}}
  - {{provider: azure, model: gpt-4o-mini, input_usd_per_mtok: 1, output_usd_per_mtok: 5}}
"""
    text = GATEWAY.format(digest=hashlib.sha256(KEY.encode()).hexdigest())
    targets = {
        "rock": ("aws", BEDROCK_MODEL),
        "gem": ("google", "gemini-2.0-flash"),
        "gpt": ("azure", "gpt-4o-mini"),
    }
    policy = {
        name: virtual_model(name, provider, model) for name, (provider, model) in targets.items()
    }
    files = base_policy(**policy)
    del files["models.yaml"]
    files["gateway.yaml"] = text[: text.index("providers:")] + providers
    gateway.faults("aws", aws_secret="aws-secret", strict=True)
    other = Gateway(tmp_path, files).start()
    try:
        for stream in (False, True):
            chat = openai.OpenAI(base_url=other.url + "/v1", api_key=KEY, max_retries=0)
            for model in targets:
                assert ask(chat, model, stream).choices[0].message.content
        claude = anthropic.Anthropic(base_url=other.url, api_key=KEY, max_retries=0)
        for model in targets:
            assert claude.messages.create(model=model, max_tokens=50, messages=HI).content
    finally:
        assert other.stop() == 0
