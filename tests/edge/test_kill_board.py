"""Orders of the kill switch: in effect at once, on disk before they are confirmed, shared."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from until import until_on_loop
from world import compiled

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge import kill_board
from extproc.edge.clock import Clock
from extproc.edge.kill_board import (
    FILE,
    Apply,
    KillBoard,
    KillBoardError,
    Known,
    NoShare,
    Order,
    TooManyKillsError,
)

Stopped = list[tuple[str, str]]


def board(state: Path, share: Any = None) -> tuple[Gate, KillBoard]:
    gate = Gate(Generation(compiled("")))
    return gate, KillBoard(gate, state, Clock(), share or NoShare())


def stopped(one: KillBoard) -> Stopped:
    return [(order.field, order.value) for order in one.killed]


def test_a_kill_outlives_the_process_and_a_revival_too(tmp_path: Path) -> None:
    gate, first = board(tmp_path)
    asyncio.run(first.kill("user_id", "mallory", "ran away"))
    asyncio.run(first.kill("team", "red", ""))
    assert gate.kills.stops(("", "red", "")) == "team"
    gate, second = board(tmp_path)
    assert stopped(second) == [("user_id", "mallory"), ("team", "red")]
    assert second.killed[0].reason == "ran away"
    assert gate.kills.stops(("", "", "mallory")) == "user_id"
    assert asyncio.run(second.revive("user_id", "mallory"))
    assert gate.kills.stops(("", "", "mallory")) == ""
    assert stopped(board(tmp_path)[1]) == [("team", "red")]


def test_what_is_not_stopped_cannot_be_revived(tmp_path: Path) -> None:
    _, one = board(tmp_path)
    assert not asyncio.run(one.revive("user_id", "alice"))
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("content", [b"", b"{", b'[{"field": 1}]', b"\xff", b'[["user_id","m"]]'])
def test_a_file_that_cannot_be_read_keeps_the_sidecar_from_starting(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(KillBoardError, match=FILE):
        board(tmp_path)


def test_a_full_disk_stops_at_once_and_never_revives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, one = board(tmp_path)
    asyncio.run(one.kill("team", "red", ""))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kill_board, "_write", full)
    with pytest.raises(OSError, match="No space"):
        asyncio.run(one.kill("user_id", "mallory", ""))
    assert gate.kills.stops(("", "", "mallory")) == "user_id"
    with pytest.raises(OSError, match="No space"):
        asyncio.run(one.revive("team", "red"))
    assert gate.kills.stops(("", "red")) == "team"
    assert ("team", "red") in stopped(one)


def test_orders_are_bounded_and_revivals_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill_board, "MAX_ORDERS", 3)
    _, one = board(tmp_path)

    async def scenario() -> None:
        for value in "abc":
            await one.kill("team", value, "")
        with pytest.raises(TooManyKillsError):
            await one.kill("team", "d", "")
        await one.kill("team", "a", "again")
        await one.revive("team", "b")
        await one.kill("team", "d", "")

    asyncio.run(scenario())
    assert stopped(one) == [("team", "c"), ("team", "a"), ("team", "d")]


def test_orders_at_the_same_time_are_all_on_disk(tmp_path: Path) -> None:
    _, one = board(tmp_path)

    async def scenario() -> None:
        await asyncio.gather(*(one.kill("user_id", f"u{number}", "") for number in range(40)))
        await asyncio.gather(*(one.revive("user_id", f"u{number}") for number in range(20)))

    asyncio.run(scenario())
    expected = {("user_id", f"u{number}") for number in range(20, 40)}
    assert set(stopped(one)) == set(stopped(board(tmp_path)[1])) == expected


class Share:
    """What a store between sidecars does: it keeps orders, and tells everybody who watches."""

    def __init__(self) -> None:
        self.kept: list[Order] = []
        self.watching: list[Apply] = []
        self.lost = 0

    async def publish(self, order: Order) -> None:
        self.kept.append(order)
        for apply in list(self.watching):
            await apply([order])

    async def watch(self, apply: Apply, known: Known) -> None:
        if self.lost:
            self.lost -= 1
            raise ConnectionError("gone")
        await apply(self.kept)
        self.watching.append(apply)
        await asyncio.Event().wait()


def test_every_sidecar_of_a_share_obeys_also_those_that_come_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        share = Share()
        share.lost = 1
        boards = [board(tmp_path / name, share) for name in ("a", "b")]
        watches = [asyncio.create_task(one.watch()) for _, one in boards]
        await until_on_loop(lambda: len(share.watching) == 2)
        await boards[0][1].kill("user_id", "mallory", "")
        for gate, _ in boards:
            assert gate.kills.stops(("", "", "mallory")) == "user_id"
        gate, late = board(tmp_path / "c", share)
        watches.append(asyncio.create_task(late.watch()))
        await until_on_loop(lambda: gate.kills.active)
        await late.revive("user_id", "mallory")
        assert not any(gate.kills.active for gate, _ in boards)
        for watch in watches:
            watch.cancel()

    asyncio.run(scenario())
    # Each has it on disk too: a sidecar that starts without the store knows what it knew.
    assert stopped(board(tmp_path / "b")[1]) == []


def test_of_two_orders_the_later_holds_and_nonsense_is_not_obeyed(tmp_path: Path) -> None:
    gate, one = board(tmp_path)

    def apply(orders: Iterable[Order]) -> None:
        asyncio.run(one.apply(orders))

    apply([Order("team", "red", "", 20, True), Order("team", "red", "", 10, False)])
    assert gate.kills.active
    apply([Order("team", "red", "", 30, False), Order("team", "red", "", 20, True)])
    assert not gate.kills.active
    version = gate.kills.version
    apply([Order("planet", "earth", "", 40, True), Order("team", "\0", "", 40, True)])
    apply([Order("team", "x", "y" * 10_000, 40, True)])
    assert gate.kills.version == version


def test_a_share_that_cannot_be_told_does_not_undo_the_kill(tmp_path: Path) -> None:
    class Broken(NoShare):
        async def publish(self, order: Order) -> None:
            raise ConnectionError("gone")

    gate, one = board(tmp_path, Broken())
    asyncio.run(one.kill("user_id", "mallory", ""))
    assert gate.kills.stops(("", "", "mallory")) == "user_id"
