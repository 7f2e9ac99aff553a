"""Reading a tree against what a document may say, collecting every finding instead of the first."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from extproc.policy.snapshot import CredentialRef, Finding
from extproc.policy.yaml_text import Node

MAX_FINDINGS = 100
"""More help nobody; a binary file would give thousands."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
"""What rules, targets and virtual models may be called: safe in a header, a log line and a key."""


class Findings:
    """What is wrong (errors) and what should be known (warnings) about one folder."""

    def __init__(self) -> None:
        self.errors: list[Finding] = []
        self.warnings: list[Finding] = []

    def error(self, file: str, line: int, code: str, message: str) -> None:
        """Adds an error: the folder will not be taken."""
        if len(self.errors) < MAX_FINDINGS:
            self.errors.append(Finding(file, line, code, message))

    def warning(self, file: str, line: int, code: str, message: str) -> None:
        """Adds a warning."""
        if len(self.warnings) < MAX_FINDINGS:
            self.warnings.append(Finding(file, line, code, message))


class Section:
    """One mapping of a document, read key by key; keys nobody read are unknown."""

    def __init__(self, node: Node, file: str, findings: Findings, what: str) -> None:
        self.file = file
        self.line = node.line
        self.findings = findings
        self.what = what
        self._read: set[str] = set()
        if isinstance(node.value, dict):
            self._values: dict[str, Node] = node.value
            self._lines = node.key_lines or {}
        else:
            self._values, self._lines = {}, {}
            self.wrong(node.line, what, "a mapping", node)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def wrong(self, line: int, key: str, wanted: str, node: Node) -> None:
        """Reports a value of the wrong type."""
        self.findings.error(
            self.file, line, "wrong_type", f"{key} must be {wanted}, not {shown(node)}"
        )

    def error(self, key: str, code: str, message: str) -> None:
        """Reports an error at a key's line."""
        self.findings.error(self.file, self.line_of(key), code, message)

    def warning(self, key: str, code: str, message: str) -> None:
        """Reports a warning at a key's line."""
        self.findings.warning(self.file, self.line_of(key), code, message)

    def line_of(self, key: str) -> int:
        """The line of a key, or of the section."""
        return self._lines.get(key, self.line)

    def node(self, key: str, *, required: bool = False) -> Node | None:
        """The raw node of a key."""
        self._read.add(key)
        node = self._values.get(key)
        if node is None and required:
            self.findings.error(
                self.file, self.line, "missing_key", f"{self.what} needs the key {key!r}"
            )
        return node

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        """A string."""
        node = self.node(key, required=required)
        if node is None:
            return default
        if not isinstance(node.value, str):
            self.wrong(node.line, key, "text", node)
            return default
        return node.value

    def identifier(self) -> str:
        """The ``id`` of a rule or a target."""
        value = self.text("id", required=True)
        if value and not NAME.fullmatch(value):
            self.error(
                "id", "bad_id", f"{value[:80]!r} is no usable id: letters, digits . _ : / @ -"
            )
        return value

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        """One of some words."""
        value = self.text(key, default)
        if value not in choices:
            self.error(
                key, "bad_value", f"{key} must be one of {', '.join(choices)}, not {value!r}"
            )
            return default
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        node = self.node(key)
        if node is None:
            return default
        if type(node.value) is not int:
            self.wrong(node.line, key, "a whole number", node)
        elif not low <= node.value <= high:
            self.error(key, "out_of_range", f"{key} must be {low} to {high}, not {node.value}")
        else:
            return node.value
        return default

    def truth(self, key: str) -> bool:
        """``true`` or ``false``, which it is when left out."""
        node = self.node(key)
        if node is None:
            return False
        if not isinstance(node.value, bool):
            self.wrong(node.line, key, "true or false", node)
            return False
        return node.value

    def decimal(self, key: str, *, required: bool = False) -> Decimal | None:
        """An exact number that is not negative."""
        node = self.node(key, required=required)
        if node is None:
            return None
        if type(node.value) is int or isinstance(node.value, Decimal):
            if node.value >= 0:
                return Decimal(node.value)
            self.error(key, "out_of_range", f"{key} must not be negative: {node.value}")
        else:
            self.wrong(node.line, key, "a number", node)
        return None

    def texts(self, key: str) -> tuple[str, ...]:
        """A string or a list of strings."""
        node = self.node(key)
        return () if node is None else self.texts_of(key, node)

    def texts_of(self, key: str, node: Node) -> tuple[str, ...]:
        """The strings of a node that is a string or a list of them."""
        items = node.value if isinstance(node.value, list) else [node]
        texts = []
        for item in items:
            if isinstance(item.value, str):
                texts.append(item.value)
            else:
                self.wrong(item.line, key, "text", item)
        return tuple(texts)

    def reference(self, key: str, *, required: bool = False) -> CredentialRef | None:
        """Where a secret is: ``env:NAME`` or ``file:PATH``."""
        text = self.text(key, required=required)
        if not text:
            return None
        kind, _, name = text.partition(":")
        if kind not in ("env", "file") or not name:
            # The text may be the secret itself: it is not repeated.
            self.error(key, "literal_secret", f"{key} must be env:NAME or file:PATH")
            return None
        return CredentialRef(kind, name)

    def sections(self, key: str, *, required: bool = False) -> list[Section]:
        """A list of mappings."""
        node = self.node(key, required=required)
        if node is None:
            return []
        if not isinstance(node.value, list):
            self.wrong(node.line, key, "a list", node)
            return []
        return [Section(item, self.file, self.findings, key) for item in node.value]

    def section(self, key: str, *, required: bool = False) -> Section | None:
        """A mapping."""
        node = self.node(key, required=required)
        return None if node is None else Section(node, self.file, self.findings, key)

    def items(self) -> Iterable[tuple[str, Node]]:
        """Every key with its node; for mappings whose keys are names."""
        self._read.update(self._values)
        return self._values.items()

    def done(self) -> None:
        """Reports keys that nothing has read."""
        known = sorted(self._read)
        for key in self._values:
            if key not in self._read:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                self.error(key, "unknown_key", f"{self.what} has no key {key[:80]!r}{hint}")


def shown(node: Node) -> str:
    """A value for a message: short, and never a whole subtree."""
    value: Any = node.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return repr(value)[:80]


Reader = Callable[[Section], None]
