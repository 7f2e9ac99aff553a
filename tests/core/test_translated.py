"""What targets of another dialect can be asked, and what an attempt there reports."""

from __future__ import annotations

import orjson
import pytest

from extproc.core.estimate import input_bound_tokens
from extproc.core.gate import Attempt
from extproc.core.routing import Chain
from extproc.core.translated import (
    CALLERS,
    TARGETS,
    Translation,
    edits_at,
    provider_headers,
    vendor_of,
    without_unsayable,
)
from extproc.dialects.codec import Context
from extproc.dialects.conversation import Vendor
from extproc.policy.snapshot import BreakerPolicy, Provider, Target
from extproc.policy.wrappers import endpoint_of, wrappers
from extproc.values.dialect import TRANSLATED_OPERATIONS, Dialect, Operation
from extproc.values.limit import NOTHING
from extproc.values.money import Price, Rates
from extproc.values.refusal import Refusal
from extproc.values.usage import TokenUsage
from extproc.wire.call_ids import FOREIGN
from extproc.wire.inference_request import InferenceRequest, parse_inference_request

CHAT = Operation.CHAT_COMPLETIONS
CONTEXT = Context("r1", 1_700_000_000, "asked")


def target(dialect: Dialect, model: str, api_version: str = "") -> Target:
    url = "https://provider.test/base"
    endpoint = endpoint_of("p", dialect, url, responses=True, api_version=api_version)
    provider = Provider(f"p-{dialect}", {dialect: endpoint})
    found = wrappers(provider, model)
    price = Price(Rates(1, 1, 1, 1))
    return Target(
        "t", provider, model, model, price, 1_000, found.clusters,
        endpoints=found.endpoints, translated=found.translated,
    )  # fmt: skip


CLAUDE = target(Dialect.ANTHROPIC, "claude-haiku-4-5")
GEMINI = target(Dialect.GEMINI, "gemini-2.5-pro")
GPT = target(Dialect.OPENAI, "gpt-4o")


def request(operation: Operation = CHAT, **fields: object) -> InferenceRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return parse_inference_request(operation, orjson.dumps(body))


def chain(*targets: Target) -> Chain:
    return Chain(CHAT, targets, BreakerPolicy())


def translation(at: Target, operation: Operation = CHAT, **fields: object) -> Translation:
    attempt = Attempt("r1/1", at, NOTHING)
    body = request(operation, **fields).body.body
    made = Translation(attempt, operation, body, CONTEXT, ())
    assert attempt.translated
    return made


def test_every_translated_operation_and_every_dialect_has_its_module() -> None:
    assert set(CALLERS) == set(TRANSLATED_OPERATIONS)
    assert set(TARGETS) == set(Dialect)


def test_a_chain_without_foreign_targets_is_left_as_it_is() -> None:
    only = chain(GPT)
    asked = request(logit_bias={"1": 1})
    assert without_unsayable(asked, only) == (asked, only, None)


def test_a_target_that_cannot_say_the_request_is_left_out() -> None:
    asked = request(logit_bias={"1": 1})
    _, found, refusal = without_unsayable(asked, chain(CLAUDE, GPT, GEMINI))
    assert refusal is None
    assert found.targets == (GPT,)
    assert not without_unsayable(asked, chain(CLAUDE))[1].targets
    assert without_unsayable(asked, chain(GPT))[0] is asked
    assert without_unsayable(request(), chain(CLAUDE))[1].targets == (CLAUDE,)


def test_what_grows_in_translation_is_bounded_by_what_it_becomes() -> None:
    """Tools of one word are schemas elsewhere: a thousand are three times as long there."""
    tools = [{"type": "custom", "name": f"t{n}"} for n in range(1_000)]
    body = orjson.dumps({"model": "m", "input": "hi", "tools": tools})
    asked = parse_inference_request(Operation.RESPONSES, body)
    said, _, refusal = without_unsayable(asked, chain(GPT, CLAUDE))
    assert refusal is None
    attempt = Attempt("r1/1", CLAUDE, NOTHING)
    written = Translation(attempt, Operation.RESPONSES, body, CONTEXT, ()).request.body
    assert len(written) > asked.body_bytes
    bound = input_bound_tokens(said, CLAUDE)
    assert bound >= len(written)
    assert bound - input_bound_tokens(asked, CLAUDE) == len(written) - asked.body_bytes
    assert without_unsayable(asked, chain(CLAUDE))[0] == said


def test_the_refusal_names_the_callers_field_when_nobody_can_say_it() -> None:
    _, _, refusal = without_unsayable(request(logit_bias={"1": 1}), chain(CLAUDE, GEMINI))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.param) == (400, "logit_bias")


