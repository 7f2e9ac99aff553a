"""The identity envelope: who is asking, and on whose account."""

from __future__ import annotations

from typing import NamedTuple


class Envelope(NamedTuple):
    """The verified attribution fields of one request. Empty string: not given."""

    project: str = ""
    team: str = ""
    user_id: str = ""
    session_id: str = ""
    workflow_tag: str = ""
    environment: str = ""
    cost_center: str = ""


ENVELOPE_FIELDS = Envelope._fields
"""Policy names of the fields; the header is the prefix plus the name, dashes for underscores."""
