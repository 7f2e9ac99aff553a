"""A chat completions request to a conversation."""

from __future__ import annotations

from extproc.dialects.conversation import (
    Conversation,
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
)
from extproc.dialects.fields import Fields, read_object
from extproc.dialects.openai_requests import (
    check_tier,
    chosen,
    declared_format,
    declared_tool,
    inline_media,
)
from extproc.dialects.turns import add_parts, link_tool_results

_CHANGES_NOTHING = (
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "store",
)
"""Kept by OpenAI for its own dashboard and caches: no answer depends on them."""
_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}


def read_request(body: bytes) -> Conversation:
    """Raises ``WireError`` and ``UntranslatableError``."""
    fields = read_object(body)
    conversation = Conversation(fields.needed_text("model"), [])
    for message in fields.objects("messages"):
        _message(message, conversation)
    link_tool_results(conversation.turns)
    conversation.tools = [_tool(tool) for tool in fields.objects("tools")]
    conversation.tool_choice = _tool_choice(fields)
    conversation.parallel_tools = fields.boolean("parallel_tool_calls")
    limits = [fields.integer(key) for key in ("max_completion_tokens", "max_tokens")]
    conversation.max_output_tokens = max((n for n in limits if n is not None), default=None)
    conversation.stream = bool(fields.boolean("stream"))
    _sampling(fields, conversation)
    wanted = fields.object("response_format")
    conversation.answer_format = declared_format(wanted, schema_in="json_schema")
    effort = fields.text("reasoning_effort")
    if effort:
        conversation.thinking = ThinkingWish("off" if effort == "none" else "effort", effort=effort)
    conversation.end_user = fields.text("safety_identifier") or fields.text("user")
    _without_effect(fields, conversation)
    conversation.extra = fields.rest()
    return conversation


def _sampling(fields: Fields, conversation: Conversation) -> None:
    conversation.temperature = fields.number("temperature")
    conversation.top_p = fields.number("top_p")
    conversation.stop = fields.texts("stop")
    conversation.seed = fields.integer("seed")
    conversation.presence_penalty = fields.number("presence_penalty")
    conversation.frequency_penalty = fields.number("frequency_penalty")
    conversation.choices = fields.integer("n") or 1
    conversation.logprobs = bool(fields.boolean("logprobs"))
    conversation.top_logprobs = fields.integer("top_logprobs")
    conversation.logit_bias = fields.json("logit_bias") or {}


def _without_effect(fields: Fields, conversation: Conversation) -> None:
    fields.raw("stream_options")  # what the caller wants of the stream is the writer's business
    conversation.dropped += fields.given(_CHANGES_NOTHING)
    check_tier(fields)
    if fields.texts("modalities") not in ([], ["text"]):
        raise fields.untranslatable("modalities", "only text can be answered")


def _message(message: Fields, conversation: Conversation) -> None:
    role = message.needed_text("role")
    name = message.text("name")
    if name and role != "function":
        conversation.dropped.append(message.at("name"))
    if role in ("system", "developer"):
        if conversation.turns:
            # Others know instructions at the beginning only: they are moved there, and it is told.
            conversation.dropped.append(message.at("position"))
        conversation.system += _texts(message)
    elif role == "user":
        add_parts(conversation.turns, Role.USER, _user_parts(message))
    elif role == "assistant":
        add_parts(conversation.turns, Role.ASSISTANT, _assistant_parts(message))
    elif role == "tool":
        parts: list[Text | Media] = list(_texts(message))
        result = ToolResult(message.needed_text("tool_call_id"), parts)
        add_parts(conversation.turns, Role.USER, [result])
    else:
        raise message.untranslatable("role", f"messages of the role {role[:20]!r} are not carried")
    message.done()


def _texts(message: Fields) -> list[Text]:
    """Content that may only be text."""
    if isinstance(message.raw("content"), str):
        return [Text(message.text("content"))]
    texts = []
    for part in message.objects("content"):
        if part.needed_text("type") != "text":
            raise part.untranslatable("type", "only text is carried here")
        texts.append(Text(part.text("text")))
        part.done()
    return texts


