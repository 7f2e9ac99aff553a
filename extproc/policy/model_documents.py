"""Virtual models, as written."""

from __future__ import annotations

from extproc.policy.drafts import Drafts, ModelDraft, TargetDraft
from extproc.policy.reading import NAME, Section
from extproc.policy.snapshot import BreakerPolicy
from extproc.wire.capabilities import Capability

MAX_TIMEOUT_MS = 600_000
MAX_WEIGHT = 1_000_000
DEFAULT_TIMEOUT_MS = 60_000
"""Time to response headers where a target names none: long answers think before the first byte."""


def read_virtual_model(document: Section, drafts: Drafts) -> None:
    """``type: gateway-load-balancing-config``."""
    name = document.text("name", required=True)
    if not NAME.fullmatch(name):
        document.error("name", "bad_name", f"{name[:80]!r} is no usable model name")
    rule_type = document.text("rule_type", "weight-based")
    if rule_type != "weight-based":
        document.error(
            "rule_type", "pending_rule_type", f"{rule_type!r} is not built yet; use weight-based"
        )
    rules = []
    for rule in document.sections("rules", required=True):
        rule_id = rule.identifier()
        target = rule.section("target", required=True)
        if target is not None:
            rules.append(
                TargetDraft(
                    target,
                    rule_id,
                    target.text("provider", required=True),
                    target.text("model", required=True),
                    rule.integer("timeout_ms", DEFAULT_TIMEOUT_MS, 1, MAX_TIMEOUT_MS),
                    rule.integer("weight", 1, 0, MAX_WEIGHT),
                    _lacks(target),
                )
            )
            target.done()
        rule.done()
    fallbacks = []
    for target in document.sections("fallbacks"):
        provider = target.text("provider", required=True)
        model = target.text("model", required=True)
        fallbacks.append(
            TargetDraft(
                target,
                target.text("id", f"{provider}/{model}"),
                provider,
                model,
                target.integer("timeout_ms", DEFAULT_TIMEOUT_MS, 1, MAX_TIMEOUT_MS),
                0,
                _lacks(target),
            )
        )
        target.done()
    drafts.models.append(ModelDraft(document, name, rules, fallbacks, _breaker(document)))


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
    policy = BreakerPolicy(
        section.integer("failure_threshold", 5, 1, 10_000),
        section.integer("window_seconds", 60, 1, 86_400) * 1000,
        section.integer("cooldown_seconds", 30, 1, 86_400) * 1000,
    )
    section.done()
    return policy
