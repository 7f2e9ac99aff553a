"""What requests of both of OpenAI's APIs say alike: tools, their choice, the answer's format, files
that come inline, tiers. Chat wraps some of it in objects of its own; the words inside are the same.
"""

from __future__ import annotations

import re

import orjson

from extproc.dialects.conversation import AnswerFormat, Json, Media, Tool, ToolChoice
from extproc.dialects.fields import Fields
from extproc.dialects.openai_models import strict_at

_CHOICES = ("auto", "none", "required")
_PLAIN_TIERS = ("auto", "default", "standard")
_DATA_URL = re.compile(r"data:([a-zA-Z0-9.+/-]+);base64,(.*)", re.DOTALL)


def declared_tool(function: Fields) -> Tool:
    """A function; whoever asked finishes the object."""
    return Tool(
        function.needed_text("name"),
        function.text("description"),
        function.json("parameters") or {"type": "object", "properties": {}},
        function.boolean("strict"),
    )


def chosen(fields: Fields) -> ToolChoice | Fields | None:
    """``tool_choice``: a word's meaning, or the object that names a function."""
    value = fields.raw("tool_choice")
    if not isinstance(value, str):
        return fields.object("tool_choice")
    if value not in _CHOICES:
        raise fields.wrong("tool_choice", "auto, none, required or an object")
    return ToolChoice(value)


def declared_format(wanted: Fields | None, schema_in: str = "") -> AnswerFormat | None:
    """How the answer is to be; None for text. ``schema_in``: the field that a schema is wrapped in.
    Raises ``WireError``, and ``UntranslatableError`` for a format that others do not have."""
    if wanted is None:
        return None
    kind = wanted.needed_text("type")
    made: AnswerFormat | None = None
    if kind == "json_object":
        made = AnswerFormat()
    elif kind == "json_schema":
        schema = wanted.object(schema_in) if schema_in else wanted
        if schema is None:
            raise wanted.wrong(schema_in, "an object")
        made = AnswerFormat(
            schema.json("schema") or {"type": "object"},
            schema.text("name"),
            schema.text("description"),
            schema.boolean("strict"),
        )
        schema.done()
    elif kind != "text":
        raise wanted.untranslatable("type", f"the format {kind[:30]!r} is not carried")
    wanted.done()
    return made


def asked_format(wanted: AnswerFormat, schema_in: str = "") -> tuple[Json, list[str]]:
    """The same the other way, and what of it was left out."""
    if wanted.schema is None:
        return {"type": "json_object"}, []
    dropped: list[str] = []
    schema: Json = {"name": wanted.name or "answer", "schema": wanted.schema}
    if wanted.description:
        schema["description"] = wanted.description
    if wanted.strict is not None:
        schema["strict"], dropped = strict_at(wanted.strict, wanted.schema, "response_format")
    return {"type": "json_schema", **({schema_in: schema} if schema_in else schema)}, dropped


def says_json(messages: list[Json]) -> bool:
    """OpenAI refuses JSON mode where nothing that was said speaks of JSON."""
    return b"json" in orjson.dumps(messages).lower()


def inline_media(kind: str, url: str) -> Media | None:
    """What a ``data:`` URL holds; None for any other."""
    data = _DATA_URL.fullmatch(url)
    return None if data is None else Media(kind, data[1], data=data[2])


def data_url(media: Media) -> str:
    """Media that came inline, as a URL."""
    return f"data:{media.media_type};base64,{media.data}"


def check_tier(fields: Fields) -> None:
    """Raises ``UntranslatableError`` for a tier that is not the usual one."""
    if fields.text("service_tier", "auto") not in _PLAIN_TIERS:
        raise fields.untranslatable("service_tier", "other providers sell other tiers")
