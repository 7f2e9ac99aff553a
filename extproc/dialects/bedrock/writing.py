"""A conversation to a Converse request."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from urllib.parse import quote

import orjson

from extproc.dialects.claude import (
    check_stops,
    claudes_call_id,
    claudes_turns,
    is_told,
    sampling_fields,
    thinking_fields,
    thinks,
)
from extproc.dialects.closed_schema import closed_tool, written_format
from extproc.dialects.codec import TargetFacts, WrittenRequest
from extproc.dialects.conversation import (
    CacheMark,
    Conversation,
    Json,
    Media,
    Part,
    Refused,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    UntranslatableError,
)
from extproc.dialects.turns import arguments_object, calls_in_words, has_calls, results_first
from extproc.dialects.unsayable import refuse_openais_own

_CLAUDE = re.compile(r"(?:.*[./])?claude-")
_IMAGE_FORMATS = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_DOCUMENT_FORMATS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9\-()\[\]]+")
"""Bedrock refuses other characters in a document's name, and more than one space in a row."""
MAX_NAME_CHARACTERS = 200
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NOTHING = "(nothing)"
"""What a tool has answered that answered nothing."""


def write_request(conversation: Conversation, facts: TargetFacts) -> WrittenRequest:
    """Raises ``UntranslatableError``."""
    refuse_openais_own(conversation, "Bedrock")
    dropped = list(conversation.dropped)
    conversation, told = _callable(conversation)
    dropped += told
    document: Json = {"messages": _messages(conversation)}
    system = [
        block
        for text in conversation.system
        if text.text.strip()
        for block in _marked([{"text": text.text}], text.cache)
    ]
    if system:
        document["system"] = system
    dropped += _tools(document, conversation)
    if conversation.parallel_tools is False:
        dropped.append("parallel_tool_calls")
    dropped += _inference(document, conversation, facts.model)
    dropped += _format(document, conversation)
    for key, value in (("seed", conversation.seed), ("user", conversation.end_user)):
        if value:
            dropped.append(key)
    method = "converse-stream" if conversation.stream else "converse"
    path = f"{facts.base_path}/model/{quote(facts.model, safe='')}/{method}"
    return WrittenRequest(path, orjson.dumps(document), dropped=tuple(dropped))


def _marked(blocks: list[Json], cache: CacheMark | None) -> list[Json]:
    """A cache mark is a block of its own, after what it marks."""
    if cache is None:
        return blocks
    point: Json = {"type": "default"}
    if cache.ttl:
        point["ttl"] = cache.ttl
    return [*blocks, {"cachePoint": point}]


def _callable(conversation: Conversation) -> tuple[Conversation, list[str]]:
    """The conversation as Bedrock takes it, and what is to be told of that. Bedrock cannot say that
    no tool may be called: without tools none is. But then it takes no calls and results either, so
    those of earlier turns are put into words."""
    turns, told = claudes_turns(conversation.turns)
    choice = conversation.tool_choice
    if conversation.tools and (choice is None or choice.mode != "none"):
        return replace(conversation, turns=turns), told
    if has_calls(turns):
        turns = calls_in_words(turns)
        told.append("messages.tool_calls")
    return replace(conversation, turns=turns, tools=[], tool_choice=None), told


def _messages(conversation: Conversation) -> list[Json]:
    messages: list[Json] = []
    names: set[str] = set()
    for place, turn in enumerate(conversation.turns):
        where = f"messages[{place}]"
        parts = results_first(turn.parts) if turn.role is Role.USER else turn.parts
        blocks = [block for part in parts for block in _blocks(part, where, names)]
        documents = [block["document"]["name"] for block in blocks if "document" in block]
        if documents and not any("text" in block for block in blocks):
            # Bedrock takes no document without a word beside it.
            blocks.append({"text": f"Attached: {', '.join(documents)}"})
        messages.append({"role": str(turn.role), "content": blocks})
    return messages


def _blocks(part: Part, where: str, names: set[str]) -> list[Json]:
    """``names`` are those of the documents so far."""
    if isinstance(part, Text):
        return _marked([{"text": part.text}], part.cache)
    if isinstance(part, Refused):
        return [{"text": part.text}]
    if isinstance(part, ToolCall):
        call = {
            "toolUseId": claudes_call_id(part.call_id),
            "name": part.name,
            "input": arguments_object(part, where),
        }
        return _marked([{"toolUse": call}], part.cache)
    if isinstance(part, ToolResult):
        return _marked([{"toolResult": _tool_result(part, where, names)}], part.cache)
    if isinstance(part, Media):
        return _marked([_media(part, where, names)], part.cache)
    return [{"reasoningContent": _reasoning(part)}]


def _reasoning(part: Thinking) -> Json:
    if part.redacted:
        return {"redactedContent": part.signature}
    return {"reasoningText": {"text": part.text, "signature": part.signature}}


