"""Alerts in words: notices for people, with the same in numbers for programs."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from extproc.core.holds import split
from extproc.values.limit import MONEY, TOOL_CALLS, Alert, Limit, Scope, Unit
from extproc.values.notice import Notice, Severity
from extproc.values.window import CalendarWindow
from extproc.wire.error_body import amount_text

_UNIT = {
    Unit.REQUESTS: "requests",
    Unit.TOKENS: "tokens",
    Unit.INPUT_TOKENS: "input_tokens",
    Unit.OUTPUT_TOKENS: "output_tokens",
    Unit.MICRO_USD: "micro_usd",
    Unit.LIKELY_MICRO_USD: "micro_usd",
}


def crossed(
    key: str,
    alert: Alert,
    limit: Limit,
    scope_value: str,
    settled: int,
    reserved: int,
    now_ms: int,
    *,
    runs_out_at_ms: int | None,
    used_up: bool,
) -> Notice:
    """A threshold was reached, or the limit will run out soon. Amounts are in the limit's unit."""
    zone = getattr(limit.window, "zone", "UTC")
    used, ceiling = _share(settled, limit.ceiling), amount(limit, limit.ceiling)
    scope = scope_values(limit, scope_value)
    whom = f" for {', '.join(f'{name} {value}' for name, value in scope)}" if scope else ""
    what = f"{'' if limit.enforced else 'Shadow '}{'budget' if limit.is_budget else 'limit'}"
    title = f"{what[:1].upper()}{what[1:]} {limit.rule_id}{whom}"
    if runs_out_at_ms is not None:
        title += f" runs out at {moment(runs_out_at_ms, zone, now_ms)}: {used} of {ceiling} used"
    else:
        title += f" has reached {alert.at_pct} %: {used} of {ceiling} used"
        if used_up and settled * 100 < alert.at_pct * limit.ceiling:
            title += ", and what is left is too little for a request"
    facts = [("Rule", limit.rule_id)]
    facts += [(name.replace("_", " ").capitalize(), value) for name, value in scope]
    facts += [
        ("Window", f"{limit.window}, {zone}" if _is_calendar(limit) else f"last {limit.window}"),
        ("Spent", amount(limit, settled)),
        ("Reserved", amount(limit, reserved)),
        ("Ceiling", ceiling),
        ("Used", used),
    ]
    unit = _unit(limit)
    data: dict[str, str | int] = {
        "rule_id": limit.rule_id,
        "alert": alert.name,
        "enforced": "yes" if limit.enforced else "shadow",
        **{f"scope_{name}": value for name, value in scope},
        "window": str(limit.window),
        f"spent_{unit}": settled,
        f"reserved_{unit}": reserved,
        f"ceiling_{unit}": limit.ceiling,
        "used_pct": settled * 100 // limit.ceiling,
    }
    if runs_out_at_ms is not None:
        facts.append(("Runs out at", moment(runs_out_at_ms, zone, now_ms)))
        data["runs_out_at"] = iso(runs_out_at_ms)
    if isinstance(limit.window, CalendarWindow):
        resets_at_ms = limit.window.slot_ends_ms(limit.window.slot(now_ms))
        facts.append(("Resets at", moment(resets_at_ms, zone, now_ms)))
        data["resets_at"] = iso(resets_at_ms)
    return Notice(key, title, severity(alert), tuple(facts), now_ms, data)


def over(key: str, title: str, now_ms: int) -> Notice:
    """What an earlier notice told is over."""
    return Notice(key, f"Over: {title}", Severity.INFO, (), now_ms, resolved=True)


def severity(alert: Alert) -> Severity:
    """Of a share by its height. A forecast is a warning: nothing has been refused yet."""
    if alert.at_pct >= 100:
        return Severity.CRITICAL
    return Severity.ERROR if alert.at_pct >= 90 else Severity.WARNING


def scope_values(limit: Limit, scope_value: str) -> list[tuple[str, str]]:
    """What a counter is keyed on, by name."""
    values = [scope_value] if len(limit.scope) == 1 else split(scope_value)
    pairs = []
    for scope, value in zip(limit.scope, values, strict=False):
        if scope is Scope.SESSION:
            credential, user, session = split(value)
            pairs += [("credential", credential), ("user", user or "none"), ("session", session)]
        else:
            # An absent value counts in one bucket per credential.
            absent = value.startswith("~")
            pairs.append((scope.value, f"none (of {value[1:]})" if absent else value))
    return pairs


def amount(limit: Limit, value: int) -> str:
    """``$3,200.00`` or ``180,000 tokens``."""
    if limit.unit in MONEY:
        whole, _, fraction = amount_text("usd", value).partition(".")
        return f"${int(whole):,}.{fraction}"
    return f"{value:,} {_unit(limit).replace('_', ' ')}"


def _unit(limit: Limit) -> str:
    return TOOL_CALLS if limit.of_tools else _UNIT[limit.unit]


def moment(at_ms: int, zone: str, now_ms: int) -> str:
    """``14:20 UTC``, with the date when it is another day's."""
    local = datetime.fromtimestamp(at_ms // 1000, ZoneInfo(zone))
    today = datetime.fromtimestamp(now_ms // 1000, ZoneInfo(zone)).date()
    form = "%H:%M" if local.date() == today else "%Y-%m-%d %H:%M"
    return f"{local.strftime(form)} {zone}"


def iso(at_ms: int) -> str:
    """An instant for programs."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).isoformat()


def _share(settled: int, ceiling: int) -> str:
    """``80.3 %``, rounded down: nothing is called full that is not."""
    whole, tenths = divmod(settled * 1000 // ceiling, 10)
    return f"{whole}.{tenths} %" if tenths else f"{whole} %"


def _is_calendar(limit: Limit) -> bool:
    return isinstance(limit.window, CalendarWindow)
