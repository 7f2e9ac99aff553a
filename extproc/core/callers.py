"""What stays the same from one request of a caller to the next, worked out once.

An agent sends thousands of requests with the same identity headers. Who that is, which limits
apply and which counters they are booked on is remembered under the raw headers; a request with
other headers is another kind. The memory belongs to one policy generation and ends with it.
"""

from __future__ import annotations

import hashlib

from extproc.core.holds import SCOPES, Applicable, ScopeValues, scope_values
from extproc.core.velocity import Metered
from extproc.ledger.port import Account
from extproc.policy.snapshot import Credential
from extproc.values.envelope import ENVELOPE_FIELDS, Envelope
from extproc.values.limit import Scope
from extproc.wire.conversation import conversation_root
from extproc.wire.headers import CallerHeaders
from extproc.wire.inference_request import InferenceRequest

MAX_CALLERS = 16_384
"""Kinds of caller remembered, some 4 KB each with their plans; afterwards the memory starts afresh.
Sessions come and go by the million, so this bounds memory, not correctness."""

DERIVED_SESSION_MARK = "~"
"""Before a session that is derived from a conversation: it is in no identifier, so a derived
session is never somebody's real one."""
_SESSION_PLACE = ENVELOPE_FIELDS.index("session_id")
_WORKFLOW_PLACE = SCOPES.index(Scope.WORKFLOW_TAG)

Kind = tuple[bytes, tuple[bytes | None, ...]]


class Plan:
    """How requests of one caller to one target are booked."""

    __slots__ = ("account", "applicable", "checked", "metered", "rules", "scope_values", "subject")

    def __init__(
        self,
        applicable: Applicable,
        scope_values: ScopeValues,
        account: Account,
        metered: tuple[Metered, ...] = (),
        subject: tuple[str, ...] = (),
    ) -> None:
        self.applicable = applicable
        self.scope_values = scope_values
        self.account = account
        counting = [applicable.rules] if applicable.rules else []
        self.rules = ",".join(counting + [rule.id for rule, _ in metered])
        """Ids of what counts the request, comma separated."""
        self.metered = metered
        """The velocity breakers that requests of this plan pass."""
        self.subject = subject
        """What the kill switch looks at: values in the order of ``MATCH_FIELDS``, up to the asked
        model; a derived session in the place of the session."""
        self.checked = 0
        """The version of the kill switch that let this plan pass."""

    @property
    def session(self) -> str:
        """The session that counts, which may be derived."""
        return self.subject[_SESSION_PLACE]

    @property
    def workflow_tag(self) -> str:
        """What the workflow is known by: its tag, or one name per credential for calls without."""
        return self.scope_values[_WORKFLOW_PLACE]


class Caller:
    """A verified kind of caller."""

    __slots__ = ("checked", "credential", "envelope", "plans")

    def __init__(self, credential: Credential, envelope: Envelope) -> None:
        self.credential = credential
        self.envelope = envelope
        self.plans: dict[tuple[str, str, str], Plan] = {}
        """By operation, asked model and target: as many as the policy has names, no more. Beside a
        target's name stand the limits that a breach moved, where it did."""
        self.checked = 0
        """The version of the kill switch that let this caller pass."""

    def session(self, request: InferenceRequest, *, needed: bool) -> str:
        """The session of a request: the one that is named, else one that is derived from how the
        conversation began, where anything asks for a session."""
        named = self.envelope.session_id
        return named if named or not needed else DERIVED_SESSION_MARK + conversation_root(request)

    def scope_values(self, session: str, model: str, provider: str) -> ScopeValues:
        """What the counters of a request of this caller are keyed on."""
        return scope_values(self.envelope, self.credential.id, session, model, provider)


class Callers:
    """The callers that a policy generation has seen."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[Kind, Caller] = {}

    def find(self, kind: Kind) -> Caller | None:
        """A caller that was verified before."""
        return self._known.get(kind)

    def remember(self, kind: Kind, caller: Caller) -> None:
        """Takes a verified caller. Refused ones are verified, and refused, each time."""
        if len(self._known) >= MAX_CALLERS:
            self._known.clear()
        self._known[kind] = caller


def kind_of(headers: CallerHeaders) -> Kind:
    """What distinguishes kinds of caller. The API key is in it as a digest: a key is never kept."""
    secret = b"%b\n%b" % (headers.authorization or b"", headers.x_api_key or b"")
    return hashlib.sha256(secret).digest(), headers.identity
