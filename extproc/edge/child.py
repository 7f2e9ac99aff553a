"""One child process of ``tokenweir up``: its log, its end, and that it never outlives ``up``."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
EXIT_TIMEOUT_S = 1.0
"""How long a child that closed its stdout before it was ready gets to exit by itself."""
TAIL_BYTES = 2_000
"""Of a log, in an error message: a traceback or a dozen lines."""

_PR_SET_PDEATHSIG = 1


class StartError(Exception):
    """The gateway cannot start or go on. Says why in one line; a child's log may follow."""


class Child:
    """One process and its log."""

    def __init__(self, name: str, command: list[str], log: Path, environ: Mapping[str, str]):
        self.name = name
        self.command = command
        self.log = log
        self._environ = environ
        self._log_start_bytes = 0
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *, waits_for_ready: bool) -> str:
        """Starts it; gives its ``ready`` line when it prints one. Raises ``StartError``.

        Call it from the main thread: the kernel ties a child to the *thread* that started it.
        """
        try:
            with self.log.open("ab") as log:
                self._log_start_bytes = log.tell()
                self.process = await asyncio.create_subprocess_exec(
                    *self.command,
                    stdout=asyncio.subprocess.PIPE if waits_for_ready else log,
                    stderr=log,
                    env=dict(self._environ),
                    start_new_session=True,
                    preexec_fn=_dies_with(os.getpid()),
                )
        except OSError as error:
            raise StartError(f"{self.name} cannot be started: {error}") from None
        if not waits_for_ready:
            return ""
        assert self.process.stdout is not None
        ended = "did not say that it is ready"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                while line := (await self.process.stdout.readline()).decode():
                    if line.startswith("ready"):
                        return line.strip()
            async with asyncio.timeout(EXIT_TIMEOUT_S):
                ended = f"ended at once ({describe(await self.process.wait())})"
        await self.stop()
        raise StartError(f"{self.name} {ended}:\n{self.tail()}")

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def tail(self) -> str:
        """The end of what this start wrote to the log."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start_bytes, end - TAIL_BYTES))
            return log.read().decode(errors="replace").strip() or f"({self.log} says nothing)"


def describe(returncode: int) -> str:
    """How a process ended, for people: ``exit code 1`` or ``SIGKILL``."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def _dies_with(parent_pid: int) -> Callable[[], None] | None:
    """What the child runs between fork and exec, so that the kernel kills it when its parent dies.

    A supervisor that is killed cannot stop anybody, and an Envoy that lives on keeps the port and
    the providers' keys. Other systems than Linux have no such thing: there the child lives on.
    """
    if not sys.platform.startswith("linux"):
        return None
    # PyDLL keeps the interpreter lock, which nobody would give back after a fork.
    prctl = ctypes.PyDLL(None).prctl

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() != parent_pid:  # it died before it was asked about
            os._exit(1)

    return die_with_parent
