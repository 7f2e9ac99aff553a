"""Free text that a model writes into the only field of a function.

The Responses API has tools whose input is plain text (Codex's patches). Other APIs know functions
only, so there the model writes ``{"input": "..."}``, and the caller gets what is inside.
"""

from __future__ import annotations

import json
import re

import orjson

FIELD = "input"
"""The function's only field."""

_OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_WHOLE_CHARACTERS = re.compile(
    r'(?:[^"\\]|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})+"
)
"""As far as escapes are complete; both halves of a character beyond the first 65,536 count as one.
"""


def arguments_of(text: str) -> str:
    """The arguments that stand for the text."""
    return orjson.dumps({FIELD: text}).decode()


def text_of(arguments: str) -> str:
    """The text that the arguments hold; what is no such object is the text itself."""
    try:
        # Not strict: models write line breaks unescaped, and these are what was meant.
        values = json.loads(arguments or "{}", strict=False)
    except (ValueError, RecursionError):
        return arguments
    if not isinstance(values, dict):
        return arguments
    texts = [values[FIELD]] if FIELD in values else list(values.values())
    if len(texts) != 1 or not isinstance(texts[0], str):
        return "" if not values else arguments
    return texts[0].encode("utf-8", "replace").decode()  # half a character has no bytes


class FreeText:
    """The text as it arrives in pieces of arguments, cut anywhere."""

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self._sent_characters = 0

    def feed(self, piece: str) -> str:
        """The characters that are complete now."""
        self._held += piece
        if not self._inside:
            opening = _OPENING.match(self._held)
            if opening is None:
                return ""
            self._inside = True
            self._held = self._held[opening.end() :]
        whole = _WHOLE_CHARACTERS.match(self._held)
        if whole is None:
            return ""
        self._held = self._held[whole.end() :]
        text: str = json.loads(f'"{whole[0]}"', strict=False)
        self._sent_characters += len(text)
        return text

    def rest(self, text: str) -> str:
        """What of the whole text was not given yet."""
        return text[self._sent_characters :]
