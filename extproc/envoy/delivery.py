"""Delivering configuration to a running Envoy, and knowing that it was taken.

Files are written whole and renamed into the folder that Envoy watches. Envoy answers nothing, so
its admin interface is asked: each file carries a version, and a version counts as taken only when
Envoy says that it runs it. When Envoy refuses a file, every file of the delivery is put back as it
was, and Envoy's own reason is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Set
from typing import Any

import aiohttp
import orjson

from extproc.envoy.credentials import secret_file
from extproc.envoy.render import discovery_response
from extproc.envoy.settings import GatewaySettings
from extproc.envoy.token_folder import GOOGLE, open_token_folder, write_key_list
from extproc.ledger.replaced_file import replace_file
from extproc.values.wire_names import ADMIN_SOCKET

Json = dict[str, Any]

CONFIRM_TIMEOUT_S = 5.0
"""Two thousand clusters take 1.2 s to apply; twice that, and room for a busy machine or for an
Envoy that is just being started again."""
FIRST_POLL_S = 0.002
MAX_POLL_S = 0.1
"""Asking takes Envoy's main thread tens of milliseconds when it has hundreds of clusters."""

_PREFIX = {
    "cds": "cluster_manager.cds.",
    "lds": "listener_manager.lds.",
    "rds": "http.gateway.rds.tokenweir.",
}


class DeliveryRejectedError(Exception):
    """Envoy did not take the configuration. Says why, in Envoy's words."""


class EnvoyUnreachableError(DeliveryRejectedError):
    """Envoy did not say whether it took it. Delivering the same again later may succeed."""


class FileDelivery:
    """Writes the watched files of one gateway."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._folder = settings.config_folder
        self._versions: dict[str, str] = {}
        self._clusters: dict[str, Json] = {}
        self._secrets: dict[str, Json] = {}
        self._google_keys: list[str] | None = None
        """As they are listed."""

    def write_first(self, resources: dict[str, list[Json]]) -> None:
        """Writes everything for an Envoy that has not started or is about to read it again."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._list_google_keys(self._write_secrets(resources["secrets"]))
        for kind in ("cds", "rds", "lds"):
            version, data = discovery_response(kind, resources[kind])
            self._replace(f"{kind}.json", data)
            self._versions[kind] = version
        self._clusters = _by_name(resources["cds"])

    async def confirm_first(self) -> None:
        """Waits for an Envoy that was already running to take the first files.

        Raises ``DeliveryRejectedError``. Where none answers there is nothing to wait for: an Envoy
        that starts later reads them before it serves.
        """
        async with self._admin() as envoy:
            for kind in ("cds", "rds", "lds"):
                try:
                    _, refused = await _state(envoy, kind)
                except EnvoyUnreachableError:
                    return
                await _confirm(envoy, kind, self._versions[kind], refused)

    async def deliver(self, resources: dict[str, list[Json]]) -> None:
        """Brings a running Envoy to new resources. Raises ``DeliveryRejectedError``.

        New clusters come first and old ones stay, so that requests of either generation find
        theirs; ``prune`` removes the old ones later.
        """
        together = {**self._clusters, **_by_name(resources["cds"])}
        keys_before = self._google_keys or []
        keys = self._write_secrets(resources["secrets"])
        # What is not wanted loses its token at once, and until Envoy is there both policies want.
        self._list_google_keys(list(dict.fromkeys([*keys_before, *keys])))
        wanted = {**resources, "cds": list(together.values())}
        changed: dict[str, tuple[str, bytes]] = {}
        try:
            for kind in ("cds", "rds", "lds"):
                before = self._versions[kind], (self._folder / f"{kind}.json").read_bytes()
                await self._change(kind, wanted[kind])
                changed[kind] = before
        except BaseException:
            # Taken or not, the sidecar stays where it was, and so does Envoy: in reverse order, so
            # that no route is left without its clusters.
            for kind, (version, data) in reversed(changed.items()):
                self._replace(f"{kind}.json", data)
                self._versions[kind] = version
            self._list_google_keys(keys_before)
            raise
        self._clusters = together
        self._list_google_keys(keys)

    async def prune(self, names: Set[str]) -> None:
        """Removes all clusters but these, the ones that living generations use.

        Answers under way on a removed cluster finish. Raises ``DeliveryRejectedError``.
        """
        kept = {name: cluster for name, cluster in self._clusters.items() if name in names}
        await self._change("cds", list(kept.values()))
        self._clusters = kept

    def read_again(self, name: str) -> None:
        """Has Envoy read a secret's file once more: it sees a file that is renamed into its folder,
        never one that is written in place. Raises ``OSError``."""
        secret = copy.deepcopy(self._secrets.get(name))
        if secret is None:
            return
        # What Envoy knows already it does not look at again: the same folder gets another name.
        watched = secret["generic_secret"]["secret"]["watched_directory"]
        folder = watched["path"].removesuffix("/.")
        watched["path"] = folder if watched["path"] != folder else folder + "/."
        self._write_secret(secret)

    def _write_secrets(self, secrets: list[Json]) -> list[str]:
        """One file each. They hold references, and nothing is confirmed: a cluster whose secret
        cannot be read refuses its requests, and the clusters are confirmed. Gives the Google key
        files among them."""
        google_keys = [
            secret["name"].removeprefix(GOOGLE)
            for secret in secrets
            if secret["name"].startswith(GOOGLE)
        ]
        if google_keys:
            open_token_folder(self._settings)
        for secret in secrets:
            self._write_secret(secret)
        return google_keys

    def _list_google_keys(self, key_files: list[str]) -> None:
        if key_files != self._google_keys:
            write_key_list(self._settings.config_folder, key_files)
            self._google_keys = key_files

    def _write_secret(self, secret: Json) -> None:
        name = secret["name"]
        version, data = discovery_response("secrets", [secret])
        if self._versions.get(name) != version:
            self._replace(secret_file(name), data)
            self._versions[name] = version
            self._secrets[name] = secret

    async def _change(self, kind: str, resources: list[Json]) -> None:
        version, data = discovery_response(kind, resources)
        if version == self._versions[kind]:
            return
        before = (self._folder / f"{kind}.json").read_bytes()
        async with self._admin() as envoy:
            refused_before = 0
            with contextlib.suppress(EnvoyUnreachableError):  # it starts counting at 0 then
                refused_before = (await _state(envoy, kind))[1]
            self._replace(f"{kind}.json", data)
            try:
                await _confirm(envoy, kind, version, refused_before)
            except BaseException:  # refused, unheard of, or interrupted
                self._replace(f"{kind}.json", before)
                raise
        self._versions[kind] = version

    def _admin(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(self._settings.socket_folder / ADMIN_SOCKET)),
            timeout=aiohttp.ClientTimeout(total=CONFIRM_TIMEOUT_S),
        )

    def _replace(self, name: str, data: bytes) -> None:
        # Envoy sees renames inside the folder, never writes in place.
        replace_file(self._folder / name, data)


