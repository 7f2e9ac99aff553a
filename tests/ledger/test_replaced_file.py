"""Files that are replaced as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from extproc.ledger.replaced_file import replace_file


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"one", durable=durable)
    replace_file(path, b"two", durable=durable)
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"three", durable=durable)
    assert path.read_bytes() == b"two"


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_who_may_read_it_is_said_by_the_mode_or_else_by_the_umask(
    tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "chosen", b"", mode=0o640)
        replace_file(tmp_path / "plain", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "chosen").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_a_killed_process_left_is_neither_read_nor_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / "file.new").symlink_to(victim)
    replace_file(tmp_path / "file", b"new", mode=0o600)
    assert victim.read_bytes() == b"untouched"
    assert (tmp_path / "file").read_bytes() == b"new"
    assert not (tmp_path / "file").is_symlink()
