"""What users of other gateways complain of: translation and coding agents (peers.md 3.9).

``docs/complaints.md`` lists every complaint with its test, or why it does not apply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from extproc.dialects.anthropic.dialect import AnthropicMessages
from extproc.dialects.bedrock.dialect import Converse
from extproc.dialects.codec import CallerDialect, Context, TargetDialect, TargetFacts
from extproc.dialects.conversation import UntranslatableError, Vendor
from extproc.dialects.gemini.dialect import Gemini
from extproc.dialects.openai_chat.dialect import OpenAiChat
from extproc.dialects.openai_responses.dialect import OpenAiResponses
from extproc.dialects.translation import AnswerTranslator
from extproc.values.dialect import OPERATION_BY_PATH, Operation
from extproc.values.usage import TokenUsage

RECORDED = Path(__file__).parents[1] / "integration" / "recorded"
CONTEXT = Context("r1", 1_700_000_000, "asked")
CHAT, RESPONSES, MESSAGES = OpenAiChat(), OpenAiResponses(), AnthropicMessages()
PNG = "iVBORw0KGgo="


class To(NamedTuple):
    """A target and what its writer must know."""

    dialect: TargetDialect
    facts: TargetFacts


ANTHROPIC = To(MESSAGES, TargetFacts("claude-opus-4-6", Vendor.ANTHROPIC, 64_000))
OPENAI = To(CHAT, TargetFacts("gpt-4o-mini", Vendor.OPENAI))
GEMINI = To(Gemini(), TargetFacts("gemini-2.0-flash", Vendor.GOOGLE))
BEDROCK = To(Converse(), TargetFacts("anthropic.claude-haiku-4-5", Vendor.ANTHROPIC))
FOREIGN_TO_CLAUDE_CODE = {"openai": OPENAI, "gemini": GEMINI, "bedrock": BEDROCK}
FOREIGN_TO_CODEX = {"anthropic": ANTHROPIC, "gemini": GEMINI, "bedrock": BEDROCK}


def sent(caller: CallerDialect, to: To, body: Any) -> Any:
    """The request as the target gets it."""
    raw = json.dumps({"model": "m", **body}).encode()
    return json.loads(to.dialect.write_request(caller.read_request(raw), to.facts).body)


def answered(caller: CallerDialect, to: To, answer: Any) -> Any:
    """A whole answer as the caller gets it."""
    translator = AnswerTranslator(caller, to.dialect, CONTEXT, stream=False)
    translator.on_headers(200, "application/json")
    return json.loads(translator.on_body(json.dumps(answer).encode(), end=True))


def streamed(caller: CallerDialect, to: To, *events: Any) -> list[dict[str, Any]]:
    """The events of a stream as the caller gets them."""
    data = "".join(
        f"event: {event.get('type', '')}\ndata: {json.dumps(event)}\n\n" for event in events
    )
    if to is OPENAI:
        data += "data: [DONE]\n\n"
    translator = AnswerTranslator(caller, to.dialect, CONTEXT, stream=True)
    translator.on_headers(200, "text/event-stream")
    told = translator.on_body(data.encode(), end=True).decode()
    lines = [line for line in told.splitlines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def chunk(delta: Any, reason: str | None = None) -> Any:
    """A chunk of OpenAI's stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "gpt"}
    return {**head, "choices": [choice]}


def tool_call(index: int, arguments: str, call_id: str = "", name: str = "") -> Any:
    """A piece of a tool call in OpenAI's stream."""
    piece: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if call_id:
        piece |= {"id": call_id, "type": "function"}
        piece["function"]["name"] = name
    return {"tool_calls": [piece]}


def recorded(name: str) -> dict[str, Any]:
    """The body of an agent client's request."""
    return dict(json.loads((RECORDED / f"{name}.json").read_text())["body"])


