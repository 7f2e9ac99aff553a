"""Who is stopped, at which moment of a request, and at what cost for everybody else."""

from __future__ import annotations

from typing import Any

import pytest
from gateway import KEY, chat
from world import NOW, World, compiled, targets

from extproc.core.commands import Answer, Forward, Peek, Refuse, SendAttempt
from extproc.core.generation import Generation
from extproc.core.kill_switch import KillSwitch
from extproc.policy.snapshot import Kill
from extproc.values.refusal import RefusalCode

WHO = {
    "user_id": "mallory",
    "team": "red",
    "session_id": "s1",
    "workflow_tag": "nightly-job",
    "cost_center": "cc-77",
}


def killed(command: Any) -> str:
    """The field that a refusal names; it must be the kill switch's."""
    assert isinstance(command, Refuse), command
    refusal = command.refusal
    assert (refusal.code, refusal.status) == (RefusalCode.KILLED, 403)
    assert not refusal.retryable
    (extra,) = refusal.extra
    assert extra[0] == "field"
    assert extra[1] in refusal.message
    return extra[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *WHO.items(),
        ("project", "p1"),
        ("environment", "test"),
        ("credential", "app"),
        ("model", "intent-fast"),
    ],
)
def test_every_identity_value_can_be_stopped_and_revived(field: str, value: str) -> None:
    world = World()
    assert isinstance(world.ask(**WHO), Forward)
    world.gate.kill([Kill(field, value, "because")])
    refused = world.ask(**WHO)
    assert killed(refused) == field
    assert value not in refused.refusal.message
    assert "because" not in refused.refusal.message
    world.gate.kill([])
    assert isinstance(world.ask(**WHO), Forward)


def test_others_are_not_touched() -> None:
    world = World()
    world.gate.kill([Kill("user_id", "mallory"), Kill("team", "alice"), Kill("project", "p9")])
    assert isinstance(world.ask(user_id="alice"), Forward)
    assert killed(world.ask(user_id="mallory")) == "user_id"


def test_a_caller_that_was_remembered_is_looked_at_once_per_change() -> None:
    """What is put under the switch behind its back is found only by those who look."""
    world = World()
    kills = world.gate.kills
    kills._killed = {("user_id", "alice")}
    assert isinstance(world.ask(user_id="alice", session_id="s"), Forward)
    kills._killed = set()
    world.gate.kill([Kill("user_id", "mallory")])
    assert isinstance(world.ask(user_id="alice", session_id="s"), Forward)
    kills._killed = {("user_id", "alice"), ("user_id", "bob")}
    assert isinstance(world.ask(user_id="alice", session_id="s"), Forward)
    assert killed(world.ask(user_id="bob", session_id="s")) == "user_id"
    world.gate.kill([Kill("user_id", "alice")])
    assert killed(world.ask(user_id="alice", session_id="s")) == "user_id"


def test_a_killed_target_is_left_out_and_the_others_serve() -> None:
    world = World()
    world.gate.kill([Kill("provider", "anthropic")])
    assert targets(world.ask()) == [
        "bedrock/anthropic.claude-haiku-4-5",
        "openai/gpt-4o-mini",
        "vertex/gemini-2.0-flash",
    ]
    world.gate.kill([Kill("model", "gpt-4o-mini"), Kill("model", "vertex/gemini-2.0-flash")])
    assert targets(world.ask()) == [
        "anthropic/claude-haiku-4-5",
        "bedrock/anthropic.claude-haiku-4-5",
    ]
    everywhere = ("anthropic", "bedrock", "openai", "vertex")
    world.gate.kill([Kill("provider", name) for name in everywhere])
    assert killed(world.ask()) == "provider"


def test_a_fallback_does_not_lead_to_a_killed_target() -> None:
    world = World()
    # Too long for what is left at the first target's price, however short the answer.
    long = [{"role": "user", "content": "x" * 3_000}]
    body = chat(model="mixed", max_tokens=400, messages=long)
    assert targets(world.ask(body, project="p2"))[0] == "openai/gpt-4o-mini"
    world.gate.kill([Kill("model", "gpt-4o-mini")])
    assert targets(world.ask(body, project="p2"))[0] == "vertex/gemini-2.0-flash"


