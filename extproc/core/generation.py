"""One policy generation, with the lookups that decisions derive from it."""

from __future__ import annotations

from extproc.core.callers import Callers
from extproc.core.holds import SCOPES, Applicable, ScopeValues, scope_key
from extproc.core.routing import Route
from extproc.core.velocity import Metered
from extproc.policy.snapshot import Credential, PolicySnapshot, VirtualModel
from extproc.values.dialect import OWN_OPERATIONS, Operation
from extproc.values.envelope import Envelope
from extproc.values.limit import Breach, Limit, Scope
from extproc.wire.headers import HeaderNames

_MODEL_PLACE, _PROVIDER_PLACE = SCOPES.index(Scope.MODEL), SCOPES.index(Scope.PROVIDER)

MAX_APPLICABLE = 65_536
"""Remembered sets of limits. Sets are few (one per kind of caller); when a policy with thousands of
conditions exceeds this, the memo starts afresh."""


class Generation:
    """A snapshot and its memos. Dropped whole when the last request of it has ended."""

    __slots__ = (
        "_applicable",
        "_fallbacks",
        "_routes",
        "callers",
        "names",
        "number",
        "policy",
        "times_answers",
    )

    def __init__(self, policy: PolicySnapshot) -> None:
        self.policy = policy
        self.number = policy.generation
        """The generation, as callers see it."""
        self.times_answers = any(model.learns_speed for model in policy.virtual_models.values())
        """Some model chooses by speed, so the durations in the access log are read."""
        self.callers = Callers()
        self.names = HeaderNames(policy.envelope.prefix)
        self._routes: dict[tuple[str, Operation], Route] = {
            (name, operation): Route(model, operation)
            for name, model in policy.virtual_models.items()
            for operation in Operation
            if operation not in OWN_OPERATIONS
        }
        self._fallbacks: dict[tuple[Breach, Operation], Route] = {}
        self._applicable: dict[int, Applicable] = {}

    def route(self, model: str, operation: Operation) -> Route | None:
        """The route of a virtual model, None for an unknown name."""
        return self._routes.get((model, operation))

    def fallback_route(self, breach: Breach, operation: Operation) -> Route:
        """Where ``fallback_to_NAME`` leads. The name was resolved when the policy was loaded."""
        route = self._fallbacks.get((breach, operation))
        if route is None:
            route = Route(self.policy.fallbacks[breach], operation)
            self._fallbacks[breach, operation] = route
        return route

    def applicable(
        self, envelope: Envelope, credential: Credential, model: str, provider: str
    ) -> Applicable:
        """The limits that apply to a request."""
        limits: tuple[Limit, ...] = self.policy.index.matching(
            envelope, credential.id, model, provider
        )
        # The index hands out the same tuple for the same kind of caller. Keyed by identity because
        # hashing a dozen limits costs more than matching them; ``Applicable`` keeps the tuple
        # alive, so an id is never reused while it is a key.
        found = self._applicable.get(id(limits))
        if found is None or found.limits is not limits:
            if len(self._applicable) >= MAX_APPLICABLE:
                self._applicable.clear()
            found = self._applicable[id(limits)] = Applicable(limits)
        return found

    def metered(
        self, envelope: Envelope, credential: Credential, values: ScopeValues
    ) -> tuple[Metered, ...]:
        """The velocity breakers that a request passes; model and provider are in its scope
        values."""
        rules = self.policy.velocity.matching(
            envelope, credential.id, values[_MODEL_PLACE], values[_PROVIDER_PLACE]
        )
        return tuple([(rule, scope_key(rule.scope, values)) for rule in rules])

    def may_use(self, credential: Credential, model: VirtualModel) -> bool:
        """Whether the credential may ask for this name; physical names only when listed."""
        if credential.models is None:
            return not model.physical
        return model.name in credential.models
