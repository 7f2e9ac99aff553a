"""Policies for tests: compiled texts and the findings that refuse them."""

from __future__ import annotations

from gateway import base_policy

from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import Finding, PolicySnapshot
from extproc.values.limit import Limit

DEMO = "http://127.0.0.1:9"
FOREIGN = """
name: more
type: gateway-config
providers: {foreign: {dialect: anthropic, base_url: "https://f.invalid/base"}}
prices:
  - {provider: foreign, model: claude-haiku-4-5, input_usd_per_mtok: 1, output_usd_per_mtok: 5}
---
name: claude-alone
type: gateway-load-balancing-config
rules:
  - {id: ca, target: {provider: foreign, model: claude-haiku-4-5}}
"""
"""A model that an OpenAI caller reaches translated."""
HOLDER = """
name: holder
type: gateway-load-balancing-config
rules:
  - id: g
    target: {provider: openai, model: gpt-4o}
    override_params: {generationConfig: {topK: 1}}
"""
"""A model whose override finds nothing to set in a ``generationConfig`` that is no object."""


def compiled(**files: str) -> PolicySnapshot | list[Finding]:
    """The base policy with more files, as the compiler gives it."""
    texts = {name: text.encode() for name, text in base_policy(**files).items()}
    return compile_folder(texts, 1, {}, DEMO)


def snapshot(**files: str) -> PolicySnapshot:
    """A policy that must load."""
    policy = compiled(**files)
    assert isinstance(policy, PolicySnapshot), list(map(str, policy))
    return policy


def codes(**files: str) -> list[str]:
    """The codes of the errors that refuse a policy; none when it loads."""
    policy = compiled(**files)
    return [] if isinstance(policy, PolicySnapshot) else [finding.code for finding in policy]


def rule(text: str) -> str:
    """A rate-limit document with one rule."""
    return f"name: r\ntype: gateway-rate-limit-config\nrules:\n  - {text}\n"


def budget(text: str) -> str:
    """A budget document with one budget."""
    return f"name: b\ntype: gateway-budget-config\nbudgets:\n  - {text}\n"


def limits(**files: str) -> dict[str, Limit]:
    """The limits of a policy by key."""
    return {limit.key: limit for limit in snapshot(**files).limits}
