"""``up`` keeps its children running, gives up when that is no use, and leaves nobody behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest
from gateway import Gateway, base_policy
from until import until

from extproc.edge import supervisor as supervisor_module
from extproc.edge.child import Child, StartError
from extproc.edge.supervisor import MAX_RESTARTS, Supervisor, UpSettings, free_port


def settings(state: Path, **more: Any) -> UpSettings:
    fields: dict[str, Any] = {
        "policy": state / "policy", "state": state, "listen_host": "127.0.0.1", "listen_port": 0,
        "console_host": "127.0.0.1", "console_port": 0, "demo_provider": "off",
        "transport": "lean", "concurrency": 1,
    }  # fmt: skip
    return UpSettings(**{**fields, **more})


def keep(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Keeps a shell script running as ``up`` keeps its children, with no pauses."""
    monkeypatch.setattr(supervisor_module, "FIRST_PAUSE_S", 0.0)
    supervisor = Supervisor(settings(tmp_path / "s"), os.environ)

    async def scenario() -> None:
        child = Child("thing", ["/bin/sh", "-c", script], tmp_path / "log", os.environ)
        try:
            await child.start(waits_for_ready=True)
            async with asyncio.timeout(seconds):
                await supervisor._keep(child)
        finally:
            await child.stop()

    asyncio.run(scenario())


def test_a_child_that_keeps_ending_ends_the_gateway_with_its_reason(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    starts = tmp_path / "starts"
    script = f"echo x >> {starts}; echo ready; echo bad luck >&2; exit 3"
    with pytest.raises(StartError) as caught:
        keep(script, tmp_path, monkeypatch, 20)
    said = f"thing keeps ending (exit code 3, {MAX_RESTARTS} restarts):\nbad luck"
    assert str(caught.value) == said
    assert starts.read_text().count("x") == 1 + MAX_RESTARTS
    told = capsys.readouterr().err.splitlines()
    assert told == ["thing ended (exit code 3); starting it again"] * MAX_RESTARTS


def test_a_child_that_does_not_come_back_ends_the_gateway_too(tmp_path: Path, monkeypatch) -> None:
    first = tmp_path / "first"
    script = f"[ -e {first} ] && {{ echo worse luck >&2; exit 4; }}; touch {first}; echo ready"
    with pytest.raises(StartError, match=r"thing keeps ending \(exit code 4.*\n.*\nworse luck"):
        keep(script, tmp_path, monkeypatch, 20)


def test_a_child_that_lasts_may_end_any_number_of_times(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(supervisor_module, "STABLE_S", 0.0)
    starts = tmp_path / "starts"
    with pytest.raises(TimeoutError):
        keep(f"echo x >> {starts}; echo ready; exit 0", tmp_path, monkeypatch, 1.0)
    assert starts.read_text().count("x") > 2 * MAX_RESTARTS


def test_pauses_grow_up_to_a_bound(tmp_path: Path, monkeypatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    supervisor = Supervisor(settings(tmp_path / "s"), os.environ)

    async def scenario() -> None:
        child = Child("thing", ["/bin/false"], tmp_path / "log", os.environ)
        await child.start(waits_for_ready=False)
        await supervisor._keep(child)

    monkeypatch.setattr(supervisor_module.asyncio, "sleep", sleep)
    with pytest.raises(StartError):
        asyncio.run(scenario())
    assert pauses[0] == supervisor_module.FIRST_PAUSE_S
    assert pauses == sorted(pauses)
    assert len(pauses) == MAX_RESTARTS
    assert pauses[-1] <= supervisor_module.MAX_PAUSE_S


def test_urls_are_those_that_clients_can_use(tmp_path: Path) -> None:
    plain = Supervisor(settings(tmp_path / "a"), os.environ)
    assert plain.url.startswith("http://127.0.0.1:")
    assert plain.console_url != plain.url
    more = {"listen_host": "::1", "tls_certificate": "/c.pem", "tls_key": "/k.pem"}
    assert Supervisor(settings(tmp_path / "b", **more), os.environ).url.startswith("https://[::1]:")


def test_a_port_of_a_server_that_shares_it_is_still_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Envoy does
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=f"--listen 127.0.0.1:{port} is in use"):
            Supervisor(settings(tmp_path, listen_port=port), os.environ)


def test_a_port_whose_connections_fade_away_is_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # the server closes first: its side waits for a minute
            assert client.recv(1) == b""
    assert Supervisor(settings(tmp_path, listen_port=port), os.environ).url.endswith(f":{port}")


def test_free_ports_can_be_taken() -> None:
    with socket.create_server(("127.0.0.1", free_port("127.0.0.1"))):
        pass


def test_long_state_folders_get_short_sockets(tmp_path: Path) -> None:
    supervisor = Supervisor(settings(tmp_path / ("x" * 100)), os.environ)
    try:
        assert len(str(supervisor._sockets)) < 90
        assert supervisor._sockets.stat().st_mode & 0o777 == 0o700
    finally:
        supervisor._sockets.rmdir()


def children(gateway: Gateway) -> list[psutil.Process]:
    assert gateway.process is not None
    return psutil.Process(gateway.process.pid).children(recursive=True)


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_a_killed_up_leaves_nobody_behind(start_gateway) -> None:
    gateway = start_gateway(base_policy())
    family = children(gateway)
    assert len(family) == 3
    assert gateway.process is not None
    gateway.process.kill()
    try:
        until(lambda: not any(map(alive, family)))
    finally:
        for process in filter(alive, family):
            process.kill()


@pytest.mark.parametrize("name", ["demo-provider", "sidecar", "envoy"])
def test_a_child_that_is_killed_comes_back_and_serves(module_gateway, name: str) -> None:
    gateway = module_gateway(base_policy())
    assert gateway.post().status_code == 200
    victim = gateway.child(name)
    victim.send_signal(signal.SIGKILL)

    def serves() -> bool:
        with contextlib.suppress(Exception):
            return not alive(victim) and gateway.post().status_code == 200
        return False

    until(serves, 20)
    assert len(children(gateway)) == 3
    assert gateway.child(name).pid != victim.pid
