"""What a policy may set otherwise for one target, and what it may not."""

from __future__ import annotations

import pytest
from policies import codes, compiled, snapshot

from extproc.policy.override_documents import HOLDERS
from extproc.policy.snapshot import Finding, PolicySnapshot, Target
from extproc.values.dialect import Dialect, Operation
from extproc.wire.overrides import Params

PROVIDERS = """
name: real
type: gateway-config
providers:
  gem: {dialect: gemini, base_url: "https://g.test/v1beta"}
  open: {dialect: openai, base_url: "https://o.test/v1"}
  both: {endpoints: {anthropic: "https://b.test", openai: "https://b.test/v1"}}
prices:
  - {provider: gem, model: m, input_usd_per_mtok: 1, output_usd_per_mtok: 1, context_tokens: 9000}
  - {provider: open, model: m, input_usd_per_mtok: 1, output_usd_per_mtok: 1, context_tokens: 9000}
  - {provider: both, model: m, input_usd_per_mtok: 1, output_usd_per_mtok: 1,
     context_tokens: 1000000}
---
name: o
type: gateway-load-balancing-config
rules:
"""


def rule(text: str, provider: str = "open") -> str:
    return f"{PROVIDERS}  - {{id: r, target: {{provider: {provider}, model: m}}, {text}}}\n"


def target(text: str, provider: str = "open") -> Target:
    return snapshot(more=rule(text, provider)).virtual_models["o"].targets[0]


def refused(text: str, provider: str = "open") -> list[str]:
    return codes(more=rule(text, provider))


def test_fields_are_the_json_that_was_written() -> None:
    found = target(
        "override_params: {temperature: 0.10, top_p: null, stop: [a, '1'], "
        "response_format: {type: json_object}, store: false}"
    )
    assert found.overrides is not None
    assert dict(found.overrides.params.fields) == {
        "temperature": b"0.10",
        "top_p": None,
        "stop": b'["a","1"]',
        "response_format": b'{"type":"json_object"}',
        "store": b"false",
    }
    assert found.added_bytes == found.overrides.params.added_bytes > 0
    assert found.leaves_changed(Operation.CHAT_COMPLETIONS)


def test_headers_are_set_and_removed_by_name_in_any_case() -> None:
    found = target("headers_override: {set: {Anthropic-Beta: a}, remove: [X-Debug, user-agent]}")
    assert found.overrides is not None
    assert found.overrides.set_headers == (("anthropic-beta", "a"),)
    assert found.overrides.removed_headers == ("x-debug", "user-agent")
    assert found.overrides.params == Params()


def test_a_target_without_any_of_it_is_as_before() -> None:
    plain = target("timeout_ms: 9")
    assert (plain.overrides, plain.first_token_timeout_ms, plain.added_bytes) == (None, 0, 0)
    assert not plain.leaves_changed(Operation.CHAT_COMPLETIONS)
    other = target("override_params: {temperature: 0}")
    assert set(other.clusters.values()).isdisjoint(plain.clusters.values())


@pytest.mark.parametrize(
    "field",
    [
        "model: x", "stream: false", "max_tokens: 9", "max_completion_tokens: null", "n: 4",
        "max_output_tokens: 1", "messages: []", "system: x", "tools: null", "service_tier: fast",
        "service_tier: [auto]", "thinking: {type: enabled, budget_tokens: 1024}",
        "thinking: {type: adaptive, budget_tokens: 9}", "thinking: enabled", "audio: {}",
        "web_search_options: {}", "speed: fast", "generationConfig: {maxOutputTokens: 9}",
        "inferenceConfig: {maxTokens: 9}", "additionalModelRequestFields: {thinking: {a: 1}}",
        "generationConfig: {candidateCount: 2}", "previous_response_id: x", "provider: {only: [x]}",
        # Google reads its fields in this spelling too.
        "generationConfig: {candidate_count: 2}", "generation_config: {candidateCount: 2}",
        "cached_content: x", "tool_config: {}", "MaxTokens: 9",
    ],
)  # fmt: skip
def test_what_is_reserved_for_cannot_be_set(field: str) -> None:
    assert refused(f"override_params: {{{field}}}") == ["override_of_bound"]


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("value", ["null", "[]", "3", "text"])
def test_what_holds_the_maximum_is_set_field_by_field(holder: str, value: str) -> None:
    """Removed or replaced whole, it would take the maximum with it."""
    assert refused(f"override_params: {{temperature: 0, {holder}: {value}}}") == ["wrong_type"]


