"""Virtual models, as written."""

from __future__ import annotations

from typing import NamedTuple

from extproc.policy.drafts import Drafts, ModelDraft, RuleDraft, TargetDraft
from extproc.policy.override_documents import read_overrides
from extproc.policy.reading import NAME, Section
from extproc.policy.routing_documents import (
    read_rule_type,
    read_rule_when,
    read_sla,
    read_sticky,
)
from extproc.policy.snapshot import IDLE_TIMEOUT_MS, BreakerPolicy
from extproc.wire.capabilities import Capability
from extproc.wire.overrides import Overrides

MAX_TIMEOUT_MS = 600_000
MAX_IDLE_S = IDLE_TIMEOUT_MS // 1000
"""Whole seconds: each is a route of Envoy's. No more than the default: leases outlive that."""
MAX_REQUEST_TIMEOUT_MS = 86_400_000
MAX_WEIGHT = 1_000_000
MAX_PRIORITY = 1_000
DEFAULT_FAILURES = 5
MAX_BREAKER_REQUESTS = 10_000
MAX_BREAKER_S = 86_400
"""A day: who was broken yesterday is not judged by it."""
DEFAULT_TIMEOUT_MS = 60_000
"""Time to response headers where a target names none: long answers think before the first byte."""
_OF_TARGETS = (
    "first_token_timeout_ms",
    "override_params",
    "headers_override",
    "idle_timeout_seconds",
)


def read_virtual_model(document: Section, drafts: Drafts) -> None:
    """``type: gateway-load-balancing-config``."""
    name = document.text("name", required=True)
    if not NAME.fullmatch(name):
        document.error("name", "bad_name", f"{name[:80]!r} is no usable model name")
    rule_type = read_rule_type(document)
    sticky = read_sticky(document)
    rules = [_rule(rule, drafts) for rule in document.sections("rules", required=True)]
    fallbacks = [_fallback(target, drafts) for target in document.sections("fallbacks")]
    drafts.models.append(
        ModelDraft(
            document,
            name,
            rule_type,
            sticky,
            rules,
            fallbacks,
            _breaker(document),
            document.integer("request_timeout_ms", 0, 1, MAX_REQUEST_TIMEOUT_MS),
        )
    )


def _rule(rule: Section, drafts: Drafts) -> RuleDraft:
    rule_id = rule.identifier()
    weight = rule.integer("weight", 1, 0, MAX_WEIGHT)
    asked = _asked(rule, drafts)
    target = rule.section("target", required=True)
    member: TargetDraft | str = ""
    if target is not None:
        model = target.text("model", required=True)
        if "provider" in target or not model:
            provider = target.text("provider", required=True)
            member = _target(target, rule_id, provider, model, weight, asked)
        else:
            member = model
            for key in _OF_TARGETS:
                if key in rule:
                    rule.error(
                        key, "not_of_a_target", f"{model} is a model: its targets have {key}"
                    )
        target.done()
    draft = RuleDraft(
        rule,
        rule_id,
        member,
        weight,
        rule.integer("priority", 0, 0, MAX_PRIORITY),
        read_sla(rule),
        read_rule_when(rule, drafts),
    )
    rule.done()
    return draft


def _fallback(target: Section, drafts: Drafts) -> TargetDraft:
    provider = target.text("provider", required=True)
    model = target.text("model", required=True)
    target_id = target.text("id", f"{provider}/{model}")
    draft = _target(target, target_id, provider, model, 0, _asked(target, drafts))
    target.done()
    return draft


class _Asked(NamedTuple):
    """How a target is asked: what its rule says, or a fallback itself."""

    timeout_ms: int
    first_token_timeout_ms: int
    overrides: Overrides | None
    idle_timeout_ms: int


def _asked(section: Section, drafts: Drafts) -> _Asked:
    timeout_ms, first_token_timeout_ms = _timeouts(section)
    idle_s = section.integer("idle_timeout_seconds", IDLE_TIMEOUT_MS // 1000, 1, MAX_IDLE_S)
    overrides = read_overrides(section, drafts.prefix)
    return _Asked(timeout_ms, first_token_timeout_ms, overrides, idle_s * 1000)


def _target(
    target: Section, target_id: str, provider: str, model: str, weight: int, asked: _Asked
) -> TargetDraft:
    return TargetDraft(
        target,
        target_id,
        provider,
        model,
        asked.timeout_ms,
        weight,
        _lacks(target),
        asked.first_token_timeout_ms,
        asked.overrides,
        asked.idle_timeout_ms,
    )


def _timeouts(section: Section) -> tuple[int, int]:
    """To the response headers, and to the first token of a stream (0: as long as it takes)."""
    timeout_ms = section.integer("timeout_ms", DEFAULT_TIMEOUT_MS, 1, MAX_TIMEOUT_MS)
    first_token_ms = section.integer("first_token_timeout_ms", 0, 1, MAX_TIMEOUT_MS)
    if first_token_ms > timeout_ms:
        section.error(
            "first_token_timeout_ms",
            "out_of_range",
            f"the answer is given up after timeout_ms, {timeout_ms}, with or without a first token",
        )
    return timeout_ms, first_token_ms


def _lacks(target: Section) -> frozenset[Capability]:
    lacks = set()
    for name in target.texts("lacks"):
        try:
            lacks.add(Capability(name))
        except ValueError:
            known = ", ".join(Capability)
            target.error("lacks", "bad_value", f"{name[:80]!r} is no capability; one of {known}")
    return frozenset(lacks)


def _breaker(document: Section) -> BreakerPolicy:
    section = document.section("circuit_breaker")
    if section is None:
        return BreakerPolicy()
    percentage = section.integer("failure_percentage", 0, 1, 100)
    if "minimum_requests" in section and not percentage:
        section.error(
            "minimum_requests", "missing_key", "it is of use with failure_percentage only"
        )
    # A percentage that is asked for alone is meant to decide alone.
    threshold = 0 if percentage else DEFAULT_FAILURES
    policy = BreakerPolicy(
        section.integer("failure_threshold", threshold, 1, MAX_BREAKER_REQUESTS),
        section.integer("window_seconds", 60, 1, MAX_BREAKER_S) * 1000,
        section.integer("cooldown_seconds", 30, 1, MAX_BREAKER_S) * 1000,
        percentage,
        section.integer("minimum_requests", 20, 1, MAX_BREAKER_REQUESTS),
    )
    section.done()
    return policy
