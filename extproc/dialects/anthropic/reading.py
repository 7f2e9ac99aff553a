"""A messages request to a conversation."""

from __future__ import annotations

import re

import orjson

from extproc.dialects.conversation import (
    AnswerFormat,
    CacheMark,
    Conversation,
    KnownAs,
    Media,
    Part,
    Role,
    Text,
    ThinkingWish,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Vendor,
)
from extproc.dialects.fields import Fields, read_object
from extproc.dialects.thinking import returned_thinking
from extproc.dialects.tool_names import short_name
from extproc.dialects.turns import add_parts, link_tool_results
from extproc.wire.errors import WireError

_PLAIN_VALUES = {
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
    "inference_geo": ("global",),
}
"""Fields that choose where and how fast Anthropic serves, with the values that ask for nothing."""
_CHANGES_NOTHING = ("context_hint", "context_management", "diagnostics", "safeguards")
"""Anthropic's own housekeeping of long conversations and its own checks of what agents do:
elsewhere the whole conversation is sent. Claude Code sends some of them on every turn."""
_TOOL_HINTS = ("allowed_callers", "defer_loading", "eager_input_streaming", "input_examples")
"""How Anthropic loads and streams a tool: the tool stays the same without."""
_HOSTED = re.compile(
    r"(?:web_search|web_fetch|advisor|tool_search_tool_regex|tool_search_tool_bm25)_[0-9]{8}"
)
"""Tools that only Anthropic runs, and that agents declare beside their own."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none", "tool": "named"}


def read_request(body: bytes) -> Conversation:
    """Raises ``WireError`` and ``UntranslatableError``."""
    fields = read_object(body)
    conversation = Conversation(fields.needed_text("model"), [])
    conversation.system = _system(fields)
    for message in fields.objects("messages"):
        role = message.needed_text("role")
        if role == "system":
            add_parts(conversation.turns, Role.USER, _reminders(message, conversation))
        elif role in ("user", "assistant"):
            add_parts(conversation.turns, Role(role), _parts(message, conversation))
        else:
            raise message.untranslatable("role", "only user, assistant and system speak here")
        message.done()
    link_tool_results(conversation.turns)
    _tools(fields, conversation)
    _tool_choice(fields.object("tool_choice"), conversation)
    conversation.max_output_tokens = fields.integer("max_tokens")
    conversation.stream = bool(fields.boolean("stream"))
    conversation.temperature = fields.number("temperature")
    conversation.top_p = fields.number("top_p")
    conversation.top_k = fields.integer("top_k")
    conversation.stop = fields.texts("stop_sequences")
    _output(fields, conversation)
    metadata = fields.object("metadata")
    if metadata is not None:
        conversation.end_user = metadata.text("user_id")
        metadata.done()
    _without_effect(fields, conversation)
    conversation.extra = fields.rest()
    return conversation


def _without_effect(fields: Fields, conversation: Conversation) -> None:
    for key, plain in _PLAIN_VALUES.items():
        if fields.text(key, plain[0]) not in plain:
            raise fields.untranslatable(key, "other providers do not offer this")
    conversation.dropped += fields.given((*_CHANGES_NOTHING, "cache_control"))


def _output(fields: Fields, conversation: Conversation) -> None:
    thinking = fields.object("thinking")
    if thinking is not None:
        conversation.thinking = _thinking(thinking)
    config = fields.object("output_config")
    if config is None:
        return
    effort = config.text("effort")
    if effort:
        wish = conversation.thinking
        if wish is None or wish.mode == "adaptive":
            conversation.thinking = ThinkingWish("adaptive", effort=effort)
    wanted = config.object("format")
    if wanted is not None:
        if wanted.needed_text("type") != "json_schema":
            raise wanted.untranslatable("type", "only json_schema is carried")
        conversation.answer_format = AnswerFormat(wanted.json("schema") or {}, strict=True)
        wanted.done()
    config.done()


def _thinking(thinking: Fields) -> ThinkingWish:
    mode, show = thinking.needed_text("type"), thinking.text("display")
    if mode == "disabled":
        wish = ThinkingWish("off")
    elif mode == "adaptive":
        wish = ThinkingWish("adaptive", show=show)
    elif mode == "enabled":
        budget = thinking.integer("budget_tokens")
        if budget is None:
            raise thinking.wrong("budget_tokens", "a whole number")
        wish = ThinkingWish("budget", budget, show=show)
    else:
        raise thinking.untranslatable("type", "only enabled, disabled and adaptive are carried")
    thinking.done()
    return wish


def _system(fields: Fields) -> list[Text]:
    if isinstance(fields.raw("system"), str):
        text = fields.text("system")
        return [Text(text)] if text else []
    texts = []
    for block in fields.objects("system"):
        if block.needed_text("type") != "text":
            raise block.untranslatable("type", "instructions are text")
        texts.append(Text(block.text("text"), _cache(block)))
        block.raw("citations")
        block.done()
    return texts


def _cache(block: Fields) -> CacheMark | None:
    mark = block.object("cache_control")
    if mark is None:
        return None
    mark.raw("type")
    made = CacheMark(mark.text("ttl"))
    mark.raw("scope")
    mark.done()
    return made


def _parts(message: Fields, conversation: Conversation) -> list[Part]:
    if isinstance(message.raw("content"), str):
        return [Text(message.text("content"))]
    return [_part(block, conversation) for block in message.objects("content")]


def _reminders(message: Fields, conversation: Conversation) -> list[Part]:
    """What the operator says in the middle. Where no API but Anthropic's knows such a thing, Claude
    Code itself says it so, in the user's turn."""
    texts = _parts(message, conversation)
    for text in texts:
        if not isinstance(text, Text):
            raise message.untranslatable("content", "instructions are text")
        text.text = f"<system-reminder>\n{text.text}\n</system-reminder>"
    conversation.dropped.append("messages.role")
    return texts