def found(value: Any, *keys: str) -> Iterator[Any]:
    """What stands under one of these keys, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in keys:
                yield inner
            yield from found(inner, *keys)
    elif isinstance(value, list):
        for inner in value:
            yield from found(inner, *keys)


# -- tool inputs and streams ----------------------------------------------------------------------


@pytest.mark.parametrize("target", FOREIGN_TO_CLAUDE_CODE)
def test_litellm_25321_tool_use_input_survives(target: str) -> None:
    """The input of a tool call was dropped from the history: Claude Code called again, forever."""
    body = recorded("claude_code_main")
    given = [
        block["input"]
        for message in body["messages"]
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "tool_use"
    ]
    made = sent(MESSAGES, FOREIGN_TO_CLAUDE_CODE[target], body)
    calls = list(found(made, "arguments" if target == "openai" else "functionCall", "toolUse"))
    inputs = [
        json.loads(call) if isinstance(call, str) else call.get("args", call.get("input"))
        for call in calls
    ]
    assert inputs == given
    assert len(inputs) == 4


def test_litellm_25321_streamed_tool_use_input_survives() -> None:
    """And the input that the model streams arrives whole, piece by piece."""
    told = streamed(
        MESSAGES,
        OPENAI,
        chunk(tool_call(0, "", "c1", "Bash")),
        chunk(tool_call(0, '{"comm')),
        chunk(tool_call(0, 'and":"ls"}')),
        chunk({}, "tool_calls"),
    )
    pieces = [e["delta"]["partial_json"] for e in told if e["type"] == "content_block_delta"]
    assert json.loads("".join(pieces)) == {"command": "ls"}
    assert len(pieces) == 2


def test_litellm_32357_thoughts_stand_in_a_block_of_thoughts() -> None:
    """A thinking_delta inside a text block: the client breaks off."""
    told = streamed(
        MESSAGES,
        OPENAI,
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "a"}),
        chunk({"reasoning_content": "again"}),
        chunk({"content": "b"}),
        chunk({}, "stop"),
    )
    kinds: dict[int, str] = {}
    for event in told:
        if event["type"] == "content_block_start":
            kinds[event["index"]] = event["content_block"]["type"]
        elif event["type"] == "content_block_delta":
            kind = event["delta"]["type"].removesuffix("_delta")
            assert kind.replace("signature", "thinking") == kinds[event["index"]]
    assert list(kinds.values()) == ["thinking", "text", "thinking", "text"]


def test_litellm_33224_a_message_starts_once() -> None:
    """A second message_start in one stream, where the provider repeats its role."""
    role = {"role": "assistant", "content": ""}
    told = streamed(
        MESSAGES, OPENAI, chunk(role), chunk({**role, "content": "a"}), chunk(role, "stop")
    )
    assert [event["type"] for event in told].count("message_start") == 1
    assert told[0]["message"]["usage"]["cache_creation"]  # Claude Code reads it (#24176)


def test_bifrost_pr4890_blocks_are_numbered_without_gaps_one_after_the_other() -> None:
    """content_block indices were wrong where text and calls followed each other."""
    told = streamed(
        MESSAGES,
        OPENAI,
        chunk({"content": "a"}),
        chunk(tool_call(0, '{"x":1}', "c1", "f")),
        chunk(tool_call(1, '{"y":2}', "c2", "g")),
        chunk({}, "tool_calls"),
    )
    assert [e["index"] for e in told if e["type"] == "content_block_start"] == [0, 1, 2]
    opened: list[int] = []
    for event in told:
        if event["type"] == "content_block_start":
            assert opened == []
            opened.append(event["index"])
        elif event["type"] == "content_block_stop":
            assert opened.pop() == event["index"]


@pytest.mark.parametrize("arguments", ["", None, "{}"])
def test_bifrost_pr1354_a_call_without_arguments_has_an_empty_input(arguments: Any) -> None:
    """OpenRouter sends none, and the client got no JSON."""
    function = {"name": "f", "arguments": arguments}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    told = answered(MESSAGES, OPENAI, {"id": "c", "model": "m", "choices": choices})
    assert told["content"][0]["input"] == {}
    parts = streamed(
        RESPONSES, OPENAI, chunk(tool_call(0, arguments or "", "c1", "f")), chunk({}, "tool_calls")
    )
    (item,) = [e["item"] for e in parts if e["type"] == "response.output_item.done"]
    # Given back, it is an empty object everywhere.
    output = {"type": "function_call_output", "call_id": "c1", "output": "y"}
    again = {"input": [{"role": "user", "content": "x"}, item, output]}
    calls = list(found(sent(RESPONSES, ANTHROPIC, again), "content"))
    assert [block["input"] for block in calls[1]] == [{}]


# -- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", FOREIGN_TO_CLAUDE_CODE)
def test_litellm_23712_images_in_tool_results_arrive(target: str) -> None:
    """They were dropped in silence on the way from Claude Code to Gemini."""
    made = sent(MESSAGES, FOREIGN_TO_CLAUDE_CODE[target], recorded("claude_code_main"))
    text = json.dumps(made)
    assert text.count("iVBORw0KGgo") == 1
    assert "image/png" in text or '"format": "png"' in text


@pytest.mark.parametrize("target", ["anthropic", "gemini", "bedrock"])
def test_litellm_20403_images_of_the_user_arrive(target: str) -> None:
    """Also #2898, #16202, #18430, #19896: images that were refused, emptied or lost."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    content = [{"type": "text", "text": "what?"}, image]
    made = sent(
        CHAT, FOREIGN_TO_CODEX[target], {"messages": [{"role": "user", "content": content}]}
    )
    assert PNG in json.dumps(made)


