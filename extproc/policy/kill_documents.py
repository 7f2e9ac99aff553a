"""The kill switch, as written: the key ``kill_switch`` of a ``gateway-config``."""

from __future__ import annotations

from extproc.policy.drafts import Drafts
from extproc.policy.matching import MATCH_FIELDS
from extproc.policy.reading import Section
from extproc.policy.snapshot import Kill

MAX_KILL_VALUE_CHARACTERS = 256
"""Identity values are at most 128 long; models and derived sessions are the longest."""
MAX_REASON_CHARACTERS = 500


def read_kill_switch(document: Section, drafts: Drafts) -> None:
    """The list ``kill_switch``: one field and its value each, and why."""
    for section in document.sections("kill_switch"):
        reason = section.text("reason")[:MAX_REASON_CHARACTERS]
        named = [name for name in MATCH_FIELDS if name in section]
        for name in named:
            value = section.text(name)
            if is_kill_value(value):
                drafts.kills.append(Kill(name, value, reason))
            else:
                section.error(name, "bad_kill", f"{value[:80]!r} is no value of {name}")
        if len(named) != 1:
            known = ", ".join(MATCH_FIELDS)
            section.error("", "bad_kill", f"an entry names exactly one of {known}")
        section.done()


def is_kill_value(value: str) -> bool:
    """Whether the text can be a value of a field: printable, and not too long."""
    return 0 < len(value) <= MAX_KILL_VALUE_CHARACTERS and value.isprintable()
