"""What users of other gateways complain of: cache, reasoning and tier prices (peers.md 3.7).

``docs/complaints.md`` lists every complaint with its test, or why it does not apply.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from world import World

from extproc.core.commands import Forward
from extproc.dialects.anthropic.dialect import AnthropicMessages
from extproc.dialects.bedrock.dialect import Converse
from extproc.dialects.codec import Context, TargetFacts
from extproc.dialects.conversation import Vendor
from extproc.dialects.gemini.answers import usage_of as geminis_usage
from extproc.dialects.openai_chat.dialect import OpenAiChat
from extproc.dialects.translation import AnswerTranslator
from extproc.policy.prices import find_price
from extproc.values.dialect import Operation
from extproc.values.money import Price, Rates
from extproc.values.usage import TokenUsage
from extproc.wire.usage import usage_from_events, usage_from_json_tail

SONNET = Price(Rates(3_000_000, 15_000_000, 300_000, 3_750_000))
OPUS = Price(Rates(5_000_000, 25_000_000, 500_000, 6_250_000))
CLAUDE_ON_BEDROCK = TargetFacts("anthropic.claude-haiku-4-5", Vendor.ANTHROPIC)
MARK = {"type": "ephemeral"}


def anthropics(**usage: int) -> TokenUsage:
    """Usage as Anthropic's whole answer ends with it."""
    tail = json.dumps({"usage": usage})[1:].encode()
    reported = usage_from_json_tail(Operation.MESSAGES, tail)
    assert reported is not None
    assert not reported.suspect
    return reported.usage


def openais(**usage: Any) -> TokenUsage:
    """Usage as OpenAI's whole answer ends with it."""
    reported = usage_from_json_tail(
        Operation.CHAT_COMPLETIONS, json.dumps({"usage": usage})[1:].encode()
    )
    assert reported is not None
    return reported.usage


def test_litellm_9812_cache_writes_are_charged_once() -> None:
    """Charged as prompt and again as cache creation: $0.0913 where the console said $0.0544."""
    usage = anthropics(
        input_tokens=3, cache_creation_input_tokens=12_304, cache_read_input_tokens=0,
        output_tokens=550,
    )  # fmt: skip
    assert SONNET.cost_micro_usd(usage) == 54_399


def test_litellm_11364_cache_reads_and_writes_have_their_own_prices() -> None:
    """Cached tokens were not considered: the figures of the report, at Anthropic's prices."""
    usage = anthropics(
        input_tokens=10, cache_creation_input_tokens=32_435, cache_read_input_tokens=66_360,
        output_tokens=5_120,
    )  # fmt: skip
    assert OPUS.cost_micro_usd(usage) == 363_949


def test_litellm_5443_cached_tokens_count_as_input() -> None:
    """Only what was not cached was counted as input."""
    usage = anthropics(
        input_tokens=1, cache_creation_input_tokens=20, cache_read_input_tokens=300, output_tokens=4
    )
    assert (usage.input_tokens, usage.total_tokens) == (321, 325)


def test_litellm_11789_a_stream_costs_what_the_whole_answer_costs() -> None:
    """Cache reads were charged as plain input, but only when streamed: $0.0021 for $0.0003."""
    counts = {"input_tokens": 4, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2_455}
    start = {"type": "message_start", "message": {"usage": {**counts, "output_tokens": 1}}}
    delta = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 23},
    }
    streamed = usage_from_events(
        Operation.MESSAGES, json.dumps(start).encode(), json.dumps(delta).encode()
    )
    whole = anthropics(**counts, output_tokens=23)
    assert streamed is not None
    assert streamed.final
    assert streamed.usage == whole
    # Translated, the same stream tells the same.
    message = {"id": "m", "type": "message", "model": "claude", "role": "assistant", "content": []}
    start["message"] = {**message, **start["message"]}  # type: ignore[dict-item]
    events = [start, delta, {"type": "message_stop"}]
    data = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()
    answer = AnswerTranslator(OpenAiChat(), AnthropicMessages(), Context("r", 0, "m"), stream=True)
    answer.on_headers(200, "text/event-stream")
    answer.on_body(data, end=True)
    assert answer.usage == whole


def test_litellm_31282_a_declared_price_is_applied_once() -> None:
    """With custom pricing the cost was doubled (also PR#40016): declared and listed were added."""
    mine = Price(Rates(2_000_000, 4_000_000, 1, 1))
    found = find_price("openai", "gpt-4o", {("openai", "gpt-4o"): mine})
    assert found is not None
    assert found.cost_micro_usd(TokenUsage(1_000, 500)) == 4_000


