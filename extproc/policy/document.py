"""What the four kinds of policy document may say. One function per kind; each returns plain data.

Values are checked here against their own type; names that refer to other documents are resolved by
the compiler, which knows them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from extproc.policy.matching import MATCH_FIELDS, Condition
from extproc.policy.prices import micro_usd_per_mtok
from extproc.policy.reading import Section
from extproc.policy.snapshot import BreakerPolicy, CredentialRef, EnvelopeRules
from extproc.values.dialect import Dialect
from extproc.values.envelope import ENVELOPE_FIELDS
from extproc.values.limit import UNIT_BY_NAME, Breach, BreachKind, Scope
from extproc.values.money import MAX_AMOUNT, MICRO_USD_PER_USD, Price, Rates
from extproc.values.window import SlidingWindow, Window, parse_window

KINDS = (
    "gateway-rate-limit-config",
    "gateway-budget-config",
    "gateway-load-balancing-config",
    "gateway-config",
)
MAX_TIMEOUT_MS = 600_000
MAX_WEIGHT = 1_000_000
DEFAULT_TIMEOUT_MS = 60_000
"""Time to response headers where a target names none: long answers think before the first byte."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_SUBJECT_FIELD = {
    "user": "user_id",
    "team": "team",
    "project": "project",
    "credential": "credential",
}
_PENDING_RULE_KEYS = ("on_store_failure", "max_wait")


@dataclass(slots=True)
class LimitDraft:
    """One rate rule or budget as written, with its ceilings by unit."""

    section: Section
    id: str
    ceilings: list[tuple[str, int]]
    window: Window
    scope: tuple[Scope, ...]
    conditions: tuple[Condition, ...]
    breach: Breach
    breach_key: str
    enforced: bool
    is_budget: bool
    fallback_at_pct: int = 100


@dataclass(slots=True)
class TargetDraft:
    """One target as written."""

    section: Section
    id: str
    provider: str
    model: str
    timeout_ms: int
    weight: int


@dataclass(slots=True)
class ModelDraft:
    """One virtual model as written."""

    section: Section
    name: str
    rules: list[TargetDraft]
    fallbacks: list[TargetDraft]
    breaker: BreakerPolicy


@dataclass(slots=True)
class ProviderDraft:
    """One provider as written."""

    section: Section
    name: str
    urls: dict[Dialect, str]
    credential: CredentialRef | None
    demo: bool


@dataclass(slots=True)
class CredentialDraft:
    """One credential as written."""

    section: Section
    id: str
    sha256: bytes
    claims: dict[str, tuple[str, ...]]
    defaults: dict[str, str]
    models: tuple[str, ...] | None
    max_sessions: int


@dataclass(slots=True)
class Drafts:
    """Everything a folder says."""

    limits: list[LimitDraft] = field(default_factory=list)
    models: list[ModelDraft] = field(default_factory=list)
    providers: list[ProviderDraft] = field(default_factory=list)
    credentials: list[CredentialDraft] = field(default_factory=list)
    prices: dict[tuple[str, str], Price] = field(default_factory=dict)
    envelope: EnvelopeRules | None = None
    default_max_output_tokens: int = 4096
    prefix: str = "x-tfy-"


def read_rate_limits(document: Section, drafts: Drafts) -> None:
    """``type: gateway-rate-limit-config``."""
    _name(document)
    for rule in document.sections("rules", required=True):
        draft_id = _identifier(rule)
        limit = rule.section("limit", required=True)
        window: Window = SlidingWindow(60_000)
        ceilings: list[tuple[str, int]] = []
        if limit is not None:
            window = _window(limit, "UTC")
            ceilings = _ceilings(limit)
            limit.done()
        _pending(rule)
        drafts.limits.append(
            LimitDraft(
                section=rule,
                id=draft_id,
                ceilings=ceilings,
                window=window,
                scope=_scopes(rule, rule.node("scope")),
                conditions=_when(rule, drafts),
                breach=_breach(rule, "on_breach"),
                breach_key="on_breach",
                enforced=rule.choice("enforce", ("enforce", "shadow"), "enforce") == "enforce",
                is_budget=False,
            )
        )
        rule.done()


