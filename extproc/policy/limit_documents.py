"""Rate rules and budgets, as written."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from extproc.policy.channel_documents import read_notify
from extproc.policy.drafts import Drafts, LimitDraft
from extproc.policy.matching import MATCH_FIELDS, Condition
from extproc.policy.reading import Section
from extproc.values.envelope import ENVELOPE_FIELDS
from extproc.values.limit import (
    TOOL_CALLS,
    TOOL_SCOPES,
    UNIT_BY_NAME,
    Alert,
    Breach,
    BreachKind,
    Scope,
    StoreFailure,
)
from extproc.values.money import MAX_AMOUNT, MICRO_USD_PER_USD
from extproc.values.window import (
    MAX_LENGTH_MS,
    SlidingWindow,
    Window,
    parse_window,
)

_SUBJECT_FIELD = {
    "user": "user_id",
    "team": "team",
    "project": "project",
    "credential": "credential",
}


MAX_WAIT_MS = 60_000
"""Clients' own timeouts, and proxies before us, are of this order; a longer wait is an outage."""
DEFAULT_WAIT_MS = 10_000
DEFAULT_EMERGENCY_PCT = 1
"""Of the ceiling, for each sidecar and scope value: nobody else can use what is set aside."""
MIN_FORECAST_WINDOW_MS = 3_600_000
"""A rate is seen over five minutes at least; a shorter window has moved on by then."""
DEFAULT_FALLBACK_PCT = 90
"""The last share of a budget with a fallback is for cheaper targets only, and that of a budget with
``degrade`` for degraded answers."""
DEFAULT_DEGRADED_TOKENS = 2_048
"""Half of what is injected where a caller names no maximum: the least that a model may be given to
think (1,024), and an answer as long."""
MAX_DEGRADED_TOKENS = 1_000_000
_TOOL_FIELDS = {"tool", "mcp_server"}
_MODEL_FIELDS = {"model", "provider"}
_MODEL_SCOPES = {Scope.MODEL, Scope.PROVIDER}
_SHARED = (BreachKind.FALLBACK_TO, BreachKind.FALLBACK_TO_CHEAPER, BreachKind.DEGRADE)


def read_rate_limits(document: Section, drafts: Drafts) -> None:
    """``type: gateway-rate-limit-config``."""
    document.text("name", required=True)
    for rule in document.sections("rules", required=True):
        limit = rule.section("limit", required=True)
        window: Window = SlidingWindow(60_000)
        ceilings: list[tuple[str, int]] = []
        if limit is not None:
            window = _window(limit, "UTC")
            ceilings = _ceilings(limit)
            limit.done()
        conditions = read_when(rule, drafts)
        scope = read_scopes(rule, rule.node("scope"), of_tools=True)
        draft = _limit_draft(
            rule, ceilings, window, scope, conditions, "on_breach", drafts, is_budget=False
        )
        _check_tools(draft)
        drafts.limits.append(draft)
        rule.done()


def _check_tools(draft: LimitDraft) -> None:
    """What counts calls of tools, and what counts requests to models, cannot be told alike."""
    units = {unit for unit, _ in draft.ceilings}
    about = {MATCH_FIELDS[condition.place] for condition in draft.conditions}
    of_tools = about & _TOOL_FIELDS or set(draft.scope) & set(TOOL_SCOPES)
    if of_tools and units - {TOOL_CALLS}:
        message = f"tools and mcp_servers are only known of {TOOL_CALLS}: count those alone"
        draft.section.error("limit", "not_of_tools", message)
    if TOOL_CALLS not in units:
        return
    if about & _MODEL_FIELDS or set(draft.scope) & _MODEL_SCOPES:
        message = f"a call of a tool has no model and no provider: {TOOL_CALLS} cannot be told so"
        draft.section.error("limit", "not_of_models", message)
    if draft.breach.kind is not BreachKind.HARD_BLOCK:
        message = (
            f"{TOOL_CALLS} have nowhere else to go and do not wait: hard_block is all there is"
        )
        draft.section.error("on_breach", "bad_action", message)


