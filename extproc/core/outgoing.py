"""A request as one target takes it: translated, with what policy sets otherwise there, and nothing
left of what earlier attempts were sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from extproc.core.gate import Attempt, Gate, InFlight
from extproc.core.routing import Chain
from extproc.core.translated import Translation, provider_headers
from extproc.dialects.codec import Context
from extproc.policy.snapshot import Target
from extproc.values.dialect import TRANSLATED_OPERATIONS, Operation
from extproc.wire.overrides import overridden


class Outgoing(NamedTuple):
    """What leaves for the target."""

    body: bytes
    path: str = ""
    """With query string; empty: where the target serves the operation."""
    headers: tuple[tuple[str, str], ...] = ()
    """To set."""
    removed: tuple[str, ...] = ()
    """Headers to take away."""
    dropped: str = ""
    """What was left out because the target has no equal, for people."""
    translation: Translation | None = None
    """What translates the answer."""


def leaves_changed(target: Target, operation: Operation) -> bool:
    """Whether a first attempt leaves the gateway as its target takes it. Where its first token is
    waited for it passes the sidecar once more, and is changed there."""
    return target.is_asked_otherwise(operation) and not target.first_token_timeout_ms


def with_room(gate: Gate, chain: Chain, body_bytes: int) -> Chain:
    """The chain of a request whose body changes; without fallbacks when too much is kept for
    others'."""
    return chain if gate.has_room(body_bytes) else chain.without(chain.targets[1:])


def first_outgoing(
    gate: Gate,
    entry: InFlight,
    attempt: Attempt,
    body: bytes,
    headers: Iterable[tuple[str, bytes]],
    now_ms: int,
) -> Outgoing:
    """The first attempt. The next one, if there is any, begins with what this one did."""
    entry.changed = attempt.staged = True
    if len(entry.chain.targets) > 1:
        gate.keep(entry, body)
    return outgoing(entry, attempt, body, headers, now_ms)


def outgoing(
    entry: InFlight,
    attempt: Attempt,
    body: bytes,
    headers: Iterable[tuple[str, bytes]],
    now_ms: int,
) -> Outgoing:
    """The attempt, from the body in its caller's API with the target's model and maximum, and from
    the headers as they are on their way.

    The attempt and its request remember what is needed for the answer and for a next attempt.
    Raises ``UntranslatableError`` and ``WireError``, which admission asked of the same code before.
    """
    operation, target = entry.operation, attempt.target
    arrived = _callers(entry, headers)
    path = dropped = ""
    translation = None
    changed: dict[str, str] = {}
    removed: tuple[str, ...] = ()
    if operation in target.translated:
        asked_model = str(entry.plan.account.about["model"])
        context = Context(entry.request_id, now_ms // 1000, asked_model)
        translation = Translation(attempt, operation, body, context, provider_headers(arrived))
        attempt.translation = translation
        body, path, dropped = translation.request.body, translation.path, translation.dropped
        changed.update(translation.headers)
    overrides = target.overrides
    if overrides is not None:
        changed.update(overrides.set_headers)
        removed = overrides.removed_headers
        if operation in TRANSLATED_OPERATIONS:
            body = overridden(body, overrides.params)
    set_headers, gone = _changes(entry, arrived, changed, removed)
    return Outgoing(body, path, set_headers, gone, dropped, translation)


def _callers(entry: InFlight, headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """The headers without what earlier attempts changed."""
    arrived = {name: value.decode("latin-1") for name, value in headers}
    for name, value in (entry.sent_headers or {}).items():
        if value is None:
            arrived.pop(name, None)
        else:
            arrived[name] = value
    return arrived


def _changes(
    entry: InFlight, arrived: Mapping[str, str], changed: Mapping[str, str], removed: Sequence[str]
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """What to set and what to remove, so that nothing is left of earlier attempts."""
    before = entry.sent_headers or {}
    if changed or removed:
        before = {**{name: arrived.get(name) for name in (*changed, *removed)}, **before}
        entry.sent_headers = before
    headers = {name: value for name, value in before.items() if value is not None}
    headers.update(changed)
    gone = tuple(name for name in before if name in removed or name not in headers)
    return tuple(each for each in headers.items() if each[0] not in gone), gone