@pytest.mark.parametrize(
    "field",
    [
        "service_tier: flex", "service_tier: null", "thinking: null", "thinking: {type: disabled}",
        "thinking: {type: adaptive}", "generationConfig: {thinkingConfig: {thinkingBudget: 0}}",
    ],
)  # fmt: skip
def test_what_is_never_dearer_can_be_set(field: str) -> None:
    assert refused(f"override_params: {{{field}}}") == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("override_params: {}", "missing_key"),
        ("override_params: 3", "wrong_type"),
        ("override_params: {temperature: " + "9" * 18 + "}", ""),
        ("override_params: {stop: " + "x" * 17_000 + "}", "out_of_range"),
        ("override_params: {" + ", ".join(f"f{n}: 1" for n in range(33)) + "}", "out_of_range"),
        ("headers_override: {}", "missing_key"),
        ("headers_override: {set: {x: 3}}", "wrong_type"),
        ('headers_override: {set: {x: ""}}', "bad_value"),
        ('headers_override: {set: {x: "a\\nb"}}', "bad_value"),
        ('headers_override: {set: {"a b": "1"}}', "bad_value"),
        ("headers_override: {set: {x: y}, remove: [X]}", "bad_value"),
        ("headers_override: {add: {x: y}}", "unknown_key"),
        ("first_token_timeout_ms: 0", "out_of_range"),
        ("timeout_ms: 100, first_token_timeout_ms: 101", "out_of_range"),
        ("timeout_ms: 100, first_token_timeout_ms: 100", ""),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, code: str) -> None:
    assert (refused(text) or [""])[0] == code


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "Host", ":path",
        "content-length", "Content-Type", "transfer-encoding", "connection", "te", "upgrade",
        "x-tfy-user-id", "X-TFY-Anything", "x-tw-decided", "x-envoy-max-retries", "x-request-id",
        "x-forwarded-for", "accept-encoding", "x-amz-date", "session-id", "proxy-authorization",
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ['{{set: {{"{0}": v}}}}', '{{remove: ["{0}"]}}'])
def test_identity_credentials_and_the_connection_are_not_set_per_target(
    name: str, how: str
) -> None:
    expected = "bad_value" if name.startswith(":") else "forbidden_header"
    assert refused("headers_override: " + how.format(name)) == [expected]


@pytest.mark.parametrize(
    "name", ["X-Vertex-AI-LLM-Shared-Request-Type", "x-amzn-bedrock-service-tier"]
)
def test_a_header_that_chooses_a_dearer_variant_is_not_set(name: str) -> None:
    assert refused(f"headers_override: {{set: {{{name}: priority}}}}") == ["override_of_bound"]


def test_the_error_names_the_line() -> None:
    text = PROVIDERS + (
        "  - id: r\n    target: {provider: open, model: m}\n    override_params:\n"
        "      temperature: 0\n      max_tokens: 9\n"
    )
    found = compiled(more=text)
    assert isinstance(found, list)
    assert text.splitlines()[found[0].line - 1].strip() == "max_tokens: 9"
    assert found[0].file == "more.yaml"


def test_a_renamed_prefix_is_as_forbidden() -> None:
    text = rule("headers_override: {set: {x-acme-user-id: x}}").replace(
        "type: gateway-config\n", "type: gateway-config\nenvelope: {prefix: X-ACME-}\n", 1
    )
    assert "forbidden_header" in codes(more=text)


def warnings(text: str, provider: str = "open") -> list[Finding]:
    return [
        each
        for each in snapshot(more=rule(text, provider)).warnings
        if each.code in ("unknown_param", "override_not_applied")
    ]


def test_a_field_that_nobody_knows_is_warned_of() -> None:
    assert [each.code for each in warnings("override_params: {frobnicate: 1}")] == ["unknown_param"]
    assert warnings("override_params: {frobnicate: null, temperature: 1}") == []


def test_a_longer_context_has_to_be_reserved_for() -> None:
    beta = "headers_override: {set: {anthropic-beta: context-1m-2025-08-07}}"
    assert refused(beta) == ["override_of_context"]
    assert refused(beta, "both") == []
    inside = "override_params: {additionalModelRequestFields: {anthropic_beta: [context-1m-x]}}"
    assert refused(inside, "gem") == ["override_of_context"]


def test_everything_is_asked_in_the_one_api_whose_fields_are_set() -> None:
    tuned = target("override_params: {temperature: 0}", "both")
    for operation in (Operation.CHAT_COMPLETIONS, Operation.MESSAGES, Operation.RESPONSES):
        assert tuned.endpoints[operation].dialect is Dialect.OPENAI
    assert tuned.translated == {Operation.MESSAGES, Operation.RESPONSES}
    assert tuned.endpoints[Operation.COUNT_TOKENS].dialect is Dialect.ANTHROPIC
    free = target("headers_override: {set: {a: b}}", "both")
    assert free.translated == frozenset()


def test_a_stand_in_that_speaks_another_api_is_not_given_the_fields() -> None:
    text = (
        "name: s\ntype: gateway-load-balancing-config\nrules:\n"
        "  - id: r\n    target: {provider: vertex, model: gemini-2.0-flash}\n"
        "    override_params: {generationConfig: {topK: 3}}\n"
        "    headers_override: {set: {a: b}}\n"
    )
    policy = snapshot(more=text)
    assert "override_not_applied" in [each.code for each in policy.warnings]
    overrides = policy.virtual_models["s"].targets[0].overrides
    assert overrides is not None
    assert (overrides.params, overrides.set_headers) == (Params(), (("a", "b"),))


def test_of_a_rule_that_leads_to_a_model_it_is_refused() -> None:
    text = (
        "name: n\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: r, target: {model: intent-fast}, override_params: {temperature: 0}}\n"
    )
    assert codes(more=text) == ["not_of_a_target"]


def test_holders_are_no_fields_that_are_replaced_whole() -> None:
    for holder in HOLDERS:
        found = target(f"override_params: {{{holder}: {{topK: 1}}}}", "gem").overrides
        assert found is not None
        assert not found.params.fields
        assert dict(found.params.inside[holder].fields) == {"topK": b"1"}


def test_fallbacks_take_the_same_keys() -> None:
    policy = snapshot(
        more=rule("weight: 1") + "fallbacks:\n  - {provider: gem, model: m, "
        "first_token_timeout_ms: 70, override_params: {labels: {a: b}}, "
        "headers_override: {remove: [a]}}\n"
    )
    assert isinstance(policy, PolicySnapshot)
    found = policy.virtual_models["o"].fallbacks[0]
    assert (found.first_token_timeout_ms, found.overrides is not None) == (70, True)
