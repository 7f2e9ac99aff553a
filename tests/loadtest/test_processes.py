from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from until import until

from loadtest.processes import NoiseMeter, Processes, StartError, cpu_ticks, rss_mb

SLEEPER = [sys.executable, "-c", "import time; print('ready 42', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('ready', flush=True); time.sleep(60)",
]
RUN = """
import sys, time
from pathlib import Path
from loadtest.processes import Processes
child, _ = Processes(Path(sys.argv[1])).start(
    "sleeper", [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"],
    cpu=0, ready="ready")
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _signals_as_they_were():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_child_runs_on_its_core_and_says_when_it_is_ready(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    child, said = processes.start("sleeper", SLEEPER, cpu=0, ready="ready ")
    try:
        assert said == "42"
        assert os.sched_getaffinity(child.pid) == {0}
        assert cpu_ticks(child.pid) >= 0
        assert rss_mb(child.pid) > 1
        assert child.pid in processes.pids()
    finally:
        processes.stop_all()
    assert child.process.returncode == -signal.SIGTERM


def test_a_child_that_dies_shows_its_log(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    with pytest.raises(StartError, match="no such luck"):
        processes.start(
            "failing", [sys.executable, "-c", "raise SystemExit('no such luck')"], cpu=0, ready="r"
        )
    processes.stop_all()


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("loadtest.processes.STOP_S", 0.2)
    processes = Processes(tmp_path)
    child, _ = processes.start("stubborn", STUBBORN, cpu=0, ready="ready")
    processes.stop_all()
    assert child.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_children_end_with_the_run_however_it_ends(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = psutil.Process(int(run.stdout.readline()))
        assert child.is_running()
        run.send_signal(number)
        run.wait(10)
    deadline = time.monotonic() + 5
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlived its run"
        time.sleep(0.02)


def test_the_meter_sees_others_but_not_our_own(tmp_path: Path) -> None:
    spin = [sys.executable, "-c", "while True: pass"]
    processes = Processes(tmp_path)
    other = subprocess.Popen(spin)
    processes.start("ours", spin, cpu=0)
    try:
        time.sleep(0.1)
        own = psutil.Process(next(iter(processes.pids() - {os.getpid()})))
        with_other = NoiseMeter(processes)
        time.sleep(0.5)
        # On a busy machine it takes longer until ours has worked enough to be seen.
        until(lambda: own.cpu_times().user > 0.2)
        noise = with_other.read()
        other.kill()
        other.wait()
        assert 0.1 < noise.foreign_cores < 2.5
        assert own.cpu_times().user > 0.2
    finally:
        other.kill()
        other.wait()
        processes.stop_all()
