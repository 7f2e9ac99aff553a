"""Compiles ``proto/*.proto`` into ``extproc/pb``: ``python proto/generate.py [OUT]``."""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent


def generate(out: Path) -> None:
    """Writes the message classes and their type stubs into a folder."""
    include = Path(protoc.__file__).parent / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"-I{HERE}",
            f"-I{include}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            str(HERE / "extproc.proto"),
        ]
    )
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "extproc" / "pb")
