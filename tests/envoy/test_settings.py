"""What is not policy: where a gateway listens and keeps its files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from extproc.envoy.settings import SYSTEM_CA_FILE, GatewaySettings


def test_a_gateway_is_closed_unless_told_otherwise() -> None:
    settings = GatewaySettings("127.0.0.1", 8080, Path("s"), Path("c"))
    assert settings.ca_file == SYSTEM_CA_FILE
    assert (settings.tls_certificate, settings.tls_key) == ("", "")
    assert settings.socket_mode == 0o600


def test_settings_do_not_change_under_anybody() -> None:
    settings = GatewaySettings("127.0.0.1", 8080, Path("s"), Path("c"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.listen_port = 1  # type: ignore[misc]