def read_budgets(document: Section, drafts: Drafts) -> None:
    """``type: gateway-budget-config``."""
    _name(document)
    for budget in document.sections("budgets", required=True):
        draft_id = _identifier(budget)
        ceiling = budget.decimal("ceiling_usd", required=True)
        zone = budget.text("timezone", "UTC")
        window = _window(budget, zone)
        conditions = _when(budget, drafts)
        scope_node = budget.node("scope")
        scope: tuple[Scope, ...] = ()
        if scope_node is not None and isinstance(scope_node.value, dict):
            conditions += _match(Section(scope_node, budget.file, budget.findings, "scope"), drafts)
        else:
            scope = _scopes(budget, scope_node)
        scope += _scopes(budget, budget.node("per"))
        _alerts(budget)
        _pending(budget)
        if budget.choice("mode", ("strict", "statistical"), "strict") == "statistical":
            budget.warning("mode", "pending_mode", "statistical is not built yet; acts as strict")
        breach = _breach(budget, "on_exceed")
        fallback = breach.kind in (BreachKind.FALLBACK_TO, BreachKind.FALLBACK_TO_CHEAPER)
        drafts.limits.append(
            LimitDraft(
                section=budget,
                id=draft_id,
                ceilings=[("usd", _micro_usd(budget, "ceiling_usd", ceiling))],
                window=window,
                scope=scope,
                conditions=conditions,
                breach=breach,
                breach_key="on_exceed",
                enforced=budget.choice("enforce", ("enforce", "shadow"), "enforce") == "enforce",
                is_budget=True,
                fallback_at_pct=budget.integer("fallback_at_pct", 90 if fallback else 100, 1, 100),
            )
        )
        budget.done()


def read_virtual_model(document: Section, drafts: Drafts) -> None:
    """``type: gateway-load-balancing-config``."""
    name = document.text("name", required=True)
    if not _ID.fullmatch(name):
        document.error("name", "bad_name", f"{name[:80]!r} is no usable model name")
    rule_type = document.text("rule_type", "weight-based")
    if rule_type != "weight-based":
        document.error(
            "rule_type", "pending_rule_type", f"{rule_type!r} is not built yet; use weight-based"
        )
    rules = []
    for rule in document.sections("rules", required=True):
        rule_id = _identifier(rule)
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
            )
        )
        target.done()
    drafts.models.append(ModelDraft(document, name, rules, fallbacks, _breaker(document)))


def read_gateway(document: Section, drafts: Drafts) -> None:
    """``type: gateway-config``."""
    _name(document)
    envelope = document.section("envelope")
    if envelope is not None:
        drafts.envelope = _envelope(envelope)
    defaults = document.section("defaults")
    if defaults is not None:
        drafts.default_max_output_tokens = defaults.integer("max_output_tokens", 4096, 1, 1_000_000)
        defaults.done()
    for credential in document.sections("credentials"):
        drafts.credentials.append(_credential(credential))
    providers = document.section("providers")
    if providers is not None:
        for name, node in providers.items():
            drafts.providers.append(
                _provider(name, Section(node, document.file, document.findings, f"provider {name}"))
            )
    for price in document.sections("prices"):
        _price(price, drafts)
    if document.node("channels") is not None:
        document.warning("channels", "pending_alerts", "alerts are not built yet: none is sent")
    if document.text("store", "embedded") != "embedded":
        document.error("store", "pending_store", "only the embedded store is built yet")


READERS = {
    "gateway-rate-limit-config": read_rate_limits,
    "gateway-budget-config": read_budgets,
    "gateway-load-balancing-config": read_virtual_model,
    "gateway-config": read_gateway,
}


def _name(document: Section) -> str:
    return document.text("name", required=True)


