"""What the documents of a policy folder say, as written: names are not resolved yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from extproc.policy.matching import Condition, ConditionalLimit
from extproc.policy.mcp_server import LoopGuardRule, Patterns
from extproc.policy.reading import Section
from extproc.policy.routing_rules import RuleType, Sla, Sticky, When
from extproc.policy.snapshot import (
    IDLE_TIMEOUT_MS,
    BreakerPolicy,
    Channels,
    CredentialRef,
    EnvelopeRules,
    Kill,
    VelocityRule,
)
from extproc.values.dialect import Dialect
from extproc.values.limit import Alert, Breach, Scope, StoreFailure
from extproc.values.money import Price
from extproc.values.store_address import DEFAULT_NAMESPACE, EMBEDDED
from extproc.values.window import Window
from extproc.wire.capabilities import Capability
from extproc.wire.overrides import Overrides


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
    max_wait_ms: int
    on_store_failure: StoreFailure
    emergency_pct: int
    alerts: tuple[Alert, ...]
    renamed_from: str
    degrade_max_output_tokens: int
    fallback_at_pct: int = 100
    statistical: bool = False


@dataclass(slots=True)
class TargetDraft:
    """One target as written."""

    section: Section
    id: str
    provider: str
    model: str
    timeout_ms: int
    weight: int
    lacks: frozenset[Capability]
    first_token_timeout_ms: int = 0
    overrides: Overrides | None = None
    idle_timeout_ms: int = IDLE_TIMEOUT_MS


@dataclass(slots=True)
class RuleDraft:
    """One rule of a virtual model as written."""

    section: Section
    id: str
    member: TargetDraft | str
    """A target, or the name of another virtual model."""
    weight: int
    priority: int
    sla: Sla | None
    when: When | None


@dataclass(slots=True)
class ModelDraft:
    """One virtual model as written."""

    section: Section
    name: str
    rule_type: RuleType
    sticky: Sticky | None
    rules: list[RuleDraft]
    fallbacks: list[TargetDraft]
    breaker: BreakerPolicy
    request_timeout_ms: int = 0


@dataclass(slots=True)
class ProviderDraft:
    """One provider as written."""

    section: Section
    name: str
    urls: dict[Dialect, str]
    credential: CredentialRef | None
    demo: str
    """``auto``, ``native`` or ``off``."""
    dialects: tuple[Dialect, ...] = ()
    """Those it is said to speak, also where no URL says where."""
    responses: bool = True
    api_version: str = ""


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
    revoked: bool
    mcp_servers: tuple[str, ...] | None = None


@dataclass(slots=True)
class McpServerDraft:
    """One MCP server as written."""

    section: Section
    name: str
    url: str
    credential: CredentialRef | None
    demo: str
    """``auto`` or ``off``."""
    allow: Patterns
    deny: Patterns
    micro_usd_per_call: dict[str, int]
    loop_guard: LoopGuardRule | None


@dataclass(slots=True)
class VelocityDraft:
    """One velocity rule as written. It names nothing of other documents."""

    section: Section
    rule: ConditionalLimit[VelocityRule]


@dataclass(slots=True)
class KillDraft:
    """One entry of the kill switch as written."""

    section: Section
    kill: Kill


@dataclass(slots=True)
class Drafts:
    """Everything a folder says."""

    limits: list[LimitDraft] = field(default_factory=list)
    velocity: list[VelocityDraft] = field(default_factory=list)
    kills: list[KillDraft] = field(default_factory=list)
    models: list[ModelDraft] = field(default_factory=list)
    providers: list[ProviderDraft] = field(default_factory=list)
    credentials: list[CredentialDraft] = field(default_factory=list)
    prices: dict[tuple[str, str], Price] = field(default_factory=dict)
    mcp_servers: list[McpServerDraft] = field(default_factory=list)
    channels: Channels = field(default_factory=Channels)
    channel_references: list[tuple[Section, str, CredentialRef]] = field(default_factory=list)
    unset_channels: set[str] = field(default_factory=set)
    """Kinds of channel that are asked for and not configured: each is warned of once."""
    envelope: EnvelopeRules | None = None
    default_max_output_tokens: int = 4096
    store: str = EMBEDDED
    store_namespace: str = DEFAULT_NAMESPACE
    min_output_tokens: int = 256
    max_waiting: int = 1_000
    prefix: str = "x-tfy-"
