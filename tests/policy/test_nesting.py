"""Models that lead on to models, and rules that name budgets: what loads and what is refused."""

from __future__ import annotations

import pytest
from policies import budget, codes, snapshot

from extproc.policy.nesting import MAX_DEPTH, MAX_TARGETS
from extproc.policy.snapshot import VirtualModel

GPT = "target: {provider: openai, model: gpt-4o}"
HAIKU = "target: {provider: anthropic, model: claude-haiku-4-5}"


def model(name: str, *rules: str) -> str:
    lines = "".join(f"  - {{id: {name}{place}, {rule}}}\n" for place, rule in enumerate(rules))
    return f"---\nname: {name}\ntype: gateway-load-balancing-config\nrules:\n{lines}"


def leads_to(name: str) -> str:
    return f"target: {{model: {name}}}"


def test_a_model_may_come_before_the_one_it_leads_to() -> None:
    text = model("outer", leads_to("middle"), GPT) + model("middle", leads_to("inner"))
    models = snapshot(more=text + model("inner", HAIKU, GPT)).virtual_models
    assert [target.id for target in models["outer"].targets] == ["inner0", "inner1", "outer1"]
    assert models["outer"].rules[0].member is models["middle"]
    assert [models[name].weights_only for name in ("outer", "inner")] == [False, True]


@pytest.mark.parametrize(
    "text",
    [
        model("a", leads_to("a")),
        model("a", leads_to("b")) + model("b", GPT, leads_to("c")) + model("c", leads_to("a")),
    ],
)
def test_a_model_that_leads_back_to_itself_is_refused(text: str) -> None:
    assert "model_cycle" in codes(more=text)


def test_a_model_reached_by_two_ways_is_no_cycle() -> None:
    text = model("a", leads_to("b"), leads_to("c")) + model("b", leads_to("c")) + model("c", GPT)
    found = snapshot(more=text).virtual_models["a"]
    assert isinstance(found, VirtualModel)
    assert [target.id for target in found.targets] == ["c0"]


def test_names_of_nothing_are_refused() -> None:
    assert "unknown_model" in codes(more=model("a", leads_to("nothing")))
    when = "when: {budget_used_pct_above: {monthly: 80}}"
    assert "unknown_budget" in codes(more=model("a", f"{GPT}, {when}"))
    known = budget("{id: monthly, ceiling_usd: 1, window: monthly}")
    assert codes(more=known + model("a", f"{GPT}, {when}")) == []


def chain_of_models(depth: int) -> str:
    levels = [model(f"m{n}", leads_to(f"m{n + 1}")) for n in range(depth - 1)]
    return "".join(levels) + model(f"m{depth - 1}", GPT)


def test_nesting_is_bounded_in_depth_and_breadth() -> None:
    assert codes(more=chain_of_models(MAX_DEPTH)) == []
    assert "too_nested" in codes(more=chain_of_models(MAX_DEPTH + 1))
    # Each level doubles: 2^7 ways to one target.
    doubling = [model(f"m{n}", *[leads_to(f"m{n + 1}")] * 2) for n in range(MAX_DEPTH - 1)]
    assert 2 ** (MAX_DEPTH - 1) > MAX_TARGETS
    assert "too_nested" in codes(more="".join(doubling) + model(f"m{MAX_DEPTH - 1}", GPT))


def test_a_very_long_chain_of_models_is_refused_and_not_followed() -> None:
    assert "too_nested" in codes(more=chain_of_models(1_500))
