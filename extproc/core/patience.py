"""How long a request may wait, and whether waiting can help it at all."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.core.callers import Caller
from extproc.core.events import RequestHeaders
from extproc.core.holds import joined
from extproc.core.waiting import Waiter
from extproc.ledger.port import Standing
from extproc.values.limit import Amounts, Unit
from extproc.wire.headers import client_timeout_ms


def newcomer(
    caller: Caller, asked: RequestHeaders, body_bytes: int, now_ms: int, max_wait_ms: int
) -> Waiter:
    """A waiter with its deadline: at most ``max_wait_ms`` from now. Of the client's own patience,
    which began with its headers, half is left to the provider."""
    deadline_ms = now_ms + max_wait_ms
    patience_ms = client_timeout_ms(asked.headers)
    if patience_ms is not None:
        deadline_ms = min(deadline_ms, asked.now_ms + patience_ms // 2)
    identity = joined((caller.credential.id, caller.envelope.user_id))
    return Waiter(identity, body_bytes, now_ms, deadline_ms)


def can_fit_by(deadline_ms: int, standings: Sequence[Standing], amounts: Amounts) -> bool:
    """Whether a request may fit into all of some full counters in time.

    That is by time alone, or once everything that is reserved now has been given back. A request
    that was sent stays counted as one, so a limit on requests has nothing to give back.
    """
    for hold, settled, _, resets_at_ms in standings:
        unit = hold.limit.unit
        if resets_at_ms is not None and resets_at_ms < deadline_ms:
            continue
        if unit is Unit.REQUESTS or settled + amounts[unit] > hold.ceiling:
            return False
    return True