def _identifier(section: Section) -> str:
    value = section.text("id", required=True)
    if value and not _ID.fullmatch(value):
        section.error(
            "id", "bad_id", f"{value[:80]!r} is no usable id: letters, digits . _ : / @ -"
        )
    return value


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
                ceilings.append((unit, _micro_usd(limit, unit, limit.decimal(unit))))
            else:
                ceilings.append((unit, limit.integer(unit, 0, 0, MAX_AMOUNT)))
    if not ceilings:
        limit.error("", "missing_key", f"limit needs one of {', '.join(UNIT_BY_NAME)}")
    return ceilings


def _micro_usd(section: Section, key: str, usd: Decimal | None) -> int:
    micro_usd = int((usd or Decimal(0)) * MICRO_USD_PER_USD)
    if micro_usd > MAX_AMOUNT:
        section.error(key, "out_of_range", f"{key} is above nine billion dollars: {usd}")
    return micro_usd


def _scopes(section: Section, node: Any) -> tuple[Scope, ...]:
    scopes = []
    for name in section.texts_of("scope", node) if node is not None else ():
        try:
            scopes.append(Scope(name))
        except ValueError:
            known = ", ".join(Scope)
            section.findings.error(
                section.file, node.line, "bad_scope", f"{name[:80]!r} is no scope; one of {known}"
            )
    return tuple(scopes)


def _when(section: Section, drafts: Drafts) -> tuple[Condition, ...]:
    when = section.section("when")
    return _match(when, drafts) if when is not None else ()


def _match(match: Section, drafts: Drafts) -> tuple[Condition, ...]:
    conditions = []
    metadata = match.section("metadata")
    if metadata is not None:
        for key, node in metadata.items():
            name = key.lower().removeprefix(drafts.prefix).replace("-", "_")
            if name not in ENVELOPE_FIELDS:
                metadata.error(key, "unknown_field", f"{key[:80]!r} is no envelope header")
                continue
            conditions.append(_condition(name, metadata.texts_of(key, node)))
    subjects = match.section("subjects")
    if subjects is not None:
        kind = subjects.choice("type", tuple(_SUBJECT_FIELD), "user")
        conditions.append(_condition(_SUBJECT_FIELD[kind], subjects.texts("names")))
        subjects.done()
    for key, name in (
        ("models", "model"),
        ("providers", "provider"),
        ("credentials", "credential"),
    ):
        if key in match:
            conditions.append(_condition(name, match.texts(key)))
    match.done()
    return tuple(conditions)


def _condition(name: str, texts: tuple[str, ...]) -> Condition:
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


def _alerts(budget: Section) -> None:
    alerts = budget.sections("alerts")
    for alert in alerts:
        alert.integer("at_pct", 100, 1, 1000)
        alert.texts("notify")
        alert.done()
    if alerts:
        budget.warning("alerts", "pending_alerts", "alerts are not built yet: none is sent")


def _pending(section: Section) -> None:
    for key in _PENDING_RULE_KEYS:
        if section.node(key) is not None:
            section.warning(key, "pending_key", f"{key} is not built yet and has no effect")


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


def _envelope(section: Section) -> EnvelopeRules:
    prefix = section.text("prefix", "X-TFY-").lower()
    if not re.fullmatch(r"x-[a-z0-9-]{1,30}-", prefix) or prefix.startswith(("x-tw-", "x-envoy-")):
        section.error("prefix", "bad_prefix", f"{prefix[:80]!r} must look like X-NAME-")
        prefix = "x-tfy-"
    required: dict[str, tuple[str, ...]] = {}
    node = section.section("required")
    if node is not None:
        for environment, fields in node.items():
            names = node.texts_of(environment, fields)
            for name in names:
                if name not in ENVELOPE_FIELDS:
                    node.error(environment, "unknown_field", f"{name[:80]!r} is no envelope field")
            required[environment] = tuple(name for name in names if name in ENVELOPE_FIELDS)
    section.done()
    return EnvelopeRules(prefix, required)