def test_portkey_1579_cache_marks_reach_claude_wherever_it_runs() -> None:
    """``cache_control`` was stripped for Claude outside Anthropic: every turn billed uncached."""
    body = {
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "long", "cache_control": {**MARK, "ttl": "1h"}}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}, "cache_control": MARK}],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "also long", "cache_control": MARK}],
            }
        ],
    }
    made = sent_to_bedrock(body)
    assert made["system"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert made["toolConfig"]["tools"][1] == {"cachePoint": {"type": "default"}}
    assert made["messages"][0]["content"][1] == {"cachePoint": {"type": "default"}}


def test_portkey_1140_calls_and_results_keep_their_cache_marks() -> None:
    """Prompt caching did not work for tool_use and tool_result."""
    call = {"type": "tool_use", "id": "t1", "name": "f", "input": {}, "cache_control": MARK}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "x", "cache_control": MARK}
    body = {
        "model": "m",
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": "do"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    }
    made = sent_to_bedrock(body)
    for message in made["messages"][1:]:
        assert [next(iter(block)) for block in message["content"]][1:] == ["cachePoint"]


def sent_to_bedrock(body: Any) -> Any:
    raw = json.dumps(body).encode()
    made = Converse().write_request(AnthropicMessages().read_request(raw), CLAUDE_ON_BEDROCK)
    assert made.dropped == ()
    return json.loads(made.body)


def test_portkey_pr1754_prompt_tokens_hold_the_cached_ones() -> None:
    """An OpenAI caller of Claude got a total that was not the sum of its parts."""
    answer = {
        "id": "m", "type": "message", "role": "assistant", "model": "claude",
        "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 100, "cache_read_input_tokens": 50,
                  "cache_creation_input_tokens": 7, "output_tokens": 10},
    }  # fmt: skip
    translator = AnswerTranslator(
        OpenAiChat(), AnthropicMessages(), Context("r", 0, "m"), stream=False
    )
    translator.on_headers(200, "application/json")
    told = json.loads(translator.on_body(json.dumps(answer).encode(), end=True))["usage"]
    assert told["prompt_tokens"] == 100 + 50 + 7
    assert told["total_tokens"] == told["prompt_tokens"] + told["completion_tokens"]
    assert told["prompt_tokens_details"]["cached_tokens"] == 50


@pytest.mark.parametrize("reasoning", [0, 64, 100])
def test_agentgateway_3228_output_is_charged_whole_with_reasoning_in_it(reasoning: int) -> None:
    """The cost left the output out when reasoning was present."""
    details = {"reasoning_tokens": reasoning}
    usage = openais(prompt_tokens=10, completion_tokens=100, completion_tokens_details=details)
    assert SONNET.cost_micro_usd(usage) == 10 * 3 + 100 * 15


def test_llmgateway_pr3486_reasoning_is_charged_once() -> None:
    """Reasoning was added to an output that holds it already."""
    details = {"reasoning_tokens": 90}
    usage = openais(prompt_tokens=0, completion_tokens=100, completion_tokens_details=details)
    assert (usage.output_tokens, usage.reasoning_tokens) == (100, 90)
    assert SONNET.cost_micro_usd(usage) == 1_500


def test_ai_tally_376_geminis_thoughts_are_output() -> None:
    """``thoughtsTokenCount`` stands beside the candidates' tokens, and is billed as they are."""
    usage = geminis_usage(
        {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 40,
         "totalTokenCount": 55}
    )  # fmt: skip
    assert usage == TokenUsage(10, 45, reasoning_tokens=40)
    assert SONNET.cost_micro_usd(usage) == 10 * 3 + 45 * 15


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5"])
@pytest.mark.parametrize("provider", ["anthropic", "bedrock"])
def test_ai_dial_core_1798_cache_reads_and_writes_are_priced(provider: str, model: str) -> None:
    """Unpriced, they let a budget in dollars be passed: a write costs twelve times a read."""
    name = f"anthropic.{model}" if provider == "bedrock" else model
    price = find_price(provider, name, {})
    assert price is not None
    rates = price.rates
    assert 0 < rates.cached_input < rates.input < rates.cache_write < rates.cache_write_1h
    # What nobody knows before the call is reserved at the dearest of them.
    assert price.worst_case_micro_usd(1_000_000, 0) >= price.dearest.cache_write_1h


def test_talon_218_counting_tokens_reserves_and_costs_nothing() -> None:
    """Claude Code counts often, and was charged a made-up cost each time."""
    world = World()
    counted = world.ask(path="/v1/messages/count_tokens")
    assert isinstance(counted, Forward)
    assert world.reservations == []
    asked = world.ask(path="/v1/messages")
    assert isinstance(asked, Forward)
    assert len(world.reservations) == 1


def test_mulder_148_a_price_says_where_it_is_from_and_yours_wins() -> None:
    """A cap was wrong because the table of prices was."""
    listed = find_price("anthropic", "claude-haiku-4-5", {})
    assert listed is not None
    assert listed.source
    mine = Price(Rates(7_000_000, 8_000_000, 1, 1), as_of="2026-11-01", source="rate card")
    found = find_price("anthropic", "claude-haiku-4-5", {("anthropic", "claude-haiku-4-5"): mine})
    assert found is not None
    assert (found.rates, found.source) == (mine.rates, "rate card")


@pytest.mark.parametrize("model", ["claude-opus-4-7", "claude-opus-4-99", "gpt-4o-mini-unheard"])
def test_ai_token_monitor_pr130_no_model_is_priced_by_a_part_of_its_name(model: str) -> None:
    """Opus 4.7 matched "opus-4" and was billed at three times its price (also claude-spend#25)."""
    provider = "openai" if model.startswith("gpt") else "anthropic"
    older = find_price(provider, "gpt-4o" if provider == "openai" else "claude-opus-4-1", {})
    found = find_price(provider, model, {})
    assert older is not None
    assert found is None or found.rates != older.rates
