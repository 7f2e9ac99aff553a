"""A precise periodic timer. libuv's own timers count whole milliseconds, too coarse for the times
measured here, and a busy loop would take the core from the upstream."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Self

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


class PeriodicTimer:
    """A Linux timerfd: readable at ``first_ns``, and every ``interval_ns`` after it."""

    def __init__(self, first_ns: int, interval_ns: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self.fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, flags)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        spec = _TimerSpec(
            _Timespec(*divmod(interval_ns, 1_000_000_000)),
            _Timespec(*divmod(first_ns, 1_000_000_000)),
        )
        if libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None):
            error = ctypes.get_errno()
            os.close(self.fd)
            raise OSError(error, "timerfd_settime")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def expirations(self) -> int:
        """How often it went off since it was last asked."""
        try:
            return int.from_bytes(os.read(self.fd, 8), "little")
        except BlockingIOError:
            return 0


def now_ns() -> int:
    """The clock of the timer, of the client and of the upstream's stamps."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