async def _confirm(
    envoy: aiohttp.ClientSession, kind: str, version: str, refused_before: int
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CONFIRM_TIMEOUT_S
    pause_s = FIRST_POLL_S
    problem = EnvoyUnreachableError(f"Envoy did not confirm {kind} in {CONFIRM_TIMEOUT_S:g} s")
    while loop.time() < deadline:
        try:
            running, refused = await _state(envoy, kind)
        except EnvoyUnreachableError as error:
            problem = error
        else:
            if running == version:
                return
            if refused > refused_before:
                raise DeliveryRejectedError(await _reason(envoy, kind))
        await asyncio.sleep(pause_s)
        pause_s = min(MAX_POLL_S, pause_s * 2)
    raise problem


async def _state(envoy: aiohttp.ClientSession, kind: str) -> tuple[str, int]:
    """Of one discovery service: the version that Envoy runs, and how often it refused one."""
    prefix = _PREFIX[kind]
    document = await _ask(envoy, f"/stats?format=json&filter=^{prefix}")
    try:
        stats = {item["name"]: item["value"] for item in document["stats"] if "name" in item}
        # A resource that is refused, and a file that is no discovery response at all.
        refused = sum(
            int(stats.get(prefix + name, 0)) for name in ("update_rejected", "update_failure")
        )
    except (KeyError, TypeError, ValueError):
        raise EnvoyUnreachableError("Envoy's admin interface gave an unknown answer") from None
    return str(stats.get(prefix + "version_text", "")), refused


async def _reason(envoy: aiohttp.ClientSession, kind: str) -> str:
    reasons: list[Any] = []
    with contextlib.suppress(EnvoyUnreachableError):
        dump = await _ask(envoy, "/config_dump?mask=")
        reasons = [
            state["details"]
            for state in _find(dump, "error_state")
            if isinstance(state, dict) and "details" in state
        ]
    return f"Envoy refused {kind}: {reasons[-1] if reasons else 'see its log'}"[:2000]


async def _ask(envoy: aiohttp.ClientSession, path: str) -> Any:
    try:
        async with envoy.get(f"http://envoy{path}") as response:
            return orjson.loads(await response.read())
    except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError) as error:
        raise EnvoyUnreachableError(f"Envoy's admin interface cannot be asked: {error}") from None


def _by_name(clusters: list[Json]) -> dict[str, Json]:
    return {cluster["name"]: cluster for cluster in clusters}


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