def _user_parts(message: Fields) -> list[Part]:
    if isinstance(message.raw("content"), str):
        return [Text(message.text("content"))]
    return [_user_part(part) for part in message.objects("content")]


def _user_part(part: Fields) -> Part:
    kind = part.needed_text("type")
    made: Part
    if kind == "text":
        made = Text(part.text("text"))
    elif kind == "image_url":
        made = _image(part)
    elif kind == "input_audio":
        made = _audio(part)
    elif kind == "file":
        made = _file(part)
    else:
        raise part.untranslatable("type", f"content of the type {kind[:30]!r} is not carried")
    part.done()
    return made


def _image(part: Fields) -> Media:
    image = part.object("image_url")
    if image is None:
        raise part.wrong("image_url", "an object with a url")
    url, detail = image.needed_text("url"), image.text("detail")
    image.done()
    made = inline_media("image", url) or Media("image", "", url=url)
    made.detail = detail
    return made


def _audio(part: Fields) -> Media:
    audio = part.object("input_audio")
    if audio is None:
        raise part.wrong("input_audio", "an object with data")
    kind = audio.needed_text("format")
    media_type = _AUDIO_TYPES.get(kind)
    if media_type is None:
        raise audio.untranslatable("format", "only wav and mp3 are carried")
    made = Media("audio", media_type, data=audio.needed_text("data"))
    audio.done()
    return made


def _file(part: Fields) -> Media:
    file = part.object("file")
    if file is None:
        raise part.wrong("file", "an object")
    name, file_id, text = file.text("filename"), file.text("file_id"), file.text("file_data")
    file.done()
    made = inline_media("document", text)
    if made is None:
        made = Media("document", "application/pdf" if text else "", text, file_id=file_id)
    made.name = name
    return made


def _assistant_parts(message: Fields) -> list[Part]:
    parts: list[Part] = []
    reasoning = message.text("reasoning_content")
    if reasoning:
        parts.append(Thinking(reasoning))
    if isinstance(message.raw("content"), str):
        if message.text("content"):  # beside tool calls, others take no empty text
            parts.append(Text(message.text("content")))
    else:
        for part in message.objects("content"):
            kind = part.needed_text("type")
            if kind not in ("text", "refusal"):
                raise part.untranslatable("type", "an assistant's content is text or refusal")
            parts.append(Text(part.text(kind)) if kind == "text" else Refused(part.text(kind)))
            part.done()
    refusal = message.text("refusal")
    if refusal:
        parts.append(Refused(refusal))
    parts += [_tool_call(call) for call in message.objects("tool_calls")]
    message.raw("annotations")  # of the provider's own making, on its own text
    return parts


def _tool_call(call: Fields) -> ToolCall:
    if call.text("type", "function") != "function":
        raise call.untranslatable("type", "only function tools are carried")
    function = call.object("function")
    if function is None:
        raise call.wrong("function", "an object")
    made = ToolCall(
        call.needed_text("id"), function.needed_text("name"), function.text("arguments") or "{}"
    )
    function.done()
    call.raw("index")  # some servers echo the stream's numbering
    call.done()
    return made


def _tool(tool: Fields) -> Tool:
    if tool.text("type", "function") != "function":
        raise tool.untranslatable("type", "only function tools are carried")
    function = tool.object("function")
    if function is None:
        raise tool.wrong("function", "an object")
    made = declared_tool(function)
    function.done()
    tool.done()
    return made


def _tool_choice(fields: Fields) -> ToolChoice | None:
    choice = chosen(fields)
    if choice is None or isinstance(choice, ToolChoice):
        return choice
    function = choice.object("function")
    if function is None or choice.text("type") != "function":
        raise fields.untranslatable("tool_choice", "only the choice of one function is carried")
    made = ToolChoice("named", function.needed_text("name"))
    function.done()
    choice.done()
    return made
