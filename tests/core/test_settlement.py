"""Every way a request can end, times everything a provider can say: never zero on a guess."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from gateway import chat
from world import NOW, World, targets

from extproc.core.breaker import Breakers, BreakerState
from extproc.core.commands import Refuse, Release, Settle
from extproc.core.events import Ending
from extproc.core.gate import LEASE_MS
from extproc.policy.snapshot import BreakerPolicy
from extproc.values.limit import Unit
from extproc.values.refusal import RefusalCode

HAIKU = "anthropic/claude-haiku-4-5"
POLICY = "name: b\ntype: gateway-budget-config\nbudgets:\n  - {id: all, ceiling_usd: 9, window: 1h}"

ENDINGS = [
    Ending(status, *flags)
    for status in (0, 200, 204, 302, 400, 404, 408, 429, 499, 500, 503, 529)
    for flags in product((False, True), repeat=4)
]


def openai(prompt: object, completion: object, **more: object) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return b'"usage":' + json.dumps(usage).encode() + b"}"


# What Envoy ships, and what it must cost: None is the reservation.
REPORTS: dict[str, tuple[dict[str, bytes], tuple[int, ...] | None]] = {
    "nothing": ({}, None),
    "complete": ({"usage_tail": openai(9, 4)}, (1, 13, 9, 4, 9 + 4 * 5)),
    "cached": (
        {"usage_tail": openai(20, 1, prompt_tokens_details={"cached_tokens": 10})},
        (1, 21, 20, 1, 10 + 1 + 5),
    ),
    "overrun": ({"usage_tail": openai(9_000, 4)}, (1, 9_004, 9_000, 4, 9_000 + 4 * 5)),
    "cut off": ({"usage_tail": b'"usage":{"prompt_tokens":9,"comp'}, None),
    "nested": ({"usage_tail": openai(1, 1) + b"]}"}, None),
    "interim": (
        {"usage_last": b'{"choices":[{"finish_reason":null}],' + openai(9, 4)},
        None,
    ),
}
SUSPECT = {
    "negative": openai(-9, 4),
    "text": openai("9", 4),
    "absurd": openai(9, 10**12),
    "nothing at all": openai(0, 0),
    "more cached than read": openai(9, 4, prompt_tokens_details={"cached_tokens": 99}),
}


def proves_nothing_was_spent(ending: Ending) -> bool:
    """No connection; or an error or a redirect that the provider itself answered with."""
    if ending.connect_failed:
        return True
    cut = ending.timed_out or ending.reset or ending.client_gone
    return ending.status >= 300 and not cut


@pytest.mark.parametrize("report", REPORTS)
def test_every_ending_with_every_report_is_charged_as_the_rule_says(report: str) -> None:
    shipped, cost = REPORTS[report]
    world = World(POLICY)
    for ending in ENDINGS:
        world.gate.breakers = Breakers()
        world.ask()
        (command,) = world.end(ending=ending, **shipped)
        reserved = world.reservations[0]
        assert command.reservation_id == reserved.reservation_id
        if cost is not None and ending.status < 300:
            assert isinstance(command, Settle), ending
            assert command.amounts == (*cost, cost[-1]), ending
        elif proves_nothing_was_spent(ending):
            assert isinstance(command, Release), ending
        else:
            assert isinstance(command, Settle), ending
            assert command.amounts == reserved.amounts, ending
            assert command.amounts[Unit.MICRO_USD] > 0
        assert world.gate.in_flight == {}


@pytest.mark.parametrize("report", SUSPECT)
def test_F54_a_suspect_report_lowers_no_part_of_the_charge(report: str) -> None:
    world = World(POLICY)
    for ending in (ending for ending in ENDINGS if ending.status < 300):
        world.gate.breakers = Breakers()
        world.ask()
        (command,) = world.end(ending=ending, usage_tail=SUSPECT[report])
        assert isinstance(command, Settle)
        for charged, reserved in zip(command.amounts, world.reservations[0].amounts, strict=True):
            assert charged >= reserved
        assert command.about["suspect"] is True


def test_F54_a_suspect_report_can_raise_the_charge() -> None:
    world = World(POLICY)
    world.ask()
    (command,) = world.end(usage_tail=openai(90_000, -1))
    assert command.amounts[Unit.INPUT_TOKENS] == 90_000
    assert command.amounts[Unit.MICRO_USD] == 90_000


def test_only_what_is_believed_is_learned() -> None:
    world = World(POLICY)

    def likely() -> tuple[int, int]:
        return world.gate.estimator.likely_tokens("claude-haiku-4-5", 1_000_000, 10_000)

    unlearned = likely()
    for report in ({}, {"usage_tail": SUSPECT["text"]}, REPORTS["interim"][0]):
        world.ask()
        world.end(**report)
        assert likely() == unlearned
    world.ask()
    world.end(usage_tail=openai(9, 4))
    assert likely() != unlearned


def test_what_was_never_sent_is_released_whatever_else_the_log_says() -> None:
    world = World(POLICY)
    for ending in ENDINGS:
        world.ask()
        (command,) = world.end(attempts=0, ending=ending, usage_tail=openai(9, 4))
        assert isinstance(command, Release)
        assert world.gate.in_flight == {}


def test_a_failure_of_ours_proves_nothing_of_the_provider() -> None:
    world = World(POLICY)
    for status in (500, 502, 503):
        world.ask()
        (command,) = world.end(ending=Ending(status, ours=True))
        assert isinstance(command, Settle)
        assert command.amounts == world.reservations[0].amounts
    assert world.gate.breakers.states(NOW) == {}


def test_a_failure_of_ours_neither_opens_a_breaker_nor_closes_it() -> None:
    world = World(POLICY)
    world.break_target(HAIKU, NOW - 60_000)
    assert targets(world.ask())[0] == HAIKU  # its probe
    world.end(ending=Ending(502, ours=True))
    assert world.gate.breakers.states(NOW)[HAIKU] == "half_open"


def test_a_request_ends_once_and_an_unknown_one_not_at_all() -> None:
    world = World(POLICY)
    world.ask()
    assert len(world.end()) == 1
    assert world.end() == []
    assert world.attempt_failed(1, Ending(503)) == []
    assert world.end(request_id="never heard of") == []


def test_an_earlier_attempt_waits_for_its_own_report_also_after_the_end() -> None:
    world = World(POLICY)
    first = world.ask()
    world.attempt(first, 1)
    (settled,) = world.end(attempts=2, usage_tail=openai(9, 4))
    assert settled.reservation_id == "r1/2"
    assert list(world.gate.in_flight) == ["r1"]
    assert world.attempt_failed(3, Ending(503)) == []
    assert world.attempt_failed(1, Ending(503)) == [Release("r1/1", "status 503")]
    assert world.gate.in_flight == {}
    assert world.attempt_failed(1, Ending(503)) == []


def test_a_request_whose_own_log_never_comes_is_forgotten() -> None:
    world = World("")
    world.ask()
    world.attempt_failed(1, Ending(503))
    assert world.gate.in_flight  # another attempt may follow
    world.gate.forget_silent(NOW + LEASE_MS - 1)
    assert world.gate.in_flight
    world.gate.forget_silent(NOW + LEASE_MS)
    assert world.gate.in_flight == {}


def test_a_request_that_goes_on_is_not_forgotten_for_a_failed_attempt() -> None:
    world = World("")
    first = world.ask()
    world.attempt_failed(1, Ending(503))
    world.attempt(first, 1)
    world.gate.forget_silent(NOW + LEASE_MS)
    assert world.gate.in_flight
    assert len(world.end(attempts=2)) == 1
    assert world.gate.in_flight == {}


def test_an_attempt_that_may_have_cost_something_is_charged_beside_the_one_that_answered() -> None:
    world = World(POLICY)
    first = world.ask()
    world.attempt(first, 1)
    (timed_out,) = world.attempt_failed(1, Ending(504, timed_out=True))
    assert isinstance(timed_out, Settle)
    assert timed_out.amounts == world.reservations[0].amounts
    assert world.attempt_failed(1, Ending(503)) == []
    (answered,) = world.end(attempts=2, usage_tail=openai(9, 4))
    assert answered.amounts[Unit.TOKENS] == 13


def test_an_attempt_that_was_refused_is_nobodys_to_charge() -> None:
    world = World(POLICY)
    world.ask()
    assert world.end(attempts=2, ending=Ending(429)) == []
    assert world.attempt_failed(1, Ending(503)) == [Release("r1/1", "status 503")]
    assert world.gate.in_flight == {}


def test_a_messages_stream_is_charged_by_its_last_word() -> None:
    world = World(POLICY)
    start = (
        b'{"type":"message_start","message":{"usage":{"input_tokens":5,'
        b'"cache_creation_input_tokens":8,"cache_read_input_tokens":10,"output_tokens":1}}}'
    )
    stop = b'"usage":{"output_tokens":7}}'
    world.ask(chat(stream=True), path="/v1/messages")
    (command,) = world.end(
        usage_first=start,
        usage_last=b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},' + stop,
    )
    assert command.amounts == (1, 30, 23, 7, 51, 51)


@pytest.mark.parametrize("ending", [Ending(503), Ending(200, reset=True), Ending(503, reset=True)])
def test_F53_an_answer_that_could_not_be_translated_is_charged(ending: Ending) -> None:
    """The provider gave it, and may bill it, whatever Envoy told the client then."""
    for answered in (True, False):
        world = World(POLICY)
        world.ask()
        attempt = world.gate.in_flight["r1"].attempts[1]
        attempt.translated, attempt.answered = True, answered
        (command,) = world.end(ending=ending)
        assert isinstance(command, Settle) is (answered or ending.reset)
        if isinstance(command, Settle):
            assert command.amounts == world.reservations[0].amounts


# -- what the breaker learns ----------------------------------------------------------------------


def test_a_target_fails_by_what_it_did_never_by_what_the_client_did() -> None:
    world = World(POLICY)
    for ending in ENDINGS:
        world.gate.breakers = Breakers()
        world.ask()
        world.end(ending=ending)
        broken = HAIKU in world.gate.breakers.states(NOW)
        bad_status = ending.status >= 500 or ending.status in (302, 408, 429)
        failed = bad_status or ending.connect_failed or ending.timed_out or ending.reset
        assert broken == (failed and not ending.client_gone), ending


@pytest.mark.parametrize("ending", [Ending(200, timed_out=True), Ending(200, reset=True)])
def test_F56_who_said_the_last_word_is_not_to_blame_for_a_client_that_does_not_read(
    ending: Ending,
) -> None:
    world = World(POLICY)
    world.ask()
    world.end(ending=ending, usage_tail=openai(9, 4))
    assert world.gate.breakers.states(NOW) == {}
    world.ask()
    world.end(ending=ending, **REPORTS["interim"][0])
    assert HAIKU in world.gate.breakers.states(NOW)


def test_failed_attempts_feed_the_breaker_of_their_own_target() -> None:
    world = World(POLICY)
    world.ask()
    world.attempt_failed(1, Ending(503))
    assert list(world.gate.breakers.states(NOW)) == [HAIKU]


def half_open(world: World) -> Any:
    """A world whose first target is being probed by one request."""
    breakers = world.gate.breakers
    breakers.failed(HAIKU, BreakerPolicy(1, 60_000, 1_000), NOW - 60_000)
    world.ask()
    assert breakers.states(NOW)[HAIKU] == BreakerState.HALF_OPEN.value
    return breakers


@pytest.mark.parametrize("status", [200, 400, 404])
def test_an_answer_closes_the_breaker_that_was_probed(status: int) -> None:
    world = World(POLICY)
    breakers = half_open(world)
    world.end(ending=Ending(status))
    assert breakers.all_closed


def test_a_client_that_leaves_before_the_answer_closes_no_breaker() -> None:
    world = World(POLICY)
    breakers = half_open(world)
    world.end(ending=Ending(0, client_gone=True))
    assert breakers.states(NOW)[HAIKU] == BreakerState.HALF_OPEN.value


@pytest.mark.parametrize("status", [429, 503, 529])
def test_F53_a_target_that_said_for_how_long_is_left_alone_below_any_threshold(
    status: int,
) -> None:
    world = World(POLICY)
    world.ask()
    world.attempt_failed(1, Ending(status, rest_ms=7_000))
    assert world.gate.breakers.states(NOW) == {HAIKU: "resting"}
    assert targets(world.ask())[0] != HAIKU
    assert HAIKU in targets(world.ask(now=NOW + 7_000))


def test_F53_the_requests_own_log_may_be_first_to_say_it() -> None:
    world = World(POLICY)
    world.ask()
    world.end(ending=Ending(429, rest_ms=7_000))
    assert world.attempt_failed(1, Ending(429, rest_ms=7_000)) == []
    assert world.gate.breakers.states(NOW) == {HAIKU: "resting"}


def test_F53_a_client_that_left_says_nothing_about_the_target() -> None:
    world = World(POLICY)
    world.ask()
    world.end(ending=Ending(429, client_gone=True, rest_ms=7_000))
    assert world.gate.breakers.all_closed


def test_F53_with_every_target_at_rest_the_shortest_wait_is_told_and_nobody_asked() -> None:
    world = World(POLICY)
    chain = targets(world.ask())
    for place, name in enumerate(chain):
        world.gate.breakers.rest(name, 9_000 + 1_000 * place, NOW)
    refused = world.ask()
    assert isinstance(refused, Refuse)
    assert refused.refusal.code is RefusalCode.NO_HEALTHY_TARGET
    assert refused.refusal.retry_after_s == 9
