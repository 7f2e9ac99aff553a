"""The compiled policy: immutable, whole, numbered. A request reads one snapshot to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from extproc.policy.matching import LimitIndex
from extproc.policy.mcp_server import McpServer, Patterns
from extproc.policy.routing_rules import RuleType, Sla, Sticky, When
from extproc.values.dialect import Dialect, Operation
from extproc.values.limit import Breach, Limit, Scope
from extproc.values.money import Price
from extproc.values.store_address import DEFAULT_NAMESPACE, EMBEDDED
from extproc.wire.capabilities import Capability
from extproc.wire.overrides import Overrides


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to tell the operator about the policy text."""

    file: str
    line: int
    code: str
    """Stable, e.g. ``unknown_key`` or ``dearer_fallback``."""
    message: str
    """Names the offending value."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class EnvelopeRules:
    """How identity headers are named, and which are required in which environment."""

    prefix: str = "x-tfy-"
    """Lower case."""
    required: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Environment (or ``*``) to envelope field names."""


@dataclass(frozen=True, slots=True)
class Credential:
    """An API key's record. The key itself is known only as its SHA-256."""

    id: str
    sha256: bytes
    team: str = ""
    user_id: str = ""
    projects: tuple[str, ...] = ()
    """Empty: any. The first is the default when the caller names none and only one is allowed."""
    environments: tuple[str, ...] = ()
    workflow_tags: tuple[str, ...] = ()
    cost_centers: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] | None = None
    """Names that may be asked for; None: every virtual model."""
    max_sessions: int = 100_000
    """New session counters that this credential may open per day."""
    revoked: bool = False
    """Kept in the policy so that its id is not used again; its key is as good as unknown."""
    tools: Mapping[str, Patterns] | None = None
    """By MCP server, which of its tools may be called; None: every tool of every server."""


@dataclass(frozen=True, slots=True)
class CredentialRef:
    """Where the secret of a provider or a channel is: never the secret."""

    kind: str
    """``env`` or ``file``; ``google`` for a service account's key file, which is exchanged for
    access tokens; ``demo`` for the demo provider's key, which is no secret."""
    name: str
    """Environment variable or file path; of ``demo`` the key."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One base URL of a provider in one dialect."""

    dialect: Dialect
    scheme: str
    host: str
    port: int
    base_path: str
    """Without trailing slash; e.g. ``/v1`` or empty."""
    cluster: str
    """Name of the Envoy cluster for this host: content hash in it, shared by targets."""
    responses: bool = True
    """OpenAI's: whether it serves the Responses API too. Many servers speak chat only."""
    api_version: str = ""
    """Azure's: the ``api-version`` of its dated API; empty for its v1 API."""

    @property
    def authority(self) -> str:
        """The ``Host`` that the provider expects."""
        default = 443 if self.scheme == "https" else 80
        return self.host if self.port == default else f"{self.host}:{self.port}"

    def path(self, operation: Operation, model: str) -> str:
        """Where an operation of the endpoint's own dialect is served."""
        if self.api_version:
            # What was deployed is named in the path, but for responses: there the body names it.
            place = "" if operation is Operation.RESPONSES else f"/deployments/{model}"
            return f"{self.base_path}{place}/{operation.value}?api-version={self.api_version}"
        return f"{self.base_path}/{operation.value}"


@dataclass(frozen=True, slots=True)
class Provider:
    """A key of ``providers``."""

    name: str
    endpoints: Mapping[Dialect, Endpoint]
    credential: CredentialRef | None = None


IDLE_TIMEOUT_MS = 300_000
"""A provider silent for five minutes is gone; clients abort then too."""


