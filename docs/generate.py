"""Writes ``docs/dialects.md``: what each caller's API can say to each target's, by asking the code.

python docs/generate.py

``tests/integration/test_dialect_matrix.py`` sends the same requests through a gateway.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import orjson

from extproc.core.translated import CALLERS, TARGETS
from extproc.dialects.codec import TargetFacts
from extproc.dialects.conversation import UntranslatableError, Vendor
from extproc.values.dialect import Dialect, Operation

Json = dict[str, Any]

FILE = Path(__file__).parent / "dialects.md"
_NAMES = {
    Operation.CHAT_COMPLETIONS: "OpenAI chat completions",
    Operation.RESPONSES: "OpenAI responses",
    Operation.MESSAGES: "Anthropic messages",
}
MODELS = {
    Dialect.OPENAI: ("gpt-5.1", Vendor.OPENAI),
    Dialect.ANTHROPIC: ("claude-haiku-4-5", Vendor.ANTHROPIC),
    Dialect.GEMINI: ("gemini-2.5-pro", Vendor.GOOGLE),
    Dialect.BEDROCK: ("anthropic.claude-haiku-4-5", Vendor.ANTHROPIC),
}
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJg"
    "gg=="
)
_SCHEMA: Json = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
_ASK: Json = {"role": "user", "content": "hi"}

_TOOL_FUNCTION: Json = {"name": "f", "description": "d", "parameters": _SCHEMA}
_CHAT_CALL: Json = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_CHAT: dict[str, Json] = {
    "text": {},
    "stream": {"stream": True},
    "system": {"messages": [{"role": "system", "content": "be brief"}, _ASK]},
    "tools": {"tools": [{"type": "function", "function": _TOOL_FUNCTION}]},
    "tool results": {
        "messages": [
            _ASK,
            {"role": "assistant", "tool_calls": [_CHAT_CALL, {**_CHAT_CALL, "id": "c2"}]},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "tool", "tool_call_id": "c2", "content": "2"},
        ],
        "tools": [{"type": "function", "function": _TOOL_FUNCTION}],
    },
    "one call at a time": {
        "tools": [{"type": "function", "function": _TOOL_FUNCTION}],
        "parallel_tool_calls": False,
    },
    "image": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PNG}"}}
                ],
            }
        ]
    },
    "JSON mode": {
        "messages": [{"role": "user", "content": "hi, in JSON"}],
        "response_format": {"type": "json_object"},
    },
    "JSON schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": _SCHEMA, "strict": True},
        }
    },
    "thinking": {"reasoning_effort": "low"},
    "stop sequences": {"stop": ["END"]},
    "seed": {"seed": 1},
    "several answers": {"n": 2},
    "log probabilities": {"logprobs": True},
    "logit bias": {"logit_bias": {"1": 1}},
    "unknown field": {"new_field": 1},
}
_RESPONSES: dict[str, Json] = {
    "text": {},
    "stream": {"stream": True},
    "system": {"instructions": "be brief"},
    "tools": {"tools": [{"type": "function", **_TOOL_FUNCTION, "strict": True}]},
    "tool results": {
        "input": [
            _ASK,
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
        ],
        "tools": [{"type": "function", **_TOOL_FUNCTION, "strict": True}],
    },
    "one call at a time": {
        "tools": [{"type": "function", **_TOOL_FUNCTION, "strict": True}],
        "parallel_tool_calls": False,
    },
    "image": {
        "input": [
            {
                "role": "user",
                "content": [{"type": "input_image", "image_url": f"data:image/png;base64,{_PNG}"}],
            }
        ]
    },
    "JSON mode": {"input": "hi, in JSON", "text": {"format": {"type": "json_object"}}},
    "JSON schema": {
        "text": {"format": {"type": "json_schema", "name": "s", "schema": _SCHEMA, "strict": True}}
    },
    "thinking": {"reasoning": {"effort": "low"}},
    "unknown field": {"new_field": 1},
}
_ANTHROPIC_TOOL: Json = {"name": "f", "description": "d", "input_schema": _SCHEMA}
_USE: Json = {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
_MESSAGES: dict[str, Json] = {
    "text": {},
    "stream": {"stream": True},
    "system": {"system": [{"type": "text", "text": "be brief"}]},
    "tools": {"tools": [_ANTHROPIC_TOOL]},
    "tool results": {
        "messages": [
            _ASK,
            {"role": "assistant", "content": [_USE, {**_USE, "id": "c2"}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "1"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "2"},
                ],
            },
        ],
        "tools": [_ANTHROPIC_TOOL],
    },
    "one call at a time": {
        "tools": [_ANTHROPIC_TOOL],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    },
    "image": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": _PNG},
                    }
                ],
            }
        ]
    },
    "JSON schema": {"output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}}},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "stop sequences": {"stop_sequences": ["END"]},
    "cache marks": {
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]
    },
    "unknown field": {"new_field": 1},
}
_SAMPLES = {
    Operation.CHAT_COMPLETIONS: (
        {"model": "m", "max_completion_tokens": 4096, "messages": [_ASK]},
        _CHAT,
    ),
    Operation.RESPONSES: ({"model": "m", "max_output_tokens": 4096, "input": "hi"}, _RESPONSES),
    Operation.MESSAGES: ({"model": "m", "max_tokens": 4096, "messages": [_ASK]}, _MESSAGES),
}
_HEAD = """# What is translated to what

