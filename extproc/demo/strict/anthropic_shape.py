"""The shape of a request to Anthropic's messages."""

from __future__ import annotations

from typing import Any

from extproc.demo.strict.shape import (
    BOOLEAN,
    OBJECT,
    TEXT,
    Misfit,
    Path,
    Shape,
    anything,
    base64_text,
    either,
    list_of,
    maybe,
    number,
    one_of,
    record,
    tagged,
    text,
)

_ID = text("[a-zA-Z0-9_-]+")
_NAME = text("[a-zA-Z0-9_-]{1,128}")
_BETA_FIELDS = (
    "betas",
    "context_hint",
    "context_management",
    "mcp_servers",
    "output_format",
    "safeguards",
)
"""Fields that a request may have with an ``anthropic-beta`` header only."""


def _record(required: dict[str, Shape], optional: dict[str, Shape] | None = None) -> Shape:
    """Anthropic takes null where its SDK says so, and nowhere else."""
    return record(required, optional, null=False)


_CACHE = maybe(
    _record({"type": one_of("ephemeral")}, {"ttl": one_of("5m", "1h"), "scope": one_of("global")})
)
"""``scope`` is a beta, which is not looked for here."""
_MARKED: dict[str, Shape] = {"cache_control": _CACHE}
_TYPE: dict[str, Shape] = {"type": TEXT}
_TEXT = _record({**_TYPE, "text": TEXT}, {**_MARKED, "citations": maybe(list_of(OBJECT))})
_IMAGE_TYPE = one_of("image/jpeg", "image/png", "image/gif", "image/webp")
_URL = _record({**_TYPE, "url": text("https?://.+")})
_FILE = _record({**_TYPE, "file_id": TEXT})
_IMAGE = _record(
    {
        **_TYPE,
        "source": tagged(
            {
                "base64": _record({**_TYPE, "media_type": _IMAGE_TYPE, "data": base64_text}),
                "url": _URL,
                "file": _FILE,
            }
        ),
    },
    _MARKED,
)
_PDF = {**_TYPE, "media_type": one_of("application/pdf"), "data": base64_text}
_PLAIN = {**_TYPE, "media_type": one_of("text/plain"), "data": TEXT}
_DOCUMENT = _record(
    {
        **_TYPE,
        "source": tagged(
            {
                "base64": _record(_PDF),
                "text": _record(_PLAIN),
                "content": _record({**_TYPE, "content": either(TEXT, list_of(anything))}),
                "url": _URL,
                "file": _FILE,
            }
        ),
    },
    {
        **_MARKED,
        "citations": maybe(_record({}, {"enabled": BOOLEAN})),
        "context": maybe(TEXT),
        "title": maybe(text(least=1, most=500)),
    },
)
_SEARCH_RESULT = _record(
    {**_TYPE, "source": TEXT, "title": TEXT, "content": list_of(_TEXT)},
    {**_MARKED, "citations": OBJECT},
)
_RESULT_CONTENT = tagged(
    {
        "text": _TEXT,
        "image": _IMAGE,
        "document": _DOCUMENT,
        "search_result": _SEARCH_RESULT,
        "tool_reference": OBJECT,
    }
)
_BLOCK = tagged(
    {
        "text": _TEXT,
        "image": _IMAGE,
        "document": _DOCUMENT,
        "search_result": _SEARCH_RESULT,
        "thinking": _record({**_TYPE, "thinking": TEXT, "signature": TEXT}),
        "redacted_thinking": _record({**_TYPE, "data": TEXT}),
        "tool_use": _record(
            {**_TYPE, "id": _ID, "name": _NAME, "input": OBJECT}, {**_MARKED, "caller": OBJECT}
        ),
        "tool_result": _record(
            {**_TYPE, "tool_use_id": _ID},
            {
                **_MARKED,
                "content": either(TEXT, list_of(_RESULT_CONTENT)),
                "is_error": BOOLEAN,
            },
        ),
        "server_tool_use": OBJECT,
        "web_search_tool_result": OBJECT,
        "web_fetch_tool_result": OBJECT,
        "container_upload": OBJECT,
    }
)
_CONTENT: dict[str, Shape] = {"content": either(TEXT, list_of(_BLOCK))}
_MESSAGE = _record({"role": one_of("user", "assistant"), **_CONTENT})
_BETA_MESSAGE = tagged(
    {
        "user": _record({"role": TEXT, **_CONTENT}),
        "assistant": _record({"role": TEXT, **_CONTENT}),
        "system": _record(
            {"role": TEXT, "content": either(TEXT, list_of(tagged({"text": _TEXT}), least=1))}
        ),
    },
    "role",
)


