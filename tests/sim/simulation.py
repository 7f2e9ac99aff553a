"""The whole system in one process, from one seed: real sidecars, a false world around them.

Real: services, gate, machines, settlement, codec, upkeep, the embedded ledger and its journal on
disk. False: time, Envoy, clients, providers, the network, and death, which may come at any step.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from random import Random
from typing import Any

import invariants
import sim_policy
from books import Books, MortalJournal, Violation, WatchedLedger
from fake_envoy import ENDINGS, Attempt, Call, FakeEnvoy, new_call
from fake_provider import Provider
from remote_ledger import ClientLog, LedgerServer, RemoteLedger
from schedule import ProcessLoop, Schedule
from transport import Process

from extproc.core.gate import LEASE_MS, Gate
from extproc.core.generation import Generation
from extproc.edge.services import Sidecar as Services
from extproc.ledger.embedded import EmbeddedLedger

START_MS = 1_790_000_000_000
MONTH_MS = 32 * 86_400_000
LENGTHS_MS = (2_000, 60_000, 600_000)
MAX_STEPS = 400_000

FAULTS = {
    "connect_failed": 0.4, "status": 0.5, "timeout": 0.3, "reset": 0.3, "cut": 0.3, "lie": 0.3,
    "overrun": 0.3, "late_logs": 0.3, "lost_logs": 0.2, "lost_before_send": 0.1,
    "bills_after_disconnect": 1.0, "long_streams": 0.3, "leaves": 0.4, "kills": 0.01,
    "envoy_dies": 0.3, "reloads": 1.0, "small_segments": 1.0, "disk_full": 0.4, "suspends": 0.4,
    "network_lost": 0.3, "network_slow": 0.4, "network_down": 1.0, "ledger_empties": 1.0,
}  # fmt: skip
"""Every fault, and the most of it that a seed may draw."""
PEACE: dict[str, float] = {**dict.fromkeys(FAULTS, 0.0), "answer": 1.0, "stream": 1.0}
MODELS = ("fast", "fast", "dear", "thrifty")


def swarm(draw: Random) -> dict[str, float]:
    """A seed's own mix: some faults never happen, the others have wildly different shares."""
    mix = {
        fault: most * draw.choice([0.03, 0.2, 0.5, 1.0]) if draw.random() < 0.5 else 0.0
        for fault, most in FAULTS.items()
    }
    return {**mix, "answer": draw.choice([0.2, 1.0]), "stream": draw.choice([0.2, 1.0])}


class VirtualClock:
    """The sidecars' clock."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def now_ms(self) -> int:
        return self._schedule.now_ms


class Sidecar:
    """The place of one sidecar: its folder, its Envoy, and the process that lives there now."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.folder = folder
        self.process: Process | None = None
        self.ledger: Any = None
        self.store: Any = None
        self.log = ClientLog()
        self.generation = 0
        self.variants: dict[int, int] = {}
        """Which of the policies a generation was."""
        self.full_file = -1
        """The journal's file, when it was put on a disk without room."""
        self.envoy: FakeEnvoy

    @property
    def disk_is_full(self) -> bool:
        """The journal cannot be written."""
        return self.full_file >= 0

    def close_files(self) -> None:
        """What the kernel does for a dead process: its files, locks with them, are closed."""
        if self.full_file >= 0:
            os.close(self.full_file)
            self.full_file = -1
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}").startswith(f"{self.folder}/"):
                    os.close(int(name))


