"""Child processes with small scripts in the place of Envoy and the sidecar."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from command import ROOT

from extproc.edge import child as child_module
from extproc.edge.child import Child, StartError, describe


def shell(script: str, folder: Path) -> Child:
    return Child("thing", ["/bin/sh", "-c", script], folder / "thing.log", os.environ)


def failure(child: Child) -> str:
    with pytest.raises(StartError) as caught:
        asyncio.run(child.start(waits_for_ready=True))
    return str(caught.value)


def test_a_child_is_ready_when_it_says_so(tmp_path: Path) -> None:
    async def scenario() -> str:
        child = shell("echo hello; echo ready http://x; exec sleep 9", tmp_path)
        line = await child.start(waits_for_ready=True)
        await child.stop()
        assert child.process is not None
        assert child.process.returncode == -signal.SIGTERM
        return line

    assert asyncio.run(scenario()) == "ready http://x"


def test_a_child_that_ends_first_is_told_with_its_code_and_its_log(tmp_path: Path) -> None:
    script = "echo no luck >&2; exit 7"
    assert failure(shell(script, tmp_path)) == "thing ended at once (exit code 7):\nno luck"


def test_only_the_log_of_this_start_is_shown_and_only_its_end(tmp_path: Path) -> None:
    (tmp_path / "thing.log").write_text("of yesterday\n")
    said = failure(shell("exit 1", tmp_path))
    assert said.endswith("thing.log says nothing)")
    long = shell(f"{sys.executable} -c \"print('x' * 9999 + 'end')\" >&2; exit 1", tmp_path)
    said = failure(long)
    assert said.endswith("xend")
    assert len(said) < 2_100


def test_a_child_that_is_never_ready_is_ended(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(child_module, "START_TIMEOUT_S", 0.1)
    child = shell("exec sleep 9", tmp_path)
    assert failure(child).startswith("thing did not say that it is ready")
    assert child.process is not None
    assert child.process.returncode == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(child_module, "STOP_TIMEOUT_S", 0.1)

    async def scenario() -> int | None:
        child = shell("trap '' TERM; echo ready; while :; do sleep 1; done", tmp_path)
        await child.start(waits_for_ready=True)
        await child.stop()
        await child.stop()  # a second time is nothing
        assert child.process is not None
        return child.process.returncode

    assert asyncio.run(scenario()) == -signal.SIGKILL


def test_a_program_that_is_not_there_is_a_start_error(tmp_path: Path) -> None:
    child = Child("thing", ["/no/such/program"], tmp_path / "log", os.environ)
    assert "/no/such/program" in failure(child)


def test_a_child_dies_with_its_parent_whatever_it_thinks_of_signals(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, sys, time\n"
        "from pathlib import Path\n"
        "from extproc.edge.child import Child\n"
        "script = \"trap '' TERM HUP INT; echo ready; while :; do sleep 1; done\"\n"
        "child = Child('c', ['/bin/sh', '-c', script], Path(sys.argv[1]), os.environ)\n"
        "async def main():\n"
        "    await child.start(waits_for_ready=True)\n"
        "    print(child.process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        assert orphan.is_running()
        parent.kill()
    deadline = time.monotonic() + 5
    while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            orphan.kill()
            raise AssertionError("the child lives on")
        time.sleep(0.01)


def test_ends_are_described_for_people() -> None:
    assert describe(0) == "exit code 0"
    assert describe(1) == "exit code 1"
    assert describe(-9) == "SIGKILL"
    assert describe(-63) == "signal 63"
