"""What providers say of their usage, as Envoy's filter finds it in their answers."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from extproc.values.dialect import Dialect

NAMES = {
    Dialect.OPENAI: ("prompt_tokens", "completion_tokens"),
    Dialect.ANTHROPIC: ("input_tokens", "output_tokens"),
}
LIES: tuple[tuple[Any, Any], ...] = (
    (-5, 1), (0, 0), (10**18, 3), ("7", 1), (3, True), (None, 4), (2.5, 1),
)  # fmt: skip


def final(
    dialect: Dialect, input_tokens: Any, output_tokens: Any, *, stream: bool
) -> dict[str, str]:
    """A provider's last word, of a stream or of a whole document."""
    input_name, output_name = NAMES[dialect]
    usage = {input_name: input_tokens, output_name: output_tokens}
    if not stream:
        return {"tail": '"usage":' + json.dumps(usage) + "}"}
    if dialect is Dialect.OPENAI:
        return {"last": json.dumps({"choices": [], "usage": usage})}
    # Totals only grow, and the first one is small.
    start = {input_name: input_tokens, output_name: 1 if output_tokens else 0}
    stop = {"stop_reason": "end_turn"}
    return {
        "first": json.dumps({"type": "message_start", "message": {"usage": start}}),
        "last": json.dumps({"type": "message_delta", "delta": stop, "usage": usage}),
    }


def document(dialect: Dialect, input_tokens: int, output_tokens: int) -> bytes:
    """A whole answer, as it is before it is translated."""
    input_name, output_name = NAMES[dialect]
    usage = {input_name: input_tokens, output_name: output_tokens}
    if dialect is Dialect.OPENAI:
        message = {"role": "assistant", "content": "Yes."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps({"id": "c", "model": "m", "choices": [choice], "usage": usage}).encode()
    content = [{"type": "text", "text": "Yes."}]
    answer = {"type": "message", "id": "m", "role": "assistant", "model": "m", "content": content}
    return json.dumps({**answer, "stop_reason": "end_turn", "usage": usage}).encode()


def interim(dialect: Dialect) -> dict[str, str]:
    """What a cut stream had said: small counts that are nobody's last word."""
    input_name, output_name = NAMES[dialect]
    usage = {input_name: 1, output_name: 1}
    if dialect is Dialect.OPENAI:
        return {"last": json.dumps({"choices": [{"finish_reason": None}], "usage": usage})}
    return {"first": json.dumps({"type": "message_start", "message": {"usage": usage}})}


def lie(dialect: Dialect, draw: Random) -> dict[str, str]:
    """A report that cannot be true."""
    input_tokens, output_tokens = draw.choice(LIES)
    return final(dialect, input_tokens, output_tokens, stream=draw.random() < 0.5)