class Simulation:
    """One run; what is not given is drawn. ``kill_at`` kills at that kill point, counted from 1."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        mix: dict[str, float] | None = None,
        calls: int | None = None,
        sidecars: int | None = None,
        length_ms: int | None = None,
        kill_at: int | None = None,
    ) -> None:
        self.seed = seed
        self.folder = folder
        self.draw = Random(seed)
        self.mix = swarm(self.draw) if mix is None else dict(mix)
        number = self.draw.choice([1, 1, 2, 3]) if sidecars is None else sidecars
        self.remote = number > 1
        self.calls = self.draw.choice([20, 60, 120]) if calls is None else calls
        self.kill_at = kill_at
        self.length_ms = self.draw.choice(LENGTHS_MS) if length_ms is None else length_ms
        self.kill_points = 0
        self.kill_points_under_load = 0
        self.killed: list[str] = []
        """Names of the points at which a process died."""
        self.schedule = Schedule(START_MS + self.draw.randint(0, MONTH_MS))
        self.schedule.on_killed = self._on_killed
        self.books = Books()
        self.provider = Provider(self.draw)
        self.server = LedgerServer(self.schedule, self.draw, range(number))
        self.sidecars = [Sidecar(n, folder / str(n)) for n in range(number)]
        self._processes = 0
        self._awake_from_ms = 0
        self._variant = self.draw.randrange(sim_policy.VARIANTS)
        for sidecar in self.sidecars:
            sidecar.envoy = FakeEnvoy(
                self.schedule, self.draw, self.provider, self.mix, sidecar, self._watch(sidecar)
            )

    # -- what Envoy reports -----------------------------------------------------------------------

    def _watch(self, sidecar: Sidecar) -> Any:
        world = self

        class Watch:
            @staticmethod
            def decided(call: Call) -> None:
                call.variant = sidecar.variants[call.generation]
                invariants.i7_one_generation(world, call)

            @staticmethod
            def sent(call: Call, attempt: Attempt) -> None:
                invariants.i1_no_attempt_without_a_durable_reservation(world, call, attempt)

            @staticmethod
            def unanswered(call: Call, alive: bool) -> None:
                invariants.i12_every_message_is_answered(world, call, alive)

            @staticmethod
            def passed_undecided(call: Call) -> None:
                raise Violation(f"I6: the {call.stage} of a request were let go without a verdict")

            @staticmethod
            def target_of(call: Call, cluster: str) -> str:
                policy = sim_policy.sim_policy(call.variant, call.generation)
                for model in policy.virtual_models.values():
                    for target in (*model.targets, *model.fallbacks):
                        if target.clusters.get(call.dialect) == cluster:
                            return target.name
                raise Violation(f"I6: the verdict names a cluster that no target has: {cluster}")

        return Watch

    # -- lives and deaths -------------------------------------------------------------------------

    def _start(self, sidecar: Sidecar) -> None:
        self._processes += 1
        loop = ProcessLoop(self.schedule, self._may_die)
        if self.remote:
            ledger: Any = RemoteLedger(self.server, sidecar.number, sidecar.log, loop)
            store: Any = ledger
        else:
            small = self.draw.random() < self.mix["small_segments"]
            segment_bytes = self.draw.choice([500, 4_000]) if small else 64_000_000
            store = MortalJournal(sidecar.folder, segment_bytes)
            ledger = EmbeddedLedger(store)
        sidecar.ledger = WatchedLedger(ledger, self.books, loop, exact=not self.remote)
        sidecar.store = store
        store.watched = sidecar.ledger
        sidecar.generation += 1
        sidecar.variants[sidecar.generation] = self._variant
        gate = Gate(Generation(sim_policy.sim_policy(self._variant, sidecar.generation)))
        services = Services(
            gate, sidecar.ledger, VirtualClock(self.schedule), Random(self.draw.random())
        )
        sidecar.process = Process(self._processes, self.schedule, loop, self.draw, services)

    def _may_die(self, loop: ProcessLoop, point: str) -> None:
        self.kill_points += 1
        doomed = self.kill_points == self.kill_at
        if self.mix["kills"]:
            doomed = self.draw.random() < self.mix["kills"]
        if doomed:
            self.killed.append(point)
            self.schedule.note("killed at " + point)
            loop.die()

    def _on_killed(self, loop: ProcessLoop) -> None:
        sidecar = next(s for s in self.sidecars if s.process and s.process.loop is loop)
        assert sidecar.process is not None
        process, sidecar.process = sidecar.process, None
        sidecar.store.watched = None
        sidecar.ledger.died()
        if sidecar.ledger.torn:
            self._tear(sidecar)
        process.died()
        sidecar.close_files()
        self.schedule.after(self.draw.randint(50, 3_000), "restart", self._start, sidecar)

    def _tear(self, sidecar: Sidecar) -> None:
        """The last write got somewhere into the file, or into all of it, or nowhere."""
        if self.remote:
            sidecar.ledger.inner.torn_write(self.draw)
            return
        newest = sorted(sidecar.folder.glob("usage-*.log"))[-1]
        before = newest.stat().st_size
        sidecar.ledger.inner.flush()
        os.truncate(newest, self.draw.randint(before, newest.stat().st_size))

    def _reload(self) -> None:
        self._variant = self.draw.randrange(sim_policy.VARIANTS)
        for sidecar in self.sidecars:
            if sidecar.process is not None:
                sidecar.generation += 1
                sidecar.variants[sidecar.generation] = self._variant
                policy = sim_policy.sim_policy(self._variant, sidecar.generation)
                services = sidecar.process.sidecar
                enter = getattr(services, "enter", services.gate.enter)
                sidecar.process.loop.call_soon(enter, Generation(policy))

    # -- the story --------------------------------------------------------------------------------

    def run(self) -> None:
        """Load with faults, then peace, then proof. Raises with seed and step."""
        try:
            self._run()
        except AssertionError as error:
            raise type(error)(
                f"{error}\n  at step {self.schedule.number} ({self.schedule.name}); "
                f"killed at {self.killed}; replay with TOKENWEIR_SIM_SEED={self.seed}"
            ) from error
        finally:
            self._end()

    def _run(self) -> None:
        for sidecar in self.sidecars:
            self._start(sidecar)
        self._plan(self.length_ms)
        self._until(self.schedule.now_ms + self.length_ms)
        self._make_peace()
        # Streams that go on are over by now, and so is every lease that was renewed last.
        while any(not call.over for s in self.sidecars for call in s.envoy.calls):
            self._until(self.schedule.now_ms + 60_000)
        self._until(self.schedule.now_ms + 30_000)
        self._sleep(LEASE_MS)
        for check in invariants.IN_THE_END:
            check(self)
        self._serves_again()

    def _plan(self, length_ms: int) -> None:
        draw, mix, after = self.draw, self.mix, self.schedule.after
        for _ in range(self.calls):
            after(draw.randint(0, length_ms), "a client asks", self._ask)
        for fault, action, most in (
            ("reloads", self._reload, 4),
            ("envoy_dies", self._envoy_dies, 2),
            ("network_down", self._network_down, 3),
            ("ledger_empties", self.server.empty, 3),
            ("disk_full", self._fill_disk, 2),
            ("suspends", self._suspend, 2),
        ):
            for _ in range(most):
                if draw.random() < mix[fault]:
                    after(draw.randint(0, length_ms), fault, action)
        self.server.network.lost = mix["network_lost"]
        self.server.network.slow = mix["network_slow"]

    def _ask(self) -> None:
        draw = self.draw
        leaves_ms = draw.randint(0, 2_000) if draw.random() < self.mix["leaves"] else None
        envoy = draw.choice(self.sidecars).envoy
        envoy.call(*new_call(draw, MODELS), leaves_ms)

    def _envoy_dies(self) -> None:
        self.draw.choice(self.sidecars).envoy.die()

    def _fill_disk(self) -> None:
        """The journal can be written no more, until somebody restarts the process."""
        sidecar = self.draw.choice(self.sidecars)
        if sidecar.process is None or self.remote or sidecar.disk_is_full:
            return
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{name}")
                if target.startswith(f"{sidecar.folder}/usage-"):
                    full = os.open("/dev/full", os.O_WRONLY)
                    os.dup2(full, int(name))
                    os.close(full)
                    sidecar.full_file = int(name)
        delay_ms = self.draw.randint(100, 20_000)
        self.schedule.after(delay_ms, "restarted", self._restart, sidecar, sidecar.process)

    def _restart(self, sidecar: Sidecar, process: Process) -> None:
        if sidecar.process is process:
            process.loop.alive = False
            self.killed.append("restarted")
            self._on_killed(process.loop)

    def _suspend(self) -> None:
        """The machine sleeps: time goes on, and nothing else."""
        self.schedule.now_ms += self.draw.randint(1_000, 20 * 60_000)
        self._awake_from_ms = self.schedule.now_ms + invariants.LEASE_GRACE_MS

    def _network_down(self) -> None:
        self.server.network.up = False
        self.schedule.after(self.draw.randint(100, 30_000), "network up", self._network_up)

    def _network_up(self) -> None:
        self.server.network.up = True

    def _make_peace(self) -> None:
        self.mix.update(PEACE)
        self.kill_points_under_load = self.kill_points
        self.server.network.up = True
        self.server.network.lost = self.server.network.slow = 0.0

    def _serves_again(self) -> None:
        """I12: next month everybody is served, and in the end nothing is held."""
        self._sleep(MONTH_MS)
        for sidecar in self.sidecars:
            body = {"model": "thrifty", "max_tokens": 5, "messages": []}
            headers = {"authorization": "Bearer " + sim_policy.KEYS["one"]}
            call = sidecar.envoy.call(body, headers, None)
            self._until(self.schedule.now_ms + 30_000)
            if call.status != 200:
                raise Violation(f"I12: after all faults: {call.verdict}, {call.status}")
        for check in invariants.IN_THE_END:
            check(self)

    def _sleep(self, length_ms: int) -> None:
        """Time passes in which nothing runs, as when a machine was suspended."""
        self.schedule.now_ms += length_ms
        self._awake_from_ms = self.schedule.now_ms + invariants.LEASE_GRACE_MS
        self._until(self._awake_from_ms + 5_000)

    @property
    def just_woke(self) -> bool:
        """The machine slept until a moment ago: timers and upkeep are still behind."""
        return self.schedule.now_ms < self._awake_from_ms

    def _until(self, end_ms: int) -> None:
        schedule = self.schedule
        marker = schedule.after(max(0, end_ms - schedule.now_ms), "so far", lambda: None)
        while schedule.run_next():
            self._check()
            if schedule.name == "so far" and schedule.now_ms >= marker.due_ms:
                return
            assert schedule.number < MAX_STEPS, "the world does not come to rest"

    def _check(self) -> None:
        for check in invariants.AFTER_EVERY_STEP:
            check(self)
        schedule = self.schedule
        if schedule.number % 64 or self.just_woke:
            return
        if all(sidecar.process for sidecar in self.sidecars):
            invariants.i4_ends_within_its_lease(self)

    def _end(self) -> None:
        for sidecar in self.sidecars:
            if sidecar.process is not None:
                sidecar.process.end()
            sidecar.close_files()

    @property
    def verdicts(self) -> dict[str, int]:
        """How requests fared, by verdict and attempt endings."""
        seen: dict[str, int] = {}
        for sidecar in self.sidecars:
            for call in sidecar.envoy.calls:
                seen["held"] = seen.get("held", 0) + call.held
                for what in (call.verdict, *(attempt.ending for attempt in call.attempts)):
                    seen[what] = seen.get(what, 0) + 1
        return seen


assert set(ENDINGS) <= {*FAULTS, "answer", "stream"}
