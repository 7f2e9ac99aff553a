"""The kill switch: identity values, models and providers whose requests are stopped at once.

Who is stopped is remembered with the callers and plans that were looked at, together with the
version of the switch: a request costs one comparison, and a change makes everybody be looked at
again. New requests and new attempts are refused; streams that run already are not cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from extproc.core.callers import DERIVED_SESSION_MARK, Caller, Plan
from extproc.policy.matching import MATCH_FIELDS
from extproc.policy.snapshot import Kill, Target
from extproc.wire.conversation import conversation_root
from extproc.wire.inference_request import InferenceRequest

_SESSION = MATCH_FIELDS.index("session_id")


class KillSwitch:
    """What the policy and the operators stop, together."""

    __slots__ = ("_by_operators", "_by_policy", "_killed", "active", "derived_sessions", "version")

    def __init__(self) -> None:
        self._by_policy: tuple[Kill, ...] = ()
        self._by_operators: tuple[Kill, ...] = ()
        self._killed: set[tuple[str, str]] = set()
        self.active = False
        self.derived_sessions = False
        """Some killed session has no id of the caller's: sessions must be derived to be seen."""
        self.version = 0
        """Grows with every change. Nothing is stopped at 0, so nothing need be looked at."""

    @property
    def count(self) -> int:
        """How many values are stopped."""
        return len(self._killed)

    @property
    def by_policy(self) -> tuple[Kill, ...]:
        """What the newest policy generation stops."""
        return self._by_policy

    def set_policy(self, kills: Sequence[Kill]) -> None:
        """A policy generation takes over."""
        self._by_policy = tuple(kills)
        self._changed()

    def set_operators(self, kills: Iterable[Kill]) -> None:
        """What operators stopped, and did not revive, as a whole."""
        self._by_operators = tuple(kills)
        self._changed()

    def stops(self, subject: Sequence[str]) -> str:
        """The field for which a request is stopped, or nothing. ``subject`` holds values in the
        order of ``MATCH_FIELDS``, as many as are known."""
        killed = self._killed
        if not killed:
            return ""
        for field, value in zip(MATCH_FIELDS, subject, strict=False):
            if (field, value) in killed:
                return field
        return ""

    def stops_request(
        self, subject: Sequence[str], target: Target, request: InferenceRequest
    ) -> str:
        """The same for a request and the target that it would go to, whoever has to know its
        session or not."""
        if self.derived_sessions and not subject[_SESSION]:
            derived = DERIVED_SESSION_MARK + conversation_root(request)
            subject = (*subject[:_SESSION], derived, *subject[_SESSION + 1 :])
        return self.stops(subject) or self.stops_target(target)

    def look_at_caller(self, caller: Caller) -> str:
        """The field that stops a caller. One that may pass is not looked at again until the switch
        is touched."""
        killed = self.stops((*caller.envelope, caller.credential.id))
        if not killed:
            caller.checked = self.version
        return killed

    def look_at_plan(self, plan: Plan, target: Target, request: InferenceRequest) -> str:
        """The same for what a caller asks for, and where it would go."""
        killed = self.stops_request(plan.subject, target, request)
        # A plan without a session is shared by conversations: each of them is looked at.
        if not killed and not (self.derived_sessions and not plan.subject[_SESSION]):
            plan.checked = self.version
        return killed

    def stops_target(self, target: Target) -> str:
        """The field for which nothing goes to a target, or nothing."""
        if ("provider", target.provider.name) in self._killed:
            return "provider"
        if ("model", target.model) in self._killed or ("model", target.name) in self._killed:
            return "model"
        return ""

    def _changed(self) -> None:
        kills = (*self._by_policy, *self._by_operators)
        killed = {(kill.field, kill.value) for kill in kills}
        if killed == self._killed:
            return
        self._killed = killed
        self.active = bool(killed)
        self.derived_sessions = any(
            field == MATCH_FIELDS[_SESSION] and value.startswith(DERIVED_SESSION_MARK)
            for field, value in killed
        )
        self.version += 1
