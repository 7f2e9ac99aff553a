"""Delivering configuration to a running Envoy, and knowing that it was taken.

Files are written whole and renamed into the folder that Envoy watches. Envoy answers nothing, so
its admin interface is asked: each file carries a version, and a version counts as taken only when
Envoy says that it runs it. A refused file is put back as it was, with Envoy's own reason.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from extproc.envoy.render import discovery_response
from extproc.envoy.settings import GatewaySettings
from extproc.values.wire_names import ADMIN_SOCKET

Json = dict[str, Any]

CONFIRM_TIMEOUT_S = 5.0
"""Two thousand clusters take 1.2 s to apply; twice that, and room for a busy machine."""
POLL_S = 0.005

_PREFIX = {
    "cds": "cluster_manager.cds.",
    "lds": "listener_manager.lds.",
    "rds": "http.gateway.rds.tokenweir.",
}


class DeliveryRejectedError(Exception):
    """Envoy did not take the configuration. Says why, in Envoy's words."""


class FileDelivery:
    """Writes the watched files of one gateway."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._folder = settings.config_folder
        self._admin = settings.socket_folder / ADMIN_SOCKET
        self._versions: dict[str, str] = {}
        self._clusters: dict[str, Json] = {}

    def write_first(self, resources: dict[str, list[Json]]) -> None:
        """Writes everything for an Envoy that has not started or is about to read it again."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for kind in ("secrets", "cds", "rds", "lds"):
            self._versions[kind] = self._write(kind, resources[kind])
        self._clusters = {cluster["name"]: cluster for cluster in resources["cds"]}

    async def deliver(self, resources: dict[str, list[Json]]) -> None:
        """Brings a running Envoy to new resources. Raises ``DeliveryRejectedError``.

        New clusters come first and old ones stay, so that requests of either generation find
        theirs; ``prune`` removes the old ones later.
        """
        new = {cluster["name"]: cluster for cluster in resources["cds"]}
        together = {**self._clusters, **new}
        await self._change("secrets", resources["secrets"])
        await self._change("cds", list(together.values()))
        await self._change("rds", resources["rds"])
        await self._change("lds", resources["lds"])
        self._clusters = together

    async def prune(self, resources: dict[str, list[Json]]) -> None:
        """Removes clusters that no living generation uses."""
        await self._change("cds", resources["cds"])
        self._clusters = {cluster["name"]: cluster for cluster in resources["cds"]}

    async def _change(self, kind: str, resources: list[Json]) -> None:
        version, data = discovery_response(kind, resources)
        if version == self._versions.get(kind):
            return
        path = self._folder / f"{kind}.json"
        before = path.read_bytes()
        refused_before = await self._counts(kind)
        self._replace(path, data)
        try:
            await self._confirm(kind, version, refused_before)
        except DeliveryRejectedError:
            self._replace(path, before)
            raise
        self._versions[kind] = version

    async def _confirm(self, kind: str, version: str, refused_before: int) -> None:
        if kind == "secrets":
            return  # taken when a cluster that names them is; those are confirmed
        deadline = asyncio.get_running_loop().time() + CONFIRM_TIMEOUT_S
        prefix = _PREFIX[kind]
        while asyncio.get_running_loop().time() < deadline:
            stats = await self._stats(prefix)
            if stats.get(prefix + "version_text") == version:
                return
            if _refused(stats, prefix) > refused_before:
                raise DeliveryRejectedError(await self._reason(kind))
            await asyncio.sleep(POLL_S)
        raise DeliveryRejectedError(f"Envoy did not confirm {kind} within {CONFIRM_TIMEOUT_S:g} s")

    async def _counts(self, kind: str) -> int:
        prefix = _PREFIX.get(kind)
        return _refused(await self._stats(prefix), prefix) if prefix else 0

    async def _stats(self, prefix: str) -> dict[str, Any]:
        document = await self._ask(f"/stats?format=json&filter=^{prefix}")
        stats: dict[str, Any] = {}
        for item in document.get("stats", ()):
            if "name" in item:
                stats[item["name"]] = item["value"]
        return stats

    async def _reason(self, kind: str) -> str:
        dump = await self._ask("/config_dump?mask=")
        reasons = [
            state["details"]
            for state in _find(dump, "error_state")
            if isinstance(state, dict) and "details" in state
        ]
        return f"Envoy refused {kind}: {reasons[-1] if reasons else 'see its log'}"[:2000]

    async def _ask(self, path: str) -> Json:
        connector = aiohttp.UnixConnector(path=str(self._admin))
        try:
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get(f"http://envoy{path}") as response,
            ):
                document: Json = orjson.loads(await response.read())
                return document
        except (aiohttp.ClientError, OSError, orjson.JSONDecodeError) as error:
            raise DeliveryRejectedError(
                f"Envoy's admin interface cannot be asked: {error}"
            ) from None

    def _write(self, kind: str, resources: list[Json]) -> str:
        version, data = discovery_response(kind, resources)
        self._replace(self._folder / f"{kind}.json", data)
        return version

    def _replace(self, path: Path, data: bytes) -> None:
        # Envoy sees renames inside the folder, never writes in place.
        temporary = path.with_suffix(".new")
        temporary.write_bytes(data)
        os.replace(temporary, path)


def _refused(stats: dict[str, Any], prefix: str) -> int:
    rejected = int(stats.get(prefix + "update_rejected", 0))
    return rejected + int(stats.get(prefix + "update_failure", 0))


def _find(document: Any, key: str) -> list[Any]:
    found = []
    if isinstance(document, dict):
        for name, value in document.items():
            if name == key:
                found.append(value)
            found += _find(value, key)
    elif isinstance(document, list):
        for item in document:
            found += _find(item, key)
    return found
