"""A folder of policy documents to one snapshot, or to the findings that prevent it. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

from extproc.policy.catalogue import LACKS
from extproc.policy.channel_documents import warn_of_unset_channels
from extproc.policy.document import READERS
from extproc.policy.drafts import (
    CredentialDraft,
    Drafts,
    LimitDraft,
    ModelDraft,
    ProviderDraft,
    RuleDraft,
    TargetDraft,
)
from extproc.policy.kill_documents import names_something
from extproc.policy.matching import MATCH_FIELDS, ConditionalLimit, LimitIndex
from extproc.policy.mcp_compiler import compile_mcp_servers, tools_of
from extproc.policy.mcp_server import McpServer
from extproc.policy.models import canonical_model, in_family
from extproc.policy.nesting import (
    are_weights_only,
    is_too_nested,
    nested_first,
    routed_budgets,
    targets_of,
)
from extproc.policy.override_documents import check_overrides, sets_params
from extproc.policy.prices import find_price
from extproc.policy.reading import Findings, Section
from extproc.policy.snapshot import (
    Credential,
    CredentialRef,
    EnvelopeRules,
    Finding,
    Kill,
    PolicySnapshot,
    Provider,
    Rule,
    Target,
    VelocityRule,
    VirtualModel,
)
from extproc.policy.wrappers import endpoint_of, wrappers
from extproc.policy.yaml_text import YamlError, parse_documents
from extproc.values.dialect import CALLER_DIALECTS, Dialect
from extproc.values.limit import TOOL_CALLS, UNIT_BY_NAME, Breach, BreachKind, Limit, Scope, Unit

MAX_FILES = 1_000
MAX_RULES = 50_000

_MODEL_PLACE = MATCH_FIELDS.index("model")

_COMPARED_TOKENS = (3_000, 1_000)
"""Input and output of the request by which the prices of two models are compared."""

_DEMO_PATHS = {
    Dialect.OPENAI: "/openai/v1",
    Dialect.AZURE_OPENAI: "/openai/v1",
    Dialect.ANTHROPIC: "/anthropic",
    Dialect.GEMINI: "/gemini/v1beta",
    Dialect.BEDROCK: "/bedrock",
}
"""Where the demo provider speaks each dialect."""
_DEMO_CREDENTIAL = CredentialRef("demo", "demo-key")
"""The demo provider asks for a key where the provider that it stands in for would."""


def compile_folder(
    files: Mapping[str, bytes],
    generation: int,
    environ: Mapping[str, str],
    demo_url: str | None = None,
) -> PolicySnapshot | list[Finding]:
    """Compiles file contents by name. ``demo_url`` is where the demo provider stands in for those
    marked ``demo: auto`` or ``native`` whose credential variable is not set in ``environ``."""
    findings = Findings()
    drafts = _read(files, findings)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{len(name)}:{name}{len(files[name])}:".encode())
        digest.update(files[name])
    compiler = _Compiler(drafts, findings, environ, demo_url)
    snapshot = compiler.snapshot(generation, digest.hexdigest())
    return findings.errors if findings.errors else snapshot


def _read(files: Mapping[str, bytes], findings: Findings) -> Drafts:
    drafts = Drafts()
    if not files:
        findings.error("", 0, "empty_folder", "the folder holds no *.yaml file")
    if len(files) > MAX_FILES:
        findings.error("", 0, "too_many_files", f"more than {MAX_FILES} files")
        return drafts
    documents = []
    for name in sorted(files):
        try:
            parsed = parse_documents(files[name])
        except YamlError as error:
            findings.error(name, error.line, error.code, error.message)
            continue
        if not parsed:
            findings.error(name, 1, "empty_file", "the file holds no document")
        documents += [Section(node, name, findings, "the document") for node in parsed]
    # gateway-config first: it names the header prefix that rules are written with.
    documents.sort(key=lambda document: document.text("type") != "gateway-config")
    for document in documents:
        kind = document.text("type", required=True)
        reader = READERS.get(kind)
        if reader is None:
            if kind:
                known = ", ".join(READERS)
                document.error("type", "bad_type", f"{kind[:80]!r} is no type; one of {known}")
            continue
        reader(document, drafts)
        if drafts.envelope is not None:
            drafts.prefix = drafts.envelope.prefix
        document.done()
    if len(drafts.limits) + len(drafts.velocity) > MAX_RULES:
        findings.error("", 0, "too_many_rules", f"more than {MAX_RULES} rules")
        drafts.limits.clear()
        drafts.velocity.clear()
    return drafts


class _Compiler:
    def __init__(
        self,
        drafts: Drafts,
        findings: Findings,
        environ: Mapping[str, str],
        demo_url: str | None,
    ) -> None:
        self._drafts = drafts
        self._findings = findings
        self._environ = environ
        self._demo_url = demo_url
        self._providers: dict[str, Provider] = {}
        self._models: dict[str, VirtualModel] = {}
        self._apis: dict[str, Dialect | None] = {}
        """Whose fields a provider's targets set; None while a stand-in speaks other dialects."""

    def snapshot(self, generation: int, digest: str) -> PolicySnapshot:
        drafts = self._drafts
        for provider in drafts.providers:
            self._add_provider(provider)
        for model in nested_first(drafts.models):
            self._add_model(model)
        servers = compile_mcp_servers(drafts, self._environ, self._demo_url)
        credentials = self._credentials(servers)
        limits = self._limits()
        warn_of_unset_channels(drafts, self._environ)
        return PolicySnapshot(
            generation=generation,
            digest=digest,
            envelope=drafts.envelope or EnvelopeRules(drafts.prefix, {}),
            credentials=credentials,
            providers=self._providers,
            virtual_models=self._models,
            limits=tuple(entry.limit for entry in limits),
            index=LimitIndex([entry for entry in limits if not entry.limit.of_tools]),
            tool_limits=LimitIndex([entry for entry in limits if entry.limit.of_tools]),
            mcp_servers=servers,
            fallbacks=self._fallbacks(),
            default_max_output_tokens=drafts.default_max_output_tokens,
            store=drafts.store,
            store_namespace=drafts.store_namespace,
            min_output_tokens=drafts.min_output_tokens,
            velocity=self._velocity(),
            routed_budgets=routed_budgets(drafts),
            watches_sessions=any(
                Scope.SESSION in draft.rule.limit.scope for draft in drafts.velocity
            ),
            kills=self._kills(credentials),
            channels=drafts.channels,
            max_waiting=drafts.max_waiting,
            warnings=tuple(self._findings.warnings),
        )

    # -- providers, targets, virtual models -------------------------------------------------------

    def _add_provider(self, draft: ProviderDraft) -> None:
        if draft.name in self._providers:
            draft.section.error("", "duplicate_name", f"provider {draft.name} is set twice")
        urls = dict(draft.urls)
        credential = draft.credential
        unset = (
            credential is not None
            and credential.kind == "env"
            and not any(
                name == credential.name
                or (credential.name.endswith("*") and name.startswith(credential.name[:-1]))
                for name, value in self._environ.items()
                if value
            )
        )
        if draft.demo != "off" and unset and self._demo_url is not None:
            base = f"{self._demo_url}/{draft.name}"
            native = draft.demo == "native"
            spoken = draft.dialects if native else CALLER_DIALECTS
            urls = {dialect: base + _DEMO_PATHS[dialect] for dialect in spoken}
            credential = _DEMO_CREDENTIAL if native else None
        elif unset:
            draft.section.warning(
                "credential", "credential_unset", f"provider {draft.name}: the variable is not set"
            )
        endpoints = {
            dialect: endpoint_of(
                draft.name,
                dialect,
                url,
                responses=draft.responses,
                api_version=draft.api_version if dialect is Dialect.AZURE_OPENAI else "",
            )
            for dialect, url in urls.items()
        }
        spoken_here = [dialect for dialect in draft.dialects or urls if dialect in endpoints]
        self._apis[draft.name] = spoken_here[0] if spoken_here else None
        self._providers[draft.name] = Provider(draft.name, endpoints, credential)

    def _add_model(self, draft: ModelDraft) -> None:
        if draft.name in self._models:
            draft.section.error("name", "duplicate_name", f"{draft.name!r} is defined twice")
        rules = [rule for one in draft.rules if (rule := self._rule(one))]
        fallbacks = [target for one in draft.fallbacks if (target := self._target(one))]
        if draft.rules and not any(rule.weight for rule in draft.rules):
            draft.section.error("rules", "no_weight", "every weight is 0")
        if not draft.rules:
            draft.section.error("rules", "no_rules", "a virtual model needs a rule")
        ids = [one.id for one in draft.rules] + [one.id for one in draft.fallbacks]
        for rule_id in sorted({rule_id for rule_id in ids if ids.count(rule_id) > 1}):
            draft.section.error("rules", "duplicate_id", f"target {rule_id!r} is listed twice")
        if is_too_nested(rules):
            message = f"{draft.name} leads to too many targets, or too deep"
            draft.section.error("rules", "too_nested", message)
            rules.clear()
        targets = targets_of(rules)
        if len({target.timeout_ms for target in targets}) > 1:
            draft.section.warning(
                "rules", "timeouts_differ", "one chain has one timeout: the largest is used"
            )
        self._models[draft.name] = VirtualModel(
            draft.name,
            targets,
            tuple(fallbacks),
            draft.breaker,
            rule_type=draft.rule_type,
            sticky=draft.sticky,
            rules=tuple(rules),
            weights_only=are_weights_only(draft),
            request_timeout_ms=draft.request_timeout_ms,
        )

    def _rule(self, draft: RuleDraft) -> Rule | None:
        """A rule with its target, or with the virtual model that it leads on to."""
        if isinstance(draft.member, TargetDraft):
            member: Target | VirtualModel | None = self._target(draft.member)
        else:
            member = self._models.get(draft.member)
            if member is None and draft.member:
                draft.section.error(
                    "target",
                    "unknown_model",
                    f"{draft.member[:80]!r} is no virtual model; a target needs its provider too",
                )
        if member is None:
            return None
        return Rule(draft.id, member, draft.weight, draft.priority, draft.sla, draft.when)

    def _target(self, draft: TargetDraft) -> Target | None:
        provider = self._providers.get(draft.provider)
        if provider is None:
            known = ", ".join(self._providers) or "none"
            draft.section.error(
                "provider", "unknown_provider", f"{draft.provider!r} is no provider; known: {known}"
            )
            return None
        price = find_price(draft.provider, draft.model, self._drafts.prices)
        if price is None:
            draft.section.error(
                "model",
                "missing_price",
                f"no price is known for {draft.provider}/{draft.model}; add it under prices",
            )
            return None
        if price.context_tokens is None:
            draft.section.warning(
                "model",
                "unknown_context",
                f"{draft.model}: input by reference reserves two million tokens",
            )
        overrides, first_token_ms = draft.overrides, draft.first_token_timeout_ms
        only = self._apis[draft.provider] if sets_params(overrides) else None
        check_overrides(draft, price, only)
        variant = (overrides, first_token_ms) if overrides or first_token_ms else ()
        found = wrappers(provider, draft.model, variant, only)
        for dialect in CALLER_DIALECTS:
            if not any(operation.dialect is dialect for operation in found.clusters):
                draft.section.warning(
                    "provider",
                    "dialect_not_served",
                    f"{draft.provider} has no endpoint: {draft.id} is left out for {dialect} "
                    "callers",
                )
        return Target(
            id=draft.id,
            provider=provider,
            model=draft.model,
            canonical_model=canonical_model(draft.model),
            price=price,
            timeout_ms=draft.timeout_ms,
            idle_timeout_ms=draft.idle_timeout_ms,
            clusters=found.clusters,
            weight=draft.weight,
            lacks=draft.lacks | LACKS.get(canonical_model(draft.model), frozenset()),
            endpoints=found.endpoints,
            translated=found.translated,
            first_token_timeout_ms=first_token_ms,
            overrides=overrides if overrides is None or only else overrides.headers_only,
            added_bytes=overrides.params.added_bytes if overrides is not None else 0,
        )

    # -- credentials ------------------------------------------------------------------------------

    def _credentials(self, servers: Mapping[str, McpServer]) -> dict[bytes, Credential]:
        credentials: dict[bytes, Credential] = {}
        ids: set[str] = set()
        for draft in self._drafts.credentials:
            if draft.sha256 in credentials or draft.id in ids:
                draft.section.error("id", "duplicate_id", f"credential {draft.id!r} is set twice")
            ids.add(draft.id)
            for name in draft.models or ():
                if name not in self._models:
                    self._add_physical(name, draft)
            claims = draft.claims
            credentials[draft.sha256] = Credential(
                id=draft.id,
                sha256=draft.sha256,
                team=next(iter(claims.get("team", ())), ""),
                user_id=next(iter(claims.get("user_id", ())), ""),
                projects=claims.get("projects", ()),
                environments=claims.get("environments", ()),
                workflow_tags=claims.get("workflow_tags", ()),
                cost_centers=claims.get("cost_centers", ()),
                defaults=draft.defaults,
                models=draft.models,
                max_sessions=draft.max_sessions,
                revoked=draft.revoked,
                tools=tools_of(draft, servers),
            )
        return credentials

    def _add_physical(self, name: str, draft: CredentialDraft) -> None:
        found = {
            target.name: target
            for model in self._models.values()
            for target in model.all_targets
            if name in (target.model, target.name)
        }
        if not found:
            draft.section.error(
                "models", "unknown_model", f"{name[:80]!r} is no virtual model and no target"
            )
            return
        first, *others = found.values()
        self._models[name] = VirtualModel(name, (first,), tuple(others), physical=True)

    # -- limits -----------------------------------------------------------------------------------

    def _limits(self) -> list[ConditionalLimit[Limit]]:
        limits = []
        seen: dict[str, LimitDraft] = {}
        ids = {draft.id for draft in self._drafts.limits}
        former = Counter(draft.renamed_from for draft in self._drafts.limits)
        for draft in self._drafts.limits:
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
            if Scope.SESSION in draft.scope and not self._has_companion(draft):
                draft.section.warning(
                    "scope",
                    "session_without_companion",
                    f"{draft.id}: session ids are chosen by the caller; add a limit per user, "
                    "team, project or credential",
                )
            for unit_name, ceiling in draft.ceilings:
                limits.append(ConditionalLimit(_limit(draft, unit_name, ceiling), draft.conditions))
        return limits

    def _velocity(self) -> LimitIndex[VelocityRule]:
        ids = {draft.id for draft in self._drafts.limits}
        for draft in self._drafts.velocity:
            rule = draft.rule.limit
            if rule.id in ids:
                draft.section.error("id", "duplicate_id", f"{rule.id!r} is another rule's id too")
            ids.add(rule.id)
        return LimitIndex([draft.rule for draft in self._drafts.velocity])

    def _kills(self, credentials: Mapping[bytes, Credential]) -> tuple[Kill, ...]:
        for draft in self._drafts.kills:
            field, value = draft.kill.field, draft.kill.value
            models, providers = self._models.values(), self._providers.values()
            if not names_something(field, value, credentials.values(), providers, models):
                draft.section.warning(
                    field, "kill_without_effect", f"the policy has no {field} {value!r}"
                )
        return tuple(draft.kill for draft in self._drafts.kills)

    def _has_companion(self, draft: LimitDraft) -> bool:
        principal = {Scope.USER, Scope.TEAM, Scope.PROJECT, Scope.CREDENTIAL}
        return any(
            other is not draft and principal & set(other.scope) and Scope.SESSION not in other.scope
            for other in self._drafts.limits
        )

    def _fallbacks(self) -> dict[Breach, VirtualModel]:
        fallbacks: dict[Breach, VirtualModel] = {}
        for draft in self._drafts.limits:
            breach = draft.breach
            if breach.kind is BreachKind.FALLBACK_TO and breach not in fallbacks:
                resolved = self._resolve_fallback(draft)
                if resolved is not None:
                    fallbacks[breach] = resolved
            if breach in fallbacks:
                self._compare_prices(draft, fallbacks[breach])
        return fallbacks

    def _compare_prices(self, draft: LimitDraft, fallback: VirtualModel) -> None:
        """Whether a fallback may cost more than what it stands in for."""
        dearest = max(fallback.targets, key=_compared_price, default=None)
        for model in self._models.values():
            if model is fallback or model.physical or not _may_match(draft, model.name):
                continue
            asked = max(map(_compared_price, model.targets), default=0)
            if dearest is not None and _compared_price(dearest) > asked:
                draft.section.warning(
                    draft.breach_key,
                    "dearer_fallback",
                    f"{draft.id}: {dearest.name} costs more than what {model.name} asks for",
                )

    def _resolve_fallback(self, draft: LimitDraft) -> VirtualModel | None:
        name = draft.breach.name
        if name in self._models:
            self._check_cycle(draft, name)
            return self._models[name]
        targets = [target for model in self._models.values() for target in model.all_targets]
        by_id = {target.name: target for target in targets if target.id == name}
        found = by_id or {t.name: t for t in targets if in_family(t.model, name)}
        canonical = {target.canonical_model for target in found.values()}
        if len(canonical) == 1:
            first, *others = found.values()
            return VirtualModel(f"fallback_to_{name}", (first,), tuple(others))
        if not found:
            known = ", ".join(sorted(self._models)) or "none"
            message = f"{name[:80]!r} is no virtual model ({known}), target id or model family"
            draft.section.error(draft.breach_key, "unknown_fallback", message)
        else:
            message = f"{name!r} may be any of {', '.join(sorted(canonical))}; name one exactly"
            draft.section.error(draft.breach_key, "ambiguous_fallback", message)
        return None

    def _check_cycle(self, draft: LimitDraft, name: str) -> None:
        """A rule for one model that falls back to a model whose rule falls back to the first."""
        leads: dict[str, set[str]] = {}
        for other in self._drafts.limits:
            if other.breach.kind is BreachKind.FALLBACK_TO and other.breach.name in self._models:
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
