"""A conversation to a chat completions request."""

from __future__ import annotations

import re
from collections.abc import Sequence

import orjson

from extproc.dialects.codec import TargetFacts, WrittenRequest
from extproc.dialects.conversation import (
    AnswerFormat,
    Conversation,
    Json,
    Media,
    Part,
    Refused,
    Role,
    Text,
    Thinking,
    ThinkingWish,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    UntranslatableError,
)
from extproc.dialects.thinking import effort_of
from extproc.dialects.unsayable import refuse_extra

MAX_STOPS = 4
"""OpenAI's own bound on stop sequences."""
REASONING_MODEL = re.compile(r"(?:.*[/.])?(?:o[1-9]|gpt-[5-9])", re.IGNORECASE)
"""OpenAI models that think, take ``reasoning_effort``, and refuse ``max_tokens``."""
_AUDIO_FORMATS = {"audio/wav": "wav", "audio/mpeg": "mp3"}


def write_request(conversation: Conversation, facts: TargetFacts) -> WrittenRequest:
    """Raises ``UntranslatableError``."""
    refuse_extra(conversation)
    if conversation.top_k is not None:
        raise UntranslatableError("top_k", "OpenAI's API has no such field")
    document: Json = {"model": facts.model, "messages": _messages(conversation)}
    dropped = list(conversation.dropped)
    _tools(document, conversation)
    _limits(document, conversation, facts)
    _sampling(document, conversation)
    dropped += _thinking(document, conversation.thinking, facts)
    if conversation.answer_format is not None:
        document["response_format"] = _format(conversation.answer_format)
    if conversation.end_user:
        document["user"] = conversation.end_user
    if conversation.stream:
        document["stream"] = True
        document["stream_options"] = {"include_usage": True}
    path = f"{facts.base_path}/chat/completions"
    return WrittenRequest(path, orjson.dumps(document), dropped=tuple(dropped))


def data_url(media: Media) -> str:
    """Media that came inline, as a URL."""
    return f"data:{media.media_type};base64,{media.data}"


def _messages(conversation: Conversation) -> list[Json]:
    messages: list[Json] = []
    if conversation.system:
        texts = [{"type": "text", "text": text.text} for text in conversation.system]
        content = texts[0]["text"] if len(texts) == 1 else texts
        messages.append({"role": "system", "content": content})
    for place, turn in enumerate(conversation.turns):
        where = f"messages[{place}]"
        if turn.role is Role.ASSISTANT:
            message = _assistant(turn)
            if message is not None:
                messages.append(message)
        else:
            messages += _user(turn, where)
    return messages


def _assistant(turn: Turn) -> Json | None:
    """None for a turn that holds nothing but another vendor's thinking, which is not given on."""
    content: list[Json] = []
    calls = []
    for part in turn.parts:
        if isinstance(part, Text):
            content.append({"type": "text", "text": part.text})
        elif isinstance(part, Refused):
            content.append({"type": "refusal", "refusal": part.text})
        elif isinstance(part, ToolCall):
            function = {"name": part.name, "arguments": part.arguments}
            calls.append({"id": part.call_id, "type": "function", "function": function})
        elif not isinstance(part, Thinking):
            raise UntranslatableError("messages", "an assistant's turn holds no media here")
    if not content and not calls:
        return None
    message: Json = {"role": "assistant", "content": content or None}
    if len(content) == 1 and content[0]["type"] == "text":
        message["content"] = content[0]["text"]
    if calls:
        message["tool_calls"] = calls
    return message


def _user(turn: Turn, where: str) -> list[Json]:
    """Tool results are messages of their own, before what the user says beside them. Their images
    follow as the user's, named by the call: a tool's message holds text only."""
    messages: list[Json] = []
    content: list[Json] = []
    shown: list[Json] = []
    for part in turn.parts:
        if isinstance(part, ToolResult):
            texts = [item for item in part.parts if isinstance(item, Text)]
            media = [item for item in part.parts if isinstance(item, Media)]
            messages.append(
                {"role": "tool", "tool_call_id": part.call_id, "content": _result(part, texts)}
            )
            for item in media:
                shown.append({"type": "text", "text": f"Returned by tool call {part.call_id}:"})
                shown.append(_content(item, where))
        else:
            content.append(_content(part, where))
    content = shown + content
    if content:
        only_text = len(content) == 1 and content[0]["type"] == "text"
        messages.append({"role": "user", "content": content[0]["text"] if only_text else content})
    return messages


