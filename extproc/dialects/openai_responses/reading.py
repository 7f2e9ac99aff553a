"""A Responses request to a conversation."""

from __future__ import annotations

from extproc.dialects.conversation import (
    Conversation,
    Media,
    Part,
    Refused,
    Role,
    Text,
    ThinkingWish,
    ToolChoice,
    ToolResult,
    UntranslatableError,
    Vendor,
)
from extproc.dialects.fields import Fields, read_object
from extproc.dialects.openai_requests import check_tier, chosen, declared_format, inline_media
from extproc.dialects.openai_responses.tools import (
    CUSTOM,
    FUNCTION,
    DeclaredTools,
    function_name,
    read_call,
)
from extproc.dialects.thinking import returned_thinking
from extproc.dialects.turns import add_parts, link_tool_results

_CHANGES_NOTHING = (
    "client_metadata",
    "include",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "store",
    "stream_options",
    "truncation",
)
"""How OpenAI stores, caches and cuts: the conversation is whole in the request all the same."""
_STORED = ("previous_response_id", "conversation", "prompt")
_CALLS = ("function_call", "custom_tool_call", "tool_search_call")
_RESULTS = ("function_call_output", "custom_tool_call_output")
_TOLD_BESIDE = ("web_search_call",)


def read_request(body: bytes) -> Conversation:
    """Raises ``WireError`` and ``UntranslatableError``."""
    fields = read_object(body)
    conversation = Conversation(fields.needed_text("model"), [])
    for key in _STORED:
        if key in fields:
            raise fields.untranslatable(key, "what OpenAI stored is known to OpenAI only")
    instructions = fields.text("instructions")
    if instructions:
        conversation.system.append(Text(instructions))
    tools = DeclaredTools(conversation)
    tools.read(fields)
    _input(fields, conversation, tools)
    link_tool_results(conversation.turns)
    conversation.tool_choice = _tool_choice(fields)
    conversation.parallel_tools = fields.boolean("parallel_tool_calls")
    conversation.max_output_tokens = fields.integer("max_output_tokens")
    conversation.stream = bool(fields.boolean("stream"))
    conversation.temperature = fields.number("temperature")
    conversation.top_p = fields.number("top_p")
    conversation.top_logprobs = fields.integer("top_logprobs")
    conversation.logprobs = bool(conversation.top_logprobs)
    _thinking(fields.object("reasoning"), conversation)
    _text_config(fields.object("text"), conversation)
    conversation.end_user = fields.text("safety_identifier") or fields.text("user")
    if fields.boolean("background"):
        raise fields.untranslatable("background", "only OpenAI answers later")
    check_tier(fields)
    conversation.dropped += fields.given(_CHANGES_NOTHING)
    conversation.extra = fields.rest()
    return conversation


def _input(fields: Fields, conversation: Conversation, tools: DeclaredTools) -> None:
    if isinstance(fields.raw("input"), str):
        add_parts(conversation.turns, Role.USER, [Text(fields.text("input"))])
        return
    for item in fields.objects("input"):
        kind = item.text("type", "message")
        if kind == "message":
            _message(item, conversation)
        elif kind in _CALLS:
            add_parts(conversation.turns, Role.ASSISTANT, [read_call(item, kind)])
        elif kind in _RESULTS:
            result = ToolResult(item.needed_text("call_id"), _output(item), name=item.text("name"))
            add_parts(conversation.turns, Role.USER, [result])
        elif kind == "tool_search_output":
            result = ToolResult(item.needed_text("call_id"), [tools.read_found(item)])
            add_parts(conversation.turns, Role.USER, [result])
        elif kind in _TOLD_BESIDE:
            # What OpenAI's own tool found is in what its model said next.
            conversation.dropped.append(f"input.{kind}")
            continue
        elif kind == "reasoning":
            _reasoning(item, conversation)
        else:
            raise item.untranslatable("type", f"items of the type {kind[:40]!r} are not carried")
        for key in ("id", "status"):
            item.raw(key)
        item.done()