@dataclass(frozen=True, slots=True)
class Target:
    """One model at one provider, as a member of a virtual model."""

    id: str
    """The rule id that declared it, or ``provider/model`` for a fallback."""
    provider: Provider
    model: str
    canonical_model: str
    """The model without vendor prefix, region or date: the same model at several providers."""
    price: Price
    timeout_ms: int
    clusters: Mapping[Operation, str]
    """By what the caller asks: the wrapper cluster that carries this target's credential and
    metadata. Only what the target can serve is present."""
    weight: int = 0
    """Share in the draw; 0 for fallbacks."""
    lacks: frozenset[Capability] = frozenset()
    """What the model cannot do: a breached limit moves no request there that needs it."""
    endpoints: Mapping[Operation, Endpoint] = field(default_factory=dict)
    """Where each of these operations is sent."""
    translated: frozenset[Operation] = frozenset()
    """What reaches the target in another API than the caller's, request and answer translated."""
    idle_timeout_ms: int = IDLE_TIMEOUT_MS
    """The longest silence within an answer."""
    first_token_timeout_ms: int = 0
    """A stream without a token by then is given up; 0: never for that."""
    overrides: Overrides | None = None
    added_bytes: int = 0
    """What overrides may add to a body: the model reads some of it."""
    name: str = field(init=False)
    """``provider/model``: what ``x-tfy-resolved-model`` says and breakers are keyed on."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.provider.name}/{self.model}")

    def leaves_changed(self, operation: Operation) -> bool:
        """Whether a first attempt is anything else than what its caller wrote, with the model's
        name. Where a first token is waited for, attempts pass the sidecar once more, and are
        changed there."""
        otherwise = operation in self.translated or self.overrides is not None
        return otherwise and not self.first_token_timeout_ms


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a target is left out after failures."""

    failure_threshold: int = 5
    """Failures within the window that open it; 0: not counted alone."""
    window_ms: int = 60_000
    cooldown_ms: int = 30_000
    failure_percentage: int = 0
    """Of the calls within the window, if they are enough; 0: not looked at."""
    minimum_requests: int = 20


@dataclass(frozen=True, slots=True)
class VelocityRule:
    """How fast money may be spent before a breaker opens. Dollars are micro-USD per minute."""

    id: str
    scope: tuple[Scope, ...]
    """Empty: one shared breaker."""
    max_micro_usd: int
    """A fixed ceiling; 0: none."""
    times_baseline_pct: int
    """So many hundredths of what is usual; 0: not compared."""
    baseline_ms: int
    """How far back the usual is looked for."""
    min_micro_usd: int
    """Up to this the breaker never opens, whatever is usual."""
    cooldown_ms: int
    enforced: bool = True
    notify: tuple[str, ...] = ()
    """Channels that hear of its opening, and those with something to close of its closing."""

    @property
    def key(self) -> str:
        """What an index tells it by."""
        return self.id


@dataclass(frozen=True, slots=True)
class Kill:
    """One identity value, a model or a provider whose requests are stopped."""

    field: str
    """One of ``MATCH_FIELDS``."""
    value: str
    reason: str = ""
    """For operators; callers are not told."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a virtual model."""

    id: str
    member: Target | VirtualModel
    """Another virtual model stands for all its rules and fallbacks, in its own order."""
    weight: int
    priority: int
    """0 comes first."""
    sla: Sla | None
    when: When | None


@dataclass(frozen=True, slots=True)
class VirtualModel:
    """A name that callers use, and the targets behind it."""

    name: str
    targets: tuple[Target, ...]
    """Those of the rules in declared order, those of nested models included."""
    fallbacks: tuple[Target, ...]
    breaker: BreakerPolicy = BreakerPolicy()
    physical: bool = False
    """True for a provider's own model name that some credential may ask for."""
    rule_type: RuleType = RuleType.WEIGHT
    sticky: Sticky | None = None
    rules: tuple[Rule, ...] = ()
    """As declared; empty for a model that no document declares."""
    weights_only: bool = True
    """A draw by weight is all there is to the choice between the targets."""
    request_timeout_ms: int = 0
    """To the end of the answer, all attempts together; 0: as long as it goes on."""

    @property
    def learns_speed(self) -> bool:
        """Some rule is chosen by how fast its target has been."""
        return any(
            self.rule_type is RuleType.LATENCY
            or rule.sla is not None
            or (isinstance(rule.member, VirtualModel) and rule.member.learns_speed)
            for rule in self.rules
        )

    @property
    def learns_caches(self) -> bool:
        """Some rule is chosen by what it costs, so it matters where a prompt is cached."""
        return any(
            self.rule_type is RuleType.COST
            or (isinstance(rule.member, VirtualModel) and rule.member.learns_caches)
            for rule in self.rules
        )

    @property
    def all_targets(self) -> tuple[Target, ...]:
        """Rules, then fallbacks."""
        return self.targets + self.fallbacks


