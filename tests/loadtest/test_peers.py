from __future__ import annotations

from loadtest import bench, peers


def test_every_peer_can_be_installed_and_started() -> None:
    assert set(peers.NAMES) == set(peers._PACKAGES) == set(peers._STARTERS)


def test_peers_are_measured_in_the_same_loads_as_the_governed_gateway() -> None:
    for load in bench.LOADS[:2]:
        assert {"governed", *peers.NAMES} <= set(load.variants)


def test_ferrogw_has_its_limits_on() -> None:
    plugins = peers.ferrogw_config()["plugins"]
    assert isinstance(plugins, list)
    stages = [(plugin["name"], plugin["stage"]) for plugin in plugins]
    assert stages == [
        ("rate-limit", "before_request"),
        ("budget", "before_request"),
        ("budget", "after_request"),
    ]
    assert {"requests_per_second", "key_rpm", "user_rpm"} <= set(plugins[0]["config"])
