from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource
from extproc.edge.allocator import keep_freed_blocks
assert keep_freed_blocks()
body = bytes(2_000_000)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        b"".join((body, b"x"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def test_copies_of_a_body_use_the_same_pages_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    # Two megabytes are 488 pages: without the setting it is that many for each of the 100 copies.
    assert int(done.stdout) < 1_000
