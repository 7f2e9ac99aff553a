"""Conversations of every kind that a caller may have had, for property tests: rounds of tools that
are complete, with ids, names, thoughts and wishes of any vendor."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from extproc.demo.signatures import call_text, sealed, sign
from extproc.dialects.conversation import (
    AnswerFormat,
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
    Turn,
    Vendor,
)

PNG = "iVBORw0KGgo="
PDF = "JVBERi0xLjQ="
CLOSED = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
OPEN = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
NESTED = {
    "type": "object",
    "properties": {
        "list": {"type": "array", "items": OPEN, "maxItems": 4},
        "either": {"anyOf": [OPEN, {"type": "null"}]},
        "day": {"type": "string", "format": "date", "pattern": "^2"},
    },
}
MAP = {"type": "object", "additionalProperties": {"type": "integer"}}

WORDS = st.sampled_from(["hi", "JSON please", "ends in space \n", "Grüße 🙂"])
TEXTS = st.one_of(WORDS, st.sampled_from([" ", "\n\n", ""]))
NAMES = st.sampled_from(["", "a.pdf", "a/b  c.pdf", "Zürich_übersicht.pdf", "A.PDF", "x" * 300])
CALL_IDS = st.one_of(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20),
    st.sampled_from(["toolu_" + "x" * 50, "call:1.2", "fc_" + "é" * 30, "y" * 200]),
)
ARGUMENTS = st.sampled_from(["{}", '{"city": "Paris"}', '{"n":[1, 2.50]}'])
TOOL_NAMES = ("weather", "news", "mcp__files__read-file")


def _images() -> st.SearchStrategy[Media]:
    return st.builds(Media, st.just("image"), st.just("image/png"), data=st.just(PNG))


def _documents() -> st.SearchStrategy[Media]:
    pdf = st.builds(
        Media, st.just("document"), st.just("application/pdf"), data=st.just(PDF), name=NAMES
    )
    plain = st.builds(Media, st.just("document"), st.just("text/plain"), text=WORDS, name=NAMES)
    return pdf | plain


def _thoughts() -> st.SearchStrategy[Thinking]:
    """Signed as the demo provider signs, so that its strict mode can judge."""
    own = WORDS.map(lambda text: Thinking(text, sign("anthropic", text), Vendor.ANTHROPIC))
    withheld = WORDS.map(
        lambda text: Thinking("", sealed("anthropic", text), Vendor.ANTHROPIC, redacted=True)
    )
    openais = WORDS.map(lambda text: Thinking(text, sealed("openai", text), Vendor.OPENAI))
    nobodys = st.builds(Thinking, WORDS, st.just(""), st.sampled_from([Vendor.GOOGLE, *Vendor]))
    return own | withheld | openais | nobodys


@st.composite
def _calls(draw: st.DrawFn, used: set[str]) -> list[ToolCall]:
    calls: list[ToolCall] = []
    for call_id in draw(st.lists(CALL_IDS, min_size=0, max_size=2, unique=True)):
        if call_id in used:
            continue
        used.add(call_id)
        name, arguments = draw(st.sampled_from(TOOL_NAMES)), draw(ARGUMENTS)
        signature = ""
        if draw(st.booleans()):
            signature = sign("google", call_text(name, json.loads(arguments)))
        calls.append(ToolCall(call_id, name, arguments, signature))
    return calls


@st.composite
def _results(draw: st.DrawFn, calls: list[ToolCall]) -> list[Part]:
    return [
        ToolResult(
            call.call_id,
            draw(st.lists(st.builds(Text, TEXTS) | _images() | _documents(), max_size=2)),
            draw(st.booleans()),
            call.name,
        )
        for call in calls
    ]


@st.composite
def turns_of(draw: st.DrawFn) -> list[Turn]:
    """Turns that alternate, calls answered at once."""
    said: st.SearchStrategy[Part] = st.builds(Text, TEXTS) | _images() | _documents()
    used: set[str] = set()
    turns: list[Turn] = []
    calls: list[ToolCall] = []
    if draw(st.booleans()):
        turns.append(Turn(Role.ASSISTANT, [Text("How can I help?")]))
    for _ in range(draw(st.integers(1, 4))):
        asked: list[Part] = [*draw(_results(calls))]
        if not calls or draw(st.booleans()):
            asked += draw(st.lists(said, max_size=2)) or [Text("hi")]
        turns.append(Turn(Role.USER, asked))
        answer: list[Part] = [*draw(st.lists(_thoughts(), max_size=2))]
        answer += draw(st.lists(st.builds(Text, TEXTS) | st.just(Refused("No.")), max_size=2))
        calls = draw(_calls(used))
        turns.append(Turn(Role.ASSISTANT, answer + calls or [Text("so")]))
    if calls or draw(st.booleans()):
        results = draw(_results(calls))
        turns.append(Turn(Role.USER, [*results, *([] if results else [Text("and?")])]))
    return turns


WISHES = st.none() | st.one_of(
    st.just(ThinkingWish("off")),
    st.builds(ThinkingWish, st.just("budget"), st.sampled_from([1_024, 5_000, 40_000])),
    st.builds(
        ThinkingWish,
        st.just("effort"),
        effort=st.sampled_from(["minimal", "low", "medium", "high", "xhigh"]),
    ),
    st.builds(
        ThinkingWish,
        st.just("adaptive"),
        effort=st.sampled_from(["", "low", "max"]),
        show=st.sampled_from(["", "summarized"]),
    ),
)
FORMATS = st.sampled_from(
    [
        None,
        AnswerFormat(),
        *(AnswerFormat(schema, "answer", strict=None) for schema in (CLOSED, OPEN, NESTED, MAP)),
        AnswerFormat(MAP, "answer", strict=False),
        AnswerFormat(CLOSED, "answer", strict=True),
    ]
)
TOOLS = st.lists(st.sampled_from(TOOL_NAMES), unique=True).flatmap(
    lambda names: st.tuples(
        *(
            st.builds(
                Tool,
                st.just(name),
                st.sampled_from(["", "Looks something up."]),
                st.sampled_from([CLOSED, OPEN, {"type": "object", "properties": {}}]),
                st.just(None),
            )
            for name in names
        )
    ).map(list)
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """What any caller's reader might have read."""
    tools = draw(TOOLS)
    modes = [None, ToolChoice("auto"), ToolChoice("none")]
    if tools:
        modes += [ToolChoice("required"), ToolChoice("named", tools[0].name)]
    fields: dict[str, Any] = {
        "system": draw(st.lists(st.builds(Text, TEXTS), max_size=2)),
        "tools": tools,
        "tool_choice": draw(st.sampled_from(modes)),
        "parallel_tools": draw(st.sampled_from([None, None, True, False])),
        "max_output_tokens": draw(st.sampled_from([None, 16, 500, 8_000, 50_000])),
        "stream": draw(st.booleans()),
        "temperature": draw(st.sampled_from([None, None, 0, 0.5, 1])),
        "top_p": draw(st.sampled_from([None, None, 0.5, 0.97, 1])),
        "stop": draw(st.sampled_from([[], [], ["END"]])),
        "answer_format": draw(FORMATS),
        "thinking": draw(WISHES),
        "end_user": draw(st.sampled_from(["", "u1", "u" * 150])),
    }
    return Conversation("asked", draw(turns_of()), **fields)


def plain_json(text: str) -> str:
    """JSON text as every writer spaces it."""
    return json.dumps(json.loads(text), separators=(",", ":"))


def changed_parts(turns: list[Turn], change: Callable[[Part], Part | None]) -> list[Turn]:
    """The turns with each part as ``change`` has it, and without those that it has none of;
    neighbours of one role are one turn."""
    made: list[Turn] = []
    for turn in turns:
        parts = [part for part in map(change, turn.parts) if part is not None]
        if parts and made and made[-1].role is turn.role:
            made[-1].parts += parts
        elif parts:
            made.append(Turn(turn.role, parts))
    return made
