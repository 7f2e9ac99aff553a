"""``tokenweir sidecar`` as a process: what it leaves for Envoy, and how it fails to start."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from command import ROOT, tokenweir
from gateway import base_policy

from extproc.edge.supervisor import free_port
from extproc.values.wire_names import (
    ACCESS_LOG_SOCKET,
    ANSWER_SOCKET,
    ATTEMPT_SOCKET,
    REQUEST_SOCKET,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Under /tmp, where paths are short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tw-") as name:
        policy = Path(name) / "policy"
        policy.mkdir()
        for file, text in base_policy().items():
            (policy / file).write_text(text)
        yield Path(name)


def options(folder: Path, console_port: int = 0) -> list[str]:
    return [
        "sidecar", f"--policy={folder / 'policy'}", f"--state={folder / 's'}",
        f"--console=127.0.0.1:{console_port or free_port('127.0.0.1')}",
    ]  # fmt: skip


@pytest.mark.parametrize("transport", ["lean", "grpcio"])
def test_it_prepares_all_that_an_envoy_needs_and_ends_with_0(folder: Path, transport: str) -> None:
    console = free_port("127.0.0.1")
    command = [sys.executable, "-m", "extproc", *options(folder, console), "--json"]
    command += [f"--sockets={folder / 'run'}", "--socket-mode=660", f"--transport={transport}"]
    log = folder / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", log.read_text()
        for name in (REQUEST_SOCKET, ATTEMPT_SOCKET, ANSWER_SOCKET, ACCESS_LOG_SOCKET):
            assert (folder / "run" / name).stat().st_mode & 0o777 == 0o660
        assert list((folder / "s" / "envoy").glob("secret-*.json"))
        for name in ("bootstrap", "cds", "rds", "lds"):
            assert json.loads((folder / "s" / "envoy" / f"{name}.json").read_text())
        assert httpx.get(f"http://127.0.0.1:{console}/healthz").json()["healthy"]
    finally:
        process.terminate()
        status = process.wait(timeout=20)
        assert process.stdout is not None
        process.stdout.close()
    assert status == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(set(line) == {"time", "level", "logger", "message"} for line in lines)
    assert any("policy generation 1 is active" in line["message"] for line in lines)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def test_a_console_port_in_use_is_said_in_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = last_line(tokenweir(*options(folder, port)))
    assert line.startswith("tokenweir sidecar: ")
    assert str(port) in line
    assert "in use" in line


def test_a_state_folder_that_cannot_be_made_is_said_in_one_line(folder: Path) -> None:
    (folder / "s").write_text("a file")
    assert last_line(tokenweir(*options(folder))).startswith(f"tokenweir sidecar: {folder / 's'}")


def test_a_refused_policy_is_said_with_file_and_line(folder: Path) -> None:
    (folder / "policy" / "models.yaml").write_text("type: nonsense\n")
    result = tokenweir(*options(folder))
    assert last_line(result) == "refused"
    assert "error   models.yaml:1: " in result.stderr


def test_it_needs_no_envoy_of_its_own(folder: Path) -> None:
    code = (
        "import sys, extproc.envoy.process as process\n"
        "def missing(): raise process.EnvoyMissingError('none here')\n"
        "process.envoy_path = missing\n"
        "from extproc.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *options(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    assert line == "ready\n"
