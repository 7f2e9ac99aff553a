"""OpenAI's embeddings."""

from __future__ import annotations

import base64
import struct

from extproc.demo.answer import Answer, BadRequestError, allow, allow_maximum, require
from extproc.demo.asked import Asked, Json

DIMENSIONS = 8
MAX_DIMENSIONS = 3072
"""The longest vector that the real API gives."""


def check(body: Json) -> None:
    """Raises BadRequestError where the real API answers 400."""
    require(body, "model", str)
    require(body, "input", (str, list))
    allow(body, "encoding_format", str)
    allow_maximum(body, "dimensions")
    if (body.get("dimensions") or DIMENSIONS) > MAX_DIMENSIONS:
        raise BadRequestError(f"Invalid 'dimensions': at most {MAX_DIMENSIONS}.")


def asked(body: Json) -> Asked:
    """What a checked body asks for."""
    return Asked(body["model"])


def document(answer: Answer, body: Json) -> Json:
    """The vectors, as numbers or (what the SDK asks for) as base64 of little-endian floats."""
    vector = [0.125] * (body.get("dimensions") or DIMENSIONS)
    embedding: object = vector
    if body.get("encoding_format") == "base64":
        embedding = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    data = [
        {"object": "embedding", "index": index, "embedding": embedding}
        for index in range(_inputs(body["input"]))
    ]
    answered: Json = {"object": "list", "data": data, "model": answer.model}
    if not answer.omit_usage:
        prompt = answer.reported()[0]
        answered["usage"] = {"prompt_tokens": prompt, "total_tokens": prompt}
        if answer.lie == "missing_field":
            del answered["usage"]["prompt_tokens"]
    return answered


def _inputs(value: str | list[object]) -> int:
    """A string or a list of token numbers is one input; a list of either is that many."""
    one = isinstance(value, str) or (bool(value) and isinstance(value[0], int))
    return 1 if one else len(value)
