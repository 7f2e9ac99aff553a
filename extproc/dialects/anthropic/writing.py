"""A conversation to a messages request."""

from __future__ import annotations

import orjson

from extproc.dialects.codec import TargetFacts, WrittenRequest
from extproc.dialects.conversation import (
    JSON_ONLY,
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
    Vendor,
)
from extproc.dialects.end_user import ANTHROPIC_CHARACTERS, end_user_id
from extproc.dialects.thinking import MIN_BUDGET_TOKENS, budget_of, in_unsigned_tool_use
from extproc.dialects.turns import arguments_object
from extproc.dialects.unsayable import refuse_openais_own

DEFAULT_MAX_TOKENS = 4_096
"""Anthropic must be told a maximum. The gateway injects one wherever money is counted."""
_MODES = {"auto": "auto", "required": "any", "none": "none", "named": "tool"}


def write_request(conversation: Conversation, facts: TargetFacts) -> WrittenRequest:
    """Raises ``UntranslatableError``."""
    refuse_openais_own(conversation, "Anthropic")
    dropped = list(conversation.dropped)
    maximum = conversation.max_output_tokens or facts.max_output_tokens or DEFAULT_MAX_TOKENS
    document: Json = {"model": facts.model, "max_tokens": maximum}
    system = [_text(text) for text in conversation.system]
    wanted = conversation.answer_format
    if wanted is not None and wanted.schema is None:
        system.append({"type": "text", "text": JSON_ONLY})
        dropped.append("response_format")
    if system:
        document["system"] = system
    document["messages"] = _messages(conversation)
    _tools(document, conversation)
    dropped += _thinking(document, conversation, maximum)
    if wanted is not None and wanted.schema is not None:
        config = document.setdefault("output_config", {})
        config["format"] = {"type": "json_schema", "schema": wanted.schema}
    dropped += _sampling(document, conversation)
    headers = (("anthropic-version", facts.anthropic_version), *facts.headers)
    path = f"{facts.base_path}/v1/messages"
    return WrittenRequest(path, orjson.dumps(document), headers, tuple(dropped))


def _messages(conversation: Conversation) -> list[Json]:
    """The turns, each with its blocks in the order that Anthropic demands."""
    messages = []
    for place, turn in enumerate(conversation.turns):
        where = f"messages[{place}]"
        blocks = [block for part in turn.parts if (block := _block(part, where)) is not None]
        if turn.role is Role.USER:
            # Results answer the calls before them: they come first.
            blocks.sort(key=lambda block: block["type"] != "tool_result")
        if blocks:
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


def _block(part: Part, where: str) -> Json | None:
    """None for what is not given on: another vendor's thinking, and empty text."""
    if isinstance(part, Text):
        return _text(part) if part.text else None
    if isinstance(part, Refused):
        return {"type": "text", "text": part.text}
    if isinstance(part, ToolCall):
        block = {"type": "tool_use", "id": part.call_id, "name": part.name}
        return _marked({**block, "input": arguments_object(part, where)}, part.cache)
    if isinstance(part, ToolResult):
        return _tool_result(part, where)
    if isinstance(part, Media):
        return _media(part, where)
    if part.vendor is not Vendor.ANTHROPIC:
        return None
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.signature}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _tool_result(result: ToolResult, where: str) -> Json:
    block: Json = {"type": "tool_result", "tool_use_id": result.call_id}
    content = [inner for part in result.parts if (inner := _block(part, where)) is not None]
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


def _tools(document: Json, conversation: Conversation) -> None:
    if not conversation.tools:
        return
    document["tools"] = [_tool(tool) for tool in conversation.tools]
    choice = conversation.tool_choice
    alone = conversation.parallel_tools is False
    if choice is None and not alone:
        return
    written: Json = {"type": _MODES[choice.mode if choice else "auto"]}
    if choice is not None and choice.mode == "named":
        written["name"] = choice.name
    if alone and written["type"] != "none":
        written["disable_parallel_tool_use"] = True
    document["tool_choice"] = written


def _tool(tool: Tool) -> Json:
    written: Json = {"name": tool.name, "input_schema": tool.schema}
    if tool.description:
        written["description"] = tool.description
    if tool.strict is not None:
        written["strict"] = tool.strict
    return _marked(written, tool.cache)


def _thinking(document: Json, conversation: Conversation, maximum: int) -> list[str]:
    """Thinking as far as Anthropic allows it here; that it was left out is told."""
    wish = conversation.thinking
    if wish is None or wish.mode == "off" or wish.effort == "none":
        return []
    budget = budget_of(wish)
    choice = conversation.tool_choice
    forced = choice is not None and choice.mode in ("required", "named")
    if forced or in_unsigned_tool_use(conversation.turns):
        return ["thinking"]
    if wish.mode == "adaptive":
        document["thinking"] = {"type": "adaptive"}
        if wish.effort:
            document["output_config"] = {"effort": wish.effort}
        return []
    if wish.mode == "effort":
        budget = min(budget, maximum // 2)  # a wish, not a number: half is left for the answer
    if not MIN_BUDGET_TOKENS <= budget < maximum:
        if wish.mode == "budget":
            raise UntranslatableError(
                "thinking.budget_tokens", "must be 1024 or more, < max_tokens"
            )
        return ["thinking"]
    document["thinking"] = {"type": "enabled", "budget_tokens": budget}
    return []


def _sampling(document: Json, conversation: Conversation) -> list[str]:
    """Anthropic takes neither temperature nor top_k while it thinks."""
    thinks = "thinking" in document
    values: Json = {
        "stop_sequences": conversation.stop or None,
        "stream": conversation.stream or None,
    }
    dropped = []
    for key in ("temperature", "top_p", "top_k"):
        value = getattr(conversation, key)
        if value is not None and thinks:
            dropped.append(key)
        else:
            values[key] = value
    if conversation.seed is not None:
        dropped.append("seed")
    if conversation.end_user:
        user_id = end_user_id(conversation.end_user, ANTHROPIC_CHARACTERS)
        values["metadata"] = {"user_id": user_id}
    document.update({key: value for key, value in values.items() if value is not None})
    return dropped