def _input_schema(value: Any, path: Path) -> None:
    OBJECT(value, path)
    if "type" not in value:
        raise Misfit((*path, "type"), "missing")
    one_of("object")(value["type"], (*path, "type"))


_CUSTOM_TOOL = _record(
    {"name": _NAME, "input_schema": _input_schema},
    {
        **_MARKED,
        "type": maybe(one_of("custom")),
        "description": TEXT,
        "strict": BOOLEAN,
        "input_examples": list_of(OBJECT),
        "allowed_callers": list_of(TEXT),
        "defer_loading": BOOLEAN,
        "eager_input_streaming": maybe(BOOLEAN),
    },
)


def _tool(value: Any, path: Path) -> None:
    """The caller's own; Anthropic's are named by a type with a date."""
    OBJECT(value, path)
    if value.get("type") in (None, "custom"):
        _CUSTOM_TOOL(value, path)


_ALONE: dict[str, Shape] = {"disable_parallel_tool_use": BOOLEAN}
_DISPLAY: dict[str, Shape] = {"display": maybe(one_of("summarized", "omitted"))}
_FIELDS: dict[str, Shape] = {
    "system": either(TEXT, list_of(tagged({"text": _TEXT}))),
    "stream": BOOLEAN,
    "temperature": number(0, 1),
    "top_p": number(0, 1),
    "top_k": number(0, whole=True),
    "stop_sequences": list_of(TEXT),
    "tools": list_of(_tool),
    "tool_choice": tagged(
        {
            "auto": _record(_TYPE, _ALONE),
            "any": _record(_TYPE, _ALONE),
            "none": _record(_TYPE),
            "tool": _record({**_TYPE, "name": TEXT}, _ALONE),
        }
    ),
    "thinking": tagged(
        {
            "enabled": _record({**_TYPE, "budget_tokens": number(whole=True)}, _DISPLAY),
            "adaptive": _record(_TYPE, _DISPLAY),
            "disabled": _record(_TYPE),
        }
    ),
    "output_config": _record(
        {},
        {
            "effort": maybe(one_of("low", "medium", "high", "xhigh", "max")),
            "format": maybe(_record({"type": one_of("json_schema"), "schema": OBJECT})),
            "task_budget": maybe(OBJECT),
        },
    ),
    "metadata": _record({}, {"user_id": maybe(text(most=256))}),
    "service_tier": one_of("auto", "standard_only"),
    "cache_control": _CACHE,
    "container": maybe(anything),
    "inference_geo": maybe(TEXT),
    "speed": maybe(TEXT),
    "diagnostics": maybe(OBJECT),
    "user_profile_id": maybe(TEXT),
    "workspace_id": maybe(TEXT),
}
_NEEDED: dict[str, Shape] = {
    "model": TEXT,
    "max_tokens": number(1, whole=True),
    "messages": list_of(_MESSAGE, least=1),
}
REQUEST = _record(_NEEDED, _FIELDS)
_BETA_NEEDED = {**_NEEDED, "messages": list_of(_BETA_MESSAGE, least=1)}
BETA_REQUEST = _record(_BETA_NEEDED, {**_FIELDS, **dict.fromkeys(_BETA_FIELDS, anything)})
"""With what a beta may add."""
COUNTED = _record(
    {name: shape for name, shape in _BETA_NEEDED.items() if name != "max_tokens"},
    {**_FIELDS, **dict.fromkeys(_BETA_FIELDS, anything)},
)
