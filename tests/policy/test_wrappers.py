"""Which endpoint serves what, and by which wrapper cluster."""

from __future__ import annotations

import pytest

from extproc.policy.snapshot import CredentialRef, Provider
from extproc.policy.wrappers import endpoint_of, wrappers
from extproc.values.dialect import TRANSLATED_OPERATIONS, Dialect, Operation

OPENAI_OPERATIONS = {
    Operation.CHAT_COMPLETIONS,
    Operation.COMPLETIONS,
    Operation.EMBEDDINGS,
    Operation.RESPONSES,
}
ANTHROPIC_OPERATIONS = {Operation.MESSAGES, Operation.COUNT_TOKENS}


def provider(*dialects: Dialect, responses: bool = True, key: str = "K") -> Provider:
    endpoints = {
        dialect: endpoint_of(
            "p", dialect, f"https://{dialect}.test/v1/", responses=responses, api_version=""
        )
        for dialect in dialects
    }
    return Provider("p", endpoints, CredentialRef("env", key))


@pytest.mark.parametrize("dialect", Dialect)
def test_what_the_endpoint_does_not_speak_is_translated_where_that_can_be(
    dialect: Dialect,
) -> None:
    own: set[Operation] = set()
    if dialect in (Dialect.OPENAI, Dialect.AZURE_OPENAI):
        own = OPENAI_OPERATIONS
    elif dialect is Dialect.ANTHROPIC:
        own = ANTHROPIC_OPERATIONS
    found = wrappers(provider(dialect), "m")
    assert found.translated == set(TRANSLATED_OPERATIONS) - own
    assert set(found.clusters) == set(found.endpoints) == own | found.translated
    direct = {found.clusters[operation] for operation in own}
    foreign = {found.clusters[operation] for operation in found.translated}
    assert len(direct) == bool(own)
    assert len(foreign) == 1
    assert not direct & foreign


def test_the_callers_own_dialect_is_preferred() -> None:
    found = wrappers(provider(Dialect.OPENAI, Dialect.ANTHROPIC, Dialect.GEMINI), "m")
    assert not found.translated
    assert found.endpoints[Operation.MESSAGES].dialect is Dialect.ANTHROPIC
    assert found.endpoints[Operation.RESPONSES].dialect is Dialect.OPENAI


def test_a_server_of_chat_only_gets_responses_calls_as_chat() -> None:
    found = wrappers(provider(Dialect.OPENAI, responses=False), "m")
    assert found.translated == {Operation.RESPONSES, Operation.MESSAGES}
    assert found.endpoints[Operation.RESPONSES].dialect is Dialect.OPENAI


def test_another_key_is_another_wrapper() -> None:
    one, other = (wrappers(provider(Dialect.GEMINI, key=key), "m") for key in ("A", "B"))
    assert not set(one.clusters.values()) & set(other.clusters.values())


def test_a_provider_without_endpoint_serves_nothing() -> None:
    assert wrappers(Provider("p", {}), "m") == ({}, {}, frozenset())
