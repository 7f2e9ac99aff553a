"""Hot reload: a saved policy folder becomes the next generation, in sidecar and Envoy together.

The folder is polled, not watched: a changed mount, an atomic rename, a symlink swap and an editor's
write all look the same that way. What does not compile, or what Envoy refuses, changes nothing: the
last good generation stays, and the reason is kept for everybody who asks.

Envoy keeps the clusters of older generations for as long as a request of theirs may still ask for
one. Generations are numbered from a file, so that their numbers grow over restarts too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from extproc.core.gate import LEASE_MS
from extproc.core.generation import Generation
from extproc.edge.services import Sidecar
from extproc.envoy.delivery import DeliveryRejectedError, EnvoyUnreachableError, FileDelivery
from extproc.envoy.render import render
from extproc.envoy.settings import GatewaySettings
from extproc.ledger.replaced_file import replace_file
from extproc.policy.compiler import compile_folder
from extproc.policy.loader import read_folder
from extproc.policy.snapshot import Finding, PolicySnapshot

_log = logging.getLogger(__name__)

POLL_S = 0.2
"""A save takes effect within a second: this, the compilation, and Envoy's confirmation."""
SETTLE_S = 0.05
"""A file that was just written may be half-written: it is read again until it stands still."""

TIDY_S = 5.0
"""How often it is looked whether clusters of older generations may go."""
UPLOAD_S = 75.0
"""A request chooses its generation with its headers and its clusters with its body's end: Envoy
gives a body 60 s. Until then a request of an old generation may be known to nobody but Envoy."""
MAX_KEPT_S = LEASE_MS / 1000 + UPLOAD_S
"""An attempt that begins later than this has no reservation to stand on."""
MAX_GENERATION = 2**53
"""JSON numbers beyond this are not exact everywhere."""

Stamp = tuple[tuple[str, int, int, int, int], ...]


class GenerationNumbers:
    """The last number given to a policy generation, in a file of the state folder."""

    def __init__(self, state: Path) -> None:
        self._path = state / "generation"
        self._last = 0
        try:
            number = int(self._path.read_bytes())
            if not 0 < number < MAX_GENERATION:
                raise ValueError(f"{number} is no generation")
            self._last = number
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            _log.warning("policy generations are numbered from 1 again: %s: %s", self._path, error)

    @property
    def next(self) -> int:
        """The number of a generation that may yet be refused."""
        return self._last + 1

    def take(self) -> None:
        """``next`` is in use from now on; no generation gets it again, whatever ends the process.

        A disk that takes no files costs only that promise: requests go on under the new number.
        """
        self._last += 1
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, b"%d\n" % self._last, durable=True)
        except OSError as error:
            _log.error("the policy's generation number cannot be kept: %s", error)


@dataclass(frozen=True, slots=True)
class Retired:
    """An older generation: its number, its clusters' names, and since when nothing enters it."""

    number: int
    clusters: frozenset[str]
    since_s: float


