"""A conversation to a Converse request."""

from __future__ import annotations

import base64
import re
from urllib.parse import quote

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
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    UntranslatableError,
)
from extproc.dialects.thinking import MIN_BUDGET_TOKENS, budget_of, is_claudes, may_think
from extproc.dialects.turns import arguments_object
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
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9 \-()\[\]]+")
"""Bedrock refuses other characters in a document's name."""
MAX_NAME_CHARACTERS = 200


def write_request(conversation: Conversation, facts: TargetFacts) -> WrittenRequest:
    """Raises ``UntranslatableError``."""
    refuse_openais_own(conversation, "Bedrock")
    dropped = list(conversation.dropped)
    document: Json = {"messages": _messages(conversation)}
    if conversation.system:
        document["system"] = [
            block
            for text in conversation.system
            for block in _marked([{"text": text.text}], text.cache)
        ]
    _tools(document, conversation)
    if conversation.parallel_tools is False:
        dropped.append("parallel_tool_calls")
    config = {
        "maxTokens": conversation.max_output_tokens,
        "temperature": conversation.temperature,
        "topP": conversation.top_p,
        "stopSequences": conversation.stop or None,
    }
    extra: Json = {}
    dropped += _thinking(extra, conversation, facts)
    if conversation.top_k is not None:
        extra["top_k"] = conversation.top_k
    if "thinking" in extra:
        for key, name in (("temperature", "temperature"), ("topP", "top_p"), ("top_k", "top_k")):
            if config.pop(key, None) is not None or extra.pop(key, None) is not None:
                dropped.append(name)
    inference = {key: value for key, value in config.items() if value is not None}
    if inference:
        document["inferenceConfig"] = inference
    if extra:
        document["additionalModelRequestFields"] = extra
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


def _messages(conversation: Conversation) -> list[Json]:
    messages = []
    for place, turn in enumerate(conversation.turns):
        where = f"messages[{place}]"
        parts = list(turn.parts)
        if turn.role is Role.USER:
            # Results answer the calls before them: they come first.
            parts.sort(key=lambda part: not isinstance(part, ToolResult))
        blocks = [block for part in parts for block in _blocks(part, where)]
        if blocks:
            messages.append({"role": str(turn.role), "content": blocks})
    return messages


def _blocks(part: Part, where: str) -> list[Json]:
    """Nothing for what is not given on: another vendor's thinking, and empty text."""
    if isinstance(part, Text):
        return _marked([{"text": part.text}], part.cache) if part.text else []
    if isinstance(part, Refused):
        return [{"text": part.text}]
    if isinstance(part, ToolCall):
        call = {
            "toolUseId": part.call_id,
            "name": part.name,
            "input": arguments_object(part, where),
        }
        return _marked([{"toolUse": call}], part.cache)
    if isinstance(part, ToolResult):
        return _marked([{"toolResult": _tool_result(part, where)}], part.cache)
    if isinstance(part, Media):
        return _marked([_media(part, where)], part.cache)
    if not is_claudes(part):
        return []
    return [{"reasoningContent": _reasoning(part)}]


def _reasoning(part: Thinking) -> Json:
    if part.redacted:
        return {"redactedContent": part.signature}
    return {"reasoningText": {"text": part.text, "signature": part.signature}}


def _tool_result(result: ToolResult, where: str) -> Json:
    content: list[Json] = []
    for part in result.parts:
        content.append({"text": part.text} if isinstance(part, Text) else _media(part, where))
    written: Json = {"toolUseId": result.call_id, "content": content or [{"text": ""}]}
    if result.is_error:
        written["status"] = "error"
    return written


def _media(media: Media, where: str) -> Json:
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
    name = _NOT_IN_A_NAME.sub(" ", media.name)[:MAX_NAME_CHARACTERS].strip() or "document"
    data = media.data or base64.b64encode(media.text.encode()).decode()
    return {"document": {"format": document_format, "name": name, "source": {"bytes": data}}}


def _tools(document: Json, conversation: Conversation) -> None:
    choice = conversation.tool_choice
    if not conversation.tools or (choice is not None and choice.mode == "none"):
        # Bedrock cannot say "none"; without tools none is called.
        return
    tools = [block for tool in conversation.tools for block in _tool(tool)]
    document["toolConfig"] = {"tools": tools}
    if choice is not None:
        document["toolConfig"]["toolChoice"] = _choice(choice)


def _tool(tool: Tool) -> list[Json]:
    spec: Json = {"name": tool.name, "inputSchema": {"json": tool.schema}}
    if tool.description:
        spec["description"] = tool.description
    if tool.strict is not None:
        spec["strict"] = tool.strict
    return _marked([{"toolSpec": spec}], tool.cache)


def _choice(choice: ToolChoice) -> Json:
    if choice.mode == "named":
        return {"tool": {"name": choice.name}}
    return {"any": {}} if choice.mode == "required" else {"auto": {}}


def _thinking(extra: Json, conversation: Conversation, facts: TargetFacts) -> list[str]:
    """Claude's thinking, where Claude allows it; other models on Bedrock are not asked to."""
    wish = conversation.thinking
    if wish is None or wish.mode == "off" or wish.effort == "none":
        return []
    choice = conversation.tool_choice
    forced = choice is not None and choice.mode in ("required", "named")
    if _CLAUDE.match(facts.model) is None or forced or not may_think(conversation.turns, wish):
        return ["thinking"]
    if wish.mode == "adaptive":
        extra["thinking"] = {"type": "adaptive"}
        if wish.effort:
            extra["output_config"] = {"effort": wish.effort}
        return []
    maximum = conversation.max_output_tokens
    budget = budget_of(wish)
    if wish.mode == "effort" and maximum is not None:
        budget = min(budget, maximum // 2)
    if budget < MIN_BUDGET_TOKENS or (maximum is not None and budget >= maximum):
        if wish.mode == "budget":
            raise UntranslatableError(
                "thinking.budget_tokens", "must be 1024 or more, < max_tokens"
            )
        return ["thinking"]
    extra["thinking"] = {"type": "enabled", "budget_tokens": budget}
    return []


def _format(document: Json, conversation: Conversation) -> list[str]:
    wanted = conversation.answer_format
    if wanted is None:
        return []
    if wanted.schema is None:
        document.setdefault("system", []).append({"text": JSON_ONLY})
        return ["response_format"]
    schema = {"name": wanted.name or "answer", "schema": orjson.dumps(wanted.schema).decode()}
    document["outputConfig"] = {
        "textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}
    }
    return []