Made from the code by `python docs/generate.py`; a test keeps it fresh. A row is something that a
caller asks for, a column the API that the target speaks. Where both speak the same API nothing is
translated: the body passes byte for byte, but for what another vendor left in the conversation.
Azure is asked as OpenAI is, and OpenAI's own endpoints in chat completions unless the caller
speaks responses too.

- **yes**: translated.
- **without X**: translated, X left out because the API has none such; the answer's `x-tfy-dropped`
  says so.
- **no**: the request does not go to such a target; if no other is left it is refused (400) by that
  field's name.

Embeddings, legacy completions and token counts are not translated: only targets of the caller's own
API serve them.

`tests/integration/test_dialect_matrix.py` sends every request of these tables through a gateway to
providers as strict as the real ones. The exact translations of requests, answers, errors and
streams are in `tests/dialects/golden/`.

Answers keep text, thoughts, tool calls, refusals, the reason to stop and every count that the
provider gives. Two things need a word. A generated image is in `images` beside the text in chat
completions (as OpenRouter and LiteLLM have it), an `image_generation_call` in responses, and a line
of text that says it was left out in messages, which have no place for it. A provider's answer that
is out of shape or out of order is refused, or cut where the caller has its beginning, and charged
as reserved.
"""


class Verdict(NamedTuple):
    """What becomes of a request at a target."""

    refused: str = ""
    """The caller's field that the target's API has no equal of; empty: it is translated."""
    dropped: tuple[str, ...] = ()
    """Fields that are left out, each once."""


def columns(operation: Operation) -> list[Dialect]:
    """The APIs that a caller's requests are translated for."""
    own = operation.dialect if operation is not Operation.RESPONSES else None
    return [dialect for dialect in MODELS if dialect is not own]


def rows(operation: Operation) -> dict[str, Json]:
    """A whole request for each thing that a caller may ask for, by its name."""
    base, samples = _SAMPLES[operation]
    return {name: {**base, **fields} for name, fields in samples.items()}


def verdict(operation: Operation, dialect: Dialect, request: Json) -> Verdict:
    """The code's own."""
    model, vendor = MODELS[dialect]
    try:
        conversation = CALLERS[operation].read_request(orjson.dumps(request))
        written = TARGETS[dialect].write_request(conversation, TargetFacts(model, vendor))
    except UntranslatableError as error:
        return Verdict(error.param)
    return Verdict(dropped=tuple(dict.fromkeys(written.dropped)))


def document() -> str:
    """The text of the page."""
    text = _HEAD
    for operation in _SAMPLES:
        dialects = columns(operation)
        text += f"\n## {_NAMES[operation]}\n\n| | {' | '.join(dialects)} |\n"
        text += "| --- |" + " --- |" * len(dialects) + "\n"
        for name, request in rows(operation).items():
            cells = [_cell(verdict(operation, dialect, request)) for dialect in dialects]
            text += f"| {name} | {' | '.join(cells)} |\n"
    return text


def _cell(found: Verdict) -> str:
    if found.refused:
        return f"no (`{found.refused}`)"
    if found.dropped:
        return "without " + ", ".join(f"`{name}`" for name in found.dropped)
    return "yes"


if __name__ == "__main__":
    FILE.write_text(document())
