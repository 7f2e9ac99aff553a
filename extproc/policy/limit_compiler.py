"""Rules, budgets and what they fall back to, resolved. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from extproc.policy.drafts import Drafts, LimitDraft
from extproc.policy.matching import MATCH_FIELDS, ConditionalLimit, LimitIndex
from extproc.policy.models import in_family
from extproc.policy.snapshot import Target, VelocityRule, VirtualModel
from extproc.values.limit import TOOL_CALLS, UNIT_BY_NAME, Breach, BreachKind, Limit, Scope, Unit

_MODEL_PLACE = MATCH_FIELDS.index("model")
_COMPARED_TOKENS = (3_000, 1_000)
"""Input and output of the request by which the prices of two models are compared."""


def compile_limits(drafts: Drafts) -> list[ConditionalLimit[Limit]]:
    """One limit for each ceiling of a rule or budget, in the order of the documents."""
    limits = []
    seen: dict[str, LimitDraft] = {}
    ids = {draft.id for draft in drafts.limits}
    former = Counter(draft.renamed_from for draft in drafts.limits)
    for draft in drafts.limits:
        first = seen.setdefault(draft.id, draft)
        if first is not draft:
            where = f"{first.section.file}:{first.section.line_of('id')}"
            draft.section.error("id", "duplicate_id", f"{draft.id!r} is also at {where}")
            continue
        if draft.renamed_from in ids:
            draft.section.error(
                "renamed_from",
                "rename_of_a_rule",
                f"{draft.renamed_from!r} is a rule of this policy, and keeps its usage",
            )
        elif draft.renamed_from and former[draft.renamed_from] > 1:
            draft.section.error(
                "renamed_from",
                "rename_to_several",
                f"several rules were {draft.renamed_from!r}: its usage can go to one",
            )
        if Scope.SESSION in draft.scope and not _has_companion(draft, drafts):
            draft.section.warning(
                "scope",
                "session_without_companion",
                f"{draft.id}: session ids are chosen by the caller; add a limit per user, "
                "team, project or credential",
            )
        for unit_name, ceiling in draft.ceilings:
            limits.append(ConditionalLimit(_limit(draft, unit_name, ceiling), draft.conditions))
    return limits


def _has_companion(draft: LimitDraft, drafts: Drafts) -> bool:
    principal = {Scope.USER, Scope.TEAM, Scope.PROJECT, Scope.CREDENTIAL}
    return any(
        other is not draft and principal & set(other.scope) and Scope.SESSION not in other.scope
        for other in drafts.limits
    )


def compile_velocity(drafts: Drafts) -> LimitIndex[VelocityRule]:
    """Velocity rules, whose ids no other rule has."""
    ids = {draft.id for draft in drafts.limits}
    for draft in drafts.velocity:
        rule = draft.rule.limit
        if rule.id in ids:
            draft.section.error("id", "duplicate_id", f"{rule.id!r} is another rule's id too")
        ids.add(rule.id)
    return LimitIndex([draft.rule for draft in drafts.velocity])


def compile_fallbacks(
    drafts: Drafts, models: Mapping[str, VirtualModel]
) -> dict[Breach, VirtualModel]:
    """Where the rules that say ``fallback_to_NAME`` send their requests."""
    fallbacks: dict[Breach, VirtualModel] = {}
    for draft in drafts.limits:
        breach = draft.breach
        if breach.kind is BreachKind.FALLBACK_TO and breach not in fallbacks:
            resolved = _resolve_fallback(draft, drafts, models)
            if resolved is not None:
                fallbacks[breach] = resolved
        if breach in fallbacks:
            _compare_prices(draft, fallbacks[breach], models)
    return fallbacks


def _compare_prices(
    draft: LimitDraft, fallback: VirtualModel, models: Mapping[str, VirtualModel]
) -> None:
    """Whether a fallback may cost more than what it stands in for."""
    dearest = max(fallback.targets, key=_compared_price, default=None)
    for model in models.values():
        if model is fallback or model.physical or not _may_match(draft, model.name):
            continue
        asked = max(map(_compared_price, model.targets), default=0)
        if dearest is not None and _compared_price(dearest) > asked:
            draft.section.warning(
                draft.breach_key,
                "dearer_fallback",
                f"{draft.id}: {dearest.name} costs more than what {model.name} asks for",
            )


def _resolve_fallback(
    draft: LimitDraft, drafts: Drafts, models: Mapping[str, VirtualModel]
) -> VirtualModel | None:
    name = draft.breach.name
    if name in models:
        _check_cycle(draft, name, drafts, models)
        return models[name]
    targets = [target for model in models.values() for target in model.all_targets]
    by_id = {target.name: target for target in targets if target.id == name}
    found = by_id or {t.name: t for t in targets if in_family(t.model, name)}
    canonical = {target.canonical_model for target in found.values()}
    if len(canonical) == 1:
        first, *others = found.values()
        return VirtualModel(f"fallback_to_{name}", (first,), tuple(others))
    if not found:
        known = ", ".join(sorted(models)) or "none"
        message = f"{name[:80]!r} is no virtual model ({known}), target id or model family"
        draft.section.error(draft.breach_key, "unknown_fallback", message)
    else:
        message = f"{name!r} may be any of {', '.join(sorted(canonical))}; name one exactly"
        draft.section.error(draft.breach_key, "ambiguous_fallback", message)
    return None


def _check_cycle(
    draft: LimitDraft, name: str, drafts: Drafts, models: Mapping[str, VirtualModel]
) -> None:
    """A rule for one model that falls back to a model whose rule falls back to the first."""
    leads: dict[str, set[str]] = {}
    for other in drafts.limits:
        if other.breach.kind is BreachKind.FALLBACK_TO and other.breach.name in models:
            for condition in other.conditions:
                if condition.place == _MODEL_PLACE:
                    for source in condition.values:
                        leads.setdefault(source, set()).add(other.breach.name)
    seen: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        todo += leads.get(current, ())
    for condition in draft.conditions:
        if condition.place == _MODEL_PLACE and condition.values & seen:
            draft.section.error(
                draft.breach_key, "fallback_cycle", f"falling back to {name!r} leads back here"
            )


def _compared_price(target: Target) -> int:
    return target.price.worst_case_micro_usd(*_COMPARED_TOKENS)


def _may_match(draft: LimitDraft, model: str) -> bool:
    """Whether a rule can apply to requests for the model."""
    return all(c.holds(model) for c in draft.conditions if c.place == _MODEL_PLACE)


def _limit(draft: LimitDraft, unit_name: str, ceiling: int) -> Limit:
    unit = Unit.LIKELY_MICRO_USD if draft.statistical else UNIT_BY_NAME[unit_name]
    return Limit(
        rule_id=draft.id,
        key=f"{draft.id}/{unit_name}",
        unit=unit,
        ceiling=ceiling,
        window=draft.window,
        scope=draft.scope,
        breach=draft.breach,
        enforced=draft.enforced,
        is_budget=draft.is_budget,
        fallback_ceiling=ceiling * draft.fallback_at_pct // 100,
        on_store_failure=draft.on_store_failure,
        emergency_amount=ceiling * draft.emergency_pct // 100,
        max_wait_ms=draft.max_wait_ms,
        degrade_max_output_tokens=draft.degrade_max_output_tokens,
        alerts=draft.alerts,
        renamed_from=f"{draft.renamed_from}/{unit_name}" if draft.renamed_from else "",
        of_tools=unit_name == TOOL_CALLS,
    )
