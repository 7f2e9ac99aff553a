"""Notices: what the gateway tells people outside, whatever the occasion and the channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is, in PagerDuty's words."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. It never holds prompt text, a secret, or unchecked bytes of a request."""

    key: str
    """The same for the same event on every sidecar and after every restart: receivers that can
    tell repetitions apart do it by this."""
    title: str
    """One line for people."""
    severity: Severity
    facts: tuple[tuple[str, str], ...]
    """What is known, as label and text, in the order in which it is shown."""
    at_ms: int
    data: Mapping[str, str | int] = field(default_factory=dict)
    """The same for programs; amounts end in their unit."""
    resolved: bool = False
    """The trouble with this key is over: told only where there is something to close."""
