"""Warnings about key files, of ``check`` and ``up``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import tokenweir
from gateway import base_policy
from google_accounts import TokenEndpoint
from policies import snapshot

from extproc.cli.key_files import key_file_warnings

CANARY = "canary-77aa"
TEXT = """
name: g
type: gateway-config
providers:
  plain: {{dialect: openai, base_url: "http://h/v1", credential: "file:{folder}/key"}}
  google: {{dialect: gemini, base_url: "http://h", credential: "file:{folder}/gcp.json"}}
"""


def test_what_cannot_be_read_or_used_is_named_and_not_repeated(tmp_path: Path) -> None:
    policy = snapshot(more=TEXT.format(folder=tmp_path))

    def found() -> list[str]:
        warnings = key_file_warnings(policy)
        assert CANARY not in str(warnings)
        return [warning.code for warning in warnings]

    assert found() == ["credential_unreadable", "credential_unreadable"]
    (tmp_path / "key").write_text("")
    (tmp_path / "gcp.json").write_text(f'{{"private_key": "{CANARY}"}}')
    assert found() == ["credential_unreadable", "bad_google_key"]
    google = TokenEndpoint()
    google.write_key(tmp_path / "gcp.json")
    google.close()
    (tmp_path / "key").write_text(CANARY)
    assert found() == []


def test_check_says_so_and_refuses_nothing(tmp_path: Path) -> None:
    for name, text in base_policy(more=TEXT.format(folder=tmp_path)).items():
        (tmp_path / name).write_text(text)
    outcome = tokenweir("check", tmp_path, "--json")
    report = json.loads(outcome.stdout)
    assert outcome.returncode == 0
    messages = [w["message"] for w in report["warnings"] if w["code"] == "credential_unreadable"]
    assert [message.split(":")[0] for message in messages] == ["provider plain", "provider google"]


@pytest.mark.parametrize("dialect", ["anthropic", "azure-openai", "bedrock"])
def test_a_google_key_is_refused_where_no_token_of_it_is_taken(dialect: str) -> None:
    text = TEXT.replace("dialect: gemini", f"dialect: {dialect}").format(folder="/run/secrets")
    with pytest.raises(AssertionError, match="bad_credential"):
        snapshot(more=text)
