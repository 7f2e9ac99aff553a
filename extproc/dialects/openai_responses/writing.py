"""A conversation to a Responses request."""

from __future__ import annotations

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
    Vendor,
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
from extproc.wire.call_ids import RESPONSES_ID_CHARACTERS, fitting_call_id

MIN_OUTPUT_TOKENS = 16
"""The least maximum that OpenAI takes in this API."""
_UNSAYABLE = ("top_k", "seed", "presence_penalty", "frequency_penalty")


def write_request(conversation: Conversation, facts: TargetFacts) -> WrittenRequest:
    """Raises ``UntranslatableError``. Nothing is stored at OpenAI."""
    refuse_extra(conversation)
    dropped = list(conversation.dropped)
    _refuse_the_unsayable(conversation, dropped)
    document: Json = {"model": facts.model, "store": False, "input": _input(conversation)}
    if conversation.system:
        document["instructions"] = "\n\n".join(text.text for text in conversation.system)
    dropped += _tools(document, conversation)
    effort = _reasoning(document, conversation, facts, dropped)
    sampling, told = sampling_at(conversation, generation_of(facts.model), effort)
    dropped += told
    user_id = end_user_id(conversation.end_user, OPENAI_CHARACTERS)
    values = {
        "max_output_tokens": _maximum(conversation),
        **sampling,
        "top_logprobs": conversation.top_logprobs,
        "stream": conversation.stream or None,
        "safety_identifier": user_id or None,
    }
    document.update({key: value for key, value in values.items() if value is not None})
    wanted = conversation.answer_format
    if wanted is not None and wanted.schema is None and not says_json(document["input"]):
        asked = {"type": "message", "role": "developer", "content": JSON_ONLY}
        document["input"] = [asked, *document["input"]]
    if wanted is not None:
        written, told = asked_format(wanted)
        document["text"] = {"format": written}
        dropped += told
    path = f"{facts.base_path}/responses"
    return WrittenRequest(path, orjson.dumps(document), dropped=tuple(dropped))


def _maximum(conversation: Conversation) -> int | None:
    """A larger maximum than the caller's would cost more than it is to."""
    maximum = conversation.max_output_tokens
    if maximum is not None and maximum < MIN_OUTPUT_TOKENS:
        raise UntranslatableError("max_tokens", f"OpenAI takes none below {MIN_OUTPUT_TOKENS} here")
    return maximum


def _reasoning(
    document: Json, conversation: Conversation, facts: TargetFacts, dropped: list[str]
) -> str:
    """Asks the model to think, and says with which effort."""
    generation, wish = generation_of(facts.model), conversation.thinking
    if generation is None:
        if wish is not None and wish.mode != "off":
            dropped.append("thinking")
        return ""
    # Nothing is stored, so thoughts must come along to be given back.
    document["include"] = ["reasoning.encrypted_content"]
    effort, told = effort_at(generation, wish, chat_tools=False)
    dropped += told
    if effort:
        document["reasoning"] = {"effort": effort}
        if wish is not None and wish.mode != "off":
            document["reasoning"]["summary"] = "auto"
    return effort


def _refuse_the_unsayable(conversation: Conversation, dropped: list[str]) -> None:
    for key in _UNSAYABLE:
        value = getattr(conversation, key)
        if value is None:
            continue
        if key == "seed":
            dropped.append(key)
        elif value != 0 or key == "top_k":
            raise UntranslatableError(key, "OpenAI's Responses API has no such field")
    if conversation.choices > 1:
        raise UntranslatableError("n", "the Responses API gives one answer at a time")
    if conversation.stop:
        raise UntranslatableError("stop", "the Responses API has no stop sequences")
    if conversation.logit_bias:
        raise UntranslatableError("logit_bias", "the Responses API has no such field")


def _input(conversation: Conversation) -> list[Json]:
    items: list[Json] = []
    for place, turn in enumerate(conversation.turns):
        items += _turn(turn, f"messages[{place}]")
    return items


def _turn(turn: Turn, where: str) -> list[Json]:
    """Calls, results and thoughts are items of their own; what is said between is a message."""
    items: list[Json] = []
    for part in turn.parts:
        item = _item(part, where)
        if item is not None:
            items.append(item)
        elif isinstance(part, Text | Refused) and turn.role is Role.ASSISTANT:
            # As plain text: what OpenAI's own messages hold beside it, others do not have.
            if part.text:
                items.append({"type": "message", "role": "assistant", "content": part.text})
        elif not isinstance(part, Thinking):
            content = _content(part, where)
            last = items[-1] if items else {}
            if last.get("role") == "user":
                last["content"].append(content)
            else:
                items.append({"type": "message", "role": "user", "content": [content]})
    while items and items[-1]["type"] == "reasoning":
        items.pop()  # OpenAI takes none without what was said or called after it
    return items


def _item(part: Part, where: str) -> Json | None:
    if isinstance(part, ToolCall):
        call = {"call_id": _id(part.call_id), "name": part.name, "arguments": part.arguments}
        return {"type": "function_call", **call}
    if isinstance(part, ToolResult):
        output = [_content(inner, where) for inner in part.parts]
        if part.is_error:
            output.insert(0, {"type": "input_text", "text": "The tool failed:"})
        only_text = len(output) == 1 and output[0]["type"] == "input_text"
        told = output[0]["text"] if only_text else output or ""
        return {"type": "function_call_output", "call_id": _id(part.call_id), "output": told}
    if isinstance(part, Thinking) and part.vendor is Vendor.OPENAI and part.signature:
        summary = [{"type": "summary_text", "text": part.text}] if part.text else []
        item = {"type": "reasoning", "summary": summary, "encrypted_content": part.signature}
        return {**item, "id": part.item_id} if part.item_id else item
    return None


def _id(call_id: str) -> str:
    return fitting_call_id(call_id, RESPONSES_ID_CHARACTERS)


def _content(part: Part, where: str) -> Json:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text}
    if not isinstance(part, Media):
        raise UntranslatableError(where, "this kind of content has no place here")
    if part.file_id:
        raise UntranslatableError(where, "a file by id is known to its provider only")
    if part.kind == "image":
        url = part.url or data_url(part)
        return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
    if part.kind == "audio":
        raise UntranslatableError(where, "the Responses API takes no audio")
    if part.text:
        return {"type": "input_text", "text": part.words}
    if part.url:
        return {"type": "input_file", "file_url": part.url}
    name = part.name or "document.pdf"
    return {"type": "input_file", "filename": name, "file_data": data_url(part)}


def _tools(document: Json, conversation: Conversation) -> list[str]:
    dropped: list[str] = []
    if not conversation.tools:
        return dropped
    document["tools"] = [_tool(tool, dropped) for tool in conversation.tools]
    if conversation.tool_choice is not None:
        document["tool_choice"] = _choice(conversation.tool_choice)
    if conversation.parallel_tools is not None:
        document["parallel_tool_calls"] = conversation.parallel_tools
    return dropped


def _tool(tool: Tool, dropped: list[str]) -> Json:
    strict, told = strict_at(bool(tool.strict), tool.schema, f"tools.{tool.name}")
    dropped += told
    # Left out, ``strict`` means true here and changes the schema; elsewhere it means false.
    written: Json = {
        "type": "function",
        "name": check_tool_name(tool.name),
        "parameters": tool.schema,
        "strict": strict,
    }
    if tool.description:
        written["description"] = tool.description
    return written


def _choice(choice: ToolChoice) -> str | Json:
    if choice.mode == "named":
        return {"type": "function", "name": choice.name}
    return choice.mode