def read_budgets(document: Section, drafts: Drafts) -> None:
    """``type: gateway-budget-config``."""
    document.text("name", required=True)
    for budget in document.sections("budgets", required="velocity" not in document):
        ceiling = budget.decimal("ceiling_usd", required=True)
        window = _window(budget, budget.text("timezone", "UTC"))
        conditions = read_when(budget, drafts)
        scope_node = budget.node("scope")
        scope: tuple[Scope, ...] = ()
        if scope_node is not None and isinstance(scope_node.value, dict):
            conditions += _match(Section(scope_node, budget.file, budget.findings, "scope"), drafts)
        else:
            scope = read_scopes(budget, scope_node)
        scope += read_scopes(budget, budget.node("per"))
        ceilings = [("usd", read_micro_usd(budget, "ceiling_usd", ceiling))]
        draft = _limit_draft(
            budget, ceilings, window, scope, conditions, "on_exceed", drafts, is_budget=True
        )
        mode = budget.choice("mode", ("strict", "statistical"), "strict")
        draft.statistical = mode == "statistical"
        default_pct = DEFAULT_FALLBACK_PCT if draft.breach.kind in _SHARED else 100
        draft.fallback_at_pct = budget.integer("fallback_at_pct", default_pct, 1, 100)
        drafts.limits.append(draft)
        budget.done()


def _limit_draft(
    section: Section,
    ceilings: list[tuple[str, int]],
    window: Window,
    scope: tuple[Scope, ...],
    conditions: tuple[Condition, ...],
    breach_key: str,
    drafts: Drafts,
    *,
    is_budget: bool,
) -> LimitDraft:
    """What rate rules and budgets have in common."""
    counts_money = is_budget or any(unit == "usd" for unit, _ in ceilings)
    store_failure = _store_failure(section, counts_money=counts_money)
    return LimitDraft(
        section=section,
        id=section.identifier(),
        ceilings=ceilings,
        window=window,
        scope=scope,
        conditions=conditions,
        breach=_breach(section, breach_key),
        breach_key=breach_key,
        enforced=section.choice("enforce", ("enforce", "shadow"), "enforce") == "enforce",
        is_budget=is_budget,
        max_wait_ms=read_duration_ms(section, "max_wait", DEFAULT_WAIT_MS, MAX_WAIT_MS),
        on_store_failure=store_failure,
        emergency_pct=_emergency_pct(section, store_failure, ceilings),
        alerts=_alerts(section, window, drafts),
        renamed_from=section.text("renamed_from"),
        degrade_max_output_tokens=section.integer(
            "degrade_max_output_tokens", DEFAULT_DEGRADED_TOKENS, 1, MAX_DEGRADED_TOKENS
        ),
    )


def read_duration_ms(section: Section, key: str, default_ms: int, longest_ms: int) -> int:
    """A length of time such as ``10s``, in milliseconds."""
    text = section.text(key)
    if not text:
        return default_ms
    try:
        window = parse_window(text)
    except ValueError:
        window = SlidingWindow(0)
    if isinstance(window, SlidingWindow) and 0 < window.length_ms <= longest_ms:
        return window.length_ms
    section.error(
        key,
        "bad_duration",
        f"{key} must be like 10s, at most {SlidingWindow(longest_ms)}: {text[:80]!r}",
    )
    return default_ms


def _store_failure(section: Section, *, counts_money: bool) -> StoreFailure:
    failure = StoreFailure(
        section.choice("on_store_failure", tuple(StoreFailure), StoreFailure.CLOSED)
    )
    if counts_money and failure is StoreFailure.OPEN:
        section.error(
            "on_store_failure",
            "open_money",
            "a limit in dollars cannot be open while its store is away: closed or emergency_quota",
        )
    return failure


def _emergency_pct(section: Section, failure: StoreFailure, ceilings: list[tuple[str, int]]) -> int:
    pct = section.integer("emergency_quota_pct", DEFAULT_EMERGENCY_PCT, 1, 50)
    if failure is StoreFailure.EMERGENCY_QUOTA:
        for unit, ceiling in ceilings:
            if ceiling * pct < 100:
                section.warning(
                    "emergency_quota_pct",
                    "empty_emergency_quota",
                    f"{pct} % of {ceiling} {unit} is nothing: without its store the rule is closed",
                )
    return pct


def _window(section: Section, zone: str) -> Window:
    text = section.text("window", required=True)
    try:
        return parse_window(text, zone) if text else SlidingWindow(60_000)
    except ValueError as error:
        section.error("window", "bad_window", str(error))
        return SlidingWindow(60_000)


def _ceilings(limit: Section) -> list[tuple[str, int]]:
    ceilings = []
    for unit in UNIT_BY_NAME:
        if unit in limit:
            if unit == "usd":
                ceilings.append((unit, read_micro_usd(limit, unit, limit.decimal(unit))))
            else:
                ceilings.append((unit, limit.integer(unit, 0, 0, MAX_AMOUNT)))
    if not ceilings:
        limit.error("", "missing_key", f"limit needs one of {', '.join(UNIT_BY_NAME)}")
    return ceilings


