"""What is remembered of callers: enough to be fast, never enough to be wrong."""

from __future__ import annotations

from world import World

from extproc.core import callers
from extproc.core.callers import Caller, Callers, kind_of
from extproc.core.commands import Forward, Refuse
from extproc.core.generation import Generation
from extproc.values.envelope import Envelope
from extproc.values.refusal import RefusalCode
from extproc.wire.headers import HeaderNames

NAMES = HeaderNames("x-tfy-")
PATH = (":path", b"/v1/chat/completions")
JSON = ("content-type", b"application/json")


def kind(*pairs: tuple[str, bytes]) -> callers.Kind:
    return kind_of(NAMES.parse([PATH, JSON, *pairs]))


def test_a_key_is_never_kept() -> None:
    found = kind(("authorization", b"Bearer sk-secret-1"), ("x-tfy-team", b"a"))
    assert b"sk-secret-1" not in repr(found).encode()


def test_another_key_or_another_identity_is_another_kind() -> None:
    pairs = [("authorization", b"Bearer k"), ("x-tfy-team", b"a"), ("x-tfy-session-id", b"s")]
    same = kind(*pairs)
    assert kind(*reversed(pairs)) == same
    assert kind(*pairs, ("user-agent", b"curl")) == same
    for place, (name, value) in enumerate(pairs):
        changed = [*pairs[:place], (name, value + b"2"), *pairs[place + 1 :]]
        assert kind(*changed) != same
    # The same bytes in another field are somebody else.
    assert kind(pairs[0], ("x-tfy-project", b"a"), pairs[2]) != same
    assert kind(("x-api-key", b"k")) != kind(("authorization", b"k"))


def test_memory_is_bounded() -> None:
    world = World()
    world.ask(session_id="s")
    credential = next(iter(world.gate.generation.policy.credentials.values()))
    known = Callers()
    for number in range(callers.MAX_CALLERS + 10):
        known.remember((b"%d" % number, ()), Caller(credential, Envelope()))
    assert len(known._known) <= callers.MAX_CALLERS
    assert known.find((b"%d" % (callers.MAX_CALLERS + 9), ())) is not None


def test_a_refused_caller_is_not_remembered() -> None:
    world = World()
    for _ in range(2):
        refused = world.ask(key="tw-nobody")
        assert isinstance(refused, Refuse)
        assert refused.refusal.code is RefusalCode.INVALID_CREDENTIAL
    assert not world.gate.generation.callers._known


def test_a_remembered_caller_is_counted_like_a_new_one() -> None:
    world = World()
    # Three requests per session: what is remembered of the first must not blur the sessions.
    outcomes = [world.ask(session_id=name) for name in ("a", "b", "a", "b", "a", "b", "a", "b")]
    assert [isinstance(outcome, Forward) for outcome in outcomes] == [True] * 6 + [False] * 2


def test_another_generation_remembers_nothing_of_the_last() -> None:
    world = World()
    world.ask(session_id="a")
    assert world.gate.generation.callers._known
    assert not Generation(world.gate.generation.policy).callers._known