def test_litellm_12899_an_image_by_url_stays_one_where_the_provider_takes_urls() -> None:
    """Fetched and sent as base64 it met the limit of 5 MB; nobody fetches anything here."""
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    body = {"messages": [{"role": "user", "content": [image]}]}
    made = sent(CHAT, ANTHROPIC, body)
    assert list(found(made, "source")) == [{"type": "url", "url": "https://x/y.png"}]
    with pytest.raises(UntranslatableError) as refused:
        sent(CHAT, BEDROCK, body)
    assert "inline" in refused.value.why


# -- pairs of APIs --------------------------------------------------------------------------------


def test_ai_gateway_1372_an_anthropic_caller_is_served_by_openai() -> None:
    """Wanted for Claude Code at OpenAI-compatible servers (came with PR#1878)."""
    made = sent(MESSAGES, OPENAI, recorded("claude_code_title"))
    assert [message["role"] for message in made["messages"]] == ["system", "user"]
    assert made["response_format"]["type"] == "json_schema"


def test_ai_gateway_1936_an_openai_caller_is_served_by_native_anthropic() -> None:
    """500 on every request (also PR#2127, PR#2284)."""
    body = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]}
    made = sent(CHAT, ANTHROPIC, body)
    assert made["system"] == [{"type": "text", "text": "s"}]
    assert made["max_tokens"] == 64_000
    told = answered(
        CHAT,
        ANTHROPIC,
        {"id": "m", "model": "claude", "content": [{"type": "text", "text": "hi"}],
         "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 2}},
    )  # fmt: skip
    assert told["choices"][0]["message"]["content"] == "hi"


def test_ai_gateway_pr1550_anthropics_token_usage_is_read() -> None:
    """Input from the first event, output from the last; never added up twice."""
    counts = {"input_tokens": 5, "cache_read_input_tokens": 2}
    message = {"id": "m", "model": "c", "usage": {**counts, "output_tokens": 1}}
    start = {"type": "message_start", "message": message}
    delta = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {**counts, "output_tokens": 9},
    }
    events = (start, delta, {"type": "message_stop"})
    data = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    translator = AnswerTranslator(CHAT, MESSAGES, CONTEXT, stream=True)
    translator.on_headers(200, "text/event-stream")
    translator.on_body(data, end=True)
    assert translator.usage == TokenUsage(7, 9, 2)


def test_bifrost_1479_a_thinking_budget_below_claudes_least_is_named() -> None:
    """Claude Code's background calls ask for 500 tokens, and Bedrock answered with an error that
    told nobody why. Others are asked to think little."""
    body = recorded("claude_code_background")
    with pytest.raises(UntranslatableError) as refused:
        sent(MESSAGES, BEDROCK, body)
    assert refused.value.param == "thinking.budget_tokens"
    thinking_gpt = To(CHAT, TargetFacts("gpt-5", Vendor.OPENAI))
    assert sent(MESSAGES, thinking_gpt, body)["reasoning_effort"] == "low"


def test_bifrost_3456_a_model_of_anybody_behind_anthropics_api_is_a_target() -> None:
    """DeepSeek serves the Anthropic API."""
    deepseek = To(MESSAGES, TargetFacts("deepseek-chat", Vendor.OTHER, base_path="/anthropic"))
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    made = deepseek.dialect.write_request(CHAT.read_request(raw), deepseek.facts)
    assert made.path == "/anthropic/v1/messages"
    assert json.loads(made.body)["model"] == "deepseek-chat"


@pytest.mark.parametrize("target", FOREIGN_TO_CLAUDE_CODE)
def test_bifrost_3596_a_chosen_web_search_is_refused_by_name(target: str) -> None:
    """The tool was left out and its choice was not: the provider refused what nobody had said."""
    body = recorded("claude_code_web_search")
    own = {"name": "f", "input_schema": {"type": "object"}}
    body["tools"] = [own, *body["tools"]]
    body["tool_choice"] = {"type": "tool", "name": "web_search"}
    with pytest.raises(UntranslatableError) as refused:
        sent(MESSAGES, FOREIGN_TO_CLAUDE_CODE[target], body)
    assert refused.value.param == "tools[1].type"
    del body["tool_choice"]
    names = list(found(sent(MESSAGES, FOREIGN_TO_CLAUDE_CODE[target], body), "name"))
    assert "f" in names
    assert "web_search" not in names


