"""A folder of policy documents to one snapshot, or to the findings that prevent it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from extproc.policy.catalogue import LACKS
from extproc.policy.channel_documents import warn_of_unset_channels
from extproc.policy.document import READERS
from extproc.policy.drafts import (
    CredentialDraft,
    Drafts,
    ModelDraft,
    ProviderDraft,
    RuleDraft,
    TargetDraft,
)
from extproc.policy.kill_documents import names_something
from extproc.policy.limit_compiler import (
    compile_fallbacks,
    compile_limits,
    compile_velocity,
)
from extproc.policy.matching import LimitIndex
from extproc.policy.mcp_compiler import compile_mcp_servers, tools_of
from extproc.policy.mcp_server import McpServer
from extproc.policy.models import canonical_model
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
    VirtualModel,
)
from extproc.policy.wrappers import endpoint_of, wrappers
from extproc.policy.yaml_text import YamlError, parse_documents
from extproc.values.dialect import CALLER_DIALECTS, Dialect
from extproc.values.limit import Scope

MAX_FILES = 1_000
MAX_RULES = 50_000

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
        limits = compile_limits(drafts)
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
            fallbacks=compile_fallbacks(drafts, self._models),
            default_max_output_tokens=drafts.default_max_output_tokens,
            store=drafts.store,
            store_namespace=drafts.store_namespace,
            min_output_tokens=drafts.min_output_tokens,
            velocity=compile_velocity(drafts),
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

    def _kills(self, credentials: Mapping[bytes, Credential]) -> tuple[Kill, ...]:
        for draft in self._drafts.kills:
            field, value = draft.kill.field, draft.kill.value
            models, providers = self._models.values(), self._providers.values()
            if not names_something(field, value, credentials.values(), providers, models):
                draft.section.warning(
                    field, "kill_without_effect", f"the policy has no {field} {value!r}"
                )
        return tuple(draft.kill for draft in self._drafts.kills)