def test_a_body_that_cannot_be_read_is_refused() -> None:
    _, _, refusal = without_unsayable(request(messages="hi"), chain(CLAUDE))
    assert isinstance(refusal, Refusal)
    assert refusal.status == 400


@pytest.mark.parametrize(
    ("model", "vendor"),
    [
        ("claude-haiku-4-5", Vendor.ANTHROPIC),
        ("anthropic.claude-haiku-4-5", Vendor.ANTHROPIC),
        ("gpt-4o", Vendor.OPENAI),
        ("o3-mini", Vendor.OPENAI),
        ("gemini-2.5-pro", Vendor.GOOGLE),
        ("llama-3.3-70b", Vendor.OTHER),
    ],
)
def test_the_vendor_is_who_made_the_model(model: str, vendor: Vendor) -> None:
    assert vendor_of(target(Dialect.OPENAI, model)) is vendor


def test_only_headers_that_a_provider_may_read_go_on() -> None:
    headers = {"anthropic-beta": "a,b", "x-api-key": "secret", "cookie": "c"}
    assert provider_headers(headers) == (("anthropic-beta", "a,b"),)


def test_an_azure_target_of_the_dated_api_is_asked_under_its_deployment() -> None:
    azure = target(Dialect.AZURE_OPENAI, "gpt-4o", "2024-10-21")
    made = translation(azure, Operation.MESSAGES, max_tokens=5)
    assert made.path == "/base/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    assert azure.endpoints[CHAT].path(CHAT, "gpt-4o") == made.path


def test_headers_that_only_anthropic_reads_are_passed_on_or_said_to_be_left_out() -> None:
    body = request(Operation.MESSAGES, max_tokens=5).body.body
    betas = (("anthropic-beta", "effort-2025-11-24"),)
    for at, left_out in ((GEMINI, "anthropic-beta"), (GPT, "anthropic-beta")):
        attempt = Attempt("r1/1", at, NOTHING)
        made = Translation(attempt, Operation.MESSAGES, body, CONTEXT, betas)
        assert made.dropped == left_out
    chat = request(max_tokens=5).body.body
    made = Translation(Attempt("r1/1", CLAUDE, NOTHING), CHAT, chat, CONTEXT, betas)
    assert made.dropped == ""
    assert betas[0] in made.headers


def test_what_is_left_out_is_said() -> None:
    assert translation(GEMINI, user="u1").dropped == "user"
    assert translation(GEMINI).dropped == ""


def come_back() -> InferenceRequest:
    thought = {"type": "thinking", "thinking": "hm", "signature": f"{FOREIGN}google."}
    call = {"type": "tool_use", "id": f"c1{FOREIGN}", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "1"}
    return request(
        Operation.MESSAGES,
        max_tokens=4_000,
        thinking={"type": "enabled", "budget_tokens": 1_024},
        messages=[
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [thought, call]},
            {"role": "user", "content": [result]},
        ],
    )


def test_what_another_vendor_left_is_edited_out_at_the_callers_own_and_nowhere_else() -> None:
    edits, dropped = edits_at(come_back(), CLAUDE, {"thinking": b"{}", "stop": b"1"})
    assert edits is not None
    assert sorted(edits) == ["messages", "stop", "thinking"]
    assert edits["thinking"] == b'{"type":"disabled"}'
    assert dropped == ("messages.thinking", "thinking")
    # The others are translated for: their writers know what to leave out.
    assert edits_at(come_back(), GEMINI) == (None, ())
    assert edits_at(request(Operation.MESSAGES, max_tokens=5), CLAUDE) == (None, ())


def answered(usage: dict[str, int]) -> Attempt:
    attempt = Attempt("r1/1", CLAUDE, NOTHING)
    made = Translation(attempt, CHAT, request().body.body, CONTEXT, ())
    made.on_headers(200, "application/json")
    body = orjson.dumps(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5",
            "content": [{"type": "text", "text": "yes"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": usage,
        }
    )
    assert made.on_body(body[:20], end=False) == b""
    assert attempt.reported is None
    written = orjson.loads(made.on_body(body[20:], end=True))
    assert written["choices"][0]["message"]["content"] == "yes"
    return attempt


def test_the_providers_usage_is_reported_once_the_answer_is_whole() -> None:
    reported = answered(
        {"input_tokens": 5, "output_tokens": 2, "cache_creation_input_tokens": 3}
    ).reported
    assert reported is not None
    assert reported.usage == TokenUsage(8, 2, 0, 3)
    assert reported.final
    assert not reported.suspect


@pytest.mark.parametrize("usage", [{"input_tokens": 5, "output_tokens": -1}, {}])
def test_usage_that_cannot_be_true_is_none(usage: dict[str, int]) -> None:
    assert answered(usage).reported is None
