"""What the sidecar knows of providers' credentials: that a key's file changed, so that Envoy has to
read it again, and whether there is a Google token, so that its targets are left out without one.

It looks at files' times and sizes, never into them, and sees no file of an Envoy elsewhere: that
one sees for itself what is renamed into place.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable

from extproc.core.gate import Gate
from extproc.edge.metrics import Metrics
from extproc.edge.services import Sidecar
from extproc.envoy.credentials import secret_name, signs
from extproc.envoy.delivery import FileDelivery
from extproc.envoy.settings import GatewaySettings
from extproc.envoy.token_folder import TokenState, read_token_state
from extproc.policy.snapshot import PolicySnapshot

_log = logging.getLogger(__name__)

LOOK_S = 0.25
LEFT_OUT_EARLY_MS = 500
"""Before a token's end: two looks, so that no request is on its way when Envoy loses it."""

Stamp = tuple[int, int, int]
"""Inode, size, and time of the last change."""


class KeyWatch:
    """Looks at the files of the credentials of the policy that is in use."""

    def __init__(self, settings: GatewaySettings, delivery: FileDelivery) -> None:
        self._settings = settings
        self._delivery = delivery
        self._read: dict[str, Stamp | None] = {}
        """By path: the file as Envoy has read it."""
        self._seen: dict[str, Stamp | None] = {}
        """By path: the file as it was at the last look."""
        self._looked = False

    async def watch(self, sidecar: Sidecar) -> None:
        """Runs until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look(sidecar)
            except Exception:  # noqa: BLE001  the next look tries again
                sidecar.fault("a look at credentials")

    async def look(self, sidecar: Sidecar) -> None:
        """Once. Raises ``OSError``."""
        await self.look_at_files(sidecar.gate.generation.policy)
        self.look_at_tokens(sidecar.gate, sidecar.metrics, sidecar.clock.now_ms())

    async def look_at_files(self, policy: PolicySnapshot) -> None:
        """Has Envoy read every file that was written since it last did, once it stands still and
        holds anything. Raises ``OSError``."""
        names = _key_files(policy)
        if not (names or self._read):
            return
        # Key files may be on a disk far away, whose answer nobody else is to wait for.
        stamps = await asyncio.to_thread(_stamps, names)
        for path, stamp in stamps.items():
            before = self._seen.get(path)
            self._seen[path] = stamp
            if path not in self._read:
                # Envoy was only just told of it; or by a sidecar before this one, after whose last
                # look the file may have been written.
                self._read[path] = stamp if self._looked else None
            elif stamp is not None and stamp == before and stamp != self._read[path]:
                self._delivery.read_again(names[path])
                self._read[path] = stamp
                _log.info("the key file %s is read again", path)
        self._looked = True
        for path in self._read.keys() - names.keys():
            del self._read[path], self._seen[path]

    def look_at_tokens(self, gate: Gate, metrics: Metrics, now_ms: int) -> None:
        """Leaves targets out whose provider has no Google token, and takes them in again."""
        key_files = {
            provider.credential.name
            for provider in gate.generation.policy.providers.values()
            if provider.credential is not None and provider.credential.kind == "google"
        }
        states = {each: read_token_state(self._settings.tokens, each) for each in key_files}
        metrics.google_tokens = {each: _metric(state, now_ms) for each, state in states.items()}
        last_ms = now_ms + LEFT_OUT_EARLY_MS
        good = frozenset(k for k, state in states.items() if state.expires_at_ms > last_ms)
        for each in sorted(gate.tokens & key_files - good):
            _log.warning("the Google token of %s expires: its targets are left out", each)
        for each in sorted(good - gate.tokens):
            _log.info("there is a Google token for %s", each)
        gate.know_tokens(good)


def _key_files(policy: PolicySnapshot) -> dict[str, str]:
    """Files of keys that are injected, and the names of their secrets."""
    injected = [
        provider.credential
        for provider in policy.providers.values()
        for dialect in provider.endpoints
        if provider.credential is not None and not signs(provider.credential, dialect)
    ]
    injected += [each.credential for each in policy.mcp_servers.values() if each.credential]
    return {each.name: secret_name(each) for each in injected if each.kind == "file"}


def _stamps(paths: Iterable[str]) -> dict[str, Stamp | None]:
    return {path: _stamp(path) for path in paths}


def _stamp(path: str) -> Stamp | None:
    """None where there is nothing to read, which may be about to be written."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns) if status.st_size else None


def _metric(state: TokenState, now_ms: int) -> tuple[int, int]:
    """Seconds left, and failures in a row."""
    return max(0, state.expires_at_ms - now_ms) // 1_000, state.failures
