"""Child processes on fixed cores, what they cost, and their certain end."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GATEWAY_CPU = 0
LOAD_CPU = 1
START_S = 30.0
STOP_S = 5.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1


class StartError(Exception):
    """A child did not start. Holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Child:
    """One running process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its process id, which is its process group too."""
        return self.process.pid

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    def next_line(self, at_most_s: float, begins: str = "") -> str:
        """The next line of its stdout that begins so, without it; the lines before are dropped.
        Raises ``StartError`` when none comes in time."""
        stdout = self.process.stdout
        assert stdout is not None
        deadline = time.monotonic() + at_most_s
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if not selector.select(deadline - time.monotonic()):
                    break
                piece = os.read(stdout.fileno(), 65_536)
                if not piece:
                    break
                text += piece
                for line in text.decode(errors="replace").splitlines(keepends=True):
                    if line.startswith(begins) and line.endswith("\n"):
                        return line.removeprefix(begins).strip()
        raise StartError(f"{self.name} did not answer:\n{self.tail()}")


class Processes:
    """Every child of a run. They end with it, however it ends: on return, on an exception, on
    SIGINT and SIGTERM; and the kernel kills them if this process is killed."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._children: list[Child] = []
        atexit.register(self.stop_all)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _exit_on_signal)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        cpu: int,
        environ: Mapping[str, str] | None = None,
        ready: str | None = None,
        folder: Path | None = None,
        talks: bool = False,
    ) -> tuple[Child, str]:
        """Starts a child on one core. With ``ready`` waits for a line of stdout that begins so, and
        gives what follows it. One that ``talks`` has pipes to stdin and from stdout. Raises
        ``StartError``."""
        path = self._logs / f"{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                cwd=folder,
                stdout=subprocess.PIPE if ready or talks else log,
                stderr=log,
                env={**os.environ, **(environ or {})},
                start_new_session=True,
                preexec_fn=lambda: _prepare(cpu),  # noqa: PLW1509  no threads here
            )
        child = Child(name, process, path)
        self._children.append(child)
        return child, child.next_line(START_S, ready) if ready else ""

    def stop_all(self) -> None:
        """SIGTERM to every group, then SIGKILL to what is left of it."""
        for child in self._children:
            _signal_group(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(child.pid, signal.SIGKILL)
            child.process.wait()
            for pipe in (child.process.stdin, child.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what it never read
                        pipe.close()
        self._children.clear()

    def pids(self) -> set[int]:
        """All children with their own children, and this process."""
        found = {os.getpid()}
        for child in self._children:
            found.update(_tree(child.pid))
        return found


@dataclass(frozen=True, slots=True)
class Noise:
    """What a slice lost to others, in cores."""

    foreign_cores: float
    """Used by processes that are not ours."""
    stolen_cores: float
    """Taken by the hypervisor. It is inside our own CPU times too, so it falsifies them."""

    @property
    def cores(self) -> float:
        """Both together."""
        return self.foreign_cores + self.stolen_cores


class NoiseMeter:
    """Watches the rest of the machine while a slice runs.

    Others are counted process by process: "machine minus ours" reads zero on a virtual machine,
    where the times of our processes include what was stolen from them.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._began_s = time.monotonic()
        self._before = _ticks_by_pid()
        self._stolen = _stolen_ticks()

    def read(self) -> Noise:
        """The noise since the meter was made."""
        ticks = (time.monotonic() - self._began_s) * _TICKS_PER_S
        own = self._processes.pids()
        foreign = sum(
            now - self._before.get(pid, 0) for pid, now in _ticks_by_pid().items() if pid not in own
        )
        return Noise(max(0, foreign) / ticks, (_stolen_ticks() - self._stolen) / ticks)


def cpu_ticks(pid: int) -> int:
    """utime + stime of a process and its children (a peer may work in one); 0 if it is gone."""
    ticks = 0
    for member in _tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks


def cpu_us(pid: int) -> float:
    """CPU time of a process tree in microseconds; steps of one tick (10 ms)."""
    return cpu_ticks(pid) * 1e6 / _TICKS_PER_S


def rss_mb(pid: int) -> float:
    """Resident memory of a process tree."""
    pages = 0
    for member in _tree(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
    return pages * _PAGE_BYTES / 1e6


def _tree(pid: int) -> list[int]:
    found = [pid]
    for member in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{member}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _ticks_by_pid() -> dict[int, int]:
    """CPU ticks by process. Times of dead children are left out: a shell gets the whole life of a
    child at once when it waits for it. So what begins and ends within a slice is not seen."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                found[int(entry)] = int(fields[11]) + int(fields[12])
    return found


def _stolen_ticks() -> int:
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])


def _prepare(cpu: int) -> None:
    """In the child, before it runs its program."""
    os.sched_setaffinity(0, {cpu})
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _exit_on_signal(number: int, _: object) -> None:
    sys.exit(128 + number)  # runs the handlers of atexit
