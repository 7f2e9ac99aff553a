"""What OpenAI's responses refuse."""

from __future__ import annotations

import json

from extproc.demo.answer import BadRequestError
from extproc.demo.asked import Json
from extproc.demo.signatures import is_sealed
from extproc.demo.strict.openai import (
    FIXED_SAMPLING,
    MAX_NAME_CHARACTERS,
    MAX_TOOLS,
    NAME_PATTERN,
    THINKS,
    check_effort,
    check_format,
    check_function,
    check_sampling,
    refused,
    unsupported_parameter,
)
from extproc.demo.strict.shape import (
    BOOLEAN,
    OBJECT,
    TEXT,
    Misfit,
    Shape,
    anything,
    either,
    list_of,
    map_of,
    number,
    one_of,
    record,
    tagged,
    text,
)

MAX_ID_CHARACTERS = 64
MIN_OUTPUT_TOKENS = 16
ENCRYPTED = "reasoning.encrypted_content"

_CALL_ID = text(least=1, most=MAX_ID_CHARACTERS)
_NAME = text(NAME_PATTERN, MAX_NAME_CHARACTERS)
_TYPE: dict[str, Shape] = {"type": TEXT}
_STATUS: dict[str, Shape] = {"status": one_of("in_progress", "completed", "incomplete")}
_BREAK: dict[str, Shape] = {"prompt_cache_breakpoint": OBJECT}
_URL = text(r"https?://.+|data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+=*")
_INPUT_PART = tagged(
    {
        "input_text": record({**_TYPE, "text": TEXT}, _BREAK),
        "input_image": record(
            _TYPE,
            {
                **_BREAK,
                "detail": one_of("auto", "low", "high", "original"),
                "image_url": _URL,
                "file_id": TEXT,
            },
        ),
        "input_file": record(
            _TYPE,
            {
                **_BREAK,
                "detail": TEXT,
                "filename": TEXT,
                "file_data": text("data:.+;base64,.+"),
                "file_id": TEXT,
                "file_url": text("https?://.+"),
            },
        ),
    }
)
_OUTPUT_PART = tagged(
    {
        "output_text": record(
            {**_TYPE, "text": TEXT}, {"annotations": anything, "logprobs": anything}
        ),
        "refusal": record({**_TYPE, "refusal": TEXT}),
    }
)
_ROLE: dict[str, Shape] = {"role": TEXT}
_BESIDE: dict[str, Shape] = {**_TYPE, **_STATUS}
_INPUT = either(TEXT, list_of(_INPUT_PART, least=1))
_ASKED = record({**_ROLE, "content": _INPUT}, _BESIDE)
_MESSAGE = tagged(
    {
        "user": _ASKED,
        "system": _ASKED,
        "developer": _ASKED,
        "assistant": record(
            {**_ROLE, "content": either(TEXT, list_of(_OUTPUT_PART, least=1))},
            {**_BESIDE, "id": text("msg_.+"), "phase": TEXT},
        ),
    },
    "role",
)
_ITEM = tagged(
    {
        "message": _MESSAGE,
        "function_call": record(
            {**_TYPE, "call_id": _CALL_ID, "name": _NAME, "arguments": TEXT},
            {**_STATUS, "id": text("fc_.+"), "namespace": TEXT},
        ),
        "function_call_output": record(
            {**_TYPE, "call_id": _CALL_ID, "output": _INPUT}, {**_STATUS, "id": TEXT}
        ),
        "reasoning": record(
            {
                **_TYPE,
                "summary": list_of(tagged({"summary_text": record({**_TYPE, "text": TEXT})})),
            },
            {
                **_STATUS,
                "id": text("rs_.+"),
                "content": list_of(OBJECT),
                "encrypted_content": TEXT,
            },
        ),
        "item_reference": record({**_TYPE, "id": TEXT}),
        "image_generation_call": OBJECT,
        "web_search_call": OBJECT,
        "custom_tool_call": OBJECT,
        "custom_tool_call_output": OBJECT,
        "local_shell_call": OBJECT,
        "local_shell_call_output": OBJECT,
        "tool_search_call": OBJECT,
        "tool_search_output": OBJECT,
        "compaction": OBJECT,
    },
    default="message",
)
_FUNCTION_TOOL = record(
    {**_TYPE, "name": _NAME, "parameters": OBJECT},
    {"description": TEXT, "strict": BOOLEAN, "defer_loading": BOOLEAN},
)
_HOSTED_TOOLS = (
    "apply_patch",
    "code_interpreter",
    "computer",
    "custom",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "namespace",
    "shell",
    "tool_search",
    "web_search",
    "web_search_preview",
)
_REQUEST = record(
    {"model": TEXT, "input": either(TEXT, list_of(_ITEM))},
    {
        "access_programs": anything,
        "background": BOOLEAN,
        "background_options": anything,
        "client_metadata": OBJECT,
        "context_management": anything,
        "conversation": anything,
        "image": anything,
        "include": list_of(TEXT),
        "instructions": TEXT,
        "max_output_tokens": number(MIN_OUTPUT_TOKENS, whole=True),
        "max_tool_calls": number(1, whole=True),
        "metadata": map_of(text(most=512)),
        "moderation": anything,
        "parallel_tool_calls": BOOLEAN,
        "previous_response_id": text("resp_.+"),
        "prompt": OBJECT,
        "prompt_cache_key": TEXT,
        "prompt_cache_options": OBJECT,
        "prompt_cache_retention": TEXT,
        "reasoning": record(
            {},
            {
                "effort": one_of("none", "minimal", "low", "medium", "high", "xhigh"),
                "summary": one_of("auto", "concise", "detailed"),
                "generate_summary": TEXT,
            },
        ),
        "safety_identifier": text(most=64),
        "service_tier": one_of("auto", "default", "flex", "scale", "priority"),
        "store": BOOLEAN,
        "stream": BOOLEAN,
        "stream_options": record({}, {"include_obfuscation": BOOLEAN}),
        "temperature": number(0, 2),
        "text": record(
            {},
            {
                "format": tagged(
                    {
                        "text": record(_TYPE),
                        "json_object": record(_TYPE),
                        "json_schema": record(
                            {**_TYPE, "name": _NAME, "schema": OBJECT},
                            {"description": TEXT, "strict": BOOLEAN},
                        ),
                    }
                ),
                "verbosity": one_of("low", "medium", "high"),
            },
        ),
        "tool_choice": either(
            one_of("none", "auto", "required"),
            tagged(
                {
                    "function": record({**_TYPE, "name": TEXT}),
                    "allowed_tools": OBJECT,
                    **dict.fromkeys(_HOSTED_TOOLS, OBJECT),
                }
            ),
        ),
        "tools": list_of(
            tagged({"function": _FUNCTION_TOOL, **dict.fromkeys(_HOSTED_TOOLS, OBJECT)}),
            most=MAX_TOOLS,
        ),
        "top_logprobs": number(0, 20, whole=True),
        "top_p": number(0, 1),
        "truncation": one_of("auto", "disabled"),
        "user": text(most=64),
    },
)


