"""Google's JSON: each field may be written ``maxOutputTokens`` or ``max_output_tokens``."""

from __future__ import annotations

import re
from typing import Any

FREE_FORM = frozenset(
    {
        "args",
        "labels",
        "parameters",
        "parametersJsonSchema",
        "response",
        "responseJsonSchema",
        "responseSchema",
    }
)
"""Fields whose insides are the caller's own."""

_SNAKE = re.compile(r"_([a-z0-9])")


def in_camel_case(value: Any) -> Any:
    """The same document with the first spelling everywhere; free-form values as they came."""
    if isinstance(value, list):
        return [in_camel_case(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    renamed = {}
    for name, inner in value.items():
        camel = _SNAKE.sub(lambda found: found[1].upper(), name)
        renamed[camel] = inner if camel in FREE_FORM else in_camel_case(inner)
    return renamed
