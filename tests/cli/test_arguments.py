from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from extproc.cli.arguments import count, file, mode, policy_folder


def refusal(kind: Callable[[str], object], text: str) -> str:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        kind(text)
    return str(caught.value)


def test_a_policy_folder_must_be_there_and_be_a_folder(tmp_path: Path) -> None:
    assert policy_folder(str(tmp_path)) == tmp_path
    (tmp_path / "a.yaml").touch()
    assert refusal(policy_folder, str(tmp_path / "a.yaml")).endswith(
        "name the folder that holds it"
    )
    assert refusal(policy_folder, "nowhere") == "there is no folder 'nowhere'"


def test_a_file_is_given_as_an_absolute_path(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "cert.pem").touch()
    monkeypatch.chdir(tmp_path)
    assert file("cert.pem") == str(tmp_path / "cert.pem")
    assert "'key.pem'" in refusal(file, "key.pem")
    assert refusal(file, str(tmp_path))


def test_counts_and_modes() -> None:
    assert count("4") == 4
    for text in ("0", "-1", "x", "", "1025", "٣"):
        assert refusal(count, text)
    assert mode("660") == 0o660
    for text in ("", "9", "1777", "-1", "rw"):
        assert refusal(mode, text)
