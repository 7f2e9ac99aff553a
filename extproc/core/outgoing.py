"""A request as one target takes it: translated, with what policy sets otherwise there, and nothing
left of what earlier attempts were sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from extproc.core.commands import Forward
from extproc.core.gate import Attempt, Gate, InFlight
from extproc.core.translated import Translation, provider_headers, refusal_of
from extproc.dialects.codec import Context
from extproc.dialects.conversation import UntranslatableError
from extproc.values.dialect import TRANSLATED_OPERATIONS
from extproc.values.refusal import Refusal
from extproc.wire.errors import WireError
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


def first_outgoing(
    gate: Gate,
    entry: InFlight,
    attempt: Attempt,
    forward: Forward,
    headers: Iterable[tuple[str, bytes]],
) -> Forward | Refusal:
    """A first attempt that leaves changed, of a request that is not in flight yet. Where its body
    changes, the next one begins with what this one did, which is kept; without room for it there is
    no next one."""
    body = forward.body
    try:
        sent = outgoing(entry, attempt, body, headers, forward.now_ms)
    except (UntranslatableError, WireError) as error:
        return refusal_of(error)
    attempt.staged = True
    if sent.body is not body:
        entry.changed = True
        if len(entry.chain.targets) > 1 and not gate.keep(entry, body):
            entry.chain = entry.chain.without(entry.chain.targets[1:])
    notes = forward.notes
    if sent.dropped:
        entry.said_dropped = True
        notes = (*notes, ("dropped", sent.dropped))
    return forward._replace(
        chain=entry.chain,
        body=sent.body,
        remove_headers=(*forward.remove_headers, *sent.removed),
        notes=notes,
        path=sent.path,
        set_headers=sent.headers,
    )


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
    Raises ``UntranslatableError`` and ``WireError``.
    """
    operation, target = entry.operation, attempt.target
    arrived = callers_headers(entry, headers)
    path = dropped = ""
    translation = None
    changed: dict[str, str] = {}
    removed: tuple[str, ...] = ()
    if operation in target.translated:
        asked_model = str(entry.plan.account.about["model"])
        context = Context(entry.request_id, now_ms // 1000, asked_model)
        translation = Translation(attempt, operation, body, context, provider_headers(arrived))
        attempt.translation = translation
        body, path, dropped = translation.written_body(), translation.path, translation.dropped
        changed.update(translation.headers)
    overrides = target.overrides
    if overrides is not None:
        changed.update(overrides.set_headers)
        removed = overrides.removed_headers
        if operation in TRANSLATED_OPERATIONS:
            body = overridden(body, overrides.params)
    set_headers, gone = _changes(entry, arrived, changed, removed)
    return Outgoing(body, path, set_headers, gone, dropped, translation)


def callers_headers(entry: InFlight, headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """The headers of an attempt on its way, without what earlier attempts changed."""
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