class PolicyReloader:
    """Watches one policy folder for one sidecar."""

    def __init__(
        self,
        folder: Path,
        settings: GatewaySettings,
        delivery: FileDelivery,
        environ: Mapping[str, str],
        demo_url: str | None,
        state: Path,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._delivery = delivery
        self._environ = environ
        self._demo_url = demo_url
        self._numbers = GenerationNumbers(state)
        self._stamp: Stamp = ()
        self._digest = ""
        self._retired: list[Retired] = []
        self._tidy_at_s = 0.0
        self.keeps_store = True
        """Whether the store of the start is the policy's, so that a reload may not change it."""
        self.problems: list[Finding] = []
        """Why the folder as it is now was not taken; empty when it is the active generation."""

    def load_first(self) -> PolicySnapshot | list[Finding]:
        """The folder at start; there is no last good generation to fall back to."""
        self._stamp = _stamp(self._folder)
        loaded = self._compile(self._numbers.next)
        if isinstance(loaded, PolicySnapshot):
            self._numbers.take()
            self._digest = loaded.digest
            _announce(loaded)
        return loaded

    async def confirm_first(self) -> None:
        """Tells when an Envoy that was already running does not take the folder of the start."""
        try:
            await self._delivery.confirm_first()
        except DeliveryRejectedError as error:
            self.problems = [self._finding("envoy_refused", error)]
            _log.error("Envoy does not run the policy: %s", error)

    async def watch(self, sidecar: Sidecar) -> None:
        """Runs until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._tidy(sidecar)
                if _stamp(self._folder) != self._stamp:
                    self._stamp = await self._settled_stamp()
                    await self._reload(sidecar)
            except Exception:  # noqa: BLE001  the watcher outlives any single reload
                sidecar.fault("a policy reload")

    async def _settled_stamp(self) -> Stamp:
        stamp = _stamp(self._folder)
        while True:
            await asyncio.sleep(SETTLE_S)
            again = _stamp(self._folder)
            if again == stamp:
                return stamp
            stamp = again

    async def _reload(self, sidecar: Sidecar) -> None:
        number = self._numbers.next
        loaded = await asyncio.to_thread(self._compile, number)
        if isinstance(loaded, list):
            self._refuse(sidecar, loaded)
            return
        if loaded.digest == self._digest:
            self.problems = []
            return
        if self.keeps_store and _store(loaded) != _store(sidecar.gate.generation.policy):
            text = f"the store is {loaded.store} now: restart the sidecar to count there"
            self._refuse(sidecar, [Finding(str(self._folder), 0, "store_changed", text)])
            return
        resources = await asyncio.to_thread(render, loaded, self._settings)
        try:
            await self._delivery.deliver(resources)
        except (EnvoyUnreachableError, OSError) as error:
            self._stamp = ()  # the folder may be good: it is tried until Envoy and disk are back
            self._refuse(sidecar, [self._finding("envoy_unreachable", error)])
            return
        except DeliveryRejectedError as error:
            self._refuse(sidecar, [self._finding("envoy_refused", error)])
            return
        await asyncio.to_thread(self._numbers.take)
        old = sidecar.gate.generation.policy
        clusters = await asyncio.to_thread(self._cluster_names, old)
        # From here on new requests read the new generation; those under way keep theirs.
        sidecar.enter(Generation(loaded))
        self._retired.append(Retired(old.generation, clusters, time.monotonic()))
        self._digest = loaded.digest
        self.problems = []
        sidecar.metrics.generation = number
        sidecar.metrics.policy_warnings = Counter(w.code for w in loaded.warnings)
        _announce(loaded)

    async def _tidy(self, sidecar: Sidecar) -> None:
        """Lets clusters go that only generations without living requests have."""
        now_s = time.monotonic()
        if not self._retired or now_s < self._tidy_at_s:
            return
        self._tidy_at_s = now_s + TIDY_S
        in_use = {request.generation.number for request in sidecar.gate.in_flight.values()}
        living = [old for old in self._retired if _lives(old, in_use, now_s)]
        if len(living) == len(self._retired):
            return
        keep = await asyncio.to_thread(self._cluster_names, sidecar.gate.generation.policy)
        try:
            await self._delivery.prune(keep.union(*(old.clusters for old in living)))
        except (DeliveryRejectedError, OSError) as error:
            # Too many clusters do no harm; Envoy is asked again in a while.
            _log.warning("clusters of older generations stay for now: %s", error)
            return
        self._retired = living

    def _cluster_names(self, policy: PolicySnapshot) -> frozenset[str]:
        return frozenset(cluster["name"] for cluster in render(policy, self._settings)["cds"])

    def _compile(self, number: int) -> PolicySnapshot | list[Finding]:
        files = read_folder(self._folder)
        if isinstance(files, list):
            return files
        return compile_folder(files, number, self._environ, self._demo_url)

    def _finding(self, code: str, error: Exception) -> Finding:
        return Finding(str(self._folder), 0, code, str(error))

    def _refuse(self, sidecar: Sidecar, problems: list[Finding]) -> None:
        self.problems = problems
        sidecar.metrics.policy_load_errors += 1
        for problem in problems:
            _log.error("policy refused, the last good one stays: %s", problem)


def _store(policy: PolicySnapshot) -> tuple[str, str]:
    return policy.store, policy.store_namespace


def _lives(old: Retired, in_use: set[int], now_s: float) -> bool:
    age_s = now_s - old.since_s
    return age_s < UPLOAD_S or (old.number in in_use and age_s < MAX_KEPT_S)


def _announce(snapshot: PolicySnapshot) -> None:
    _log.info("policy generation %d is active (%s)", snapshot.generation, snapshot.digest[:12])
    for warning in snapshot.warnings:
        _log.warning("policy: %s", warning)


def _stamp(folder: Path) -> Stamp:
    """What changes when a file does: its inode, size and times, of the file a link leads to."""
    entries = []
    try:
        for name in sorted(os.listdir(folder)):
            if name.endswith((".yaml", ".yml")):
                status = os.stat(folder / name)
                times = (status.st_mtime_ns, status.st_ctime_ns)
                entries.append((name, status.st_ino, status.st_size, *times))
    except OSError:
        return (("unreadable", 0, 0, 0, 0),)
    return tuple(entries)
