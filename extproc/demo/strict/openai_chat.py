"""What OpenAI's chat completions refuse."""

from __future__ import annotations

import json
import re

from extproc.demo.answer import BadRequestError
from extproc.demo.asked import Json
from extproc.demo.strict.openai import (
    FIXED_SAMPLING,
    MAX_NAME_CHARACTERS,
    MAX_TOOLS,
    NAME_PATTERN,
    THINKS,
    THINKS_UNASKED_FROM,
    check_effort,
    check_format,
    check_function,
    check_sampling,
    refused,
    unsupported_parameter,
)
from extproc.demo.strict.shape import (
    BOOLEAN,
    INTEGER,
    OBJECT,
    TEXT,
    Misfit,
    Shape,
    anything,
    base64_text,
    either,
    list_of,
    map_of,
    number,
    one_of,
    record,
    tagged,
    text,
)

MAX_ID_CHARACTERS = 40
MAX_STOPS = 4

_ID = text(least=1, most=MAX_ID_CHARACTERS)
_NAME = text(NAME_PATTERN, MAX_NAME_CHARACTERS)
_TYPE: dict[str, Shape] = {"type": TEXT}
_TEXT_PART = record({**_TYPE, "text": TEXT}, {"prompt_cache_breakpoint": OBJECT})
_TEXTS = either(TEXT, list_of(tagged({"text": _TEXT_PART}), least=1))
_URL = text(r"https?://.+|data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+=*")
_DETAIL = one_of("auto", "low", "high", "original")
_FILE = record({}, {"filename": TEXT, "file_data": text("data:.+;base64,.+"), "file_id": TEXT})
_AUDIO = record({"data": base64_text, "format": one_of("wav", "mp3")})
_USER_PART = tagged(
    {
        "text": _TEXT_PART,
        "image_url": record(
            {**_TYPE, "image_url": record({"url": _URL}, {"detail": _DETAIL})},
            {"prompt_cache_breakpoint": OBJECT},
        ),
        "input_audio": record({**_TYPE, "input_audio": _AUDIO}),
        "file": record({**_TYPE, "file": _FILE}),
    }
)
_ASSISTANT_PART = tagged({"text": _TEXT_PART, "refusal": record({**_TYPE, "refusal": TEXT})})
_CALL = tagged(
    {
        "function": record(
            {**_TYPE, "id": _ID, "function": record({"name": _NAME, "arguments": TEXT})}
        ),
        "custom": record({**_TYPE, "id": _ID, "custom": record({"name": _NAME, "input": TEXT})}),
    }
)
_ROLE: dict[str, Shape] = {"role": TEXT}
_SYSTEM = record({**_ROLE, "content": _TEXTS}, {"name": TEXT})
_MESSAGE = tagged(
    {
        "system": _SYSTEM,
        "developer": _SYSTEM,
        "user": record(
            {**_ROLE, "content": either(TEXT, list_of(_USER_PART, least=1))}, {"name": TEXT}
        ),
        "assistant": record(
            _ROLE,
            {
                "content": either(TEXT, list_of(_ASSISTANT_PART, least=1)),
                "refusal": TEXT,
                "tool_calls": list_of(_CALL, least=1),
                "name": TEXT,
                "audio": OBJECT,
                "annotations": anything,
                "function_call": OBJECT,
            },
        ),
        "tool": record({**_ROLE, "content": _TEXTS, "tool_call_id": _ID}),
        "function": record({**_ROLE, "name": TEXT}, {"content": TEXT}),
    },
    "role",
)
_FUNCTION = record({"name": _NAME}, {"description": TEXT, "parameters": OBJECT, "strict": BOOLEAN})
_NAMED = record({"name": TEXT})
_REQUEST = record(
    {"model": TEXT, "messages": list_of(_MESSAGE, least=1)},
    {
        "audio": OBJECT,
        "frequency_penalty": number(-2, 2),
        "function_call": anything,
        "functions": list_of(_FUNCTION),
        "logit_bias": map_of(number(-100, 100)),
        "logprobs": BOOLEAN,
        "max_completion_tokens": INTEGER,
        "max_tokens": INTEGER,
        "metadata": map_of(text(most=512)),
        "modalities": list_of(one_of("text", "audio")),
        "moderation": anything,
        "n": number(1, 128, whole=True),
        "parallel_tool_calls": BOOLEAN,
        "prediction": OBJECT,
        "presence_penalty": number(-2, 2),
        "prompt_cache_key": TEXT,
        "prompt_cache_options": OBJECT,
        "prompt_cache_retention": TEXT,
        "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh"),
        "response_format": tagged(
            {
                "text": record(_TYPE),
                "json_object": record(_TYPE),
                "json_schema": record(
                    {
                        **_TYPE,
                        "json_schema": record(
                            {"name": _NAME},
                            {"description": TEXT, "schema": OBJECT, "strict": BOOLEAN},
                        ),
                    }
                ),
            }
        ),
        "safety_identifier": text(most=64),
        "seed": INTEGER,
        "service_tier": one_of("auto", "default", "flex", "scale", "priority"),
        "stop": either(TEXT, list_of(TEXT, most=MAX_STOPS)),
        "store": BOOLEAN,
        "stream": BOOLEAN,
        "stream_options": record({}, {"include_usage": BOOLEAN, "include_obfuscation": BOOLEAN}),
        "temperature": number(0, 2),
        "tool_choice": either(
            one_of("none", "auto", "required"),
            tagged(
                {
                    "function": record({**_TYPE, "function": _NAMED}),
                    "custom": record({**_TYPE, "custom": _NAMED}),
                    "allowed_tools": OBJECT,
                }
            ),
        ),
        "tools": list_of(
            tagged({"function": record({**_TYPE, "function": _FUNCTION}), "custom": OBJECT}),
            least=1,
            most=MAX_TOOLS,
        ),
        "top_logprobs": number(0, 20, whole=True),
        "top_p": number(0, 1),
        "user": text(most=64),
        "verbosity": one_of("low", "medium", "high"),
        "web_search_options": OBJECT,
    },
)
_SAMPLING = ("top_p", "presence_penalty", "frequency_penalty", "logprobs", "logit_bias", "stop")
"""What models with fixed sampling refuse, temperature aside."""


