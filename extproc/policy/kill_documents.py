"""The kill switch, as written: the key ``kill_switch`` of a ``gateway-config``."""

from __future__ import annotations

from collections.abc import Iterable

from extproc.policy.drafts import Drafts, KillDraft
from extproc.policy.matching import MATCH_FIELDS
from extproc.policy.reading import Section
from extproc.policy.snapshot import Credential, Kill, PolicySnapshot, Provider, VirtualModel

MAX_KILL_VALUE_CHARACTERS = 256
"""Identity values are at most 128 long; models and derived sessions are the longest."""
MAX_REASON_CHARACTERS = 500


def read_kill_switch(document: Section, drafts: Drafts) -> None:
    """The list ``kill_switch``: one field and its value each, and why."""
    for section in document.sections("kill_switch"):
        reason = section.text("reason")[:MAX_REASON_CHARACTERS]
        named = [name for name in MATCH_FIELDS if name in section]
        for name in named:
            value = section.text(name)
            if is_kill_value(value):
                drafts.kills.append(KillDraft(section, Kill(name, value, reason)))
            else:
                section.error(name, "bad_kill", f"{value[:80]!r} is no value of {name}")
        if len(named) != 1:
            known = ", ".join(MATCH_FIELDS)
            section.error("", "bad_kill", f"an entry names exactly one of {known}")
        section.done()


def is_kill_value(value: str) -> bool:
    """Whether the text can be a value of a field: printable, and not too long."""
    return 0 < len(value) <= MAX_KILL_VALUE_CHARACTERS and value.isprintable()


def is_named(policy: PolicySnapshot, field: str, value: str) -> bool:
    """Whether the policy has such a credential, provider or model. Of people and projects nobody
    has a list: they always may be there."""
    return names_something(
        field,
        value,
        policy.credentials.values(),
        policy.providers.values(),
        policy.virtual_models.values(),
    )


def names_something(
    field: str,
    value: str,
    credentials: Iterable[Credential],
    providers: Iterable[Provider],
    models: Iterable[VirtualModel],
) -> bool:
    """The same over the parts of a policy that is not whole yet."""
    if field == "credential":
        return any(credential.id == value for credential in credentials)
    if field == "provider":
        return any(provider.name == value for provider in providers)
    if field == "model":
        return any(
            value == model.name or any(value in (one.model, one.name) for one in model.all_targets)
            for model in models
        )
    return True
