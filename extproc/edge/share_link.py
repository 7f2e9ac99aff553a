"""The connection on which sidecars of one store tell each other things.

Each subject has a mark that changes with it. Every sidecar asks for the mark a few times a second,
and reads on when it is another one. On a connection of its own: nothing of this waits behind
reservations, or holds them up.
"""

from __future__ import annotations

from dataclasses import replace

import hiredis

from extproc.ledger.port import LedgerUnavailableError
from extproc.ledger.redis_errors import moved_to
from extproc.ledger.redis_link import Link, connect
from extproc.values.store_address import StoreAddress

POLL_S = 0.2
"""What is told holds everywhere within a second: this, a read, and what a busy loop adds."""
ANSWER_TIMEOUT_S = 2.0
"""Nobody waits for a share, and 10,000 orders take longer than a reservation does."""
RETRY_S = 0.5
"""How soon a lost share is asked again: what it knows is obeyed within a second of its return."""


async def connected(address: StoreAddress, mark: bytes) -> Link:
    """A connection to who has the mark; a cluster says who that is. Raises what ``connect`` and
    ``Link.ask`` raise."""
    link = await connect(address)
    try:
        await link.ask("GET", mark, timeout_s=ANSWER_TIMEOUT_S)
    except (hiredis.ReplyError, LedgerUnavailableError) as error:
        link.give_up("closed")
        place = moved_to(str(error))
        if place is None:
            raise
        return await connect(replace(address, host=place[0], port=place[1]))
    return link
