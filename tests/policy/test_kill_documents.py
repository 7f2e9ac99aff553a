from __future__ import annotations

import pytest
from policies import codes, snapshot

from extproc.policy.kill_documents import MAX_REASON_CHARACTERS, is_kill_value, is_named
from extproc.policy.matching import MATCH_FIELDS
from extproc.policy.snapshot import Kill


def document(*entries: str) -> str:
    return f"name: k\ntype: gateway-config\nkill_switch: [{', '.join(entries)}]\n"


def test_every_field_can_be_named() -> None:
    policy = snapshot(k=document(*(f"{{{field}: some-value}}" for field in MATCH_FIELDS)))
    warned = [one.message for one in policy.warnings if one.code == "kill_without_effect"]
    assert warned == [
        f"the policy has no {name} 'some-value'" for name in ("credential", "model", "provider")
    ]
    assert policy.kills == tuple(Kill(field, "some-value") for field in MATCH_FIELDS)


def test_what_the_policy_has_is_not_warned_of() -> None:
    entries = (
        "{credential: app}",
        "{model: intent-fast}",
        "{model: gpt-4o-mini}",
        "{provider: openai}",
    )
    policy = snapshot(k=document(*entries))
    assert [one for one in policy.warnings if one.code == "kill_without_effect"] == []
    assert is_named(policy, "model", "openai/gpt-4o-mini")
    assert not is_named(policy, "model", "openai")


def test_a_reason_is_kept_and_bounded() -> None:
    policy = snapshot(k=document("{user_id: mallory, reason: ran away}"))
    assert policy.kills == (Kill("user_id", "mallory", "ran away"),)
    long = snapshot(k=document(f"{{team: t, reason: {'x' * 9_999}}}"))
    assert len(long.kills[0].reason) == MAX_REASON_CHARACTERS


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("{reason: nobody}", "bad_kill"),
        ("{user_id: a, team: b}", "bad_kill"),
        ('{user_id: ""}', "bad_kill"),
        ('{user_id: "a\\nb"}', "bad_kill"),
        ("{user_id: 7}", "wrong_type"),
        ("{user: a, user_id: b}", "unknown_key"),
    ],
)
def test_what_is_refused(entry: str, code: str) -> None:
    assert code in codes(k=document(entry))


@pytest.mark.parametrize("value", ["a", "~abc", "a/b=+@:", "x" * 256])
def test_what_can_be_a_value(value: str) -> None:
    assert is_kill_value(value)
    assert not is_kill_value(value + "x" * 256)
    assert not is_kill_value(value + "\0")
