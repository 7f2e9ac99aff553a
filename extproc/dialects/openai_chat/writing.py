"""A conversation to a chat completions request."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from extproc.dialects.codec import TargetFacts, WrittenRequest
from extproc.dialects.conversation import (
    JSON_ONLY,
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
    Turn,
    UntranslatableError,
)
from extproc.dialects.end_user import OPENAI_CHARACTERS, end_user_id
from extproc.dialects.openai_models import (
    check_tool_name,
    effort_at,
    generation_of,
    sampling_at,
    strict_at,
)
from extproc.dialects.openai_requests import asked_format, data_url, says_json
from extproc.dialects.unsayable import refuse_extra
from extproc.wire.call_ids import CHAT_ID_CHARACTERS, fitting_call_id

MAX_STOPS = 4
"""OpenAI's own bound on stop sequences."""
_AUDIO_FORMATS = {"audio/wav": "wav", "audio/mpeg": "mp3"}


def write_request(conversation: Conversation, facts: TargetFacts) -> WrittenRequest:
    """Raises ``UntranslatableError``."""
    refuse_extra(conversation)
    if conversation.top_k is not None:
        raise UntranslatableError("top_k", "OpenAI's API has no such field")
    document: Json = {"model": facts.model, "messages": _messages(conversation)}
    dropped = list(conversation.dropped)
    dropped += _tools(document, conversation)
    _limits(document, conversation, facts)
    dropped += _thinking_and_sampling(document, conversation, facts)
    wanted = conversation.answer_format
    if wanted is not None:
        document["response_format"], told = asked_format(wanted, schema_in="json_schema")
        dropped += told
        if wanted.schema is None and not says_json(document["messages"]):
            document["messages"].insert(0, {"role": "system", "content": JSON_ONLY})
    if conversation.end_user:
        document["user"] = end_user_id(conversation.end_user, OPENAI_CHARACTERS)
    if conversation.stream:
        document["stream"] = True
        document["stream_options"] = {"include_usage": True}
    path = f"{facts.base_path}/chat/completions"
    return WrittenRequest(path, orjson.dumps(document), dropped=tuple(dropped))


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
            calls.append({"id": _id(part.call_id), "type": "function", "function": function})
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
            call_id = _id(part.call_id)
            said = [_worded(item) for item in part.parts]
            texts = [item for item in said if isinstance(item, Text)]
            media = [item for item in said if isinstance(item, Media)]
            messages.append(
                {"role": "tool", "tool_call_id": call_id, "content": _result(part, texts)}
            )
            for item in media:
                shown.append({"type": "text", "text": f"Returned by tool call {call_id}:"})
                shown.append(_content(item, where))
        else:
            content.append(_content(part, where))
    content = shown + content
    if content:
        only_text = len(content) == 1 and content[0]["type"] == "text"
        messages.append({"role": "user", "content": content[0]["text"] if only_text else content})
    return messages


def _id(call_id: str) -> str:
    return fitting_call_id(call_id, CHAT_ID_CHARACTERS)


def _result(result: ToolResult, texts: Sequence[Text]) -> str | list[Json]:
    """OpenAI has no mark for a failed tool: it is said in words, as its own examples do."""
    words = [text.text for text in texts]
    if result.is_error:
        words.insert(0, "The tool failed:")
    if len(words) <= 1:
        return words[0] if words else ""
    return [{"type": "text", "text": word} for word in words]


def _content(part: Part, where: str) -> Json:
    if isinstance(part, Media):
        part = _worded(part)
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


def _worded(part: Text | Media) -> Text | Media:
    """A document in plain text as the text that it is."""
    if isinstance(part, Text) or not part.text:
        return part
    return Text(part.words)


def _document(part: Media, where: str) -> Json:
    if part.url or part.file_id or not part.data:
        raise UntranslatableError(where, "a document must be inline for OpenAI's chat API")
    name = part.name or "document.pdf"
    return {"type": "file", "file": {"filename": name, "file_data": data_url(part)}}


def _tools(document: Json, conversation: Conversation) -> list[str]:
    dropped: list[str] = []
    if conversation.tools:
        document["tools"] = [_tool(tool, dropped) for tool in conversation.tools]
    choice = conversation.tool_choice
    if choice is not None and conversation.tools:
        document["tool_choice"] = _choice(choice)
    if conversation.parallel_tools is not None and conversation.tools:
        document["parallel_tool_calls"] = conversation.parallel_tools
    return dropped


def _tool(tool: Tool, dropped: list[str]) -> Json:
    function: Json = {"name": check_tool_name(tool.name), "parameters": tool.schema}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        strict, told = strict_at(tool.strict, tool.schema, f"tools.{tool.name}")
        function["strict"] = strict
        dropped += told
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice) -> str | Json:
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _limits(document: Json, conversation: Conversation, facts: TargetFacts) -> None:
    if conversation.max_output_tokens is not None:
        newer = generation_of(facts.model) is not None
        key = "max_completion_tokens" if newer else "max_tokens"
        document[key] = conversation.max_output_tokens
    if conversation.choices > 1:
        document["n"] = conversation.choices
    if conversation.stop:
        if len(conversation.stop) > MAX_STOPS:
            raise UntranslatableError("stop_sequences", f"OpenAI takes at most {MAX_STOPS}")
        document["stop"] = conversation.stop


def _thinking_and_sampling(
    document: Json, conversation: Conversation, facts: TargetFacts
) -> list[str]:
    """A model that does not think answers all the same: that it was not asked to is told."""
    generation, wish = generation_of(facts.model), conversation.thinking
    effort, dropped = "", ["thinking"] if wish is not None and wish.mode != "off" else []
    if generation is not None:
        tools = bool(conversation.tools)
        effort, dropped = effort_at(generation, wish, chat_tools=tools)
    sampling, told = sampling_at(conversation, generation, effort)
    values = {
        "reasoning_effort": effort or None,
        **sampling,
        "seed": conversation.seed,
        "logprobs": conversation.logprobs or None,
        "top_logprobs": conversation.top_logprobs,
        "logit_bias": conversation.logit_bias or None,
    }
    document.update({key: value for key, value in values.items() if value is not None})
    return dropped + told
