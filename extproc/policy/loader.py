"""Reading a policy folder from disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import Finding, PolicySnapshot
from extproc.policy.yaml_text import MAX_FILE_BYTES


def read_folder(folder: Path) -> dict[str, bytes] | list[Finding]:
    """The folder's ``*.yaml`` and ``*.yml`` files by name, or why they cannot be read."""
    files = {}
    try:
        names = sorted(entry for entry in os.listdir(folder) if entry.endswith((".yaml", ".yml")))
        for name in names:
            with (folder / name).open("rb") as file:
                # One byte more than allowed: the compiler then says that the file is too long.
                files[name] = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return [Finding(str(folder), 0, "unreadable", error.strerror or "cannot be read")]
    return files


def load_folder(
    folder: Path, generation: int, environ: Mapping[str, str], demo_url: str | None = None
) -> PolicySnapshot | list[Finding]:
    """Reads and compiles a folder."""
    files = read_folder(folder)
    if isinstance(files, list):
        return files
    return compile_folder(files, generation, environ, demo_url)
