"""Which limits apply to a request: every one whose conditions hold, none by order.

Conditions look at a few fields only, so requests of one kind of caller share one answer: it is
remembered under just those fields. A session id is not among them unless a rule names sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from extproc.values.envelope import ENVELOPE_FIELDS, Envelope

MATCH_FIELDS = (*ENVELOPE_FIELDS, "credential", "model", "provider", "tool", "mcp_server")
"""What a condition may look at. The last two are only there where a tool is called."""

MAX_REMEMBERED = 65_536
"""Kinds of caller remembered, some 200 bytes each; afterwards the memory starts afresh."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One field and the values it may have. No values: the field must be present."""

    place: int
    """In ``MATCH_FIELDS``."""
    values: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    """Values written with a trailing ``*``. There are no regular expressions in a policy."""

    def holds(self, value: str) -> bool:
        """Whether a request's value satisfies the condition."""
        if not self.values and not self.prefixes:
            return bool(value)
        return value in self.values or (bool(self.prefixes) and value.startswith(self.prefixes))


class Keyed(Protocol):
    """What can be matched: a limit, or a velocity rule."""

    @property
    def key(self) -> str:
        """Unique among those of one index."""
        ...


LimitT = TypeVar("LimitT", bound=Keyed)


@dataclass(frozen=True, slots=True)
class ConditionalLimit(Generic[LimitT]):
    """A limit and what must hold for it to apply."""

    limit: LimitT
    conditions: tuple[Condition, ...]


class LimitIndex(Generic[LimitT]):
    """All limits of a snapshot, found by literal condition first."""

    __slots__ = ("_always", "_by_value", "_fields", "_order", "_remembered")

    def __init__(self, limits: Sequence[ConditionalLimit[LimitT]]) -> None:
        self._order = {entry.limit.key: place for place, entry in enumerate(limits)}
        self._fields = tuple(
            sorted({condition.place for entry in limits for condition in entry.conditions})
        )
        self._by_value: dict[tuple[int, str], list[ConditionalLimit[LimitT]]] = {}
        self._always: list[ConditionalLimit[LimitT]] = []
        for entry in limits:
            literal = [c for c in entry.conditions if c.values and not c.prefixes]
            if not literal:
                self._always.append(entry)
                continue
            narrowest = min(literal, key=lambda condition: len(condition.values))
            for value in narrowest.values:
                self._by_value.setdefault((narrowest.place, value), []).append(entry)
        self._remembered: dict[tuple[str, ...], tuple[LimitT, ...]] = {}

    def matching(
        self, envelope: Envelope, credential_id: str, model: str, provider: str
    ) -> tuple[LimitT, ...]:
        """The limits that apply, in declared order. The same tuple for the same kind of caller."""
        return self.matching_subject((*envelope, credential_id, model, provider, "", ""))

    def matching_subject(self, subject: tuple[str, ...]) -> tuple[LimitT, ...]:
        """The same for one value each of ``MATCH_FIELDS``."""
        kind = tuple([subject[place] for place in self._fields])
        limits = self._remembered.get(kind)
        if limits is None:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            limits = self._remembered[kind] = self._search(subject)
        return limits

    def _search(self, subject: tuple[str, ...]) -> tuple[LimitT, ...]:
        found = list(self._always)
        for place in self._fields:
            found += self._by_value.get((place, subject[place]), ())
        matching = [
            entry.limit
            for entry in found
            if all(condition.holds(subject[condition.place]) for condition in entry.conditions)
        ]
        return tuple(sorted(matching, key=lambda limit: self._order[limit.key]))
