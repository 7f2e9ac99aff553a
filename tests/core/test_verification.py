"""Who sent a request, from its raw headers."""

from __future__ import annotations

import pytest
from gateway import KEY
from world import NOW, compiled

from extproc.core.callers import Caller
from extproc.core.events import RequestHeaders
from extproc.core.generation import Generation
from extproc.core.kill_switch import KillSwitch
from extproc.core.verification import caller_of, credential_of, sender_of
from extproc.policy.snapshot import Kill
from extproc.values.dialect import Dialect
from extproc.values.refusal import Refusal, RefusalCode

GENERATION = Generation(compiled())


def headers(*pairs: tuple[str, bytes]) -> RequestHeaders:
    return RequestHeaders([(":path", b"/v1/chat/completions"), *pairs], False, NOW)


def parsed(*pairs: tuple[str, bytes]):
    required = (("content-type", b"application/json"), ("x-request-id", b"r1"))
    return GENERATION.names.parse(headers(*pairs, *required).headers)


def test_a_known_key_is_its_credential_and_its_caller() -> None:
    found = parsed(("authorization", b"Bearer " + KEY.encode()))
    credential = credential_of(GENERATION, found)
    assert credential is not None
    assert credential.id == "app"
    kills = KillSwitch()
    caller = caller_of(GENERATION, found, kills)
    assert isinstance(caller, Caller)
    assert caller.envelope.project == "p1"
    assert caller_of(GENERATION, found, kills) is caller


def test_a_caller_that_is_stopped_is_refused_though_it_is_known() -> None:
    generation, kills = Generation(compiled()), KillSwitch()
    found = parsed(("authorization", b"Bearer " + KEY.encode()))
    assert isinstance(caller_of(generation, found, kills), Caller)
    kills.set_operators([Kill("project", "p1", "")])
    refused = caller_of(generation, found, kills)
    assert isinstance(refused, Refusal)
    assert refused.code is RefusalCode.KILLED


@pytest.mark.parametrize(
    ("pairs", "code"),
    [
        ((("authorization", b"Bearer nobody"),), RefusalCode.INVALID_CREDENTIAL),
        (
            (("authorization", b"Bearer " + KEY.encode()), ("x-tfy-project", b"other")),
            RefusalCode.IDENTITY_CONFLICT,
        ),
    ],
)
def test_an_unknown_key_and_a_contradiction_are_refused(pairs, code: RefusalCode) -> None:
    refused = caller_of(GENERATION, parsed(*pairs), KillSwitch())
    assert isinstance(refused, Refusal)
    assert refused.code is code


@pytest.mark.parametrize(
    ("path", "key", "dialect"),
    [
        (b"/v1/messages?beta=true", b"", Dialect.ANTHROPIC),
        (b"/v1/chat/completions", b"", Dialect.OPENAI),
        (b"/v1/models", b"k", Dialect.ANTHROPIC),
        (b"/v1/models", b"", Dialect.OPENAI),
        (b"/v1/chat/completions", b"k", Dialect.OPENAI),
        (b"\xff", b"", Dialect.OPENAI),
    ],
)
def test_the_dialect_of_a_request_that_could_not_be_read(
    path: bytes, key: bytes, dialect: Dialect
) -> None:
    pairs = [(":path", path), ("x-request-id", b"r7"), *([("x-api-key", key)] if key else [])]
    assert sender_of(RequestHeaders(pairs, False, NOW)) == ("r7", dialect)
