"""Configuration delivered to Envoy: taken, refused, put back, and felt by no request."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from envoy_process import start_envoy
from envoy_rig import PLAIN, Rig, answer, chunked, compiled, policy_text

from extproc.envoy import delivery
from extproc.envoy.credentials import secret_file
from extproc.envoy.delivery import DeliveryRejectedError, EnvoyUnreachableError, FileDelivery
from extproc.envoy.render import render
from extproc.envoy.settings import GatewaySettings
from extproc.envoy.token_folder import read_key_list
from extproc.ledger.replaced_file import replace_file
from extproc.values.wire_names import ADMIN_SOCKET

Resources = dict[str, list[dict[str, Any]]]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- against an admin interface that says what a test wants ---------------------------------------


def resources(name: str = "one") -> Resources:
    """Resources that nobody but the delivery reads."""
    return {
        "secrets": [],
        "cds": [{"name": f"cluster {name}"}],
        "rds": [{"name": f"routes {name}"}],
        "lds": [{"name": f"listener {name}"}],
    }


STATS = ("cluster_manager.cds", "http.gateway.rds.tokenweir", "listener_manager.lds")


class Admin:
    """Envoy's admin interface, with an Envoy behind it that takes what it is told to take."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refuses: set[str] = set()
        self.answers: Callable[[], web.Response] | None = None
        self.asked = 0
        self.details = "because"
        self._counts = dict.fromkeys(("cds", "rds", "lds"), 0)
        self._seen: dict[str, str] = {}

    async def start(self, settings: GatewaySettings) -> web.AppRunner:
        application = web.Application()
        application.router.add_get("/stats", self.stats)
        application.router.add_get("/config_dump", self.dump)
        runner = web.AppRunner(application)
        await runner.setup()
        settings.socket_folder.mkdir(exist_ok=True)
        await web.UnixSite(runner, str(settings.socket_folder / ADMIN_SOCKET)).start()
        return runner

    async def stats(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.answers is not None:
            return self.answers()
        found = []
        for prefix in STATS:
            kind = prefix.rpartition(".")[2] if "rds" not in prefix else "rds"
            version = json.loads((self.folder / f"{kind}.json").read_bytes())["version_info"]
            if kind in self.refuses and self._seen.get(kind, version) != version:
                self._counts[kind] += 1
                version = self._seen[kind]
            self._seen[kind] = version
            found.append({"name": f"{prefix}.version_text", "value": version})
            found.append({"name": f"{prefix}.update_rejected", "value": self._counts[kind]})
        return web.json_response({"stats": [*found, {"histograms": {}}]})

    async def dump(self, _: web.Request) -> web.Response:
        state = {"details": self.details, "last_update_attempt": "now"}
        return web.json_response({"configs": [{"dynamic": [{"error_state": state}]}]})


@pytest.fixture
def settings(tmp_path: Path, monkeypatch) -> GatewaySettings:
    monkeypatch.setattr(delivery, "CONFIRM_TIMEOUT_S", 0.2)
    # Unix socket paths are short.
    monkeypatch.chdir(tmp_path)
    return GatewaySettings("127.0.0.1", 1, Path("s"), tmp_path / "c")


def beside(admin: Admin, settings: GatewaySettings, work: Callable[[FileDelivery], Any]) -> Any:
    """Runs some work with a delivery whose first files are written."""

    async def run() -> Any:
        files_of_one = FileDelivery(settings)
        files_of_one.write_first(resources())
        runner = await admin.start(settings)
        try:
            return await work(files_of_one)
        finally:
            await runner.cleanup()

    return asyncio.run(run())


@pytest.fixture
def admin(settings: GatewaySettings) -> Admin:
    return Admin(settings.config_folder)


def test_a_file_is_renamed_into_place_never_written_there(admin, settings, monkeypatch) -> None:
    renamed = []
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        renamed.append(Path(target).name)
        json.loads(Path(source).read_bytes())  # whole before it is seen
        assert Path(source).parent == Path(target).parent  # one file system: a rename is atomic
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    path = settings.config_folder / "rds.json"

    async def work(files_of_one: FileDelivery) -> None:
        before = path.stat().st_ino
        renamed.clear()
        await files_of_one.deliver(resources("two"))
        assert path.stat().st_ino != before

    beside(admin, settings, work)
    assert renamed == ["cds.json", "rds.json", "lds.json"]
    assert {path.suffix for path in settings.config_folder.iterdir()} == {".json"}


def test_old_clusters_stay_beside_new_ones_until_they_are_pruned(admin, settings) -> None:
    def names() -> list[str]:
        document = json.loads((settings.config_folder / "cds.json").read_bytes())
        return [cluster["name"] for cluster in document["resources"]]

    async def work(files_of_one: FileDelivery) -> None:
        await files_of_one.deliver(resources("two"))
        assert names() == ["cluster one", "cluster two"]
        await files_of_one.deliver(resources("three"))
        assert names() == ["cluster one", "cluster two", "cluster three"]
        await files_of_one.prune({"cluster two", "cluster three", "cluster of no policy"})
        assert names() == ["cluster two", "cluster three"]
        await files_of_one.deliver(resources("four"))
        assert names() == ["cluster two", "cluster three", "cluster four"]

    beside(admin, settings, work)


def test_the_same_again_writes_and_asks_nothing(admin, settings) -> None:
    async def work(files_of_one: FileDelivery) -> None:
        before = {p: p.stat().st_ino for p in settings.config_folder.iterdir()}
        await files_of_one.deliver(resources())
        assert {p: p.stat().st_ino for p in settings.config_folder.iterdir()} == before

    beside(admin, settings, work)
    assert admin.asked == 0


@pytest.mark.parametrize("kind", ["cds", "rds", "lds"])
def test_one_refused_file_puts_all_of_them_back(admin, settings, kind: str) -> None:
    async def work(files_of_one: FileDelivery) -> None:
        before = files(settings.config_folder)
        admin.refuses = {kind}
        with pytest.raises(DeliveryRejectedError, match=f"Envoy refused {kind}: because"):
            await files_of_one.deliver(resources("two"))
        assert files(settings.config_folder) == before
        admin.refuses = set()
        await files_of_one.deliver(resources("two"))
        assert files(settings.config_folder) != before

    beside(admin, settings, work)


def test_a_reason_without_end_is_cut(admin, settings) -> None:
    admin.details = "x" * 1_000_000

    async def work(files_of_one: FileDelivery) -> None:
        admin.refuses = {"cds"}
        with pytest.raises(DeliveryRejectedError) as caught:
            await files_of_one.deliver(resources("two"))
        assert len(str(caught.value)) <= 2_000

    beside(admin, settings, work)


@pytest.mark.parametrize(
    "text",
    [
        "", "Envoy", "[]", "{}", '{"stats": 5}', '{"stats": [5]}', '{"stats": null}',
        '{"stats": [{"name": "cluster_manager.cds.update_rejected", "value": "many"}]}',
        '{"stats": [{"name": "cluster_manager.cds.update_rejected"}]}',
        '{"stats": []}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_that_nobody_understands_confirms_nothing(
    admin, settings, text: str, status: int
) -> None:
    admin.answers = lambda: web.Response(text=text, status=status)

    async def work(files_of_one: FileDelivery) -> None:
        before = files(settings.config_folder)
        with pytest.raises(EnvoyUnreachableError):
            await files_of_one.deliver(resources("two"))
        assert files(settings.config_folder) == before

    beside(admin, settings, work)


def test_an_admin_interface_that_hangs_is_given_up(admin, settings) -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(0.5)
        return web.Response()

    admin.stats = hang

    async def work(files_of_one: FileDelivery) -> None:
        before = files(settings.config_folder)
        started = time.monotonic()
        with pytest.raises(EnvoyUnreachableError):
            await files_of_one.deliver(resources("two"))
        assert time.monotonic() - started < 1
        assert files(settings.config_folder) == before

    beside(admin, settings, work)


def test_a_disk_without_room_puts_everything_back(admin, settings, monkeypatch) -> None:
    def write(path: Path, data: bytes) -> None:
        if path.name == "rds.json" and b"routes two" in data:
            raise OSError(28, "No space left on device")
        replace_file(path, data)

    async def work(files_of_one: FileDelivery) -> None:
        before = files(settings.config_folder)
        monkeypatch.setattr(delivery, "replace_file", write)
        with pytest.raises(OSError, match="No space"):
            await files_of_one.deliver(resources("two"))
        assert files(settings.config_folder) == before

    beside(admin, settings, work)


def test_a_delivery_that_is_interrupted_puts_everything_back(admin, settings) -> None:
    async def work(files_of_one: FileDelivery) -> None:
        before = files(settings.config_folder)
        admin.answers = lambda: web.Response(text="{}")
        task = asyncio.create_task(files_of_one.deliver(resources("two")))
        await asyncio.sleep(0.05)
        assert files(settings.config_folder) != before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert files(settings.config_folder) == before

    beside(admin, settings, work)


# -- against the real Envoy -----------------------------------------------------------------------


def resources_for(rig: Rig, *providers: str) -> Resources:
    """What a policy with these of the rig's providers needs. The rig decides by it from now on."""
    texts = {name: PLAIN.replace("PORT", str(rig.providers[name].port)) for name in providers}
    rig.policy = compiled(policy_text(texts))
    return render(rig.policy, rig.settings)


def names_of(*some: Resources) -> set[str]:
    return {cluster["name"] for one in some for cluster in one["cds"]}


@pytest.fixture
def fresh(start_rig) -> Rig:
    return start_rig(dict.fromkeys(("p1", "p2", "p3"), PLAIN))


def test_a_new_provider_serves_as_soon_as_it_is_delivered(fresh) -> None:
    only = resources_for(fresh, "p1")
    fresh.run(fresh.delivery.deliver(only))
    fresh.run(fresh.delivery.prune(names_of(only)))
    assert "p_p2" not in fresh.admin("/clusters")
    started = time.monotonic()
    fresh.run(fresh.delivery.deliver(resources_for(fresh, "p1", "p2")))
    assert time.monotonic() - started < 1.0
    assert fresh.post(["p2"]).status_code == 200


def _spoil(kind: str, spoilt: Resources) -> None:
    """Makes one resource say what Envoy can read but not do, and the others something new."""
    spoilt["rds"][0]["virtual_hosts"][0]["name"] = "another"
    spoilt["cds"][0]["connect_timeout"] = "9s"
    if kind == "cds":
        tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        authority = {"validation_context": {"trusted_ca": {"filename": "/no/such/file"}}}
        config = {"@type": tls, "common_tls_context": authority}
        socket = {"name": "envoy.transport_sockets.tls", "typed_config": config}
        spoilt["cds"][1]["transport_socket"] = socket
    elif kind == "rds":
        match = {"safe_regex": {"regex": "(unclosed"}}
        spoilt["rds"][0]["virtual_hosts"][0]["routes"][0]["match"] = match
    else:
        spoilt["lds"][0]["listener_filters"] = [{"name": "no.such.filter"}]


@pytest.mark.parametrize(
    ("kind", "reason"),
    # Envoy tells the reason of a refused listener; of the others it writes it to its log only.
    [("cds", "see its log"), ("rds", "see its log"), ("lds", r"no\.such\.filter")],
)
def test_what_envoy_refuses_is_put_back(fresh, kind: str, reason: str) -> None:
    good = resources_for(fresh, "p1", "p2", "p3")
    bad = copy.deepcopy(good)
    _spoil(kind, bad)
    before = files(fresh.settings.config_folder)
    with pytest.raises(DeliveryRejectedError, match=f"Envoy refused {kind}: .*{reason}") as caught:
        fresh.run(fresh.delivery.deliver(bad))
    assert not isinstance(caught.value, EnvoyUnreachableError)
    assert files(fresh.settings.config_folder) == before
    assert fresh.post(["p1"]).status_code == 200
    good["cds"][1]["connect_timeout"] = "7s"
    fresh.run(fresh.delivery.deliver(good))  # and the next good one is taken
    assert fresh.post(["p3"]).status_code == 200
    assert '"another"' not in fresh.admin("/config_dump")


@pytest.mark.parametrize("kind", ["cds", "rds", "lds"])
def test_a_field_that_envoy_does_not_know_is_refused(fresh, kind: str) -> None:
    bad = copy.deepcopy(resources_for(fresh, "p1", "p2", "p3"))
    bad[kind][0]["no_such_field"] = 1
    before = files(fresh.settings.config_folder)
    with pytest.raises(DeliveryRejectedError, match=f"Envoy refused {kind}"):
        fresh.run(fresh.delivery.deliver(bad))
    assert files(fresh.settings.config_folder) == before
    assert fresh.post(["p1"]).status_code == 200


def test_an_answer_under_way_does_not_feel_that_its_cluster_goes(fresh) -> None:
    pieces = [b"data: %d\n\n" % number for number in range(10)]
    fresh.providers["p1"].respond = chunked(pieces, pause_s=0.08)
    received = b""
    body = json.dumps({"chain": ["p1"]})
    with httpx.stream("POST", fresh.url + "/v1/chat/completions", content=body) as response:
        for number, piece in enumerate(response.iter_raw()):
            received += piece
            if number == 1:
                without = resources_for(fresh, "p2", "p3")
                fresh.run(fresh.delivery.deliver(without))
                fresh.run(fresh.delivery.prune(names_of(without)))
                assert "p_p1" not in fresh.admin("/config_dump?resource=dynamic_active_clusters")
    assert received == b"".join(pieces)


def test_a_later_attempt_of_an_older_generation_finds_its_cluster_until_it_is_pruned(
    fresh,
) -> None:
    async def slow_503(received: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.4)
        await answer(status=503)(received, writer)

    fresh.providers["p1"].respond = slow_503

    async def ask() -> int:
        async with httpx.AsyncClient(timeout=10) as client:
            url = fresh.url + "/v1/chat/completions"
            return (await client.post(url, content=json.dumps({"chain": ["p1", "p2"]}))).status_code

    def ask_while(change: Callable[[], None]) -> int:
        resources_for(fresh, "p1", "p2", "p3")
        asked = asyncio.run_coroutine_threadsafe(ask(), fresh.loop)
        time.sleep(0.15)
        change()
        return asked.result(10)

    everything = resources_for(fresh, "p1", "p2", "p3")
    only = resources_for(fresh, "p3")
    assert ask_while(lambda: fresh.run(fresh.delivery.deliver(only))) == 200
    fresh.run(fresh.delivery.deliver(everything))

    def too_early() -> None:
        fresh.run(fresh.delivery.deliver(only))
        fresh.run(fresh.delivery.prune(names_of(only)))

    assert ask_while(too_early) == 503


def test_no_request_fails_while_configurations_change(fresh) -> None:
    fewer = resources_for(fresh, "p1", "p2")
    everything = resources_for(fresh, "p1", "p2", "p3")
    statuses: list[int] = []

    async def change() -> None:
        number = 0
        while len(statuses) < 20:
            number += 1
            changed = copy.deepcopy(everything if number % 2 else fewer)
            changed["rds"][0]["virtual_hosts"][0]["name"] = f"gateway {number}"
            await fresh.delivery.deliver(changed)
            await fresh.delivery.prune(names_of(everything, fewer))
            await asyncio.sleep(0.02)

    work = asyncio.run_coroutine_threadsafe(change(), fresh.loop)
    while not work.done():
        statuses.append(fresh.post(["p1", "p2"]).status_code)
    work.result()
    assert set(statuses) == {200}


def test_an_envoy_that_is_gone_is_said_so_and_nothing_changes(fresh, monkeypatch) -> None:
    monkeypatch.setattr(delivery, "CONFIRM_TIMEOUT_S", 0.3)
    before = files(fresh.settings.config_folder)
    fresh.run(fresh.stop())
    changed = resources_for(fresh, "p1")
    changed["cds"][0]["connect_timeout"] = "7s"
    with pytest.raises(EnvoyUnreachableError, match="cannot be asked"):
        fresh.run(fresh.delivery.deliver(changed))
    assert files(fresh.settings.config_folder) == before


def test_an_envoy_that_is_just_starting_again_is_waited_for(fresh) -> None:
    fresh.run(fresh.stop())
    changed = resources_for(fresh, "p1")
    changed["cds"][0]["connect_timeout"] = "7s"
    work = asyncio.run_coroutine_threadsafe(fresh.delivery.deliver(changed), fresh.loop)
    time.sleep(0.3)
    fresh.envoy = fresh.run(start_envoy(fresh.settings, fresh.root / "log", concurrency=1))
    work.result(10)
    assert fresh.post(["p1"]).status_code == 200


def test_a_sidecar_that_starts_beside_a_running_envoy_delivers_too(fresh) -> None:
    second = FileDelivery(fresh.settings)
    second.write_first(resources_for(fresh, "p1"))
    fresh.run(second.confirm_first())
    assert "p_p2" not in fresh.admin("/config_dump?resource=dynamic_active_clusters")
    fresh.run(second.deliver(resources_for(fresh, "p1", "p2")))
    assert fresh.post(["p2"]).status_code == 200


def test_a_sidecar_that_starts_beside_an_envoy_that_refuses_its_files_hears_of_it(
    fresh, monkeypatch
) -> None:
    monkeypatch.setattr(delivery, "CONFIRM_TIMEOUT_S", 0.5)
    bad = copy.deepcopy(resources_for(fresh, "p1"))
    _spoil("lds", bad)
    second = FileDelivery(fresh.settings)
    second.write_first(bad)
    with pytest.raises(DeliveryRejectedError):
        fresh.run(second.confirm_first())
    assert fresh.post(["p1"]).status_code == 200


def test_a_sidecar_that_starts_first_waits_for_nobody(settings) -> None:
    first = FileDelivery(settings)
    first.write_first(resources())
    started = time.monotonic()
    asyncio.run(first.confirm_first())
    assert time.monotonic() - started < 0.1


# -- secrets --------------------------------------------------------------------------------------


def secret(name: str, path: str) -> dict[str, Any]:
    watched = {"filename": path, "watched_directory": {"path": path.rpartition("/")[0]}}
    return {"name": name, "generic_secret": {"secret": watched}}


def watched_folder(settings: GatewaySettings, name: str) -> str:
    document = json.loads((settings.config_folder / secret_file(name)).read_bytes())
    (resource,) = document["resources"]
    folder: str = resource["generic_secret"]["secret"]["watched_directory"]["path"]
    return folder


def test_a_secret_is_read_again_under_another_name_of_its_folder(settings) -> None:
    writer = FileDelivery(settings)
    writer.write_first({**resources(), "secrets": [secret("file:/keys/a", "/keys/a")]})
    seen = [watched_folder(settings, "file:/keys/a")]
    for _ in range(3):
        writer.read_again("file:/keys/a")
        seen.append(watched_folder(settings, "file:/keys/a"))
    assert seen == ["/keys", "/keys/.", "/keys", "/keys/."]
    before = files(settings.config_folder)
    writer.read_again("file:/keys/unknown")
    assert files(settings.config_folder) == before


def test_the_google_keys_that_are_wanted_are_listed_as_they_come_and_go(settings) -> None:
    writer = FileDelivery(settings)
    writer.write_first(resources())
    assert read_key_list(settings.config_folder) == []
    assert not settings.tokens.exists()  # nobody needs it
    google = secret("google:/keys/gcp.json", str(settings.tokens / "x.token"))
    writer.write_first({**resources(), "secrets": [google]})
    assert read_key_list(settings.config_folder) == ["/keys/gcp.json"]
    assert settings.tokens.is_dir()
    writer.write_first(resources())
    assert read_key_list(settings.config_folder) == []


def test_a_key_that_is_in_use_is_wanted_until_envoy_runs_without_it(admin, settings) -> None:
    """Else its token is taken away from requests of the policy that is in force."""

    def with_keys(name: str, *keys: str) -> Resources:
        folder = settings.tokens
        secrets = [secret(f"google:{key}", str(folder / f"{key}.token")) for key in keys]
        return {**resources(name), "secrets": secrets}

    async def work(writer: FileDelivery) -> None:
        writer.write_first(with_keys("one", "a", "b"))
        admin.refuses = {"lds"}
        with pytest.raises(DeliveryRejectedError):
            await writer.deliver(with_keys("two", "b", "c"))
        assert read_key_list(settings.config_folder) == ["a", "b"]
        admin.refuses = set()
        await writer.deliver(with_keys("three", "b", "c"))
        assert read_key_list(settings.config_folder) == ["b", "c"]

    beside(admin, settings, work)
