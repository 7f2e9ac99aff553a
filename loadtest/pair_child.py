"""One tree of a comparison: its own variants, loaded when the parent says so.

The parent runs this very file on every tree, with that tree first on the path, so that a tree from
before this file existed can be compared too. So it asks of ``loadtest`` only what has long been
there. It reads a variant's name and seconds from stdin, line by line, and answers each line with
one line of JSON. The end of stdin is its end.

    python -P loadtest/pair_child.py VARIANT...
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from loadtest import measure
from loadtest.processes import Processes
from loadtest.stack import Stack, pin_client

WARM_UP_S = 1.0


def main(names: list[str]) -> None:
    """Serves until stdin ends."""
    pin_client()
    with tempfile.TemporaryDirectory(prefix="lt-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        processes = Processes(root / "logs")
        try:
            stack = Stack(processes, root)
            variants = {name: getattr(stack, name)() for name in names}
            for variant in variants.values():
                measure.saturate(variant, WARM_UP_S, processes)
            print("ready", flush=True)
            for line in sys.stdin:
                name, seconds = line.split()
                item = measure.saturate(variants[name], float(seconds), processes)
                figures = {
                    "rps": item.rps,
                    "envoy_us": item.envoy_us,
                    "python_us": item.python_us,
                    "noise_cores": item.noise.cores,
                    "valid": item.valid,
                }
                print(json.dumps(figures), flush=True)
        finally:
            processes.stop_all()


if __name__ == "__main__":
    main(sys.argv[1:])
