from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path

import pytest
from command import tokenweir
from gateway import base_policy

from extproc.__main__ import main
from extproc.policy.loader import load_folder
from extproc.policy.snapshot import PolicySnapshot

Capture = pytest.CaptureFixture[str]


def test_what_new_prints_admits_the_key_when_pasted(start_gateway) -> None:
    printed = tokenweir("keys", "new", "search-app")
    assert printed.returncode == 0
    first, _, *lines = printed.stdout.splitlines()
    key = first.partition(": ")[2]
    policy = base_policy()
    policy["gateway.yaml"] = policy["gateway.yaml"].replace(
        "credentials:\n", "credentials:\n" + "\n".join(lines) + "\n"
    )
    assert key not in policy["gateway.yaml"]
    gateway = start_gateway(policy)
    envelope = {"x-tfy-project": "any", "x-tfy-environment": "test"}
    assert gateway.post(headers={"authorization": f"Bearer {key}", **envelope}).status_code == 200
    wrong = gateway.post(headers={"authorization": f"Bearer {key}x", **envelope})
    assert wrong.status_code == 401


def test_keys_are_long_and_never_the_same(capsys: Capture) -> None:
    keys = set()
    for _ in range(20):
        assert main(["keys", "new", "app", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert set(document) == {"id", "key", "sha256"}
        assert document["id"] == "app"
        assert document["sha256"] == hashlib.sha256(document["key"].encode()).hexdigest()
        assert re.fullmatch(r"tw-[A-Za-z0-9_-]{43}", document["key"])
        keys.add(document["key"])
    assert len(keys) == 20


@pytest.mark.parametrize("name", ["", "7", "on", "a b", "a: b", "#x", "-", "x" * 129, "ключ"])
def test_an_id_that_yaml_would_read_otherwise_is_a_usage_error(name: str, capsys: Capture) -> None:
    assert main(["keys", "new", "--", name]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "id" in said.err


def test_list_shows_the_policys_credentials(tmp_path: Path, capsys: Capture) -> None:
    for name, text in base_policy().items():
        (tmp_path / name).write_text(text)
    assert main(["keys", "list", "--policy", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    policy = load_folder(tmp_path, 1, {})
    assert isinstance(policy, PolicySnapshot)
    assert rows == [
        {
            "id": one.id,
            "sha256": one.sha256.hex(),
            "team": one.team,
            "revoked": one.revoked,
        }
        for one in policy.credentials.values()
    ]
    assert main(["keys", "list", "--policy", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("app  ")


def test_list_of_a_refused_folder_says_why_on_stderr(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a.yaml").write_text("type: nonsense\n")
    assert main(["keys", "list", "--policy", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "error   a.yaml:1: " in said.err


def test_new_needs_no_policy_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "new", "app"]) == 0


@pytest.mark.parametrize(
    "written",
    [
        "  - id: app\n    sha256: DIGEST\n    claims: {projects: [p1]}\n",
        "  - id: app  # of the search team\n    sha256: DIGEST\n",
        '  - {id: "app", sha256: DIGEST}\n',
        "  - {id: app, sha256: DIGEST, claims: {team: t}}\n",
    ],
)
def test_revoke_changes_one_line_and_nothing_else(tmp_path: Path, written: str) -> None:
    digest = hashlib.sha256(b"k").hexdigest()
    other = f"  - id: app-2\n    sha256: {'a' * 64}\n"
    before = "# mine\ncredentials:\n" + other + written.replace("DIGEST", digest)
    text = before + "name: c\ntype: gateway-config\n"
    (tmp_path / "a.yaml").write_text(text)
    assert main(["keys", "revoke", "app", "--policy", str(tmp_path)]) == 0
    after = (tmp_path / "a.yaml").read_text()
    assert after.replace("    revoked: true\n", "").replace(" revoked: true,", "") == text
    policy = load_folder(tmp_path, 1, {})
    assert isinstance(policy, PolicySnapshot)
    assert {one.id: one.revoked for one in policy.credentials.values()} == {
        "app-2": False, "app": True,
    }  # fmt: skip
    assert main(["keys", "revoke", "app", "--policy", str(tmp_path)]) == 0
    assert (tmp_path / "a.yaml").read_text() == after


def test_revoke_does_not_guess(tmp_path: Path, capsys: Capture) -> None:
    digest = hashlib.sha256(b"k").hexdigest()
    text = f"name: c\ntype: gateway-config\ncredentials:\n  - sha256: {digest}\n    id: app\n"
    (tmp_path / "a.yaml").write_text(text)
    assert main(["keys", "revoke", "app", "--policy", str(tmp_path)]) == 1
    assert "revoked: true" in capsys.readouterr().err
    assert (tmp_path / "a.yaml").read_text() == text
    assert main(["keys", "revoke", "nobody", "--policy", str(tmp_path)]) == 2


def test_a_revoked_key_is_refused_within_a_second(start_gateway) -> None:
    gateway = start_gateway(base_policy())
    assert gateway.post().status_code == 200
    assert tokenweir("keys", "revoke", "app", "--policy", gateway.policy).returncode == 0
    began = time.monotonic()
    while gateway.post().status_code == 200:
        assert time.monotonic() - began < 5
        time.sleep(0.02)
    assert time.monotonic() - began < 1
    refused = gateway.post()
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_credential"
    listed = tokenweir("keys", "list", "--policy", gateway.policy)
    assert listed.stdout.startswith("app  ")
    assert listed.stdout.endswith("  revoked\n")
