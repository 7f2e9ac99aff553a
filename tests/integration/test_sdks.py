"""The official SDKs against the gateway: answers, streams, and their own typed errors."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from gateway import KEY, Gateway, base_policy

LIMITS = """
name: limits
type: gateway-rate-limit-config
rules:
  - {id: two, when: {metadata: {X-TFY-Project: p2}}, limit: {requests: 2, window: 1h}, scope: user}
  - id: brief
    when: {metadata: {X-TFY-Workflow-Tag: brief}}
    limit: {requests: 1, window: 2s}
    scope: user
---
name: budgets
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 100, window: monthly}
  - id: spent
    scope: {metadata: {X-TFY-Project: intern-sandbox}}
    ceiling_usd: 0.000001
    window: 1d
---
name: gemini-only
type: gateway-load-balancing-config
rules:
  - {id: far, weight: 1, target: {provider: far, model: gem}}
"""
BARE_KEY = "tw-bare-key"
"""Of a credential without defaults, for one model only, that says who its user is."""
BARE = f"""credentials:
  - id: bare
    sha256: {hashlib.sha256(BARE_KEY.encode()).hexdigest()}
    claims: {{user_id: alice}}
    models: [gemini-only]
"""
FAR = """
  far: {dialect: gemini}
prices:
  - {provider: far, model: gem, input_usd_per_mtok: 1, output_usd_per_mtok: 1, context_tokens: 9000}
