"""A conversation to a generateContent request."""

from __future__ import annotations

import mimetypes
import re
from dataclasses import replace
from urllib.parse import quote

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
    ThinkingWish,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    UntranslatableError,
    Vendor,
)
from extproc.dialects.turns import arguments_object, opened_by_user, told_turns
from extproc.dialects.unsayable import refuse_extra

MAX_STOPS = 5
"""Google's own bound on stop sequences."""
_NO_SIGNATURE = "skip_thought_signature_validator"
"""What Google documents for calls that another model made: Gemini 3 refuses a call without any."""
_NEWER = re.compile(r"(?:.*/)?gemini-[3-9]")
"""Models that want the signatures of calls back, and think by level; those before think by
budget."""
_TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_LEVELS = (
    (re.compile(r"(?:.*/)?gemini-3-pro"), ("low", "high")),
    (re.compile(r"(?:.*/)?gemini-[3-9](?:\.\d+)?-pro"), ("low", "medium", "high")),
    (_NEWER, ("minimal", "low", "medium", "high")),
)
"""The levels of each family, from the least; the first that matches."""
_LEVEL_BY_EFFORT = {"none": "minimal", "minimal": "minimal", "low": "low", "medium": "medium"}
_LEAST_BUDGETS = (
    (re.compile(r"(?:.*/)?gemini-2\.5-pro"), 128),
    (re.compile(r"(?:.*/)?gemini-2\.5-flash-lite"), 512),
)
"""Thinking budgets below these are refused; a pro's cannot be 0 either."""
_BUDGET_BY_EFFORT = {"minimal": 512, "low": 1_024, "medium": 8_192, "high": 24_576}
_MOST_BUDGET = 24_576
"""The largest that every thinking model before Gemini 3 takes."""
_LOW_UP_TO_TOKENS = 4_096
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}


def write_request(conversation: Conversation, facts: TargetFacts) -> WrittenRequest:
    """Raises ``UntranslatableError``."""
    refuse_extra(conversation)
    if conversation.logit_bias:
        raise UntranslatableError("logit_bias", "Google's API has no such field")
    dropped = list(conversation.dropped)
    contents, told = _contents(conversation, facts)
    dropped += told
    conversation, told = _beside_tools(conversation, facts)
    dropped += told
    document: Json = {"contents": contents}
    system = [{"text": text.text} for text in conversation.system if text.text]
    if system:
        document["systemInstruction"] = {"parts": system}
    if conversation.tools:
        declarations = [_tool(tool) for tool in conversation.tools]
        document["tools"] = [{"functionDeclarations": declarations}]
        if conversation.tool_choice is not None:
            document["toolConfig"] = _choice(conversation.tool_choice)
    if conversation.parallel_tools is False:
        dropped.append("parallel_tool_calls")
    if conversation.end_user:
        dropped.append("user")
    config = _generation(conversation)
    dropped += _thinking(config, conversation.thinking, facts)
    if config:
        document["generationConfig"] = config
    method = "streamGenerateContent?alt=sse" if conversation.stream else "generateContent"
    path = f"{facts.base_path}/models/{quote(facts.model, safe='')}:{method}"
    return WrittenRequest(path, orjson.dumps(document), dropped=tuple(dropped))


def _beside_tools(conversation: Conversation, facts: TargetFacts) -> tuple[Conversation, list[str]]:
    """Models before Gemini 3 cannot be held to JSON where they may call functions. JSON without a
    schema is asked for in words then; a schema must hold, so that they are not asked. Where no
    function may be called none is offered."""
    wanted, choice = conversation.answer_format, conversation.tool_choice
    if wanted is None or not conversation.tools or _NEWER.match(facts.model):
        return conversation, []
    if choice is not None and choice.mode == "none":
        return replace(conversation, tools=[]), []
    if wanted.schema is not None:
        raise UntranslatableError("response_format", "before Gemini 3 it does not go with tools")
    system = [*conversation.system, Text(JSON_ONLY)]
    return replace(conversation, system=system, answer_format=None), ["response_format"]


def _contents(conversation: Conversation, facts: TargetFacts) -> tuple[list[Json], list[str]]:
    """The turns, and what is to be told of them."""
    contents = []
    sign = _NEWER.match(facts.model) is not None
    turns, told = opened_by_user(told_turns(conversation.turns, _is_told))
    for place, turn in enumerate(turns):
        role = "user" if turn.role is Role.USER else "model"
        contents.append({"role": role, "parts": _parts(turn, f"messages[{place}]", sign=sign)})
    return contents, told


def _is_told(part: Part) -> bool:
    """Not of another vendor's thinking, nor of empty text."""
    if isinstance(part, Thinking):
        return part.vendor is Vendor.GOOGLE and bool(part.signature)
    return not isinstance(part, Text | Refused) or bool(part.text)


