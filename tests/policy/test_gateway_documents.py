"""The gateway document: defaults, credentials, providers, prices as written."""

from __future__ import annotations

import hashlib

import pytest
from policies import codes, snapshot

HEAD = "name: g\ntype: gateway-config\n"
DIGEST = hashlib.sha256(b"k").hexdigest()


def test_the_output_defaults_are_read() -> None:
    policy = snapshot(more=HEAD + "defaults: {max_output_tokens: 900, min_output_tokens: 32}\n")
    assert (policy.default_max_output_tokens, policy.min_output_tokens) == (900, 32)
    assert snapshot().min_output_tokens == 256


def test_how_many_may_wait_is_read() -> None:
    assert snapshot(more=HEAD + "queue: {max_requests: 7}\n").max_waiting == 7
    assert snapshot().max_waiting == 1_000


def test_a_credential_keeps_its_claims_and_defaults() -> None:
    text = HEAD + (
        f"credentials:\n  - id: c\n    sha256: {DIGEST}\n"
        "    claims: {team: t, user_id: u, projects: [a, b]}\n"
        "    defaults: {project: a}\n    max_sessions: 3\n"
    )
    credential = snapshot(more=text).credentials[bytes.fromhex(DIGEST)]
    assert (credential.team, credential.user_id, credential.projects) == ("t", "u", ("a", "b"))
    assert (credential.defaults, credential.max_sessions) == ({"project": "a"}, 3)
    assert credential.models is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("defaults: {min_output_tokens: 0}", "out_of_range"),
        ("queue: {max_requests: 10001}", "out_of_range"),
        ("queue: {max_wait: 3}", "unknown_key"),
        ("credentials: [{id: c, sha256: abc}]", "bad_sha256"),
        ("providers: {p: {dialect: latin, base_url: 'http://h'}}", "bad_dialect"),
        ("providers: {p: {dialect: openai, base_url: 'ftp://h'}}", "bad_url"),
        (
            "providers: {p: {dialect: openai, base_url: 'http://h', credential: sk-1}}",
            "literal_secret",
        ),
        ("envelope: {prefix: nothing}", "bad_prefix"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(text: str, code: str) -> None:
    assert code in codes(more=HEAD + text + "\n")
