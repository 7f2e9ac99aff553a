"""Virtual time: one ordered list of steps for the whole simulated world.

Everything that happens is a step: a message that arrives, a timer, a future's callback, an upkeep
round. Steps are numbered, named and hashed, so that one seed is one story, and a process may be
killed at any of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
from asyncio import events
from collections.abc import Callable
from typing import Any


class Killed(BaseException):
    """``kill -9`` in the middle of a step. Not an ``Exception``: no code of ours may catch it."""


class Step:
    """One callback that is due."""

    __slots__ = ("arguments", "callback", "cancelled", "due_ms", "name", "process")

    def __init__(
        self, due_ms: int, name: str, callback: Callable[..., Any], arguments: Any, process: Any
    ) -> None:
        self.due_ms = due_ms
        self.name = name
        self.callback = callback
        self.arguments = arguments
        self.process = process
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def when(self) -> float:
        return self.due_ms / 1000


class Schedule:
    """Steps in the order in which they happen."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.number = 0
        """Of the step that runs, from 1."""
        self.name = ""
        self.on_killed: Callable[[ProcessLoop], None] = lambda _: None
        self._due: list[tuple[int, int, Step]] = []
        self._sequence = 0
        self._trace = hashlib.sha256()

    @property
    def digest(self) -> str:
        """The story so far: equal for equal seeds."""
        return self._trace.hexdigest()

    def note(self, text: str) -> None:
        """Puts something into the story."""
        self._trace.update(text.encode())

    def after(
        self,
        delay_ms: int,
        name: str,
        callback: Callable[..., Any],
        *arguments: Any,
        process: ProcessLoop | None = None,
    ) -> Step:
        """A step of the world, or of a process: those do not happen once it is dead."""
        step = Step(self.now_ms + max(0, delay_ms), name, callback, arguments, process)
        heapq.heappush(self._due, (step.due_ms, self._sequence, step))
        self._sequence += 1
        return step

    def run_next(self) -> bool:
        """Runs one step; False when there is none."""
        while self._due:
            due_ms, _, step = heapq.heappop(self._due)
            if step.cancelled or (step.process is not None and not step.process.alive):
                continue
            self.now_ms = max(self.now_ms, due_ms)
            self.number += 1
            self.name = step.name
            self._trace.update(b"%d %d %b\n" % (self.number, self.now_ms, step.name.encode()))
            self._run(step)
            return True
        return False

    def _run(self, step: Step) -> None:
        process = step.process
        if process is None:
            step.callback(*step.arguments)
            return
        events._set_running_loop(process)
        try:
            process.may_die(step.name)
            step.callback(*step.arguments)
        except Killed:
            pass
        finally:
            events._set_running_loop(None)
        # A task keeps even such an exception to itself: the process says whether it is dead.
        if process.dying:
            process.alive = False
            self.on_killed(process)


class ProcessLoop(asyncio.AbstractEventLoop):
    """The event loop of one simulated process: its callbacks become steps of the world."""

    def __init__(self, schedule: Schedule, may_die: Callable[[ProcessLoop, str], None]) -> None:
        self._schedule = schedule
        self._may_die = may_die
        self.alive = True
        self.dying = False
        self.errors: list[Any] = []

    def may_die(self, point: str) -> None:
        """A place where the process may be interrupted. Raises ``Killed``."""
        self._may_die(self, point)

    def die(self) -> None:
        """Dies here. Raises ``Killed``."""
        self.dying = True
        raise Killed

    # -- what asyncio's futures, tasks and timers ask of a loop -----------------------------------

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return self._call(0, callback, args, context)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self._call(-int(-delay * 1000 // 1), callback, args, context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self._call(-int(-(when - self.time()) * 1000 // 1), callback, args, context)

    def _call(self, delay_ms: int, callback: Any, args: Any, context: Any) -> Any:
        if context is not None:
            callback, args = context.run, (callback, *args)
        return self._schedule.after(delay_ms, "callback", callback, *args, process=self)

    def time(self) -> float:
        return self._schedule.now_ms / 1000

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **_: Any) -> Any:
        return asyncio.Task(coro, loop=self)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Threads are steps too: nothing runs beside anything."""
        future = self.create_future()
        self._schedule.after(1, "thread", self._in_thread, future, func, args, process=self)
        return future

    def _in_thread(self, future: asyncio.Future[Any], func: Any, args: Any) -> None:
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self.alive

    def is_closed(self) -> bool:
        return not self.alive

    def call_exception_handler(self, context: Any) -> None:
        if self.alive:
            self.errors.append(context)
