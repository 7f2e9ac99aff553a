"""A folder of text files that can be searched and read, and nothing else done to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from heapq import nlargest
from pathlib import Path

MAX_FILES = 5_000
MAX_FILE_BYTES = 256 * 1024
"""Longer files, and those that are no text, are left out."""
MAX_HITS = 40
MAX_LINE_CHARACTERS = 160
MAX_READ_LINES = 200
"""What one answer shows: an agent that needs more asks again, and more precisely."""
_SUFFIXES = (".py", ".md", ".yaml", ".toml", ".lua", ".txt", ".proto")
_WORD = re.compile(r"[a-z0-9_]+")


class TextFolder:
    """The files as they were when it was made; a name that is not among them is no file."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """Contents by path below the folder."""
        self._lines = {path: text.splitlines() for path, text in files.items()}

    def search(self, query: str) -> str:
        """The lines that hold most of the query's words, with path and number, best first."""
        words = list(dict.fromkeys(_WORD.findall(query.lower())))
        if not words:
            return "The query has no words."
        hits = []
        for path, lines in self._lines.items():
            in_path = sum(word in path.lower() for word in words)
            for number, line in enumerate(lines, 1):
                lowered = line.lower()
                found = [word for word in words if word in lowered]
                if found:
                    whole = len({*_WORD.findall(lowered)}.intersection(found))
                    hits.append((4 * len(found) + whole + in_path, -number, path, line))
        best = nlargest(MAX_HITS, hits, key=lambda hit: (hit[0], hit[1]))
        shown = [
            f"{path}:{-number}: {line.strip()[:MAX_LINE_CHARACTERS]}"
            for _, number, path, line in best
        ]
        return "\n".join(shown) or "No line holds any of these words."

    def read_file(self, path: str, first_line: int = 1) -> str | None:
        """Lines of a file from one on, numbered; None for what is no file."""
        lines = self._lines.get(path)
        if lines is None:
            return None
        first = max(1, first_line)
        shown = lines[first - 1 : first - 1 + MAX_READ_LINES]
        text = "\n".join(f"{number}\t{line}" for number, line in enumerate(shown, first))
        rest = len(lines) - (first - 1) - len(shown)
        return f"{text}\n({rest} more lines)" if rest > 0 else text


def read_folder(root: Path) -> dict[str, str]:
    """The text files below a folder, by path."""
    files: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix not in _SUFFIXES or not path.is_file() or path.is_symlink():
            continue
        if path.stat().st_size > MAX_FILE_BYTES or len(files) >= MAX_FILES:
            continue
        try:
            files[str(path.relative_to(root))] = path.read_text()
        except (UnicodeDecodeError, OSError):
            continue
    return files
