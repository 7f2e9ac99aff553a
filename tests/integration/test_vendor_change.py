"""A conversation that changes its vendor and comes back, through the real Envoy, with the official
SDKs as callers and a strict demo provider: what one vendor leaves in it, the next must take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from gateway import Gateway, native_policy, virtual_model

from extproc.wire.call_ids import FOREIGN

TARGETS = {
    "claude": ("anthropic", "claude-haiku-4-5"),
    "rock": ("bedrock", "anthropic.claude-haiku-4-5"),
    "gpt": ("openai", "gpt-4o-mini"),
    "deep": ("openai", "deepseek-reasoner"),
    "gem": ("vertex", "gemini-2.5-flash"),
    "gem3": ("vertex", "gemini-3-flash-preview"),
    "gpt5": ("openai", "gpt-5"),
}
"""``deep`` shows what it thought, ``gpt`` does not; ``gem3`` wants its calls' signatures back."""
PROVIDERS = ("anthropic", "bedrock", "openai", "vertex")
PRICES = """prices:
  - {provider: openai, model: deepseek-reasoner, input_usd_per_mtok: 1, output_usd_per_mtok: 5}
  - {provider: openai, model: gpt-5, input_usd_per_mtok: 1, output_usd_per_mtok: 5}
  - {provider: vertex, model: gemini-3-flash-preview, input_usd_per_mtok: 1, output_usd_per_mtok: 5}
"""
TOOLS: list[Any] = [
    {
        "name": "weather",
        "description": "Looks up the weather.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]
HI: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
THINKING: Any = {"type": "enabled", "budget_tokens": 1_024}
OTHERS = ("rock", "gpt", "deep", "gem", "gem3")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    models = {
        name: virtual_model(name, *target, timeout_ms=20_000) for name, target in TARGETS.items()
    }
    chains = {"gem-claude": ("gem", "claude"), "claude-gem": ("claude", "gem")}
    for name, (first, second) in chains.items():
        later, model = TARGETS[second]
        fallbacks = f"  - {{provider: {later}, model: {model}}}\n"
        models[name] = virtual_model(name, *TARGETS[first], timeout_ms=20_000, fallbacks=fallbacks)
    policy = native_policy(**models)
    policy["gateway.yaml"] += PRICES
    running = Gateway(tmp_path_factory.mktemp("vendors"), policy).start()
    yield running
    assert running.stop() == 0


@pytest.fixture(autouse=True)
def strict(gateway: Gateway) -> None:
    answer_with(gateway, "thinking_tools")


def answer_with(gateway: Gateway, kind: str) -> None:
    """What every provider answers with from now on."""
    gateway.clear_faults()
    for provider in PROVIDERS:
        gateway.faults(provider, strict=True, answer=kind, keep_bodies=True)


class Session:
    """An agent's conversation in Anthropic's dialect."""

    def __init__(self, client: anthropic.Anthropic, *, stream: bool) -> None:
        self._client = client
        self._stream = stream
        self.messages: list[Any] = list(HI)
        self.dropped = ""
        """What the last answer's header says was left out."""

    def ask(self, model: str) -> Any:
        """The next answer, of the SDK's own type. It is part of the conversation now."""
        request: dict[str, Any] = {
            "model": model,
            "max_tokens": 4_000,
            "messages": self.messages,
            "tools": TOOLS,
            "thinking": THINKING,
        }
        if self._stream:
            with self._client.messages.stream(**request) as events:
                message: Any = events.get_final_message()
                headers = events.response.headers
        else:
            sent = self._client.messages.with_raw_response.create(**request)
            message, headers = sent.parse(), sent.headers
        self.dropped = headers.get("x-tfy-dropped", "")
        content = [block.model_dump(exclude_none=True) for block in message.content]
        self.messages.append({"role": "assistant", "content": content})
        return message

    def give_results(self) -> None:
        """Of the tools that the last answer called."""
        calls = [b for b in self.messages[-1]["content"] if b["type"] == "tool_use"]
        assert calls
        results = [{"type": "tool_result", "tool_use_id": c["id"], "content": "1"} for c in calls]
        self.messages.append({"role": "user", "content": results})


def sent_to_provider(gateway: Gateway) -> Any:
    """The body of the last request that a provider got."""
    return json.loads(gateway.bill()[-1]["body"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("other", OTHERS)
def test_inside_a_round_of_tools(
    gateway: Gateway, claude: anthropic.Anthropic, other: str, stream: bool
) -> None:
    """Claude, another vendor, Claude: the calls of the other one had no thought of Claude's before
    them, so Claude does not think until the next question, and then does again."""
    session = Session(claude, stream=stream)
    before = ""
    for model in ("claude", other, "claude", "claude", other, "rock", "claude", other, "claude"):
        message = session.ask(model)
        assert [block.type for block in message.content][-1] == "tool_use"
        session.give_results()
        if model == "claude" and before == other != "rock":
            assert "thinking" in session.dropped.split(",")
            assert sent_to_provider(gateway)["thinking"] == {"type": "disabled"}
        before = model
    session.messages += [
        {"role": "assistant", "content": "It is sunny."},
        {"role": "user", "content": "And tomorrow?"},
    ]
    for model in ("claude", "rock", "claude"):
        session.ask(model)
        assert "thinking" not in session.dropped.split(",")
        session.give_results()
    if other in ("rock", "gpt"):
        assert session.dropped == ""  # these show no thoughts but Claude's


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking", "text"])
def test_between_two_questions(
    gateway: Gateway, claude: anthropic.Anthropic, kind: str, other: str, stream: bool
) -> None:
    answer_with(gateway, kind)
    session = Session(claude, stream=stream)
    for model in ("claude", other, "claude", "rock", other, "claude"):
        session.ask(model)
        assert "thinking" not in session.dropped.split(",") or model in ("gpt", "deep")
        session.messages.append({"role": "user", "content": "And then?"})
    assert sent_to_provider(gateway)["thinking"] == THINKING


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("other", ["rock", "deep", "gem", "gem3"])
def test_the_thoughts_of_every_vendor_are_shown(
    gateway: Gateway, claude: anthropic.Anthropic, other: str, stream: bool
) -> None:
    answer_with(gateway, "thinking")
    message = Session(claude, stream=stream).ask(other)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking
    assert message.content[0].signature.startswith(FOREIGN) is (other != "rock")


def test_counting_the_tokens_of_such_a_conversation(claude: anthropic.Anthropic) -> None:
    session = Session(claude, stream=False)
    for model in ("deep", "gem3"):
        session.ask(model)
        session.give_results()
    counted = claude.messages.count_tokens(
        model="claude", messages=session.messages, tools=TOOLS, thinking=THINKING
    )
    assert counted.input_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_later_attempt_comes_back_too(
    gateway: Gateway, claude: anthropic.Anthropic, stream: bool
) -> None:
    session = Session(claude, stream=stream)
    session.ask("gem-claude")
    assert "claude" not in sent_to_provider(gateway).get("model", "")
    session.give_results()
    gateway.faults("vertex", status=503)
    session.ask("gem-claude")  # Claude, at the second attempt
    assert session.dropped == "messages.thinking,thinking"
    assert sent_to_provider(gateway)["thinking"] == {"type": "disabled"}
    session.give_results()
    answer_with(gateway, "thinking_tools")
    gateway.faults("anthropic", status=503)
    session.ask("claude-gem")  # Gemini, after Claude was edited for
    session.give_results()
    gateway.faults("anthropic", strict=True, answer="thinking_tools")
    session.ask("claude-gem")


def test_what_nobody_left_behind_passes_byte_for_byte(
    gateway: Gateway, claude: anthropic.Anthropic
) -> None:
    session = Session(claude, stream=False)
    session.ask("claude")
    session.give_results()
    session.ask("claude")
    assert session.dropped == ""
    assert sent_to_provider(gateway)["messages"] == session.messages[:-1]


@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_others_come_back_to_openai(
    gateway: Gateway, chat: openai.OpenAI, stream: bool
) -> None:
    """Ids carry Google's signatures, which are far longer than OpenAI's ids may be."""
    answer_with(gateway, "tools")
    tools: Any = [
        {
            "type": "function",
            "function": {"name": "weather", "parameters": TOOLS[0]["input_schema"]},
        }
    ]
    messages: list[Any] = list(HI)
    for model in ("gem3", "gpt", "claude", "gem3", "rock", "gpt"):
        request: dict[str, Any] = {"model": model, "messages": messages, "tools": tools}
        if stream:
            with chat.chat.completions.stream(**request) as events:
                message = events.get_final_completion().choices[0].message
        else:
            message = chat.chat.completions.create(**request).choices[0].message
        calls: Any = message.tool_calls
        assert calls, model
        told = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in calls
        ]
        messages.append({"role": "assistant", "tool_calls": told})
        messages += [{"role": "tool", "tool_call_id": c.id, "content": "1"} for c in calls]


@pytest.mark.parametrize("stream", [False, True])
def test_responses_come_back_to_openai(gateway: Gateway, chat: openai.OpenAI, stream: bool) -> None:
    tools: Any = [
        {
            "type": "function",
            "name": "weather",
            "parameters": TOOLS[0]["input_schema"],
            "strict": False,
        }
    ]
    items: list[Any] = list(HI)
    for model in ("gpt5", "claude", "gpt5", "gem3", "rock", "gpt5"):
        request: dict[str, Any] = {
            "model": model,
            "input": items,
            "tools": tools,
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "reasoning": {"effort": "low"},
            "max_output_tokens": 4_000,
        }
        if stream:
            *_, last = chat.responses.create(**request, stream=True)
            response = last.response
        else:
            response = chat.responses.create(**request)
        output = [json.loads(item.model_dump_json(exclude_none=True)) for item in response.output]
        items += output
        calls = [item for item in output if item["type"] == "function_call"]
        assert calls, model
        items += [
            {"type": "function_call_output", "call_id": c["call_id"], "output": "1"} for c in calls
        ]
