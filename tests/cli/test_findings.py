from __future__ import annotations

import pytest

from extproc.cli.findings import fields, say_refused, text
from extproc.policy.snapshot import Finding

AT_A_LINE = Finding("a.yaml", 7, "unknown_key", "no such key: x:0: y")
OF_A_FOLDER = Finding("configs", 0, "unreadable", "Permission denied")
OF_NOTHING = Finding("", 0, "empty_folder", "no files")


def test_a_finding_is_shown_with_the_place_that_it_has() -> None:
    assert text(AT_A_LINE) == "a.yaml:7: unknown_key: no such key: x:0: y"
    assert text(OF_A_FOLDER) == "configs: unreadable: Permission denied"
    assert text(OF_NOTHING) == "empty_folder: no files"


def test_json_has_null_for_a_place_that_is_none() -> None:
    assert fields(AT_A_LINE)["line"] == 7
    assert fields(OF_NOTHING) == {
        "file": None, "line": None, "code": "empty_folder", "message": "no files",
    }  # fmt: skip


def test_a_refusal_is_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say_refused([AT_A_LINE, OF_A_FOLDER])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == "refused"
    assert said.err.count("error   ") == 2
