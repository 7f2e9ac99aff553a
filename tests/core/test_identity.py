"""What the credential says wins: contradictions are refused, absence gives no rights."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.core.identity import header_name, resolve_envelope
from extproc.policy.snapshot import Credential, EnvelopeRules
from extproc.values.envelope import ENVELOPE_FIELDS, Envelope
from extproc.values.refusal import Refusal, RefusalCode

WORDS = st.sampled_from(["alpha", "bravo", "delta"])
CHOICES = st.lists(WORDS, unique=True, max_size=2).map(tuple)
ABSENT = st.just("")

CREDENTIALS = st.builds(
    Credential,
    id=st.just("c"),
    sha256=st.just(b""),
    team=WORDS | ABSENT,
    user_id=WORDS | ABSENT,
    projects=CHOICES,
    environments=CHOICES,
    workflow_tags=CHOICES,
    cost_centers=CHOICES,
    defaults=st.dictionaries(st.sampled_from(ENVELOPE_FIELDS), WORDS, max_size=3),
)
CLAIMS = st.builds(Envelope, *[WORDS | ABSENT] * len(ENVELOPE_FIELDS))
RULES = st.builds(
    EnvelopeRules,
    st.just("x-tfy-"),
    st.dictionaries(
        WORDS | st.just("*"),
        st.lists(st.sampled_from(ENVELOPE_FIELDS), unique=True).map(tuple),
        max_size=3,
    ),
)
NO_RULES = EnvelopeRules()


def bound_to(credential: Credential) -> dict[str, tuple[str, ...]]:
    """The values that the credential allows, by field; a field that is not here is free."""
    bound = {
        "project": credential.projects,
        "team": tuple(filter(None, [credential.team])),
        "user_id": tuple(filter(None, [credential.user_id])),
        "workflow_tag": credential.workflow_tags,
        "environment": credential.environments,
        "cost_center": credential.cost_centers,
    }
    return {field: choices for field, choices in bound.items() if choices}


@given(CREDENTIALS, CLAIMS, RULES)
def test_a_claim_that_contradicts_is_always_refused_and_never_repeated(
    credential: Credential, claims: Envelope, rules: EnvelopeRules
) -> None:
    answer = resolve_envelope(credential, claims, rules)
    contradicted = [
        field
        for field, choices in bound_to(credential).items()
        if getattr(claims, field) and getattr(claims, field) not in choices
    ]
    if contradicted:
        assert isinstance(answer, Refusal)
        assert answer.code is RefusalCode.IDENTITY_CONFLICT
    if isinstance(answer, Refusal):
        for word in ("alpha", "bravo", "delta"):
            assert word not in answer.message


@given(CREDENTIALS, CLAIMS, RULES)
def test_an_accepted_envelope_is_within_the_credential_and_complete(
    credential: Credential, claims: Envelope, rules: EnvelopeRules
) -> None:
    envelope = resolve_envelope(credential, claims, rules)
    if isinstance(envelope, Refusal):
        return
    for field, value in envelope._asdict().items():
        claim = getattr(claims, field)
        assert value == claim or not claim
        choices = bound_to(credential).get(field)
        assert not choices or value in (*choices, "")
    required = rules.required.get(envelope.environment) or rules.required.get("*", ())
    assert all(getattr(envelope, field) for field in required)


@given(CREDENTIALS, CLAIMS, RULES)
def test_what_absence_is_filled_with_could_have_been_claimed(
    credential: Credential, claims: Envelope, rules: EnvelopeRules
) -> None:
    envelope = resolve_envelope(credential, claims, rules)
    if isinstance(envelope, Envelope):
        assert resolve_envelope(credential, envelope, rules) == envelope


@given(CREDENTIALS, CLAIMS, st.sampled_from(ENVELOPE_FIELDS))
def test_a_field_that_is_left_out_is_the_default_or_the_only_choice_or_nothing(
    credential: Credential, claims: Envelope, field: str
) -> None:
    answer = resolve_envelope(credential, claims._replace(**{field: ""}), NO_RULES)
    if isinstance(answer, Envelope):
        choices = bound_to(credential).get(field, ())
        only = choices[0] if len(choices) == 1 else ""
        assert getattr(answer, field) == (credential.defaults.get(field) or only)


def test_every_missing_header_is_named_at_once() -> None:
    rules = EnvelopeRules("x-acme-", {"*": ("project", "user_id", "cost_center")})
    answer = resolve_envelope(Credential("c", b""), Envelope(user_id="u"), rules)
    assert isinstance(answer, Refusal)
    assert answer.code is RefusalCode.IDENTITY_REQUIRED
    assert answer.param == "x-acme-project, x-acme-cost-center"
    assert answer.param in answer.message


def test_what_is_required_depends_on_the_environment_that_was_resolved() -> None:
    rules = EnvelopeRules(required={"production": ("team",), "*": ("project",)})
    credential = Credential("c", b"", environments=("production",))
    answer = resolve_envelope(credential, Envelope(project="p"), rules)
    assert isinstance(answer, Refusal)
    assert answer.param == "x-tfy-team"
    free = Credential("c", b"")
    claimed = Envelope(project="p", environment="staging")
    assert resolve_envelope(free, claimed, rules) == claimed


def test_a_conflict_names_the_header() -> None:
    credential = Credential("c", b"", user_id="mine")
    answer = resolve_envelope(credential, Envelope(user_id="yours"), NO_RULES)
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.param) == (RefusalCode.IDENTITY_CONFLICT, "x-tfy-user-id")
    assert "mine" not in answer.message


def test_a_default_that_the_credential_itself_forbids_is_no_way_in() -> None:
    credential = Credential("c", b"", projects=("p", "q"), defaults={"project": "other"})
    answer = resolve_envelope(credential, Envelope(), NO_RULES)
    assert isinstance(answer, Refusal)


def test_headers_are_named_as_callers_write_them() -> None:
    names = [header_name(field, EnvelopeRules("x-acme-")) for field in ENVELOPE_FIELDS]
    assert "x-acme-workflow-tag" in names
    assert not any("_" in name for name in names)


def test_leaving_the_environment_out_requires_no_less_than_naming_any_allowed_one() -> None:
    both = ("production", "staging")
    rules = EnvelopeRules(required=dict.fromkeys(both, ("project", "user_id")))
    credential = Credential("c", b"", environments=both)
    for environment in both:
        named = resolve_envelope(credential, Envelope(environment=environment), rules)
        assert isinstance(named, Refusal)
    assert isinstance(resolve_envelope(credential, Envelope(), rules), Refusal)
