"""Names of models: the same model has another name at every provider and on every date."""

from __future__ import annotations

import re

_VENDOR = re.compile(
    r"^(?:(?:us|eu|apac|global|jp|au)\.)?"
    r"(?:anthropic|amazon|meta|mistral|cohere|openai|google)[./]"
    r"|^publishers/[^/]+/models/"
)
_SUFFIX = re.compile(
    r"(?:-v[0-9]+(?::[0-9]+)?|@[0-9]{8}|-20[0-9]{6}|-20[0-9]{2}-[0-9]{2}-[0-9]{2}|-latest)$"
)

FAMILIES = ("haiku", "sonnet", "opus", "fable", "mini", "nano", "flash", "flash-lite", "pro")
"""Words that ``fallback_to_NAME`` may use for all versions of a line of models."""


def canonical_model(model: str) -> str:
    """The model without vendor prefix, region, date and version suffix.

    ``us.anthropic.claude-haiku-4-5-20251001-v1:0`` and ``claude-haiku-4-5`` are one model.
    """
    name = _VENDOR.sub("", model)
    while (shorter := _SUFFIX.sub("", name)) != name:
        name = shorter
    return name


def in_family(model: str, family: str) -> bool:
    """Whether a model is of a family, or is it by its whole canonical name.

    Words are compared whole, never as substrings: ``opus-4`` must not match ``opus-4-7``.
    """
    canonical = canonical_model(model)
    if family == canonical or family == canonical.replace(".", "-").replace("-", "_"):
        return True
    return family in FAMILIES and family in re.split(r"[-.]", canonical)