def _part(block: Fields, conversation: Conversation) -> Part:
    kind = block.needed_text("type")
    made: Part
    if kind == "text":
        block.raw("citations")  # of the provider's own making, on its own text
        made = Text(block.text("text"), _cache(block))
    elif kind in ("image", "document"):
        made = _media(block, kind, conversation)
    elif kind == "tool_use":
        made = _tool_call(block)
    elif kind == "tool_result":
        made = _tool_result(block, conversation)
    elif kind == "thinking":
        signature = block.text("signature")
        made = returned_thinking(block.text("thinking"), signature, Vendor.ANTHROPIC)
    elif kind == "redacted_thinking":
        made = returned_thinking("", block.text("data"), Vendor.ANTHROPIC)
        made.redacted = True
    else:
        raise block.untranslatable("type", f"content of the type {kind[:40]!r} is not carried")
    block.done()
    return made


def _tool_call(block: Fields) -> ToolCall:
    call = ToolCall(
        block.needed_text("id"),
        short_name(block.needed_text("name")),
        orjson.dumps(block.json("input") or {}).decode(),
        cache=_cache(block),
    )
    caller = block.object("caller")
    if caller is not None and caller.text("type") != "direct":
        raise block.untranslatable("caller", "calls made by Anthropic's own tools are not carried")
    return call


def _tool_result(block: Fields, conversation: Conversation) -> ToolResult:
    parts: list[Text | Media] = []
    if isinstance(block.raw("content"), str):
        parts.append(Text(block.text("content")))
    else:
        for inner in block.objects("content"):
            if inner.text("type") == "tool_reference":
                # Found by the caller's own search. Elsewhere all tools are there from the start.
                name = short_name(inner.needed_text("tool_name"))
                parts.append(Text(f"The tool {name} can be called now."))
                inner.done()
                continue
            part = _part(inner, conversation)
            if not isinstance(part, Text | Media):
                raise inner.untranslatable("type", "a tool's result holds text, images, documents")
            parts.append(part)
    return ToolResult(
        block.needed_text("tool_use_id"),
        parts,
        bool(block.boolean("is_error")),
        cache=_cache(block),
    )


def _media(block: Fields, kind: str, conversation: Conversation) -> Media:
    source = block.object("source")
    if source is None:
        raise block.wrong("source", "an object")
    made = Media(kind, "", name=block.text("title"), cache=_cache(block))
    how = source.needed_text("type")
    made.media_type = source.text("media_type")
    if how == "base64":
        made.data = source.needed_text("data")
    elif how == "text":
        made.text = source.needed_text("data")
    elif how == "url":
        made.url = source.needed_text("url")
    elif how == "file":
        made.file_id = source.needed_text("file_id")
    else:
        raise source.untranslatable("type", f"a source of the type {how[:20]!r} is not carried")
    source.done()
    conversation.dropped += map(block.at, block.given(("context", "citations")))
    return made


def _tools(fields: Fields, conversation: Conversation) -> None:
    """Hosted tools beside the caller's own are left out, and it is told; alone, or chosen, they are
    what was asked for, so they are refused."""
    hosted = []
    for tool in fields.objects("tools"):
        if _HOSTED.fullmatch(tool.text("type")):
            hosted.append(tool)
        else:
            conversation.tools.append(_tool(tool, conversation))
    chosen = fields.object("tool_choice")
    for tool in hosted:
        name = tool.text("name")
        if not conversation.tools or (chosen is not None and chosen.text("name") == name):
            raise tool.untranslatable("type", "only Anthropic runs this tool")
        conversation.dropped.append(f"tools.{name}")


def _tool(tool: Fields, conversation: Conversation) -> Tool:
    if tool.text("type", "custom") != "custom":
        raise tool.untranslatable("type", "tools that Anthropic defines are not carried")
    conversation.dropped += [f"tools.{key}" for key in tool.given(_TOOL_HINTS)]
    name = tool.needed_text("name")
    made = Tool(
        short_name(name),
        tool.text("description"),
        tool.json("input_schema") or {"type": "object", "properties": {}},
        tool.boolean("strict"),
        _cache(tool),
    )
    if made.name != name:
        conversation.known_as[made.name] = KnownAs("function", name)
    tool.done()
    return made


def _tool_choice(choice: Fields | None, conversation: Conversation) -> None:
    if choice is None:
        return
    mode = _CHOICES.get(choice.needed_text("type"))
    if mode is None:
        raise WireError("tool_choice.type is unknown.", param="tool_choice.type")
    conversation.tool_choice = ToolChoice(mode, short_name(choice.text("name")))
    alone = choice.boolean("disable_parallel_tool_use")
    if alone is not None:
        conversation.parallel_tools = not alone
    choice.done()
