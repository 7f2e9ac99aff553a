from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command import ROOT, tokenweir
from gateway import base_policy

from extproc.__main__ import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in base_policy().items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_shipped_policy_is_good() -> None:
    result = tokenweir("check", "configs")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[-1] == f"ok, {len(lines) - 1} warnings"
    assert all(line.startswith("warning ") for line in lines[:-1])
    assert result.stderr == ""


def test_every_error_has_file_and_line_and_the_exit_code_is_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "limits.yaml").write_text(
        "name: limits\ntype: gateway-rate-limit-config\nrules:\n"
        "  - {id: a, limit: {requests: 1, window: 1h}, on_breach: hard_blok}\n"
        "  - {id: b, limit: {requestz: 1, window: 1h}}\n"
    )
    assert main(["check", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "refused"
    assert any(line.startswith("error   limits.yaml:4: ") and "hard_blok" in line for line in lines)
    assert any(line.startswith("error   limits.yaml:5: ") and "requestz" in line for line in lines)


def test_json_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", str(folder)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["errors"] == []
    for warning in report["warnings"]:
        assert set(warning) == {"file", "line", "code", "message"}
    (folder / "models.yaml").write_text("type: nonsense\n")
    assert main(["check", "--json", str(folder)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    error = report["errors"][0]
    assert (error["file"], error["line"]) == ("models.yaml", 1)


def test_a_folder_that_is_not_there_is_a_usage_error() -> None:
    result = tokenweir("check", "confgs")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.endswith("error: argument DIR: there is no folder 'confgs'\n")


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("error   empty_folder: ")


def test_a_folder_that_may_not_be_read_is_said_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", denied)  # tests may run as root, whom no mode stops
    assert main(["check", str(folder)]) == 1
    assert capsys.readouterr().out == f"error   {folder}: unreadable: Permission denied\nrefused\n"


def test_the_readme_shows_what_it_prints() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition("$ tokenweir check configs\n")[2].partition("```")[0].splitlines()
    printed = tokenweir("check", "configs").stdout.splitlines()
    for line in shown:
        assert line == "..." or line in printed
