"""The alert loop over a real ledger and local receivers: what is used is told, and once."""

from __future__ import annotations

import asyncio
import random
import time
from asyncio import Future
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway import base_policy
from receivers import Answer, Receiver, slack

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge import alerting as alerting_module
from extproc.edge.alerting import Alerting
from extproc.edge.channels.channel import Outside
from extproc.edge.clock import Clock
from extproc.edge.services import Sidecar
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.ledger.port import Account, Granted, Hold, LedgerUnavailableError, Standing
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import PolicySnapshot
from extproc.values.limit import Amounts
from extproc.values.notice import Notice, Severity

SHARES = "".join(f'{{at_pct: {pct}, notify: ["slack:#x"]}}, ' for pct in (80, 100))
POLICY = f"""
name: b
type: gateway-budget-config
budgets:
  - {{id: all, ceiling_usd: 1, window: monthly, alerts: [{SHARES}]}}
  - {{id: each, per: user, ceiling_usd: 1, window: monthly, alerts: [{SHARES}]}}
  - {{id: quiet, ceiling_usd: 1, window: monthly}}
---
name: c
type: gateway-config
channels:
  slack: {{webhook: "env:HOOK"}}
  webhooks: {{w: {{url: "env:W"}}}}
"""
CANARY = "/services/T0/B0/canary"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    receiver = Receiver(slack)
    yield receiver
    receiver.close()


class World:
    """A sidecar's alerting over an embedded ledger; another one over the same folder after a
    ``restart``."""

    def __init__(self, state: Path, url: str, policy: str = POLICY) -> None:
        self.state, self.url, self.policy = state, url, policy
        self.generation = 0
        self.start()

    def start(self) -> None:
        self.sidecar = Sidecar(
            Gate(Generation(self.compiled())), EmbeddedLedger(Journal(self.state / "ledger")),
            Clock(), random.Random(1),
        )  # fmt: skip
        outside = Outside({"HOOK": self.url + CANARY, "W": self.url + "/w"}, "")
        self.alerting = Alerting(self.sidecar, self.state, outside, lambda key: self.may_send(key))
        self.alerting._outbox._first_pause_s = 0.02

    def may_send(self, _: str) -> bool:
        return True

    def compiled(self) -> PolicySnapshot:
        self.generation += 1
        texts = {name: text.encode() for name, text in base_policy(more=self.policy).items()}
        policy = compile_folder(texts, self.generation, {"HOOK": "x"}, "http://127.0.0.1:9")
        assert isinstance(policy, PolicySnapshot), policy
        return policy

    def hold(self, key: str, scope_value: str = "") -> Hold:
        limits = {limit.key: limit for limit in self.sidecar.gate.generation.policy.limits}
        return Hold(limits[key], scope_value, limits[key].ceiling)

    def spend(self, micro_usd: int, *holds: Hold) -> None:
        """Reserves and settles on the counters, as requests do."""
        name = f"r{time.time_ns()}/1"
        amounts: Amounts = (1, 0, 0, 0, micro_usd, micro_usd)
        now_ms = self.sidecar.clock.now_ms()
        self.sidecar.gate.watched.add(holds)
        account = Account(holds or [self.hold("all/usd")], {})
        ledger = self.sidecar.ledger
        outcome = ledger.reserve(name, account, amounts, now_ms, now_ms + 60_000)
        assert isinstance(outcome, Granted)
        ledger.settle(name, amounts, now_ms, {})
        ledger.flush()

    async def look(self, told: int = 0) -> None:
        """A look, and the time that the receiver needs for what it is to get in all."""
        await self.alerting.look()
        async with asyncio.timeout(5):
            while self.alerting._outbox.waiting() or self.sidecar.metrics.alerts_delivered < told:
                await asyncio.sleep(0.01)

    async def restart(self) -> None:
        """The process ends, whatever it was about to tell, and another takes over."""
        await self.alerting.close()
        self.sidecar.ledger.close()
        self.start()
        await self.alerting.start()


