"""Draws: weights are kept, every target comes once, open breakers are left out, order is order."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import snapshot

from extproc.core.breaker import Breakers
from extproc.core.routing import FIRST_TOKEN_SLACK_MS, Chain, Route, text_bytes
from extproc.policy.snapshot import BreakerPolicy, Provider, Target, VirtualModel
from extproc.values.dialect import OWN_OPERATIONS, Operation
from extproc.values.money import Price, Rates

PRICE = Price(Rates(1, 1, 1, 1))
POLICY = BreakerPolicy(1, 60_000, 60_000)
PROVIDER = Provider("p", {})
SERVABLE = tuple(one for one in Operation if one not in OWN_OPERATIONS)
EVERYTHING = frozenset(SERVABLE)
ALMOST_ONE = 1 - 2**-53


def target(
    name: str,
    weight: int = 0,
    operations: frozenset[Operation] = EVERYTHING,
    timeout_ms: int = 1_000,
) -> Target:
    clusters = {operation: f"{name}-{operation}" for operation in operations}
    return Target(name, PROVIDER, name, name, PRICE, timeout_ms, clusters, weight)


def model(*weights: int, fallbacks: int = 0) -> VirtualModel:
    """Targets r0, r1, ... of these weights, and fallbacks f0, f1, ..."""
    rules = tuple(target(f"r{place}", weight) for place, weight in enumerate(weights))
    return VirtualModel("m", rules, tuple(target(f"f{n}") for n in range(fallbacks)), POLICY)


def names(chain: Chain) -> list[str]:
    return [each.model for each in chain.targets]


def broken(*open_names: str) -> Breakers:
    breakers = Breakers()
    for name in open_names:
        breakers.failed(f"p/{name}", POLICY, 0)
    return breakers


WEIGHTS = st.lists(st.integers(0, 1_000_000), min_size=1, max_size=6).filter(any)
SERVED = st.frozensets(st.sampled_from(SERVABLE))
DRAWS = st.floats(0, 1, exclude_max=True) | st.just(ALMOST_ONE)


@given(st.data(), WEIGHTS, st.integers(0, 4), DRAWS, st.sampled_from(SERVABLE))
def test_a_chain_is_every_target_that_can_serve_once_in_order(
    data: st.DataObject, weights: list[int], fallbacks: int, draw: float, operation: Operation
) -> None:
    rules = tuple(
        target(f"r{place}", weight, data.draw(SERVED)) for place, weight in enumerate(weights)
    )
    later = tuple(target(f"f{place}", 0, data.draw(SERVED)) for place in range(fallbacks))
    virtual = VirtualModel("m", rules, later, POLICY)
    is_open = {each.model for each in virtual.all_targets if data.draw(st.booleans())}
    route = Route(virtual, operation)
    chain = route.draw(draw, broken(*is_open), 0)

    can_serve = [
        each for each in virtual.all_targets if operation in each.clusters
        and each.model not in is_open
    ]  # fmt: skip
    weighted = [each for each in can_serve if each.weight]
    drawn = []
    if weighted:
        bounds = list(accumulate(each.weight for each in weighted))
        drawn = [weighted[bisect_right(bounds, draw * bounds[-1])]]
    rest = [each for each in weighted if each not in drawn]
    idle = [each for each in can_serve if not each.weight]
    assert list(chain.targets) == drawn + rest + idle
    assert chain.operation is operation


@given(WEIGHTS, st.data())
def test_weights_are_shares_of_what_is_available(weights: list[int], data: st.DataObject) -> None:
    virtual = model(*weights, fallbacks=1)
    is_open = {f"r{place}" for place in range(len(weights)) if data.draw(st.booleans())}
    breakers = broken(*is_open)
    route = Route(virtual, Operation.CHAT_COMPLETIONS)
    draws = 500
    first = [names(route.draw((n + 0.5) / draws, breakers, 0))[0] for n in range(draws)]
    available = {
        f"r{place}": weight
        for place, weight in enumerate(weights)
        if weight and f"r{place}" not in is_open
    }
    total = sum(available.values())
    for name, weight in available.items():
        # Evenly spaced draws: every share is met to one draw at either edge.
        assert abs(first.count(name) - draws * weight / total) <= 1.001
    assert set(first) <= (set(available) or set(names(route.draw(0.0, breakers, 0))[:1]))


def test_a_split_of_ninety_to_ten_is_one() -> None:
    route = Route(model(90, 10), Operation.CHAT_COMPLETIONS)
    first = [names(route.draw(n / 1_000, Breakers(), 0))[0] for n in range(1_000)]
    assert (first.count("r0"), first.count("r1")) == (900, 100)


def test_a_rule_of_no_weight_is_a_fallback_before_the_fallbacks() -> None:
    route = Route(model(0, 5, 0, fallbacks=2), Operation.CHAT_COMPLETIONS)
    for draw in (0.0, 0.5, ALMOST_ONE):
        assert names(route.draw(draw, Breakers(), 0)) == ["r1", "r0", "r2", "f0", "f1"]


def test_a_breaker_that_admits_a_probe_is_in_the_chain_again() -> None:
    route = Route(model(1, 1), Operation.CHAT_COMPLETIONS)
    breakers = broken("r0")
    assert names(route.draw(0.0, breakers, 59_999)) == ["r1"]
    assert names(route.draw(0.0, breakers, 60_000)) == ["r0", "r1"]


def test_F57_a_probe_comes_first_in_one_chain_whatever_is_drawn() -> None:
    route = Route(model(1, 98, 1), Operation.CHAT_COMPLETIONS)
    breakers = broken("r0")
    chains = [names(route.draw(draw, breakers, 60_000)) for draw in (0.5, 0.5, ALMOST_ONE)]
    assert chains == [["r0", "r1", "r2"], ["r1", "r2"], ["r2", "r1"]]


def test_F57_a_fallback_on_trial_leads_no_chain_while_a_rule_is_left() -> None:
    route = Route(model(1, 1, fallbacks=1), Operation.CHAT_COMPLETIONS)
    breakers = broken("f0")
    for _ in range(3):
        assert names(route.draw(0.9, breakers, 60_000)) == ["r1", "r0", "f0"]
    both = broken("r0", "r1", "f0")
    chains = [names(route.draw(0.9, both, 60_000)) for _ in range(4)]
    assert chains == [["r0", "r1", "f0"], ["r1", "f0"], ["f0"], []]


@given(st.lists(st.sampled_from(["r0", "r1", "r2", "f0"])), DRAWS)
def test_F57_the_same_seed_gives_the_same_order(is_open: list[str], draw: float) -> None:
    route = Route(model(2, 3, 5, fallbacks=1), Operation.CHAT_COMPLETIONS)
    once, again = (
        [names(route.draw(draw, breakers, now)) for now in (0, 60_000, 60_001, 70_000)]
        for breakers in (broken(*is_open), broken(*is_open))
    )
    assert once == again


def test_with_every_rule_open_the_fallbacks_serve_and_with_all_open_nothing() -> None:
    route = Route(model(1, 1, fallbacks=1), Operation.CHAT_COMPLETIONS)
    assert names(route.draw(0.9, broken("r0", "r1"), 0)) == ["f0"]
    assert names(route.draw(0.9, broken("r0", "r1", "f0"), 0)) == []


def test_a_model_that_nobody_serves_for_an_operation_has_an_empty_chain() -> None:
    only = VirtualModel(
        "m", (target("r0", 1, frozenset({Operation.CHAT_COMPLETIONS})),), (), POLICY
    )
    route = Route(only, Operation.MESSAGES)
    assert route.targets == ()
    assert route.draw(0.5, Breakers(), 0).targets == ()
    assert route.draw(0.5, broken("r0"), 0).targets == ()


def test_the_chains_of_a_route_are_shared_so_that_their_wire_form_is_made_once() -> None:
    route = Route(model(1, 1), Operation.CHAT_COMPLETIONS)
    assert route.draw(0.1, Breakers(), 0) is route.draw(0.2, Breakers(), 0)
    assert route.draw(0.1, Breakers(), 0) is not route.draw(0.9, Breakers(), 0)


def test_a_chain_waits_as_long_as_its_slowest_target() -> None:
    slow, quick = target("a", timeout_ms=9_000), target("b", timeout_ms=100)
    chain = Chain(Operation.CHAT_COMPLETIONS, (quick, slow), POLICY)
    assert chain.timeout_ms == 9_000
    rest = chain.without([slow])
    assert names(rest) == ["b"]
    assert rest.timeout_ms == 100
    assert rest.breaker is POLICY
    assert chain.without([quick, slow]).timeout_ms == 0


def test_streams_are_waited_for_as_long_as_the_most_patient_first_token() -> None:
    slow, quick = (
        replace(target(name, timeout_ms=9_000), first_token_timeout_ms=ms)
        for name, ms in (("a", 900), ("b", 50))
    )
    chain = Chain(Operation.CHAT_COMPLETIONS, (quick, slow), POLICY, None, 77)
    assert (chain.timeout_ms, chain.stream_timeout_ms) == (9_000, 900 + FIRST_TOKEN_SLACK_MS)
    assert chain.without([slow]).stream_timeout_ms == 50 + FIRST_TOKEN_SLACK_MS
    assert chain.without([slow]).request_timeout_ms == 77
    patient = Chain(Operation.CHAT_COMPLETIONS, (quick, target("c", timeout_ms=4_000)), POLICY)
    assert patient.stream_timeout_ms == 4_000


@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 7), (1_000_000, 1), (999_999, 7, 1)])
def test_the_last_draw_there_is_still_finds_a_target(weights: tuple[int, ...]) -> None:
    route = Route(model(*weights), Operation.CHAT_COMPLETIONS)
    last = f"r{len(weights) - 1}"
    assert names(route.draw(ALMOST_ONE, Breakers(), 0))[0] == last
    assert names(route.draw(0.0, Breakers(), 0))[0] == "r0"


def test_the_narrowest_context_says_how_long_a_body_fits_every_target() -> None:
    wide, narrow, unknown = (
        replace(target(name), price=replace(PRICE, context_tokens=context))
        for name, context in (("wide", 1_000), ("narrow", 100), ("unknown", None))
    )
    rules = (replace(target("r0", 1), price=wide.price),)
    assert (
        Route(
            VirtualModel("m", rules, (narrow, unknown)), Operation.CHAT_COMPLETIONS
        ).narrowest_bytes
        == 100
    )
    assert text_bytes(unknown) > 2**60
    nothing = VirtualModel("m", (target("r0", 1, frozenset()),), ())
    assert Route(nothing, Operation.CHAT_COMPLETIONS).narrowest_bytes > 2**60


def test_a_target_alone_is_one_chain_that_is_made_once() -> None:
    route = Route(model(1, 2, fallbacks=1), Operation.CHAT_COMPLETIONS)
    chains = [route.alone(each) for each in route.targets]
    assert [names(chain) for chain in chains] == [["r0"], ["r1"], ["f0"]]
    assert [route.alone(each) for each in route.targets] == chains


def test_a_chain_has_the_longest_silence_of_its_targets() -> None:
    rules = tuple(
        replace(target(f"r{place}", 1), idle_timeout_ms=ms) for place, ms in enumerate((9, 3, 7))
    )
    route = Route(VirtualModel("m", rules, (), POLICY), Operation.CHAT_COMPLETIONS)
    assert route.draw(0.0, Breakers(), 0).idle_timeout_ms == 9
    assert route.draw(0.5, broken("r0"), 0).idle_timeout_ms == 7
    assert route.draw(0.5, broken("r0", "r1", "r2"), 0).idle_timeout_ms == 0


def test_the_same_target_asked_otherwise_in_a_nested_model_is_another_one() -> None:
    text = (
        "name: inner\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: i, target: {provider: anthropic, model: claude-haiku-4-5}}\n"
        "fallbacks:\n"
        "  - {provider: openai, model: gpt-4o-mini, headers_override: {set: {x-a: inner}}}\n---\n"
        "name: other\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: o, target: {provider: anthropic, model: claude-haiku-4-5}}\n"
        "fallbacks: [{provider: openai, model: gpt-4o-mini}]\n---\n"
        "name: outer\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: a, target: {model: inner}}\n  - {id: b, target: {model: other}}\n"
    )
    model = snapshot(more=text).virtual_models["outer"]
    route = Route(model, Operation.CHAT_COMPLETIONS)
    tuned, plain = [target for target in route.targets if target.provider.name == "openai"]
    for target in (tuned, plain, tuned):
        assert route.alone(target).targets == (target,)
    assert (tuned.overrides is None, plain.overrides is None) == (False, True)
