"""Where tokens are kept, and who may look."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from extproc.envoy.settings import GatewaySettings
from extproc.envoy.token_folder import (
    TokenState,
    memory_folder,
    open_token_folder,
    read_key_list,
    read_token_state,
    write_key_list,
    write_token_state,
)


def settings(root: Path, mode: int = 0o600) -> GatewaySettings:
    return GatewaySettings("", 0, root / "run", root / "envoy", socket_mode=mode)


def test_the_folder_is_private_unless_envoy_is_another_user(tmp_path: Path) -> None:
    assert open_token_folder(settings(tmp_path)).stat().st_mode & 0o777 == 0o700
    assert open_token_folder(settings(tmp_path)) == tmp_path / "run" / "tokens"
    shared = open_token_folder(settings(tmp_path / "shared", 0o660))
    assert shared.stat().st_mode & 0o7777 == 0o2770


def test_a_folder_that_somebody_else_made_first_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_token_folder(settings(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(PermissionError):
        open_token_folder(settings(tmp_path))


def test_a_link_is_no_folder_of_ours(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokens").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        open_token_folder(settings(tmp_path))


def test_gateways_of_one_machine_have_each_their_own(tmp_path: Path) -> None:
    one, other = memory_folder(tmp_path / "a"), memory_folder(tmp_path / "b")
    assert one is None or one != other


def test_what_is_said_is_read_and_nonsense_says_nothing(tmp_path: Path) -> None:
    assert read_key_list(tmp_path) == []
    write_key_list(tmp_path, ["/a.json", "/b.json"])
    assert read_key_list(tmp_path) == ["/a.json", "/b.json"]
    for nonsense in ("", "{", "7", '{"a": 1}', "[1, null]"):
        (tmp_path / "google-keys.json").write_text(nonsense)
        assert read_key_list(tmp_path) == []
    state = TokenState(12_000, 3, "is not JSON")
    assert read_token_state(tmp_path, "/a.json") == TokenState()
    write_token_state(tmp_path, "/a.json", state)
    assert read_token_state(tmp_path, "/a.json") == state
    (path,) = tmp_path.glob("google-*[!s].json")
    for nonsense in ("", "[]", '{"expires_at_ms": "soon", "failures": 0, "problem": ""}'):
        path.write_text(nonsense)
        assert read_token_state(tmp_path, "/a.json") == TokenState()
