"""``tokenweir up`` as a process: what it prints, and how it fails to start."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from command import ROOT, tokenweir

ANYWHERE = ("--listen", "127.0.0.1:0", "--console", "127.0.0.1:0")


@pytest.fixture
def state() -> Iterator[Path]:
    """Under /tmp, where paths are short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tw-", ignore_cleanup_errors=True) as name:
        yield Path(name) / "s"


def start(state: Path, *more: str) -> subprocess.Popen[str]:
    # Without keys of the machine that tests, so that the demo provider answers everywhere.
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    command = [sys.executable, "-m", "extproc", "up", "--state", str(state), *ANYWHERE]
    return subprocess.Popen(
        [*command, "--concurrency", "1", *more],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    process.terminate()
    try:
        return process.wait(timeout=30)
    finally:
        process.kill()
        process.stdout.close()


def test_it_prints_where_it_is_and_a_curl_that_works(state: Path) -> None:
    process = start(state)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(8)]
        told = {name: url for name, _, url in (line.rpartition(" ") for line in lines[:3])}
        assert list(told) == ["demo provider", "ready", "console"]
        assert httpx.get(told["console"] + "/healthz").json()["healthy"]
        assert httpx.get(told["demo provider"] + "/bill").json() == []

        assert lines[4] == "try:"
        words = shlex.split(" ".join(lines[5:]).replace("\\", ""))
        assert words[:3] == ["curl", "-i", told["ready"] + "/v1/chat/completions"]
        headers = dict(words[at + 1].split(": ") for at, w in enumerate(words) if w == "-H")
        body = words[words.index("-d") + 1]
        answer = httpx.post(words[2], headers=headers, content=body)
        assert answer.status_code == 200, answer.text

        # A second one would share Envoy's port, and each would get some of the requests.
        place = told["ready"].removeprefix("http://")
        second = tokenweir("up", "--state", f"{state}2", "--console", "127.0.0.1:0",
                           "--listen", place)  # fmt: skip
        assert second.returncode == 1
        assert second.stderr.splitlines()[-1] == (
            f"tokenweir up: --listen {place} is in use; --listen 127.0.0.1:0 takes a free port"
        )
        # Nor may two keep one ledger.
        second = tokenweir("up", "--state", state, *ANYWHERE)
        assert second.returncode == 1
        assert "ledger is in use by another process" in second.stderr
        assert "Traceback" not in second.stderr
        assert httpx.post(words[2], headers=headers, content=body).status_code == 200
    finally:
        assert end(process) == 0


def test_json_is_one_line_once_it_serves(state: Path) -> None:
    process = start(state, "--json", "--demo-provider", "off")
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert set(told) == {"ready", "console"}
        assert httpx.get(told["ready"] + "/v1/models").status_code == 401
        assert httpx.get(told["console"] + "/healthz").status_code == 200
    finally:
        assert end(process) == 0


def test_a_sigterm_while_it_starts_is_obeyed_at_once(state: Path) -> None:
    process = start(state)
    deadline = time.monotonic() + 20
    while not (state / "logs" / "demo-provider.log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started = time.monotonic()
    assert end(process) == 0
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("option", ["--listen", "--console"])
def test_a_port_in_use_is_said_before_anything_starts(state: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        result = tokenweir("up", "--state", state, *ANYWHERE, option, place)
    assert result.returncode == 1
    assert result.stdout == ""
    assert f"tokenweir up: {option} {place} is in use" in result.stderr
    assert list((state / "logs").iterdir()) == []


def test_an_address_of_another_machine_is_said(state: Path) -> None:
    result = tokenweir("up", "--state", state, *ANYWHERE, "--listen", "192.0.2.1:8080")
    assert result.returncode == 1
    assert "--listen 192.0.2.1:8080: Cannot assign requested address" in result.stderr


def test_without_an_envoy_binary_nothing_starts(state: Path) -> None:
    result = tokenweir("up", "--state", state, *ANYWHERE, TOKENWEIR_ENVOY="/no/envoy")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("tokenweir up: no Envoy binary at /no/envoy")
    assert list((state / "logs").iterdir()) == []


def test_an_envoy_that_ends_at_once_is_said_with_its_own_words(state: Path, tmp_path: Path) -> None:
    binary = tmp_path / "envoy"
    binary.write_text("#!/bin/sh\necho 'no such luck' >&2\nexit 3\n")
    binary.chmod(0o755)
    result = tokenweir("up", "--state", state, *ANYWHERE, TOKENWEIR_ENVOY=str(binary))
    assert result.returncode == 1
    assert "tokenweir up: envoy ended at once (exit code 3):\nno such luck" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_refused_policy_is_said_at_once(state: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("type: nonsense\n")
    result = tokenweir("up", "--policy", tmp_path, "--state", state)
    assert result.returncode == 1
    assert result.stderr.startswith("error   a.yaml:1: ")
    assert not state.exists()


def test_a_state_folder_that_cannot_be_made_is_said(state: Path) -> None:
    state.write_text("a file")
    result = tokenweir("up", "--state", state, *ANYWHERE)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"tokenweir up: --state {state}: ")


def test_ctrl_c_ends_it_with_0(state: Path) -> None:
    process = start(state)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("console"):
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    process.stdout.close()
