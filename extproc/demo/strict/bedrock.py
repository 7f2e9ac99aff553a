"""What Bedrock's Converse refuses."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

from extproc.demo.answer import BadRequestError
from extproc.demo.asked import Json
from extproc.demo.signatures import is_sealed, is_signed
from extproc.demo.strict.claude import (
    Sampling,
    check_first_block,
    check_model,
    check_sampling,
    check_thinking,
)
from extproc.demo.strict.schemas import bounded, open_object
from extproc.demo.strict.shape import (
    BOOLEAN,
    OBJECT,
    TEXT,
    Misfit,
    Shape,
    anything,
    base64_text,
    dotted,
    exactly_one,
    list_of,
    map_of,
    number,
    one_of,
    record,
    text,
)

MAX_CACHE_POINTS = 4
_CLAUDE = re.compile(r"(?:.*[./])?claude-")
_ID = text("[a-zA-Z0-9_.:-]+", 64)
_NAME = text("[a-zA-Z0-9_-]+", 64)
_S3 = record({"uri": text("s3://.+")}, {"bucketOwner": TEXT})
_IMAGE = record(
    {
        "format": one_of("png", "jpeg", "gif", "webp"),
        "source": exactly_one({"bytes": base64_text, "s3Location": _S3}),
    }
)
_DOCUMENT = record(
    {
        "name": text(least=1, most=200),
        "source": exactly_one(
            {
                "bytes": base64_text,
                "s3Location": _S3,
                "text": TEXT,
                "content": list_of(exactly_one({"text": TEXT})),
            }
        ),
    },
    {
        "format": one_of("pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"),
        "context": TEXT,
        "citations": record({"enabled": BOOLEAN}),
    },
)
_CACHE = record({"type": one_of("default")}, {"ttl": one_of("5m", "1h")})
_SEARCH_RESULT = record(
    {"source": TEXT, "title": TEXT, "content": list_of(record({"text": TEXT}))},
    {"citations": OBJECT},
)
_BLOCK = exactly_one(
    {
        "text": TEXT,
        "image": _IMAGE,
        "document": _DOCUMENT,
        "video": OBJECT,
        "audio": OBJECT,
        "toolUse": record(
            {"toolUseId": _ID, "name": _NAME, "input": OBJECT}, {"type": one_of("server_tool_use")}
        ),
        "toolResult": record(
            {
                "toolUseId": _ID,
                "content": list_of(
                    exactly_one(
                        {
                            "json": OBJECT,
                            "text": TEXT,
                            "image": _IMAGE,
                            "document": _DOCUMENT,
                            "video": OBJECT,
                            "searchResult": _SEARCH_RESULT,
                        }
                    )
                ),
            },
            {"status": one_of("success", "error"), "type": TEXT},
        ),
        "guardContent": OBJECT,
        "cachePoint": _CACHE,
        "reasoningContent": exactly_one(
            {
                "reasoningText": record({"text": TEXT}, {"signature": TEXT}),
                "redactedContent": base64_text,
            }
        ),
        "citationsContent": OBJECT,
        "searchResult": _SEARCH_RESULT,
        "toolAddition": OBJECT,
        "toolRemoval": OBJECT,
    }
)
_TOOL = exactly_one(
    {
        "toolSpec": record(
            {"name": _NAME, "inputSchema": exactly_one({"json": OBJECT})},
            {"description": text(least=1), "strict": BOOLEAN},
        ),
        "systemTool": record({"name": _NAME}),
        "cachePoint": _CACHE,
    }
)
_EMPTY = record({})
_JSON_SCHEMA = record({"schema": TEXT}, {"name": TEXT, "description": TEXT})
_REQUEST = record(
    {
        "messages": list_of(
            record({"role": one_of("user", "assistant"), "content": list_of(_BLOCK)}), least=1
        )
    },
    {
        "system": list_of(
            exactly_one({"text": text(least=1), "guardContent": OBJECT, "cachePoint": _CACHE})
        ),
        "inferenceConfig": record(
            {},
            {
                "maxTokens": number(1, whole=True),
                "temperature": number(0, 1),
                "topP": number(0, 1),
                "stopSequences": list_of(text(least=1), most=2500),
            },
        ),
        "toolConfig": record(
            {"tools": list_of(_TOOL, least=1)},
            {
                "toolChoice": exactly_one(
                    {"auto": _EMPTY, "any": _EMPTY, "tool": record({"name": _NAME})}
                )
            },
        ),
        "guardrailConfig": OBJECT,
        "additionalModelRequestFields": OBJECT,
        "promptVariables": OBJECT,
        "additionalModelResponseFieldPaths": list_of(text(least=1, most=256), most=10),
        "requestMetadata": map_of(text(most=256)),
        "performanceConfig": record({}, {"latency": one_of("standard", "optimized")}),
        "serviceTier": record({"type": one_of("priority", "default", "flex", "reserved")}),
        "outputConfig": record(
            {},
            {
                "textFormat": record(
                    {
                        "type": one_of("json_schema"),
                        "structure": exactly_one({"jsonSchema": _JSON_SCHEMA}),
                    }
                ),
                "effort": text(most=16),
            },
        ),
    },
)
_FORBIDDEN_IN_A_NAME = re.compile(r"[^A-Za-z0-9\s\-()\[\]]|\s{2}")
_CLAUDES_FIELDS: dict[str, Shape] = {
    "thinking": OBJECT,
    "top_k": number(0, whole=True),
    "output_config": OBJECT,
    "anthropic_beta": list_of(TEXT),
    "tool_choice": anything,
    "max_tokens": anything,
    "reasoning_config": anything,
}


def check(body: Json, model: str) -> None:
    """Raises BadRequestError."""
    try:
        _REQUEST(body, ())
    except Misfit as misfit:
        raise BadRequestError(_said(misfit)) from misfit
    messages = body["messages"]
    _check_roles(messages)
    for place, message in enumerate(messages):
        _check_content(message, place)
    _check_names(messages)
    _check_pairs(messages)
    _check_tools(body)
    _check_format(body)
    _check_cache_points(body)
    if _CLAUDE.match(model):
        _check_claude(body, model)


def _said(misfit: Misfit) -> str:
    where = dotted(misfit.path)
    if misfit.why == "unknown":
        return (
            f"Malformed input request: #/{where.replace('.', '/')}: extraneous key "
            f"[{misfit.path[-1]}] is not permitted, please reformat your input and try again."
        )
    if misfit.why == "missing":
        constraint = "Member must not be null"
    elif misfit.why == "type":
        constraint = f"Member must be of type {misfit.wanted}"
    elif misfit.wanted.startswith("'"):
        constraint = f"Member must satisfy enum value set: [{misfit.wanted.replace(chr(39), '')}]"
    elif misfit.wanted.startswith("pattern"):
        pattern = misfit.wanted.removeprefix("pattern '^").removesuffix("$'")
        constraint = f"Member must satisfy regular expression pattern: {pattern}"
    else:
        constraint = f"Member must be {misfit.wanted}"
    return (
        f"1 validation error detected: Value at '{where}' failed to satisfy constraint: "
        f"{constraint}"
    )


def _check_roles(messages: list[Json]) -> None:
    if messages[0]["role"] != "user":
        raise BadRequestError(
            "A conversation must start with a user message. Try again with a conversation that "
            "starts with a user message."
        )
    for one, next_one in pairwise(messages):
        if one["role"] == next_one["role"]:
            raise BadRequestError(
                "A conversation must alternate between user and assistant roles. Make sure the "
                "conversation alternates between user and assistant roles and try again."
            )


def _check_content(message: Json, place: int) -> None:
    blocks = message["content"]
    if not blocks:
        raise BadRequestError(
            f"The content field in the Message object at messages.{place} is empty. Add a "
            "ContentBlock object to the content field and try again."
        )
    for number_, block in enumerate(blocks):
        if "text" in block and not block["text"].strip():
            raise BadRequestError(
                f"The text field in the ContentBlock object at messages.{place}.content.{number_} "
                "is blank. Add text to the text field, and try again."
            )
        told = (block.get("toolResult") or {}).get("content") or ()
        if any("text" in inner and not inner["text"].strip() for inner in told):
            raise _from_model("messages: text content blocks must be non-empty")
        only = _ONLY_IN.get(next(iter(block)), message["role"])
        if only != message["role"]:
            raise BadRequestError(
                f"The {next(iter(block))} content block at messages.{place}.content.{number_} is "
                f"only allowed in a message of the role {only}."
            )
    _check_documents(blocks, place)


_ONLY_IN = {
    "toolUse": "assistant",
    "reasoningContent": "assistant",
    "toolResult": "user",
    "image": "user",
    "document": "user",
}


def _check_documents(blocks: list[Json], place: int) -> None:
    documents = any("document" in block for block in blocks)
    if documents and not any("text" in block for block in blocks):
        raise BadRequestError(
            f"The message at messages.{place} must include a text content block when it includes a "
            "document."
        )


def _check_names(messages: list[Json]) -> None:
    """Of documents, wherever they are: none may come twice in a request."""
    blocks = [block for message in messages for block in message["content"]]
    blocks += [inner for b in blocks if "toolResult" in b for inner in b["toolResult"]["content"]]
    names = [block["document"]["name"] for block in blocks if "document" in block]
    for name in names:
        if _FORBIDDEN_IN_A_NAME.search(name):
            raise BadRequestError(
                "The file name provided does not follow the naming guidelines: it can only contain "
                "alphanumeric characters, whitespace characters, hyphens, parentheses, and square "
                "brackets. The name can't contain more than one consecutive whitespace character."
            )
    if len({name.lower() for name in names}) != len(names):
        raise BadRequestError(
            "Messages can't contain duplicate document names. Rename the document and retry your "
            "request."
        )


def _check_pairs(messages: list[Json]) -> None:
    """Every call has its result in the next message, every result its call in the one before."""
    calls: list[str] = []
    for place, message in enumerate(messages):
        content = message["content"]
        results = [b["toolResult"]["toolUseId"] for b in content if "toolResult" in b]
        _check_expected([call for call in calls if call not in results], place)
        if len(results) > len(calls) or set(results) - set(calls):
            raise BadRequestError(
                f"The number of toolResult blocks at messages.{place}.content exceeds the number "
                "of toolUse blocks of previous turn."
            )
        calls = [block["toolUse"]["toolUseId"] for block in content if "toolUse" in block]
        if len(set(calls)) != len(calls):
            raise BadRequestError(
                f"The toolUse blocks at messages.{place}.content contain duplicate Ids."
            )
    _check_expected(calls, len(messages))


def _check_expected(missing: list[str], place: int) -> None:
    if missing:
        raise BadRequestError(
            f"Expected toolResult blocks at messages.{place}.content for the following Ids: "
            f"{', '.join(missing)}"
        )


def _check_tools(body: Json) -> None:
    config = body.get("toolConfig")
    used = any(
        "toolUse" in block or "toolResult" in block
        for message in body["messages"]
        for block in message["content"]
    )
    if used and not config:
        raise BadRequestError(
            "The toolConfig field must be defined when using toolUse and toolResult content blocks."
        )
    if not config:
        return
    for spec in (tool["toolSpec"] for tool in config["tools"] if "toolSpec" in tool):
        if spec.get("strict"):
            _check_schema(spec["inputSchema"]["json"])
    names = [tool["toolSpec"]["name"] for tool in config["tools"] if "toolSpec" in tool]
    if len(set(names)) != len(names):
        raise BadRequestError("The toolConfig field contains duplicate tool names.")
    choice = (config.get("toolChoice") or {}).get("tool")
    if choice and choice["name"] not in names:
        raise BadRequestError(f"The tool {choice['name']} of toolChoice is not in toolConfig.")


def _check_format(body: Json) -> None:
    wanted = (body.get("outputConfig") or {}).get("textFormat")
    if wanted:
        _check_schema(json.loads(wanted["structure"]["jsonSchema"]["schema"]))


def _check_schema(schema: Json) -> None:
    if open_object(schema, all_required=False):
        raise BadRequestError(
            "The schema is not valid: 'additionalProperties' must be false for every object."
        )
    bound = bounded(schema)
    if bound:
        raise BadRequestError(f"The schema is not valid: '{bound[1]}' is not supported.")


def _check_cache_points(body: Json) -> None:
    blocks = [*(body.get("system") or ()), *((body.get("toolConfig") or {}).get("tools") or ())]
    for message in body["messages"]:
        blocks += message["content"]
    found = sum("cachePoint" in block for block in blocks)
    if found > MAX_CACHE_POINTS:
        raise BadRequestError(
            f"A maximum of {MAX_CACHE_POINTS} cachePoint blocks may be provided. Found {found}."
        )


def _check_claude(body: Json, model: str) -> None:
    """Claude's own rules. Bedrock passes on what the model says of the rest of its fields."""
    extra = body.get("additionalModelRequestFields") or {}
    config = body.get("inferenceConfig") or {}
    choice = (body.get("toolConfig") or {}).get("toolChoice") or {}
    sampling = Sampling(
        config.get("maxTokens"),
        config.get("temperature"),
        config.get("topP"),
        extra.get("top_k"),
        "any" in choice or "tool" in choice,
    )
    try:
        record({}, _CLAUDES_FIELDS)(extra, ())
        check_sampling(model, sampling)
        check_thinking(extra.get("thinking"), sampling)
        check_model(model, extra.get("thinking"), sampling)
        _check_signatures(body["messages"])
        _check_loop(body["messages"], extra.get("thinking"))
    except Misfit as misfit:
        raise _from_model(f"{dotted(misfit.path)}: Extra inputs are not permitted") from misfit
    except BadRequestError as problem:
        raise _from_model(str(problem)) from problem


def _from_model(message: str) -> BadRequestError:
    return BadRequestError(f"The model returned the following errors: {message}")


def _check_signatures(messages: list[Json]) -> None:
    for place, message in enumerate(messages):
        for number_, block in enumerate(message["content"]):
            reasoning: dict[str, Any] = block.get("reasoningContent") or {}
            where = f"messages.{place}.content.{number_}"
            told, sealed = reasoning.get("reasoningText"), reasoning.get("redactedContent")
            if told and not is_signed("anthropic", told["text"], told.get("signature") or ""):
                raise BadRequestError(f"{where}: Invalid `signature` in `thinking` block")
            if sealed and not is_sealed("anthropic", sealed):
                raise BadRequestError(f"{where}: Invalid `data` in `redacted_thinking` block")


def _check_loop(messages: list[Json], thinking: Any) -> None:
    if not any("toolResult" in block for block in messages[-1]["content"]):
        return
    first = next(iter(messages[-2]["content"][0]))
    names = {"reasoningContent": "thinking", "toolUse": "tool_use"}
    check_first_block(thinking, len(messages) - 2, names.get(first, first))