def _tool_result(result: ToolResult, where: str, names: set[str]) -> Json:
    content: list[Json] = []
    for part in result.parts:
        if isinstance(part, Media):
            content.append(_media(part, where, names))
        elif is_told(part):
            content.append({"text": part.text})
    call_id = claudes_call_id(result.call_id)
    # Claude refuses empty text there.
    written: Json = {"toolUseId": call_id, "content": content or [{"text": _NOTHING}]}
    if result.is_error:
        written["status"] = "error"
    return written


def _media(media: Media, where: str, names: set[str]) -> Json:
    if media.kind == "audio":
        raise UntranslatableError(where, "audio is not carried to Bedrock")
    if media.url or media.file_id:
        raise UntranslatableError(where, "Bedrock takes images and documents inline only")
    if media.kind == "image":
        image_format = _IMAGE_FORMATS.get(media.media_type)
        if image_format is None:
            raise UntranslatableError(where, "Bedrock takes png, jpeg, gif and webp")
        return {"image": {"format": image_format, "source": {"bytes": media.data}}}
    document_format = _DOCUMENT_FORMATS.get(media.media_type)
    if document_format is None:
        raise UntranslatableError(where, "Bedrock does not take documents of this type")
    data = media.data or base64.b64encode(media.text.encode()).decode()
    name = _name(media.name, names)
    return {"document": {"format": document_format, "name": name, "source": {"bytes": data}}}


def _name(wanted: str, names: set[str]) -> str:
    """A document's name as Bedrock takes it, and no other one has in this request. What it depends
    on comes before it, so it is the same in every later turn."""
    clean = _NOT_IN_A_NAME.sub(" ", wanted)[:MAX_NAME_CHARACTERS].strip() or "document"
    name, number = clean, 1
    while name.lower() in names:
        number += 1
        name = f"{clean[: MAX_NAME_CHARACTERS - 8].rstrip()} {number}"
    names.add(name.lower())
    return name


def _tools(document: Json, conversation: Conversation) -> list[str]:
    if not conversation.tools:
        return []
    dropped: list[str] = []
    tools = [block for tool in conversation.tools for block in _tool(tool, dropped)]
    document["toolConfig"] = {"tools": tools}
    if conversation.tool_choice is not None:
        document["toolConfig"]["toolChoice"] = _choice(conversation.tool_choice)
    return dropped


def _tool(tool: Tool, dropped: list[str]) -> list[Json]:
    if not _TOOL_NAME.fullmatch(tool.name):
        raise UntranslatableError("tools", "a name has at most 64 letters, digits, _ and - here")
    schema, strict, told = closed_tool(tool)
    dropped += told
    spec: Json = {"name": tool.name, "inputSchema": {"json": schema}}
    if tool.description:
        spec["description"] = tool.description
    if strict is not None:
        spec["strict"] = strict
    return _marked([{"toolSpec": spec}], tool.cache)


def _choice(choice: ToolChoice) -> Json:
    if choice.mode == "named":
        return {"tool": {"name": choice.name}}
    return {"any": {}} if choice.mode == "required" else {"auto": {}}


def _inference(document: Json, conversation: Conversation, model: str) -> list[str]:
    """Maximum, sampling and thinking, and what of it was left out. Only Claude is asked to think:
    other models on Bedrock have words of their own for it."""
    extra: Json = {}
    if _CLAUDE.match(model):
        check_stops(conversation)
        extra, dropped = thinking_fields(conversation, model, conversation.max_output_tokens)
        sampling, told = sampling_fields(conversation, model, thinks=thinks(extra))
        dropped += told
    else:
        wish = conversation.thinking
        off = wish is None or wish.mode == "off" or wish.effort == "none"
        dropped = [] if off else ["thinking"]
        wanted = {key: getattr(conversation, key) for key in ("temperature", "top_p", "top_k")}
        sampling = {key: value for key, value in wanted.items() if value is not None}
    if "top_k" in sampling:
        extra["top_k"] = sampling["top_k"]
    config = {
        "maxTokens": conversation.max_output_tokens,
        "temperature": sampling.get("temperature"),
        "topP": sampling.get("top_p"),
        "stopSequences": conversation.stop or None,
    }
    inference = {key: value for key, value in config.items() if value is not None}
    if inference:
        document["inferenceConfig"] = inference
    if extra:
        document["additionalModelRequestFields"] = extra
    return dropped


def _format(document: Json, conversation: Conversation) -> list[str]:
    wanted = conversation.answer_format
    schema, instruction, dropped = written_format(wanted)
    if instruction:
        document.setdefault("system", []).append({"text": instruction})
    if schema is not None and wanted is not None:
        named = {"name": wanted.name or "answer", "schema": orjson.dumps(schema).decode()}
        document["outputConfig"] = {
            "textFormat": {"type": "json_schema", "structure": {"jsonSchema": named}}
        }
    return dropped
