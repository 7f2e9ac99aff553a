"""What a call of a tool counts in the end."""

from __future__ import annotations

from itertools import product

import pytest
from tool_world import ToolWorld
from world import NOW

from extproc.core import settlement
from extproc.core.commands import Release, Renew, Settle
from extproc.core.events import Ending, RequestGoesOn
from extproc.core.gate import LEASE_MS

ENDINGS = [
    Ending(status, *flags)
    for status in (0, 200, 202, 400, 404, 499, 500, 503)
    for flags in product((False, True), repeat=4)
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_call_that_may_have_been_made_counts(ending: Ending) -> None:
    world = ToolWorld()
    world.call("buy")
    (command,) = world.end(ending)
    refused = 400 <= ending.status < 500
    cut = ending.timed_out or ending.reset or ending.client_gone
    if ending.connect_failed or (refused and not cut):
        assert isinstance(command, Release)
        assert world.counters()["all/usd"] == (0, 0)
    else:
        assert isinstance(command, Settle)
        assert world.counters()["all/usd"] == (400_000, 0)
        assert world.counters()["both/tool_calls"] == (1, 0)
    assert world.gate.tool_calls == {}
    assert world.end(ending) == []


def test_a_call_that_was_never_sent_does_not() -> None:
    world = ToolWorld()
    world.call()
    assert isinstance(world.end(Ending(503), attempts=0)[0], Release)


def test_a_tool_at_work_keeps_its_reservation() -> None:
    world = ToolWorld()
    world.call()
    (renew,) = settlement.request_goes_on(world.gate, RequestGoesOn("r1", 10, NOW + 5_000))
    assert renew == Renew("r1/1", NOW + 5_000 + LEASE_MS, (0, 0, 0, 0, 0, 0))
    world.end(Ending(200))
    assert settlement.request_goes_on(world.gate, RequestGoesOn("r1", 10, NOW)) == []


def test_a_call_that_is_never_heard_of_again_is_charged_and_forgotten() -> None:
    world = ToolWorld()
    world.call()
    (settled,) = world.ledger.expire(NOW + LEASE_MS + 1)
    world.gate.forget(settled.reservation_id)
    assert world.gate.tool_calls == {}
    assert world.counters()["both/tool_calls"] == (1, 0)