def read_micro_usd(section: Section, key: str, usd: Decimal | None) -> int:
    """Dollars as micro-USD, within what a counter can hold."""
    micro_usd = int((usd or Decimal(0)) * MICRO_USD_PER_USD)
    if micro_usd > MAX_AMOUNT:
        section.error(key, "out_of_range", f"{key} is above nine billion dollars: {usd}")
    return micro_usd


def read_scopes(section: Section, node: Any, *, of_tools: bool = False) -> tuple[Scope, ...]:
    """Scope names, one or a list; those of tools only where tools can be counted."""
    scopes = []
    known = [scope for scope in Scope if of_tools or scope not in TOOL_SCOPES]
    for name in section.texts_of("scope", node) if node is not None else ():
        if name in known:
            scopes.append(Scope(name))
        else:
            message = f"{name[:80]!r} is no scope; one of {', '.join(known)}"
            section.findings.error(section.file, node.line, "bad_scope", message)
    return tuple(scopes)


def read_when(section: Section, drafts: Drafts) -> tuple[Condition, ...]:
    """The conditions of the key ``when``."""
    when = section.section("when")
    return _match(when, drafts) if when is not None else ()


def read_metadata(match: Section, drafts: Drafts) -> list[Condition]:
    """The conditions of the key ``metadata``, by header name."""
    conditions = []
    metadata = match.section("metadata")
    if metadata is not None:
        for key, node in metadata.items():
            name = key.lower().removeprefix(drafts.prefix).replace("-", "_")
            if name not in ENVELOPE_FIELDS:
                metadata.error(key, "unknown_field", f"{key[:80]!r} is no envelope header")
                continue
            conditions.append(condition_on(name, metadata.texts_of(key, node)))
    return conditions


def _match(match: Section, drafts: Drafts) -> tuple[Condition, ...]:
    conditions = read_metadata(match, drafts)
    subjects = match.section("subjects")
    if subjects is not None:
        kind = subjects.choice("type", tuple(_SUBJECT_FIELD), "user")
        conditions.append(condition_on(_SUBJECT_FIELD[kind], subjects.texts("names")))
        subjects.done()
    for key, name in (
        ("models", "model"),
        ("providers", "provider"),
        ("credentials", "credential"),
        ("tools", "tool"),
        ("mcp_servers", "mcp_server"),
    ):
        if key in match:
            conditions.append(condition_on(name, match.texts(key)))
    match.done()
    return tuple(conditions)


def condition_on(name: str, texts: tuple[str, ...]) -> Condition:
    """One field of ``MATCH_FIELDS`` and what it may be; nothing: it must be present."""
    prefixes = tuple(text[:-1] for text in texts if text.endswith("*"))
    values = frozenset(text for text in texts if not text.endswith("*"))
    return Condition(MATCH_FIELDS.index(name), values, prefixes)


def _breach(section: Section, key: str) -> Breach:
    text = section.text(key, "hard_block")
    for kind in BreachKind:
        if text == kind and kind is not BreachKind.FALLBACK_TO:
            return Breach(kind)
    name = text.removeprefix("fallback_to_")
    if name and name != text:
        return Breach(BreachKind.FALLBACK_TO, name)
    known = ", ".join(kind for kind in BreachKind if kind is not BreachKind.FALLBACK_TO)
    section.error(key, "bad_action", f"{text[:80]!r} is no action: {known}, fallback_to_NAME")
    return Breach(BreachKind.HARD_BLOCK)


def _alerts(section: Section, window: Window, drafts: Drafts) -> tuple[Alert, ...]:
    """``{at_pct, notify}`` and ``{forecast, notify}``."""
    alerts: dict[tuple[int, int], Alert] = {}
    for alert in section.sections("alerts"):
        at_pct = alert.integer("at_pct", 0, 1, 1000)
        forecast_ms = read_duration_ms(alert, "forecast", 0, MAX_LENGTH_MS)
        if ("at_pct" in alert) == ("forecast" in alert):
            alert.error("", "missing_key", "an alert needs either at_pct or forecast")
        elif forecast_ms and _is_short(window):
            message = f"a window of {window} is too short for a forecast: it takes one of an hour"
            alert.error("forecast", "bad_forecast", message)
        if (at_pct, forecast_ms) in alerts:
            alert.error("", "duplicate_alert", "the same alert twice: list all whom to notify once")
        notify = read_notify(alert, drafts)
        alert.done()
        alerts[at_pct, forecast_ms] = Alert(at_pct, notify, forecast_ms)
    return tuple(sorted(alerts.values(), key=lambda alert: (alert.forecast_ms, alert.at_pct)))


def _is_short(window: Window) -> bool:
    return isinstance(window, SlidingWindow) and window.length_ms < MIN_FORECAST_WINDOW_MS