"""


@pytest.fixture
def gateway(module_gateway) -> Gateway:
    policy = base_policy(limits=LIMITS)
    policy["gateway.yaml"] = policy["gateway.yaml"].replace("credentials:\n", BARE).rstrip() + FAR
    return module_gateway(policy)


@pytest.fixture
def openai_client(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY)


@pytest.fixture
def anthropic_client(gateway: Gateway) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=KEY)


MESSAGES = [{"role": "user", "content": "hello"}]


def test_openai_chat_json_and_stream(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model="intent-fast", messages=MESSAGES, max_tokens=5
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    with openai_client.chat.completions.create(
        model="intent-fast", messages=MESSAGES, max_tokens=5, stream=True
    ) as stream:
        chunks = list(stream)
    assert all(chunk.choices for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer.choices[0].message.content


def test_openai_responses_and_embeddings_and_models(openai_client: openai.OpenAI) -> None:
    answer = openai_client.responses.create(model="intent-fast", input="hello")
    assert answer.output_text
    with openai_client.responses.create(model="intent-fast", input="hi", stream=True) as stream:
        assert [event.type for event in stream][-1] == "response.completed"
    assert openai_client.embeddings.create(model="intent-fast", input="x").data
    assert {model.id for model in openai_client.models.list()} == {"intent-fast", "gemini-only"}


def test_the_long_prefix_is_served_too(gateway: Gateway) -> None:
    url = gateway.url + "/api/llm/api/inference/openai"
    client = openai.OpenAI(base_url=url, api_key=KEY)
    answer = client.chat.completions.create(model="intent-fast", messages=MESSAGES)
    assert answer.choices


def test_anthropic_messages_json_stream_and_count(anthropic_client: anthropic.Anthropic) -> None:
    answer = anthropic_client.messages.create(model="intent-fast", max_tokens=5, messages=MESSAGES)
    assert answer.usage.output_tokens == 5
    with anthropic_client.messages.stream(
        model="intent-fast", max_tokens=5, messages=MESSAGES
    ) as stream:
        assert stream.get_final_text()
    counted = anthropic_client.messages.count_tokens(model="intent-fast", messages=MESSAGES)
    assert counted.input_tokens > 0


def test_a_limit_is_the_sdks_rate_limit_error_and_not_retried(gateway: Gateway) -> None:
    for client in (
        openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY),
        anthropic.Anthropic(base_url=gateway.url, api_key=KEY),
    ):
        kind = type(client).__name__
        module = openai if kind == "OpenAI" else anthropic
        headers = {"x-tfy-project": "p2", "x-tfy-user-id": kind}

        def ask(client=client, headers=headers):
            if isinstance(client, openai.OpenAI):
                return client.chat.completions.create(
                    model="intent-fast", messages=MESSAGES, extra_headers=headers
                )
            return client.messages.create(
                model="intent-fast", max_tokens=5, messages=MESSAGES, extra_headers=headers
            )

        ask()
        ask()
        with pytest.raises(module.RateLimitError, match="'two'") as caught:
            ask()
        assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_claude_code_session_header_keys_the_session(gateway: Gateway) -> None:
    client = anthropic.Anthropic(base_url=gateway.url, api_key=KEY)
    client.messages.create(
        model="intent-fast",
        max_tokens=5,
        messages=MESSAGES,
        extra_headers={"x-claude-code-session-id": "cc-1"},
    )
    assert '"cc-1"' in gateway.journal()


ENVELOPE = {"x-tfy-project": "p1", "x-tfy-environment": "test"}
# What is asked, who asks, and what both SDKs raise for it.
REFUSALS: dict[str, tuple[dict[str, Any], str, dict[str, str], str, str]] = {
    "unknown-model": ({"model": "nope"}, KEY, {}, "NotFoundError", "unknown_model"),
    "wrong-key": ({}, "wrong", {}, "AuthenticationError", "invalid_credential"),
    "not-allowed": ({}, BARE_KEY, ENVELOPE, "PermissionDeniedError", "model_not_allowed"),
    "someone-else": (
        {}, BARE_KEY, {**ENVELOPE, "x-tfy-user-id": "bob"},
        "PermissionDeniedError", "identity_conflict",
    ),
    "no-envelope": ({}, BARE_KEY, {}, "BadRequestError", "identity_required"),
    "bad-field": ({"max_tokens": -1}, KEY, {}, "BadRequestError", "invalid_request"),
    "bad-value": (
        {}, KEY, {"x-tfy-user-id": "a,b"}, "BadRequestError", "invalid_request",
    ),
    "over-budget": (
        {}, KEY, {"x-tfy-project": "intern-sandbox"}, "RateLimitError", "budget_exceeded",
    ),
    "no-target": (
        {"model": "gemini-only"}, KEY, {}, "InternalServerError", "no_healthy_target",
    ),
}  # fmt: skip


def counted(client: Any, requests: list[str]) -> Any:
    """The client, which from now on names each request that it really sends."""
    client._client.event_hooks = {"request": [lambda request: requests.append(request.url.path)]}
    return client


@pytest.mark.parametrize("kind", REFUSALS)
def test_every_refusal_is_the_sdks_own_error_and_not_retried(gateway: Gateway, kind: str) -> None:
    more, key, headers, error, code = REFUSALS[kind]
    sent: list[str] = []
    openai_client = counted(
        openai.OpenAI(base_url=gateway.url + "/v1", api_key=key, max_retries=2), sent
    )
    fields = {"model": "intent-fast", "max_tokens": 5, "messages": MESSAGES, **more}
    with pytest.raises(getattr(openai, error)) as caught:
        openai_client.chat.completions.create(**fields, extra_headers=headers)
    assert caught.value.code == code
    assert caught.value.type == code
    assert caught.value.message
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.body["metadata"]["request_id"] == caught.value.request_id

    anthropic_client = counted(
        anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=2), sent
    )
    with pytest.raises(getattr(anthropic, error)) as refused:
        anthropic_client.messages.create(**fields, extra_headers=headers)
    assert refused.value.body["type"] == "error"
    assert refused.value.body["error"]["metadata"]["code"] == code
    assert refused.value.body["request_id"]
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert sent == ["/v1/chat/completions", "/v1/messages"]


def openai_call(gateway: Gateway, **more: Any) -> Any:
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=2)
    return client.chat.completions.with_raw_response.create(
        model="intent-fast", messages=MESSAGES, max_tokens=5, **more
    )


def anthropic_call(gateway: Gateway, **more: Any) -> Any:
    client = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=2)
    return client.messages.with_raw_response.create(
        model="intent-fast", messages=MESSAGES, max_tokens=5, **more
    )


@pytest.mark.parametrize("call", [openai_call, anthropic_call])
def test_a_limit_that_soon_gives_way_is_waited_for(
    gateway: Gateway, call: Callable[..., Any]
) -> None:
    headers = {"x-tfy-workflow-tag": "brief", "x-tfy-user-id": call.__name__}
    assert call(gateway, extra_headers=headers).retries_taken == 0
    started = time.monotonic()
    answer = call(gateway, extra_headers=headers)
    assert answer.retries_taken == 1
    assert time.monotonic() - started >= 1  # Retry-After, not the SDK's own half a second
    assert answer.http_response.status_code == 200


@pytest.mark.parametrize("call", [openai_call, anthropic_call])
def test_raw_answers_carry_what_was_decided(gateway: Gateway, call: Callable[..., Any]) -> None:
    headers = {"x-tfy-project": "p2", "x-tfy-user-id": "raw-" + call.__name__}
    answer = call(gateway, extra_headers=headers)
    shown = answer.headers
    assert shown["x-tfy-policy-generation"] == "1"
    assert set(shown["x-tfy-applied-rules"].split(",")) == {"two", "all"}
    assert shown["x-tfy-resolved-model"] == "anthropic/claude-haiku-4-5" or shown[
        "x-tfy-resolved-model"
    ].startswith("bedrock/")
    assert 0 < float(shown["x-budget-remaining-usd"]) < 100
    assert shown["x-ratelimit-limit-requests"] == "2"
    assert shown["x-ratelimit-remaining-requests"] == "1"
    assert shown["x-request-id"]
    assert answer.parse().model in shown["x-tfy-resolved-model"]


def test_legacy_completions(openai_client: openai.OpenAI) -> None:
    answer = openai_client.completions.create(model="intent-fast", prompt="hello", max_tokens=5)
    assert answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    with openai_client.completions.create(
        model="intent-fast", prompt="hello", max_tokens=5, stream=True
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def test_usage_that_was_asked_for_is_in_the_stream(openai_client: openai.OpenAI) -> None:
    with openai_client.chat.completions.create(
        model="intent-fast",
        messages=MESSAGES,
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        last = list(stream)[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 5


def test_the_async_clients_many_at_once(gateway: Gateway) -> None:
    async def ask(ours: openai.AsyncOpenAI, theirs: anthropic.AsyncAnthropic) -> tuple[str, str]:
        stream = await ours.chat.completions.create(
            model="intent-fast", messages=MESSAGES, max_tokens=5, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        async with theirs.messages.stream(
            model="intent-fast", messages=MESSAGES, max_tokens=5
        ) as events:
            return text, await events.get_final_text()

    async def scenario() -> set[tuple[str, str]]:
        async with (
            openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=KEY) as ours,
            anthropic.AsyncAnthropic(base_url=gateway.url, api_key=KEY) as theirs,
        ):
            return set(await asyncio.gather(*(ask(ours, theirs) for _ in range(10))))

    texts = asyncio.run(scenario())
    assert len(texts) == 1
    assert all(texts.pop())


def test_a_refusal_of_the_async_client_is_typed_too(gateway: Gateway) -> None:
    async def scenario() -> None:
        async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="wrong") as client:
            await client.responses.create(model="intent-fast", input="hello", stream=True)

    with pytest.raises(openai.AuthenticationError):
        asyncio.run(scenario())