@pytest.mark.parametrize(
    "kill",
    [
        Kill("user_id", "mallory"),
        Kill("credential", "app"),
        Kill("model", "intent-fast"),
        Kill("provider", "bedrock"),
        Kill("session_id", "s1"),
    ],
)
def test_a_later_attempt_is_refused(kill: Kill) -> None:
    world = World()
    first = world.ask(**WHO)
    assert isinstance(world.attempt(first, 1), SendAttempt)
    again = world.ask(**WHO)
    world.gate.kill([kill])
    assert killed(world.attempt(again, 1)) == kill.field


def test_it_stops_between_headers_and_body() -> None:
    from extproc.core.commands import AwaitBody
    from extproc.core.events import RequestBody, RequestHeaders
    from extproc.core.machine import RequestMachine

    world = World()
    machine = RequestMachine(world.gate)
    headers = [
        (":path", b"/v1/chat/completions"),
        ("authorization", b"Bearer " + KEY.encode()),
        ("content-type", b"application/json"),
        ("x-tfy-user-id", b"mallory"),
        ("x-request-id", b"r1"),
    ]
    assert isinstance(machine.on_headers(RequestHeaders(headers, False, NOW)), AwaitBody)
    world.gate.kill([Kill("user_id", "mallory")])
    body = b'{"model":"intent-fast","max_tokens":5,"messages":[]}'
    assert killed(machine.on_body(RequestBody(body, NOW, 0.0))) == "user_id"


def test_a_derived_session_counts_although_no_limit_needs_it() -> None:
    world = World("")
    body = chat()
    assert isinstance(world.ask(body), Forward)
    # What the console shows of a session limit names the derived id; here it is made the same way.
    named = World()
    named.ask(body)
    hold = next(one for one in named.reservations[0].account.holds if one.limit.scope)
    derived = hold.scope_value[hold.scope_value.index("~") :]
    world.gate.kill([Kill("session_id", derived)])
    assert killed(world.ask(body)) == "session_id"
    grown = {**body, "messages": [*body["messages"], {"role": "assistant", "content": "x"}]}
    assert killed(world.ask(grown)) == "session_id"
    other = world.ask(chat(messages=[{"role": "user", "content": "another conversation"}]))
    assert isinstance(other, Forward)
    # And so does an attempt of the conversation that was admitted before.
    world.gate.kill([])
    first = world.ask(body)
    world.gate.kill([Kill("session_id", derived)])
    assert killed(world.attempt(first, 1)) == "session_id"


def test_free_calls_are_stopped_too() -> None:
    world = World()
    world.gate.kill([Kill("credential", "app")])
    assert killed(world.ask(path="/v1/models")) == "credential"
    assert killed(world.ask(path="/v1/budget/effective")) == "credential"
    world.gate.kill([Kill("model", "intent-fast")])
    assert isinstance(world.ask(path="/v1/models"), Answer)
    assert isinstance(world.ask(path="/v1/budget/effective"), Peek)
    assert killed(world.ask(path="/v1/messages/count_tokens")) == "model"
    world.gate.kill([Kill("user_id", "mallory")])
    assert killed(world.ask(path="/v1/messages/count_tokens", user_id="mallory")) == "user_id"


def test_policy_stops_and_only_policy_revives() -> None:
    text = """
name: k
type: gateway-config
kill_switch:
  - {user_id: mallory, reason: runaway}
"""
    world = World(text)
    assert killed(world.ask(user_id="mallory")) == "user_id"
    world.gate.kill([])
    assert killed(world.ask(user_id="mallory")) == "user_id"
    assert [kill.value for kill in world.gate.kills.by_policy] == ["mallory"]
    world.gate.enter(Generation(compiled("", generation=2)))
    assert isinstance(world.ask(user_id="mallory"), Forward)


def test_a_reload_stops_requests_of_older_generations_too() -> None:
    world = World()
    first = world.ask(user_id="mallory")
    text = "name: k\ntype: gateway-config\nkill_switch: [{user_id: mallory}]\n"
    world.gate.enter(Generation(compiled(text, generation=2)))
    assert killed(world.attempt(first, 1)) == "user_id"


def test_the_version_grows_only_with_a_change() -> None:
    switch = KillSwitch()
    assert (switch.version, switch.active, switch.count) == (0, False, 0)
    switch.set_policy([])
    assert switch.version == 0
    switch.set_operators([Kill("team", "red")])
    assert (switch.version, switch.active, switch.count) == (1, True, 1)
    switch.set_policy([Kill("team", "red", "twice")])
    assert (switch.version, switch.count) == (1, 1)
    switch.set_operators([])
    assert (switch.version, switch.active) == (1, True)
    switch.set_policy([])
    assert (switch.version, switch.active) == (2, False)
