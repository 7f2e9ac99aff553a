"""What Envoy is started with: closed to everybody but its sidecar."""

from __future__ import annotations

import stat
from pathlib import Path

from extproc.envoy.bootstrap import bootstrap
from extproc.envoy.settings import GatewaySettings
from extproc.values.wire_names import ADMIN_SOCKET

SETTINGS = GatewaySettings("127.0.0.1", 1, Path("/s"), Path("/c"), socket_mode=0o660)


def test_the_admin_interface_is_a_unix_socket_of_the_right_mode() -> None:
    assert bootstrap(SETTINGS)["admin"] == {
        "address": {"pipe": {"path": f"/s/{ADMIN_SOCKET}", "mode": 0o660}}
    }


def test_the_admin_socket_is_its_owners_alone(rig) -> None:
    mode = (rig.settings.socket_folder / ADMIN_SOCKET).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_clusters_and_listeners_come_from_files_that_are_watched_for_renames() -> None:
    dynamic = bootstrap(SETTINGS)["dynamic_resources"]
    for kind in ("cds", "lds"):
        source = dynamic[f"{kind}_config"]["path_config_source"]
        assert source == {"path": f"/c/{kind}.json", "watched_directory": {"path": "/c"}}


def test_no_number_of_live_streams_trips_a_breaker_to_the_sidecar(rig) -> None:
    text = rig.admin("/clusters")
    names = {line.split("::")[0] for line in text.splitlines() if line.startswith("tokenweir_")}
    names.discard("tokenweir_dead")
    assert len(names) == 4
    for name in names:
        for limit in ("connections", "pending_requests", "requests", "retries"):
            line = f"{name}::default_priority::max_{limit}::4294967295"
            assert line in text, line


def test_envoy_sheds_load_before_it_dies(rig) -> None:
    stats = rig.admin("/stats?filter=overload")
    for action in ("shrink_heap", "stop_accepting_requests"):
        assert f"overload.envoy.overload_actions.{action}.active: 0" in stats
    assert "overload.envoy.resource_monitors.fixed_heap.pressure" in stats


def test_nothing_is_open_but_the_listener(rig) -> None:
    listeners = rig.admin("/listeners")
    assert listeners.split() == [f"tokenweir::127.0.0.1:{rig.settings.listen_port}"]