def check(body: Json) -> None:
    """Raises BadRequestError."""
    try:
        _REQUEST(body, ())
    except Misfit as misfit:
        if misfit.why == "unknown" and len(misfit.path) == 1:
            message = f"Unrecognized request argument supplied: {misfit.path[0]}"
            raise BadRequestError(message) from misfit
        raise refused(misfit) from misfit
    _check_pairs(body["messages"])
    _check_tools(body)
    _check_model(body)
    wanted = body.get("response_format") or {}
    words = json.dumps(body["messages"])
    check_format(("response_format",), {**wanted, **(wanted.get("json_schema") or {})}, words)
    if body.get("stream_options") and not body.get("stream"):
        raise BadRequestError(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise BadRequestError(
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
            param="top_logprobs",
        )


def _check_pairs(messages: list[Json]) -> None:
    """Each call has its tool message among those that follow at once, and the other way round."""
    missing: list[str] = []
    for place, message in enumerate(messages):
        where = f"messages.[{place}]"
        if message["role"] == "tool":
            if message["tool_call_id"] not in missing:
                raise BadRequestError(
                    "Invalid parameter: messages with role 'tool' must be a response to a "
                    "preceeding message with 'tool_calls'.",
                    param=f"{where}.role",
                )
            missing.remove(message["tool_call_id"])
            continue
        _check_answered(missing, where)
        if message["role"] == "assistant":
            missing = [call["id"] for call in message.get("tool_calls") or ()]
            said = (message.get(name) for name in ("content", "refusal", "audio", "function_call"))
            if not missing and all(value is None for value in said):
                raise BadRequestError(
                    f"Invalid value for 'content': expected a string, got null. ({where})",
                    param=f"{where}.content",
                )
    _check_answered(missing, f"messages.[{len(messages)}]")


def _check_answered(missing: list[str], where: str) -> None:
    if missing:
        raise BadRequestError(
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(missing),
            param=f"{where}.role",
        )


def _check_tools(body: Json) -> None:
    for place, tool in enumerate(body.get("tools") or ()):
        if tool["type"] == "function":
            check_function(("tools", place, "function"), tool["function"])
    if not body.get("tools"):
        for name in ("tool_choice", "parallel_tool_calls"):
            if body.get(name) is not None:
                raise BadRequestError(
                    f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are "
                    "specified.",
                    param=name,
                )
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice["type"] == "function":
        names = [t["function"]["name"] for t in body["tools"] if t["type"] == "function"]
        if choice["function"]["name"] not in names:
            raise BadRequestError(
                f"Invalid value for 'tool_choice': Tool choice '{choice['function']['name']}' not "
                "found in 'tools' parameter.",
                param="tool_choice",
            )


_CALLS_WITHOUT_THINKING = re.compile(r"gpt-5\.([2-9])")


def _check_calling(body: Json) -> None:
    """Newer models do not think in this API where they may call functions."""
    newer = _CALLS_WITHOUT_THINKING.match(body["model"])
    if newer is None or not body.get("tools"):
        return
    unasked = "medium" if int(newer[1]) >= THINKS_UNASKED_FROM else "none"
    if (body.get("reasoning_effort") or unasked) != "none":
        raise BadRequestError(
            f"Function tools with reasoning_effort are not supported for {body['model']} in "
            "/v1/chat/completions. To use function tools, use /v1/responses or set "
            "reasoning_effort to 'none'.",
            param="reasoning_effort",
        )


def _check_model(body: Json) -> None:
    model = body["model"]
    if THINKS.match(model):
        if body.get("max_tokens") is not None:
            raise unsupported_parameter("max_tokens", "max_completion_tokens")
        check_effort(model, body.get("reasoning_effort"), "reasoning_effort")
        check_sampling(model, body.get("reasoning_effort"), body)
        _check_calling(body)
    elif body.get("reasoning_effort") is not None:
        raise BadRequestError("Unrecognized request argument supplied: reasoning_effort")
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise BadRequestError(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        )
    if not FIXED_SAMPLING.match(model):
        return
    if body.get("temperature") not in (None, 1):
        raise BadRequestError(
            f"Unsupported value: 'temperature' does not support {body['temperature']} with this "
            "model. Only the default (1) value is supported.",
            code="unsupported_value",
            param="temperature",
        )
    for name in _SAMPLING:
        if body.get(name) not in (None, False, 0) and not (name == "top_p" and body[name] == 1):
            raise unsupported_parameter(name)
