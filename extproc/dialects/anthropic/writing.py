"""A conversation to a messages request."""

from __future__ import annotations

from dataclasses import replace

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
    Tool,
    ToolCall,
    ToolResult,
    UntranslatableError,
)
from extproc.dialects.end_user import ANTHROPIC_CHARACTERS, end_user_id
from extproc.dialects.turns import arguments_object, results_first
from extproc.dialects.unsayable import refuse_openais_own

DEFAULT_MAX_TOKENS = 4_096
"""Anthropic must be told a maximum. The gateway injects one wherever money is counted."""
_MODES = {"auto": "auto", "required": "any", "none": "none", "named": "tool"}


def write_request(conversation: Conversation, facts: TargetFacts) -> WrittenRequest:
    """Raises ``UntranslatableError``."""
    refuse_openais_own(conversation, "Anthropic")
    turns, told = claudes_turns(conversation.turns)
    conversation = replace(conversation, turns=turns)
    dropped = conversation.dropped + told
    maximum = conversation.max_output_tokens or facts.max_output_tokens or DEFAULT_MAX_TOKENS
    document: Json = {"model": facts.model, "max_tokens": maximum}
    system = [_text(text) for text in conversation.system if text.text.strip()]
    schema, instruction, told = written_format(conversation.answer_format)
    dropped += told
    if instruction:
        system.append({"type": "text", "text": instruction})
    if system:
        document["system"] = system
    document["messages"] = _messages(conversation)
    dropped += _tools(document, conversation)
    thinking, told = thinking_fields(conversation, facts.model, maximum)
    document.update(thinking)
    dropped += told
    if schema is not None:
        config = document.setdefault("output_config", {})
        config["format"] = {"type": "json_schema", "schema": schema}
    dropped += _sampling(document, conversation, facts.model)
    headers = (("anthropic-version", facts.anthropic_version), *facts.headers)
    path = f"{facts.base_path}/v1/messages"
    return WrittenRequest(path, orjson.dumps(document), headers, tuple(dropped))


def _messages(conversation: Conversation) -> list[Json]:
    """The turns, each with its blocks in the order that Anthropic demands."""
    messages = []
    for place, turn in enumerate(conversation.turns):
        where = f"messages[{place}]"
        parts = results_first(turn.parts) if turn.role is Role.USER else turn.parts
        blocks = [_block(part, where) for part in parts]
        messages.append({"role": str(turn.role), "content": blocks})
    return messages


def _text(text: Text) -> Json:
    block: Json = {"type": "text", "text": text.text}
    return _marked(block, text.cache)


def _marked(block: Json, cache: CacheMark | None) -> Json:
    if cache is not None:
        block["cache_control"] = {"type": "ephemeral"}
        if cache.ttl:
            block["cache_control"]["ttl"] = cache.ttl
    return block


def _block(part: Part, where: str) -> Json:
    if isinstance(part, Text):
        return _text(part)
    if isinstance(part, Refused):
        return {"type": "text", "text": part.text}
    if isinstance(part, ToolCall):
        block = {"type": "tool_use", "id": claudes_call_id(part.call_id), "name": part.name}
        return _marked({**block, "input": arguments_object(part, where)}, part.cache)
    if isinstance(part, ToolResult):
        return _tool_result(part, where)
    if isinstance(part, Media):
        return _media(part, where)
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.signature}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _tool_result(result: ToolResult, where: str) -> Json:
    block: Json = {"type": "tool_result", "tool_use_id": claudes_call_id(result.call_id)}
    content = [_block(part, where) for part in result.parts if is_told(part)]
    if content:
        block["content"] = content
    if result.is_error:
        block["is_error"] = True
    return _marked(block, result.cache)


def _media(media: Media, where: str) -> Json:
    if media.kind == "audio":
        raise UntranslatableError(where, "Anthropic takes no audio")
    source: Json
    if media.text:
        source = {"type": "text", "media_type": "text/plain", "data": media.text}
    elif media.data:
        source = {"type": "base64", "media_type": media.media_type, "data": media.data}
    elif media.url:
        source = {"type": "url", "url": media.url}
    else:
        raise UntranslatableError(where, "a file by id is known to its provider only")
    block: Json = {"type": media.kind, "source": source}
    if media.name and media.kind == "document":
        block["title"] = media.name
    return _marked(block, media.cache)


def _tools(document: Json, conversation: Conversation) -> list[str]:
    """Without tools too Anthropic takes calls and results of earlier turns."""
    if not conversation.tools:
        return []
    dropped: list[str] = []
    document["tools"] = [_tool(tool, dropped) for tool in conversation.tools]
    choice = conversation.tool_choice
    alone = conversation.parallel_tools is False
    if choice is None and not alone:
        return dropped
    written: Json = {"type": _MODES[choice.mode if choice else "auto"]}
    if choice is not None and choice.mode == "named":
        written["name"] = choice.name
    if alone and written["type"] != "none":
        written["disable_parallel_tool_use"] = True
    document["tool_choice"] = written
    return dropped


def _tool(tool: Tool, dropped: list[str]) -> Json:
    schema, strict, told = closed_tool(tool)
    dropped += told
    written: Json = {"name": tool.name, "input_schema": schema}
    if tool.description:
        written["description"] = tool.description
    if strict is not None:
        written["strict"] = strict
    return _marked(written, tool.cache)


def _sampling(document: Json, conversation: Conversation, model: str) -> list[str]:
    check_stops(conversation)
    sampling, dropped = sampling_fields(conversation, model, thinks=thinks(document))
    values: Json = {
        "stop_sequences": conversation.stop or None,
        "stream": conversation.stream or None,
        **sampling,
    }
    if conversation.seed is not None:
        dropped.append("seed")
    if conversation.end_user:
        user_id = end_user_id(conversation.end_user, ANTHROPIC_CHARACTERS)
        values["metadata"] = {"user_id": user_id}
    document.update({key: value for key, value in values.items() if value is not None})
    return dropped
