"""The official SDKs against the gateway: answers, streams, and their own typed errors."""

from __future__ import annotations

import anthropic
import openai
import pytest
from gateway import KEY, Gateway, base_policy

LIMITS = """
name: limits
type: gateway-rate-limit-config
rules:
  - {id: two, when: {metadata: {X-TFY-Project: p2}}, limit: {requests: 2, window: 1h}, scope: user}
"""


@pytest.fixture
def gateway(module_gateway) -> Gateway:
    return module_gateway(base_policy(limits=LIMITS))


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
    assert [model.id for model in openai_client.models.list()] == ["intent-fast"]


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


@pytest.mark.parametrize(
    ("model", "key", "error"),
    [("nope", KEY, "NotFoundError"), ("intent-fast", "wrong", "AuthenticationError")],
)
def test_other_refusals_are_typed_too(gateway: Gateway, model: str, key: str, error: str) -> None:
    with pytest.raises(getattr(openai, error)):
        openai.OpenAI(base_url=gateway.url + "/v1", api_key=key).chat.completions.create(
            model=model, messages=MESSAGES
        )
    with pytest.raises(getattr(anthropic, error)):
        anthropic.Anthropic(base_url=gateway.url, api_key=key).messages.create(
            model=model, max_tokens=5, messages=MESSAGES
        )


def test_a_claude_code_session_header_keys_the_session(gateway: Gateway) -> None:
    client = anthropic.Anthropic(base_url=gateway.url, api_key=KEY)
    client.messages.create(
        model="intent-fast",
        max_tokens=5,
        messages=MESSAGES,
        extra_headers={"x-claude-code-session-id": "cc-1"},
    )
    assert '"cc-1"' in gateway.journal()