def _credential(section: Section) -> CredentialDraft:
    digest = section.text("sha256", required=True)
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        section.error(
            "sha256", "bad_sha256", "sha256 must be 64 hex digits; see `tokenweir keys new`"
        )
        digest = "0" * 64
    claims: dict[str, tuple[str, ...]] = {}
    node = section.section("claims")
    if node is not None:
        for key in ("team", "user_id", "projects", "environments", "workflow_tags", "cost_centers"):
            claims[key] = node.texts(key)
        node.done()
    defaults: dict[str, str] = {}
    default_section = section.section("defaults")
    if default_section is not None:
        for name in ENVELOPE_FIELDS:
            if name in default_section:
                defaults[name] = default_section.text(name)
        default_section.done()
    draft = CredentialDraft(
        section,
        _identifier(section),
        bytes.fromhex(digest),
        claims,
        defaults,
        section.texts("models") if "models" in section else None,
        section.integer("max_sessions", 100_000, 1, 10_000_000),
    )
    section.done()
    return draft


def _provider(name: str, section: Section) -> ProviderDraft:
    urls: dict[Dialect, str] = {}
    endpoints = section.section("endpoints")
    dialect_text = section.text("dialect")
    base_url = section.text("base_url")
    if endpoints is not None:
        for key, node in endpoints.items():
            text = node.value if isinstance(node.value, str) else ""
            _add_url(endpoints, key, key, text, urls)
        endpoints.done()
    if dialect_text:
        _add_url(section, "dialect", dialect_text, base_url, urls)
    elif not urls:
        section.error(
            "", "missing_key", f"provider {name} needs dialect and base_url, or endpoints"
        )
    for key in ("region", "project", "on_disconnect"):
        section.text(key)
    demo = section.choice("demo", ("auto", "off"), "off") == "auto"
    draft = ProviderDraft(section, name, urls, _reference(section), demo)
    section.done()
    return draft


def _add_url(
    section: Section, key: str, dialect_text: str, url: str, urls: dict[Dialect, str]
) -> None:
    try:
        dialect = Dialect(dialect_text)
    except ValueError:
        known = ", ".join(Dialect)
        section.error(key, "bad_dialect", f"{dialect_text[:80]!r} is no dialect; one of {known}")
        return
    if not url and dialect in (Dialect.BEDROCK, Dialect.GEMINI):
        return  # served by region; translated dialects come later and are warned of per target
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
        sound = sound and parts.port != 0 and not parts.username
    except ValueError:
        sound = False
    if sound:
        urls[dialect] = url
    elif dialect in (Dialect.OPENAI, Dialect.ANTHROPIC):
        section.error(key, "bad_url", f"{url[:80]!r} is no http(s) URL")


def _reference(section: Section) -> CredentialRef | None:
    text = section.text("credential")
    if not text:
        return None
    kind, _, name = text.partition(":")
    if kind not in ("env", "file") or not name:
        # The text may be the secret itself: it is not repeated.
        section.error("credential", "literal_secret", "credential must be env:NAME or file:PATH")
        return None
    return CredentialRef(kind, name)


def _price(section: Section, drafts: Drafts) -> None:
    provider = section.text("provider", required=True)
    model = section.text("model", required=True)
    plain = section.decimal("input_usd_per_mtok", required=True) or Decimal(0)
    output = section.decimal("output_usd_per_mtok", required=True) or Decimal(0)
    cached = section.decimal("cached_input_usd_per_mtok")
    written = section.decimal("cache_write_usd_per_mtok")
    context = section.integer("context_tokens", 0, 0, 100_000_000)
    maximum = section.integer("max_output_tokens", 0, 0, 100_000_000)
    as_of = section.text("as_of")
    source = section.text("source", f"{section.file}:{section.line}")
    section.done()
    if (provider, model) in drafts.prices:
        section.error("model", "duplicate_price", f"{provider}/{model} is priced twice")
    drafts.prices[provider, model] = Price(
        rates=Rates(
            micro_usd_per_mtok(plain),
            micro_usd_per_mtok(output),
            micro_usd_per_mtok(plain if cached is None else cached),
            micro_usd_per_mtok(plain if written is None else written),
        ),
        context_tokens=context or None,
        max_output_tokens=maximum or None,
        as_of=as_of,
        source=source,
    )
