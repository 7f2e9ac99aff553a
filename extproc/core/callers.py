"""What stays the same from one request of a caller to the next, worked out once.

An agent sends thousands of requests with the same identity headers. Who that is, which limits
apply and which counters they are booked on is remembered under the raw headers; a request with
other headers is another kind. The memory belongs to one policy generation and ends with it.
"""

from __future__ import annotations

import hashlib

from extproc.core.holds import SCOPES, Applicable, ScopeValues
from extproc.ledger.port import Account
from extproc.policy.snapshot import Credential
from extproc.values.envelope import Envelope
from extproc.values.limit import Scope
from extproc.wire.headers import CallerHeaders

MAX_CALLERS = 16_384
"""Kinds of caller remembered, some 4 KB each with their plans; afterwards the memory starts afresh.
Sessions come and go by the million, so this bounds memory, not correctness."""

_WORKFLOW_PLACE = SCOPES.index(Scope.WORKFLOW_TAG)

Kind = tuple[bytes, tuple[bytes | None, ...]]


class Plan:
    """How requests of one caller to one target are booked."""

    __slots__ = ("account", "applicable", "scope_values")

    def __init__(self, applicable: Applicable, scope_values: ScopeValues, account: Account) -> None:
        self.applicable = applicable
        self.scope_values = scope_values
        self.account = account

    @property
    def workflow_tag(self) -> str:
        """What the workflow is known by: its tag, or one name per credential for calls without."""
        return self.scope_values[_WORKFLOW_PLACE]


class Caller:
    """A verified kind of caller."""

    __slots__ = ("credential", "envelope", "plans")

    def __init__(self, credential: Credential, envelope: Envelope) -> None:
        self.credential = credential
        self.envelope = envelope
        self.plans: dict[tuple[str, str, str], Plan] = {}
        """By operation, asked model and target: as many as the policy has names, no more."""


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
