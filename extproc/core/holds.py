"""The limits that apply to a request, and the counters a reservation takes for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from extproc.ledger.port import Hold
from extproc.values.envelope import Envelope
from extproc.values.limit import MONEY, NO_CEILING, Limit, Scope, Unit

SCOPES = tuple(Scope)
_PLACE = {scope: place for place, scope in enumerate(SCOPES)}

ScopeValues = tuple[str, ...]
"""One value per scope, in the order of ``SCOPES``."""


def scope_values(
    envelope: Envelope, credential_id: str, session: str, model: str, provider: str
) -> ScopeValues:
    """What the counters of a request are keyed on.

    A session belongs to its credential and user, so nobody can spend another's session. An absent
    value counts in one bucket per credential ("~" is in no identifier): leaving a header out is no
    way around a limit.
    """
    absent = "~" + credential_id
    return (
        joined((credential_id, envelope.user_id, session)),
        envelope.user_id or absent,
        envelope.team or absent,
        envelope.project or absent,
        envelope.workflow_tag or absent,
        envelope.environment or absent,
        envelope.cost_center or absent,
        model,
        provider,
        credential_id,
    )


def joined(parts: Sequence[str]) -> str:
    """One key for several values; different values never give the same key."""
    return "".join([f"{len(part)}:{part}" for part in parts])


def scope_key(scope: Sequence[Scope], values: ScopeValues) -> str:
    """What a counter of this scope is told by among the others of its rule."""
    if len(scope) == 1:
        return values[_PLACE[scope[0]]]
    return joined([values[_PLACE[one]] for one in scope])


def split(key: str) -> list[str]:
    """The values of a key that ``joined`` made."""
    parts = []
    while key:
        length, _, rest = key.partition(":")
        parts.append(rest[: int(length)])
        key = rest[int(length) :]
    return parts


class Applicable:
    """The limits that matched a request, with what is worth knowing about them beforehand.

    Made once per set of limits and shared: compared by identity.
    """

    __slots__ = (
        "_places",
        "alerts",
        "bounds_money",
        "counts_likely",
        "counts_sessions",
        "limits",
        "rules",
        "watches_money",
    )

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        self.limits = limits
        self.rules = ",".join(dict.fromkeys(limit.rule_id for limit in limits))
        money = [limit for limit in limits if limit.unit in MONEY]
        self.watches_money = bool(money)
        """Some limit counts dollars, so output must be bounded."""
        self.bounds_money = any(limit.enforced and limit.unit is Unit.MICRO_USD for limit in money)
        """Some limit must hold: what cannot be bounded is refused."""
        self.counts_likely = any(limit.unit is Unit.LIKELY_MICRO_USD for limit in money)
        """Some budget is statistical: what calls of the workflow cost is learned and held."""
        self.counts_sessions = any(Scope.SESSION in limit.scope for limit in limits)
        self.alerts = any(limit.alerts for limit in limits)
        """Somebody wants to hear of some of the counters."""
        self._places = tuple(tuple(_PLACE[scope] for scope in limit.scope) for limit in limits)

    def holds(self, values: ScopeValues, overrides: dict[str, Hold] | None = None) -> list[Hold]:
        """The holds of one attempt. ``overrides`` replaces, by limit key, what a fallback moved:
        where the attempt is counted elsewhere (of a rule per provider, at another provider) that
        counter is not the one that was full, and its own ceiling holds."""
        holds = []
        for limit, places in zip(self.limits, self._places, strict=True):
            if not places:
                value = ""
            elif len(places) == 1:
                value = values[places[0]]
            else:
                value = joined([values[place] for place in places])
            ceiling = limit.fallback_ceiling if limit.enforced else NO_CEILING
            holds.append(Hold(limit, value, ceiling))
        if overrides:
            holds = [_overridden(hold, overrides.get(hold.limit.key)) for hold in holds]
        return holds


def _overridden(hold: Hold, moved: Hold | None) -> Hold:
    return hold if moved is None or moved.scope_value != hold.scope_value else moved


OVERFLOW_SUFFIX = ":overflow"


def moved_to_fallback(hold: Hold) -> Hold:
    """The hold of traffic that a fallback moved away from a breached limit.

    A rate rule counts it in a visible overflow counter of its own. A budget, or any limit in
    dollars, still counts it, now up to its whole ceiling: the last share is for the fallback, and
    the ceiling stays a ceiling. What ``degrade`` lets through is counted in the same way.
    """
    limit = hold.limit
    if limit.is_budget or limit.unit in MONEY:
        return hold._replace(ceiling=limit.ceiling)
    overflow = replace(
        limit,
        key=limit.key + OVERFLOW_SUFFIX,
        ceiling=NO_CEILING,
        fallback_ceiling=NO_CEILING,
        renamed_from=limit.renamed_from and limit.renamed_from + OVERFLOW_SUFFIX,
        alerts=(),
    )
    return Hold(overflow, hold.scope_value, NO_CEILING)
