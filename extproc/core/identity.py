"""Who is asking: the credential's record against what the caller claims.

What the credential says wins. A claim that contradicts it is refused, never corrected in silence;
a claim may only add attribution within what the credential allows. An absent field never gives
more rights: it is filled from the credential's defaults, or it is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.policy.snapshot import Credential, EnvelopeRules
from extproc.values.envelope import ENVELOPE_FIELDS, Envelope
from extproc.values.refusal import Refusal, RefusalCode

DEFAULT_ENVIRONMENT = "*"
"""The entry of ``required`` for environments that have none of their own."""


def resolve_envelope(
    credential: Credential, claimed: Envelope, rules: EnvelopeRules
) -> Envelope | Refusal:
    """The verified envelope of a caller, or why it cannot be believed."""
    defaults = credential.defaults
    allowed: tuple[Sequence[str], ...] = (
        credential.projects,
        (credential.team,) if credential.team else (),
        (credential.user_id,) if credential.user_id else (),
        (),
        credential.workflow_tags,
        credential.environments,
        credential.cost_centers,
    )
    fields = []
    unsaid = []
    for name, claim, choices in zip(ENVELOPE_FIELDS, claimed, allowed, strict=True):
        value = claim
        if not value:
            value = defaults.get(name, "")
            if not value and len(choices) == 1:
                value = choices[0]
        if choices and value and value not in choices:
            return _conflict(name, rules)
        if choices and not value:
            # Bound to several, and none is named: rules about each of them would not match.
            unsaid.append(name)
        fields.append(value)
    envelope = Envelope._make(fields)
    required = rules.required.get(envelope.environment) or rules.required.get(
        DEFAULT_ENVIRONMENT, ()
    )
    missing = [
        name
        for name in ENVELOPE_FIELDS
        if name in unsaid or (name in required and not getattr(envelope, name))
    ]
    if missing:
        return _missing(missing, rules)
    return envelope


def header_name(field: str, rules: EnvelopeRules) -> str:
    """The header that carries an envelope field, as a caller would write it."""
    return rules.prefix + field.replace("_", "-")


def _conflict(field: str, rules: EnvelopeRules) -> Refusal:
    # The claimed value is not repeated: error bodies never echo header bytes.
    header = header_name(field, rules)
    return Refusal(
        RefusalCode.IDENTITY_CONFLICT,
        f"{header} contradicts the credential: it is bound to another {field.replace('_', ' ')}.",
        param=header,
    )


def _missing(fields: Sequence[str], rules: EnvelopeRules) -> Refusal:
    headers = ", ".join(header_name(field, rules) for field in fields)
    return Refusal(
        RefusalCode.IDENTITY_REQUIRED,
        f"The identity envelope is incomplete. Missing headers: {headers}.",
        param=headers,
    )