def _result(result: ToolResult, texts: Sequence[Text]) -> str | list[Json]:
    """OpenAI has no mark for a failed tool: it is said in words, as its own examples do."""
    words = [text.text for text in texts]
    if result.is_error:
        words.insert(0, "The tool failed:")
    if len(words) <= 1:
        return words[0] if words else ""
    return [{"type": "text", "text": word} for word in words]


def _content(part: Part, where: str) -> Json:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if not isinstance(part, Media):
        raise UntranslatableError(where, "this kind of content has no place in a user's message")
    if part.kind == "image":
        if part.file_id:
            raise UntranslatableError(where, "an image by file id is known to its provider only")
        image: Json = {"url": part.url or data_url(part)}
        if part.detail:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}
    if part.kind == "audio":
        audio_format = _AUDIO_FORMATS.get(part.media_type)
        if audio_format is None or not part.data:
            raise UntranslatableError(where, "audio must be inline, wav or mp3")
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": audio_format}}
    return _document(part, where)


def _document(part: Media, where: str) -> Json:
    if part.text:
        return {"type": "text", "text": f"{part.name}\n\n{part.text}" if part.name else part.text}
    if part.url or part.file_id or not part.data:
        raise UntranslatableError(where, "a document must be inline for OpenAI's chat API")
    name = part.name or "document.pdf"
    return {"type": "file", "file": {"filename": name, "file_data": data_url(part)}}


def _tools(document: Json, conversation: Conversation) -> None:
    if conversation.tools:
        document["tools"] = [_tool(tool) for tool in conversation.tools]
    choice = conversation.tool_choice
    if choice is not None and conversation.tools:
        document["tool_choice"] = _choice(choice)
    if conversation.parallel_tools is not None and conversation.tools:
        document["parallel_tool_calls"] = conversation.parallel_tools


def _tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name, "parameters": tool.schema}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice) -> str | Json:
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _limits(document: Json, conversation: Conversation, facts: TargetFacts) -> None:
    if conversation.max_output_tokens is not None:
        newer = REASONING_MODEL.match(facts.model) is not None
        key = "max_completion_tokens" if newer else "max_tokens"
        document[key] = conversation.max_output_tokens
    if conversation.choices > 1:
        document["n"] = conversation.choices
    if conversation.stop:
        if len(conversation.stop) > MAX_STOPS:
            raise UntranslatableError("stop_sequences", f"OpenAI takes at most {MAX_STOPS}")
        document["stop"] = conversation.stop


def _sampling(document: Json, conversation: Conversation) -> None:
    values = {
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "seed": conversation.seed,
        "presence_penalty": conversation.presence_penalty,
        "frequency_penalty": conversation.frequency_penalty,
        "logprobs": conversation.logprobs or None,
        "top_logprobs": conversation.top_logprobs,
        "logit_bias": conversation.logit_bias or None,
    }
    document.update({key: value for key, value in values.items() if value is not None})


def _thinking(document: Json, wish: ThinkingWish | None, facts: TargetFacts) -> list[str]:
    """A model that does not think answers all the same: that it was not asked to is told."""
    if wish is None:
        return []
    if REASONING_MODEL.match(facts.model) is None:
        return [] if wish.mode == "off" else ["thinking"]
    document["reasoning_effort"] = effort_of(wish)
    return []


def _format(wanted: AnswerFormat) -> Json:
    if wanted.schema is None:
        return {"type": "json_object"}
    schema: Json = {"name": wanted.name or "answer", "schema": wanted.schema}
    if wanted.description:
        schema["description"] = wanted.description
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": schema}
