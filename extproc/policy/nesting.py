"""What virtual models name of each other and of budgets: put in order, and checked."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.policy.drafts import Drafts, ModelDraft
from extproc.policy.routing_rules import RuleType
from extproc.policy.snapshot import Rule, Target

MAX_TARGETS = 100
"""Of a virtual model that leads on to others: what they have is looked at for every request, and
where rules lead to the same model twice, twice."""
MAX_DEPTH = 8
"""Models within models. People lose their way earlier."""


def nested_first(drafts: Sequence[ModelDraft]) -> list[ModelDraft]:
    """The models in an order in which every one comes after those that its rules lead on to.
    Reports models that lead back to themselves."""
    by_name: dict[str, ModelDraft] = {}
    for draft in drafts:
        by_name.setdefault(draft.name, draft)
    in_order: list[ModelDraft] = []
    entered: set[str] = set()
    left: set[str] = set()
    for start in by_name.values():
        # Depth first with a stack of our own: a policy may nest deeper than Python recurses.
        path = [(start, iter(_leads_to(start)))] if start.name not in entered else []
        entered.add(start.name)
        while path:
            draft, names = path[-1]
            name = next(names, None)
            if name is None:
                path.pop()
                left.add(draft.name)
                in_order.append(draft)
            elif name in by_name and name not in left:
                if name in entered:
                    message = f"{draft.name} leads to {name}, and {name} leads back here"
                    draft.section.error("rules", "model_cycle", message)
                else:
                    entered.add(name)
                    path.append((by_name[name], iter(_leads_to(by_name[name]))))
    # A second definition of a name is reported where it is added.
    return in_order + [draft for draft in drafts if by_name[draft.name] is not draft]


def _leads_to(draft: ModelDraft) -> list[str]:
    return [rule.member for rule in draft.rules if isinstance(rule.member, str)]


def targets_of(rules: Sequence[Rule]) -> tuple[Target, ...]:
    """The targets of rules, those of nested models included, each once."""
    found: dict[tuple[str, ...], Target] = {}
    for rule in rules:
        member = rule.member
        targets = (member,) if isinstance(member, Target) else member.all_targets
        for target in targets:
            # One that is asked otherwise has clusters of its own.
            found.setdefault((target.id, target.name, *target.clusters.values()), target)
    return tuple(found.values())


def is_too_nested(rules: Sequence[Rule]) -> bool:
    """Whether rules lead to more targets, or further down, than can be looked at per request."""
    targets, depth = _extent(rules)
    return targets > MAX_TARGETS or depth > MAX_DEPTH


def _extent(rules: Sequence[Rule]) -> tuple[int, int]:
    """Targets as often as they are reached, and levels."""
    targets, depth = 0, 1
    for rule in rules:
        member = rule.member
        if isinstance(member, Target):
            targets += 1
        else:
            within, levels = _extent(member.rules)
            targets += within + len(member.fallbacks)
            depth = max(depth, levels + 1)
    return targets, depth


def are_weights_only(draft: ModelDraft) -> bool:
    """Whether a draw by weight is all there is to the choice between the rules of a model."""
    return (
        draft.rule_type is RuleType.WEIGHT
        and draft.sticky is None
        and all(
            rule.sla is None and rule.when is None and not isinstance(rule.member, str)
            for rule in draft.rules
        )
    )


def routed_budgets(drafts: Drafts) -> frozenset[str]:
    """The budgets that conditions of rules name. Reports those that there are not."""
    known = {draft.id: draft for draft in drafts.limits if draft.is_budget}
    named = set()
    for model in drafts.models:
        for rule in model.rules:
            for share in rule.when.budgets if rule.when is not None else ():
                named.add(share.budget)
                if share.budget not in known:
                    message = f"{share.budget[:80]!r} is no budget of this policy"
                    rule.section.error("when", "unknown_budget", message)
    return frozenset(named)