def check(body: Json) -> None:
    """Raises BadRequestError."""
    try:
        _REQUEST(body, ())
    except Misfit as misfit:
        raise refused(misfit) from misfit
    items = body["input"] if isinstance(body["input"], list) else []
    if not body.get("previous_response_id"):
        _check_pairs(items)
    _check_reasoning(items)
    _check_model(body)
    for place, tool in enumerate(body.get("tools") or ()):
        if tool["type"] == "function":
            check_function(("tools", place), tool)
    wanted = (body.get("text") or {}).get("format") or {}
    check_format(("text", "format"), wanted, json.dumps(body["input"]))


def _check_pairs(items: list[Json]) -> None:
    """Every output has its call before it, every call its output somewhere behind."""
    calls: list[str] = []
    for item in items:
        if item.get("type") == "function_call":
            calls.append(item["call_id"])
        elif item.get("type") == "function_call_output":
            if item["call_id"] not in calls:
                raise BadRequestError(
                    f"No tool call found for function call output with call_id {item['call_id']}.",
                    param="input",
                )
            calls.remove(item["call_id"])
    if calls:
        raise BadRequestError(f"No tool output found for function call {calls[0]}.", param="input")


def _check_reasoning(items: list[Json]) -> None:
    """Thoughts come back sealed, and with what was said or called after them."""
    for place, item in enumerate(items):
        if item.get("type") != "reasoning":
            continue
        named = item.get("id", "")
        sealed = item.get("encrypted_content")
        if sealed is None:
            raise BadRequestError(
                f"Item with id '{named}' not found. Items are not persisted when `store` is set to "
                "false. Try again with `store` set to true, or remove this item from your input.",
                404,
                param="input",
            )
        if not is_sealed("openai", sealed):
            raise BadRequestError(
                f"The encrypted content for item {named} could not be verified. Reason: Encrypted "
                "content could not be decrypted or parsed.",
                code="invalid_encrypted_content",
            )
        following = items[place + 1] if place + 1 < len(items) else {}
        if (
            following.get("role", "assistant") != "assistant"
            or not following
            or (following.get("type") == "function_call_output")
        ):
            raise BadRequestError(
                f"Item '{named}' of type 'reasoning' was provided without its required following "
                "item.",
                param="input",
            )


def _check_model(body: Json) -> None:
    model = body["model"]
    effort = (body.get("reasoning") or {}).get("effort")
    if THINKS.match(model):
        check_effort(model, effort, "reasoning.effort")
        check_sampling(model, effort, body)
    else:
        for name, value in (body.get("reasoning") or {}).items():
            if value is not None:
                raise unsupported_parameter(f"reasoning.{name}")
        if ENCRYPTED in (body.get("include") or ()):
            raise BadRequestError(
                "Encrypted content is not supported with this model.", param="include"
            )
    if FIXED_SAMPLING.match(model):
        for name in ("temperature", "top_p"):
            if body.get(name) is not None:
                raise unsupported_parameter(name)
