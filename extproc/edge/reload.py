"""Hot reload: a saved policy folder becomes the next generation, in sidecar and Envoy together.

The folder is polled, not watched: a changed mount, an atomic rename, a symlink swap and an editor's
write all look the same that way. What does not compile, or what Envoy refuses, changes nothing: the
last good generation stays, and the reason is kept for everybody who asks.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from extproc.core.generation import Generation
from extproc.edge.services import Sidecar
from extproc.envoy.delivery import DeliveryRejectedError, FileDelivery
from extproc.envoy.render import render
from extproc.envoy.settings import GatewaySettings
from extproc.policy.compiler import compile_folder
from extproc.policy.loader import read_folder
from extproc.policy.snapshot import Finding, PolicySnapshot

_log = logging.getLogger(__name__)

POLL_S = 0.2
"""A save takes effect within a second: this, the compilation, and Envoy's confirmation."""
SETTLE_S = 0.05
"""A file that was just written may be half-written: it is read again until it stands still."""

Stamp = tuple[tuple[str, int, int, int, int], ...]


class PolicyReloader:
    """Watches one policy folder for one sidecar."""

    def __init__(
        self,
        folder: Path,
        settings: GatewaySettings,
        delivery: FileDelivery,
        environ: Mapping[str, str],
        demo_url: str | None,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._delivery = delivery
        self._environ = environ
        self._demo_url = demo_url
        self._stamp: Stamp = ()
        self._digest = ""
        self.problems: list[Finding] = []
        """Why the folder as it is now was not taken; empty when it is the active generation."""

    def load_first(self) -> PolicySnapshot | list[Finding]:
        """The folder at start; there is no last good generation to fall back to."""
        self._stamp = _stamp(self._folder)
        loaded = self._compile(1)
        if isinstance(loaded, PolicySnapshot):
            self._digest = loaded.digest
            _announce(loaded)
        return loaded

    async def watch(self, sidecar: Sidecar) -> None:
        """Runs until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            stamp = _stamp(self._folder)
            if stamp == self._stamp:
                continue
            while True:
                await asyncio.sleep(SETTLE_S)
                again = _stamp(self._folder)
                if again == stamp:
                    break
                stamp = again
            self._stamp = stamp
            try:
                await self._reload(sidecar)
            except Exception:  # noqa: BLE001  the watcher outlives any single reload
                sidecar.fault("a policy reload")

    async def _reload(self, sidecar: Sidecar) -> None:
        number = sidecar.gate.generation.number + 1
        loaded = await asyncio.to_thread(self._compile, number)
        if isinstance(loaded, list):
            self._refuse(sidecar, loaded)
            return
        if loaded.digest == self._digest:
            self.problems = []
            return
        try:
            await self._delivery.deliver(render(loaded, self._settings))
        except DeliveryRejectedError as error:
            self._refuse(sidecar, [Finding(str(self._folder), 0, "envoy_refused", str(error))])
            return
        # From here on new requests read the new generation; those under way keep theirs.
        sidecar.gate.enter(Generation(loaded))
        self._digest = loaded.digest
        self.problems = []
        sidecar.metrics.generation = number
        sidecar.metrics.policy_warnings = Counter(w.code for w in loaded.warnings)
        _announce(loaded)

    def _compile(self, number: int) -> PolicySnapshot | list[Finding]:
        files = read_folder(self._folder)
        if isinstance(files, list):
            return files
        return compile_folder(files, number, self._environ, self._demo_url)

    def _refuse(self, sidecar: Sidecar, problems: list[Finding]) -> None:
        self.problems = problems
        sidecar.metrics.policy_load_errors += 1
        for problem in problems:
            _log.error("policy refused, the last good one stays: %s", problem)


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