def _parts(turn: Turn, where: str, *, sign: bool) -> list[Json]:
    written: list[Json] = []
    unsigned = sign
    for part in turn.parts:
        if isinstance(part, ToolResult):
            written += _tool_result(part, where)
        elif isinstance(part, ToolCall):
            call = _tool_call(part, where)
            if part.signature:
                call["thoughtSignature"] = part.signature
            elif unsigned:
                call["thoughtSignature"] = _NO_SIGNATURE
            unsigned = False  # the first of a turn's parallel calls carries it
            written.append(call)
        else:
            written.append(_part(part, where))
    return written


def _part(part: Text | Refused | Media | Thinking, where: str) -> Json:
    if isinstance(part, Media):
        return _media(part, where)
    if isinstance(part, Thinking):
        return {"text": part.text, "thought": True, "thoughtSignature": part.signature}
    return {"text": part.text}


def _media(media: Media, where: str) -> Json:
    if media.text:
        return {"text": media.words}
    if media.data:
        return {"inlineData": {"mimeType": media.media_type, "data": media.data}}
    if media.file_id:
        raise UntranslatableError(where, "a file by id is known to its provider only")
    kind = media.media_type or mimetypes.guess_type(media.url.partition("?")[0])[0]
    if kind is None:
        raise UntranslatableError(where, "Google must be told the type of a file by URL")
    return {"fileData": {"mimeType": kind, "fileUri": media.url}}


def _tool_call(call: ToolCall, where: str) -> Json:
    arguments = arguments_object(call, where)
    return {"functionCall": {"id": call.call_id, "name": call.name, "args": arguments}}


def _tool_result(result: ToolResult, where: str) -> list[Json]:
    """The text as the function's response; media follow as parts of their own."""
    if not result.name:
        raise UntranslatableError(where, "the call that this tool result answers is not there")
    text = "\n".join(part.text for part in result.parts if isinstance(part, Text))
    response = {"error" if result.is_error else "output": text}
    answer = {"id": result.call_id, "name": result.name, "response": response}
    media = [_media(part, where) for part in result.parts if isinstance(part, Media)]
    return [{"functionResponse": answer}, *media]


def _tool(tool: Tool) -> Json:
    if not _TOOL_NAME.fullmatch(tool.name):
        raise UntranslatableError("tools", "a name begins with a letter or _ for Google")
    declaration: Json = {"name": tool.name, "parametersJsonSchema": tool.schema}
    if tool.description:
        declaration["description"] = tool.description
    return declaration


def _choice(choice: ToolChoice) -> Json:
    config: Json = {"mode": _MODES[choice.mode]}
    if choice.mode == "named":
        config["allowedFunctionNames"] = [choice.name]
    return {"functionCallingConfig": config}


def _generation(conversation: Conversation) -> Json:
    if len(conversation.stop) > MAX_STOPS:
        raise UntranslatableError("stop", f"Google takes at most {MAX_STOPS}")
    wanted = conversation.answer_format
    values = {
        "maxOutputTokens": conversation.max_output_tokens,
        "temperature": conversation.temperature,
        "topP": conversation.top_p,
        "topK": conversation.top_k,
        "stopSequences": conversation.stop or None,
        "seed": conversation.seed,
        "presencePenalty": conversation.presence_penalty,
        "frequencyPenalty": conversation.frequency_penalty,
        "candidateCount": conversation.choices if conversation.choices > 1 else None,
        "responseLogprobs": conversation.logprobs or None,
        "logprobs": conversation.top_logprobs,
        "responseMimeType": "application/json" if wanted is not None else None,
        "responseJsonSchema": wanted.schema if wanted is not None else None,
    }
    return {key: value for key, value in values.items() if value is not None}


def _thinking(config: Json, wish: ThinkingWish | None, facts: TargetFacts) -> list[str]:
    """That a model thinks which was not to is told."""
    if wish is None:
        return []
    effort = "none" if wish.mode == "off" else wish.effort
    off = effort == "none"
    if _NEWER.match(facts.model) is not None:
        if wish.mode == "budget":
            effort = "low" if wish.budget_tokens <= _LOW_UP_TO_TOKENS else "high"
        level = _level(_LEVEL_BY_EFFORT.get(effort, "high"), facts.model)
        # These models always think a little.
        config["thinkingConfig"] = {"thinkingLevel": level, "includeThoughts": not off}
        return ["thinking"] if off else []
    if "2.5" not in facts.model:
        return [] if off else ["thinking"]
    least = next((n for family, n in _LEAST_BUDGETS if family.match(facts.model)), 1)
    budget = -1  # the model decides
    if off:
        budget = least if "-pro" in facts.model else 0
    elif wish.mode == "budget":
        budget = min(max(wish.budget_tokens, least), _MOST_BUDGET)
    elif effort:
        budget = max(_BUDGET_BY_EFFORT.get(effort, _MOST_BUDGET), least)
    config["thinkingConfig"] = {"thinkingBudget": budget, "includeThoughts": not off}
    return ["thinking"] if off and budget else []


def _level(wanted: str, model: str) -> str:
    """The level, or the next one that the model has."""
    levels = next(levels for family, levels in _LEVELS if family.match(model))
    order = _LEVELS[-1][1]
    return next(level for level in levels if order.index(level) >= order.index(wanted))