def test_9router_pr601_two_hops_lose_no_message() -> None:
    """Claude to OpenAI to another: one message in, none out."""
    body = recorded("claude_code_main")
    first = sent(MESSAGES, OPENAI, body)
    second = sent(CHAT, ANTHROPIC, first)
    direct = sent(MESSAGES, GEMINI, body)
    roles = [message["role"] for message in second["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert len(direct["contents"]) == len(roles)
    assert json.dumps(second).count("pytest -q") == 1
    calls = [block["id"] for block in found_calls(second)]
    assert calls == ["toolu_01A", "toolu_01B", "toolu_01C", "toolu_01D"]


def found_calls(request: Any) -> Iterator[Any]:
    """The calls of a messages request."""
    for message in request["messages"]:
        for block in message["content"]:
            if block["type"] == "tool_use":
                yield block


# -- signatures -----------------------------------------------------------------------------------


def test_claude_code_10627_a_change_of_vendor_and_back_breaks_no_signature() -> None:
    """Invalid signatures after a switch of models in the middle of a session."""
    thought = {"type": "thinking", "thinking": "mine", "signature": "sig"}
    history: list[Any] = [
        {"role": "user", "content": "do"},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "so"}]},
        {"role": "user", "content": "more"},
    ]
    body = {"max_tokens": 9, "messages": history}
    # Away: nobody else is given what Claude signed.
    for to in (OPENAI, GEMINI):
        assert "mine" not in json.dumps(sent(MESSAGES, to, body))
    assert "sig" in json.dumps(sent(MESSAGES, BEDROCK, body))  # Claude, elsewhere
    # There: what another model thought is shown.
    message = {"role": "assistant", "content": "ok", "reasoning_content": "theirs"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    told = answered(MESSAGES, OPENAI, {"id": "c", "model": "m", "choices": choices})
    assert (told["content"][0]["type"], told["content"][0]["thinking"]) == ("thinking", "theirs")
    # And back: it is not sent to Claude, Claude's own is.
    history += [
        {"role": "assistant", "content": told["content"]},
        {"role": "user", "content": "on"},
    ]
    back = json.dumps(sent(MESSAGES, BEDROCK, body))
    assert "theirs" not in back
    assert "mine" in back


@pytest.mark.parametrize("to", [ANTHROPIC, BEDROCK], ids=["anthropic", "bedrock"])
def test_claude_code_10627_no_thought_of_another_vendor_reaches_claude(to: To) -> None:
    """Nor do those that OpenAI sealed for Codex, or that stand in a chat."""
    body = {"input": recorded("codex_turn")["input"][:5]}
    assert "Looking at the test" in json.dumps(body)
    assert "Looking at the test" not in json.dumps(sent(RESPONSES, to, body))


# -- Codex ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", FOREIGN_TO_CODEX)
def test_litellm_29818_a_turn_of_codex_is_carried_whole(target: str) -> None:
    """Codex at other models: reasoning, calls, patches and searches in its history."""
    text = json.dumps(sent(RESPONSES, FOREIGN_TO_CODEX[target], recorded("codex_turn")))
    for words in ("Use tabs.", "pytest -q", "assert 3 == 4", "*** Update File: sum.py", "a/b"):
        assert words in text
    assert "looking" not in text  # sealed by OpenAI


@pytest.mark.parametrize("target", FOREIGN_TO_CODEX)
def test_preloop_159_namespaced_tools_are_carried(target: str) -> None:
    """400 for every request of Codex with an MCP server."""
    body = recorded("codex_turn")
    names = list(found(sent(RESPONSES, FOREIGN_TO_CODEX[target], body), "name"))
    assert "mcp__github__list_issues" in names


def test_litellm_rs_1107_every_item_and_tool_of_codex_has_a_meaning_or_a_refusal() -> None:
    """Free-form tools and tool search were refused or lost, in declarations, calls and results."""
    body = recorded("codex_turn")
    conversation = RESPONSES.read_request(json.dumps(body).encode())
    assert {known.kind for known in conversation.known_as.values()} == {
        "custom", "function", "tool_search",
    }  # fmt: skip
    assert conversation.extra == {}
    for kind in ("compaction", "item_reference", "image_generation_call", "local_shell_call"):
        with pytest.raises(UntranslatableError) as refused:
            sent(RESPONSES, ANTHROPIC, {**body, "input": [{"type": kind, "id": "x"}]})
        assert refused.value.param == "input[0].type"


def test_codex_7782_the_responses_api_is_served_and_translated() -> None:
    """Codex speaks nothing else."""
    assert OPERATION_BY_PATH["/v1/responses"] is Operation.RESPONSES
    told = streamed(RESPONSES, OPENAI, chunk({"content": "hi"}), chunk({}, "stop"))
    assert [told[0]["type"], told[-1]["type"]] == ["response.created", "response.completed"]
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == "hi"