def titles(server: Receiver) -> list[str]:
    return [request.json["blocks"][0]["text"]["text"] for request in server.requests]


def run(scenario: Callable[[], Any]) -> None:
    asyncio.run(scenario())


def test_a_budget_that_is_spent_tells_each_threshold_once(tmp_path: Path, server: Receiver) -> None:
    async def scenario() -> None:
        world = World(tmp_path, server.url)
        await world.alerting.start()
        await world.look()
        assert titles(server) == []
        world.spend(810_000)
        await world.look(1)
        await world.look(1)
        world.spend(190_000)
        await world.look(2)
        assert titles(server) == [
            "Budget all has reached 80 %: 81 % of $1.00 used",
            "Budget all has reached 100 %: 100 % of $1.00 used",
        ]
        metrics = world.sidecar.metrics
        assert (metrics.alerts_fired, metrics.alerts_delivered) == (2, 2)
        await world.alerting.close()

    run(scenario)


def test_scope_values_are_known_from_bookings_and_after_a_restart_from_the_ledger(
    tmp_path: Path, server: Receiver
) -> None:
    async def scenario() -> None:
        world = World(tmp_path, server.url)
        await world.alerting.start()
        world.spend(850_000, world.hold("each/usd", "ann"), world.hold("quiet/usd"))
        await world.look(1)
        # Bob spends, and the process dies before anybody looked.
        world.spend(850_000, world.hold("each/usd", "bob"))
        await world.restart()
        await world.look(1)
        assert titles(server) == [
            "Budget each for user ann has reached 80 %: 85 % of $1.00 used",
            "Budget each for user bob has reached 80 %: 85 % of $1.00 used",
        ]
        await world.alerting.close()

    run(scenario)


def test_F36_what_was_not_delivered_is_delivered_after_a_restart_and_nothing_else(
    tmp_path: Path, server: Receiver
) -> None:
    async def scenario() -> None:
        world = World(tmp_path, server.url)
        await world.alerting.start()
        world.spend(810_000)
        await world.look(1)
        server.refuse_all = Answer(503)
        world.spend(190_000)
        await world.alerting.look()
        while len(server.requests) < 3:
            await asyncio.sleep(0.01)
        await world.restart()
        server.refuse_all = None
        await world.look(1)
        for _ in range(3):
            await world.restart()
            await world.look()
        taken = [title for title in titles(server) if "81 %" in title]
        assert len(taken) == 1
        assert world.sidecar.metrics.alerts_fired == 0
        assert titles(server)[-1] == "Budget all has reached 100 %: 100 % of $1.00 used"
        await world.alerting.close()

    run(scenario)