@dataclass(frozen=True, slots=True)
class SlackChannel:
    """An incoming webhook, bound to one channel of Slack, or a bot that posts into any."""

    webhook: CredentialRef | None
    bot_token: CredentialRef | None
    api_url: str


@dataclass(frozen=True, slots=True)
class PagerDutyChannel:
    """Services of PagerDuty that take events, by the names that ``notify`` uses."""

    routing_keys: Mapping[str, CredentialRef]
    api_url: str


@dataclass(frozen=True, slots=True)
class WebhookChannel:
    """A receiver of JSON. Its messages are signed where there is a secret."""

    url: CredentialRef | str
    secret: CredentialRef | None


@dataclass(frozen=True, slots=True)
class EmailChannel:
    """The server that mail is handed to."""

    host: str
    port: int
    tls: str
    """``starttls``, ``tls`` or ``none``."""
    sender: str
    username: str
    password: CredentialRef | None


@dataclass(frozen=True, slots=True)
class Channels:
    """How people are told. A kind that is not configured is only logged."""

    slack: SlackChannel | None = None
    pagerduty: PagerDutyChannel | None = None
    webhooks: Mapping[str, WebhookChannel] = field(default_factory=dict)
    email: EmailChannel | None = None


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """Everything a decision reads."""

    generation: int
    digest: str
    """SHA-256 over file names and contents."""
    envelope: EnvelopeRules
    credentials: Mapping[bytes, Credential]
    """By SHA-256 digest (32 bytes)."""
    providers: Mapping[str, Provider]
    virtual_models: Mapping[str, VirtualModel]
    limits: tuple[Limit, ...]
    index: LimitIndex[Limit]
    fallbacks: Mapping[Breach, VirtualModel]
    """Every ``fallback_to_NAME`` of the policy, resolved: one target for an exact id, several for
    a model family (same canonical model), a whole virtual model for its name."""
    default_max_output_tokens: int = 4096
    """Injected where the caller names no maximum and the model has none lower."""
    min_output_tokens: int = 256
    """The floor of clamping: an answer cut shorter than this helps nobody, so the breach action
    runs instead."""
    velocity: LimitIndex[VelocityRule] = field(default_factory=lambda: LimitIndex(()))
    routed_budgets: frozenset[str] = frozenset()
    """Ids of budgets whose used share decides about a rule of some virtual model."""
    watches_sessions: bool = False
    """Some velocity rule is per session, so that sessions must be known."""
    kills: tuple[Kill, ...] = ()
    mcp_servers: Mapping[str, McpServer] = field(default_factory=dict)
    tool_limits: LimitIndex[Limit] = field(default_factory=lambda: LimitIndex(()))
    """Those of ``limits`` that count calls of tools; the others are in ``index``."""
    max_waiting: int = 1_000
    """Requests that rules with ``queue_then_429`` let wait in one sidecar. Each is a live stream in
    Envoy, and its body twice in memory (which is bounded apart); more would only grow older."""
    store: str = EMBEDDED
    """Where counters are kept: ``embedded`` or an address."""
    store_namespace: str = DEFAULT_NAMESPACE
    channels: Channels = Channels()
    warnings: tuple[Finding, ...] = ()