def _message(item: Fields, conversation: Conversation) -> None:
    role = item.needed_text("role")
    for key in ("phase", "end_turn"):
        item.raw(key)  # OpenAI's own marks on what its model said
    parts = _content(item)
    if role in ("system", "developer"):
        if conversation.turns:
            # Others know instructions at the beginning only: they are moved there, and it is told.
            conversation.dropped.append(item.at("position"))
        conversation.system += [part for part in parts if isinstance(part, Text)]
    elif role in ("user", "assistant"):
        add_parts(conversation.turns, Role(role), parts)
    else:
        raise item.untranslatable("role", "only user, assistant, system and developer speak here")


def _content(item: Fields, key: str = "content") -> list[Part]:
    if isinstance(item.raw(key), str):
        return [Text(item.text(key))]
    return [_content_part(part) for part in item.objects(key)]


def _content_part(part: Fields) -> Part:
    kind = part.needed_text("type")
    made: Part
    if kind in ("input_text", "output_text", "text"):
        made = Text(part.text("text"))
        for key in ("annotations", "logprobs"):
            part.raw(key)
    elif kind == "refusal":
        made = Refused(part.text("refusal"))
    elif kind == "input_image":
        made = _media("image", part.text("image_url"), part)
        made.detail = part.text("detail")
    elif kind == "input_file":
        url = part.text("file_url") or part.text("file_data")
        made = _media("document", url, part)
        made.name = part.text("filename")
    else:
        raise part.untranslatable("type", f"content of the type {kind[:40]!r} is not carried")
    part.raw("prompt_cache_breakpoint")
    part.done()
    return made


def _media(kind: str, url: str, part: Fields) -> Media:
    made = inline_media(kind, url)
    if made is not None:
        return made
    if "file_data" in part:
        return Media(kind, "application/pdf", data=url)
    return Media(kind, "", url=url, file_id=part.text("file_id"))


def _output(item: Fields) -> list[Text | Media]:
    parts: list[Text | Media] = []
    for part in _content(item, "output"):
        if not isinstance(part, Text | Media):
            raise item.untranslatable("output", "a tool's result holds text, images, documents")
        parts.append(part)
    return parts


def _reasoning(item: Fields, conversation: Conversation) -> None:
    texts = []
    for key in ("summary", "content"):
        for part in item.objects(key):
            part.raw("type")
            texts.append(part.text("text"))
            part.done()
    signature = item.text("encrypted_content")
    thinking = returned_thinking("\n\n".join(texts), signature, Vendor.OPENAI)
    if thinking.vendor is Vendor.OPENAI:
        thinking.item_id = item.text("id")
    add_parts(conversation.turns, Role.ASSISTANT, [thinking])


def _tool_choice(fields: Fields) -> ToolChoice | None:
    choice = chosen(fields)
    if choice is None or isinstance(choice, ToolChoice):
        return choice
    if choice.text("type") not in (FUNCTION, CUSTOM):
        raise UntranslatableError("tool_choice", "only the choice of one function is carried")
    name = function_name(choice.needed_text("name"), choice.text("namespace"))
    made = ToolChoice("named", name)
    choice.done()
    return made


def _thinking(reasoning: Fields | None, conversation: Conversation) -> None:
    if reasoning is None:
        return
    effort = reasoning.text("effort")
    show = reasoning.text("summary") or reasoning.text("generate_summary")
    if reasoning.raw("context") is not None:
        conversation.dropped.append("reasoning.context")
    reasoning.done()
    if effort:
        mode = "off" if effort == "none" else "effort"
        conversation.thinking = ThinkingWish(mode, effort=effort, show=show)


def _text_config(config: Fields | None, conversation: Conversation) -> None:
    if config is None:
        return
    if config.text("verbosity") not in ("", "medium"):
        conversation.dropped.append("text.verbosity")
    conversation.answer_format = declared_format(config.object("format"))
    config.done()
