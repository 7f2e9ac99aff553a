"""YAML text to a plain tree in which every value knows its line.

Built on PyYAML's event stream only: its composer recurses, and the C loader crashes the process on
30,000 nested brackets. Aliases, tags and merge keys are refused, duplicate keys too, and plain
scalars are read by this module's own narrow rules, so ``no`` is a word and ``0123`` is no number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import yaml

MAX_FILE_BYTES = 1024 * 1024
"""A policy of ten thousand rules is half of this; parsing it takes seconds in pure Python."""
MAX_DEPTH = 32
"""The deepest policy document is eight levels deep."""
MAX_NODES = 200_000
"""Bounds the time of one load."""

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,12}")
_AMBIGUOUS = re.compile(r"[-+]?[0-9][0-9_]*|0[xob].*|[-+]?\.(inf|nan)", re.IGNORECASE)


class YamlError(Exception):
    """Text that is refused, with its line (from 1)."""

    def __init__(self, line: int, code: str, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it is. ``value`` is a str, int, Decimal, bool, None, a list of nodes, or a
    dict from key to node."""

    value: Any
    line: int
    key_lines: dict[str, int] | None = None


def parse_documents(data: bytes) -> list[Node]:
    """The documents of a file. Raises ``YamlError`` for the first thing that is wrong."""
    if len(data) > MAX_FILE_BYTES:
        raise YamlError(1, "file_too_large", f"the file is longer than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError(line, "not_utf8", "the file is not UTF-8") from None
    try:
        return list(_Reader(yaml.parse(text, Loader=yaml.SafeLoader)).documents())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "this is not YAML"
        raise YamlError(mark.line + 1 if mark else 1, "yaml_syntax", str(problem)) from None
    except RecursionError:
        raise YamlError(1, "too_deep", "the file is nested too deeply") from None


class _Reader:
    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._nodes = 0

    def documents(self) -> Iterator[Node]:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                yield self._node(next(self._events), 0)

    def _node(self, event: Any, depth: int) -> Node:
        line = event.start_mark.line + 1
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise YamlError(line, "too_many_nodes", f"more than {MAX_NODES} values")
        if depth > MAX_DEPTH:
            raise YamlError(line, "too_deep", f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlError(line, "alias", "anchors and aliases are not accepted")
        if getattr(event, "tag", None) not in (None, "!"):
            raise YamlError(line, "tag", f"the tag {str(event.tag)[:80]!r} is not accepted")
        if isinstance(event, yaml.ScalarEvent):
            return Node(_scalar(event, line), line)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(inner := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(inner, depth + 1))
            return Node(items, line)
        return self._mapping(line, depth)

    def _mapping(self, line: int, depth: int) -> Node:
        values: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent) or event.anchor:
                raise YamlError(key_line, "key", "a key must be plain text")
            key = event.value
            if key == "<<":
                raise YamlError(key_line, "merge_key", "merge keys are not accepted")
            if key in values:
                raise YamlError(
                    key_line, "duplicate_key", f"{key[:80]!r} is already set in line {lines[key]}"
                )
            lines[key] = key_line
            values[key] = self._node(next(self._events), depth + 1)
        return Node(values, line, lines)


def _scalar(event: Any, line: int) -> object:
    text: str = event.value
    if event.style is not None:
        return text
    if text in ("", "null", "~"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return Decimal(text)
    if _AMBIGUOUS.fullmatch(text):
        raise YamlError(
            line, "ambiguous_number", f"{text[:80]!r} is no plain number; quote it if it is text"
        )
    return text
