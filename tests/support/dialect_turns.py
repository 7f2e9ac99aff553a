"""Turns of a conversation, for tests."""

from __future__ import annotations

from extproc.dialects.conversation import Part, Role, Turn


def user(*parts: Part) -> Turn:
    """What the caller says."""
    return Turn(Role.USER, list(parts))


def assistant(*parts: Part) -> Turn:
    """What a model has said."""
    return Turn(Role.ASSISTANT, list(parts))