@pytest.mark.parametrize("steps", range(0, 40, 2))
def test_F36_whenever_the_process_dies_each_threshold_is_taken_and_hardly_ever_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Dies after so many half milliseconds. Twice is only what was taken, but not noted yet."""
    taken: list[str] = []
    noted: list[str] = []

    class Taking:
        async def send(self, notice: Notice) -> None:
            await asyncio.sleep(0.001)
            taken.append(notice.title)

    async def open_taking(*_: object) -> Taking:
        return Taking()

    monkeypatch.setattr(alerting_module, "open_channel", open_taking)

    async def scenario() -> None:
        world = World(tmp_path, "http://unused.invalid")
        await world.alerting.start()
        world.spend(1_000_000)
        looking = asyncio.create_task(world.alerting.look())
        for _ in range(steps):
            await asyncio.sleep(0.0005)
        noted.extend(str(entry["title"]) for entry in world.alerting._recent)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await world.restart()
        for _ in range(2):
            await world.look()
        await world.alerting.close()
        assert world.alerting._log.load()[1] == []

    run(scenario)
    titles = {f"Budget all has reached {pct} %: 100 % of $1.00 used" for pct in (80, 100)}
    assert set(taken) == titles
    assert len(taken) <= 3
    for title in noted:
        assert taken.count(title) <= 1 or title == noted[-1]


def test_a_new_generation_is_looked_at_with_its_own_ceiling(
    tmp_path: Path, server: Receiver
) -> None:
    async def scenario() -> None:
        world = World(tmp_path, server.url)
        await world.alerting.start()
        world.spend(500_000)
        await world.look()
        world.policy = POLICY.replace("id: all, ceiling_usd: 1", "id: all, ceiling_usd: 0.6")
        world.sidecar.gate.enter(Generation(world.compiled()))
        await world.look(1)
        assert titles(server) == ["Budget all has reached 80 %: 83.3 % of $0.60 used"]
        await world.alerting.close()

    run(scenario)


def test_a_channel_that_is_not_configured_is_only_logged(
    tmp_path: Path, server: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        world = World(tmp_path, server.url, POLICY.partition("---")[0])
        await world.alerting.start()
        world.spend(810_000)
        await world.look()
        metrics = world.sidecar.metrics
        assert (metrics.alerts_fired, metrics.alerts_delivered, metrics.alerts_failed) == (1, 0, 0)
        report: Any = world.alerting.report()
        assert [entry["outcome"] for entry in report["ended"]] == ["unset"]
        await world.alerting.close()

    run(scenario)
    assert "alert: Budget all has reached 80 %: 81 % of $1.00 used" in caplog.text
    assert server.requests == []


def test_a_sidecar_that_may_not_send_notes_the_crossing_and_is_silent(
    tmp_path: Path, server: Receiver
) -> None:
    async def scenario() -> None:
        world = World(tmp_path, server.url)
        asked: list[str] = []
        world.may_send = lambda key: bool(asked.append(key))  # type: ignore[method-assign]
        await world.alerting.start()
        world.spend(810_000)
        await world.look()
        await world.look()
        assert len(asked) == 1
        assert asked[0].startswith("all/usd|80%|monthly UTC|")
        await world.alerting.close()

    run(scenario)
    assert server.requests == []


def test_others_tell_through_the_same_way_once_per_key_and_wait_for_no_look(
    tmp_path: Path, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting_module, "LOOK_S", 60.0)

    async def scenario() -> None:
        world = World(tmp_path, server.url)
        await world.alerting.start()
        task = asyncio.create_task(world.alerting.run())
        now_ms = world.sidecar.clock.now_ms()
        notice = Notice(
            "kill|bob", "User bob was stopped", Severity.CRITICAL, (("By", "ann"),), now_ms
        )
        await asyncio.sleep(0.1)
        for _ in range(3):
            world.alerting.tell(notice, ["slack:#ops"])
        async with asyncio.timeout(5):
            while not server.requests:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert titles(server) == ["User bob was stopped"]
        task.cancel()
        await world.alerting.close()

    run(scenario)


def test_notices_of_others_are_bounded(
    tmp_path: Path, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting_module, "MAX_TOLD", 5)

    async def scenario() -> None:
        world = World(tmp_path, server.url)
        for number in range(9):
            notice = Notice(f"k{number}", "x", Severity.INFO, (), world.sidecar.clock.now_ms())
            world.alerting.tell(notice, [])
        assert world.sidecar.metrics.alerts_dropped == 4

    run(scenario)


def test_the_end_is_told_where_there_is_something_to_close(
    tmp_path: Path, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    server._answer = lambda _: Answer(200)

    async def scenario() -> None:
        policy = POLICY.replace('["slack:#x"]', '["slack:#x", "webhook:w"]')
        world = World(tmp_path, server.url, policy)
        await world.alerting.start()
        world.spend(810_000)
        await world.look(2)
        now_ns = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: now_ns() + 32 * 86_400 * 10**9)
        await world.look(3)
        await world.alerting.close()

    run(scenario)
    kinds = [request.json.get("type", "slack") for request in server.requests]
    assert sorted(kinds) == ["alert.resolved", "alert.triggered", "slack"]


class Remote:
    """A store elsewhere: answers later, or not."""

    def __init__(self, ledger: EmbeddedLedger) -> None:
        self._ledger = ledger
        self.available = True

    def peek(self, holds: Sequence[Hold], now_ms: int) -> Future[Sequence[Standing]]:
        future: Future[Sequence[Standing]] = asyncio.get_running_loop().create_future()

        def answer() -> None:
            if self.available:
                future.set_result(self._ledger.peek(holds, now_ms))
            else:
                future.set_exception(LedgerUnavailableError("gone"))

        asyncio.get_running_loop().call_later(0.01, answer)
        return future


def test_a_remote_store_is_asked_and_its_absence_changes_nothing(
    tmp_path: Path, server: Receiver
) -> None:
    async def scenario() -> None:
        world = World(tmp_path, server.url)
        await world.alerting.start()
        world.spend(810_000)
        remote = Remote(world.sidecar.ledger)  # type: ignore[arg-type]
        world.sidecar.ledger = remote  # type: ignore[assignment]
        remote.available = False
        await world.look()
        assert server.requests == []
        remote.available = True
        await world.look(1)
        assert len(server.requests) == 1
        assert world.sidecar.metrics.internal_errors == 0
        await world.alerting.close()

    run(scenario)


def test_a_fault_in_one_look_is_counted_and_the_next_one_tells(
    tmp_path: Path, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        world = World(tmp_path, server.url)
        await world.alerting.start()
        world.spend(810_000)
        with monkeypatch.context() as patch:
            patch.setattr(type(world.alerting._book), "observe", lambda *_: 1 // 0)
            await world.look()
        assert world.sidecar.metrics.internal_errors == 1
        await world.look(1)
        await world.alerting.close()

    run(scenario)


def test_thousands_of_counters_take_turns_and_never_hold_the_loop_up(
    tmp_path: Path, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting_module, "MAX_LOOKS", 1_000)

    async def scenario() -> None:
        world = World(tmp_path, server.url)
        await world.alerting.start()
        holds = [world.hold("each/usd", f"u{number}") for number in range(3_000)]
        for hold in holds:
            world.spend(900_000 if hold.scope_value == "u2999" else 1, hold)
        longest_s = 0.0

        async def watch() -> None:
            nonlocal longest_s
            while True:
                before = time.thread_time()
                await asyncio.sleep(0)
                longest_s = max(longest_s, time.thread_time() - before)

        watching = asyncio.create_task(watch())
        for _ in range(4):
            await world.alerting.look()
        watching.cancel()
        assert longest_s < 0.05, "ten times what it takes"
        await world.look(1)
        assert titles(server) == ["Budget each for user u2999 has reached 80 %: 90 % of $1.00 used"]
        await world.alerting.close()

    run(scenario)


def test_I8_no_secret_is_in_the_report_the_state_or_the_log(
    tmp_path: Path, server: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")

    async def scenario() -> str:
        world = World(tmp_path, server.url)
        await world.alerting.start()
        server.script += [Answer(500, b"rollup_error"), Answer(429, b"", {"Retry-After": "0"})]
        world.spend(1_000_000)
        await world.alerting.look()
        pending: Any = world.alerting.report()
        await world.look(2)
        report: Any = world.alerting.report()
        assert [entry["alert"] for entry in report["set_off"]] == ["80%", "100%"]
        assert [entry["outcome"] for entry in report["ended"]] == ["delivered"] * 2
        assert report["pending"] == []
        await world.alerting.close()
        return str(pending) + str(report)

    report = asyncio.run(scenario())
    state = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "all/usd" in report
    assert b"all/usd" in state
    assert "canary" not in report + caplog.text
    assert b"canary" not in state
