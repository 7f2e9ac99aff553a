"""Tools of the Responses API that are no plain functions, carried as functions.

Codex declares its patch tool as free text under a grammar, the tools of an MCP server as a
namespace, and a search for tools that it runs itself. Other APIs know functions: each of these
becomes one, and a call of it becomes for the caller what it declared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson

from extproc.dialects.conversation import Conversation, Json, KnownAs, Text, Tool, ToolCall
from extproc.dialects.fields import Fields
from extproc.dialects.openai_requests import declared_tool
from extproc.dialects.openai_responses.free_text import FIELD, arguments_of, text_of
from extproc.dialects.tool_names import short_name
from extproc.dialects.turns import shown_arguments

FUNCTION, CUSTOM, TOOL_SEARCH = "function", "custom", "tool_search"
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_HOSTED = ("web_search", "web_search_preview", "image_generation")
"""Tools that only OpenAI runs, and that agents declare beside their own on every turn."""


def function_name(name: str, namespace: str) -> str:
    """What the function is called that stands for a tool of a namespace."""
    if not namespace:
        return name
    between = "" if namespace.endswith("_") else "__"
    return short_name(_NOT_IN_A_NAME.sub("_", f"{namespace}{between}{name}"))


def read_call(item: Fields, kind: str) -> ToolCall:
    """A call that the caller gives back, as a call of the function that stands for the tool."""
    if kind == "tool_search_call":
        _check_client(item)
        name, arguments = TOOL_SEARCH, orjson.dumps(item.json("arguments") or {}).decode()
    else:
        name = function_name(item.needed_text("name"), item.text("namespace"))
        if kind == "custom_tool_call":
            arguments = arguments_of(item.text("input"))
        else:
            arguments = item.text("arguments") or "{}"
    return ToolCall(item.needed_text("call_id"), name, arguments)


def written_call(call: ToolCall, name: str, known_as: Mapping[str, KnownAs]) -> Json:
    """A call as an item of the caller's answer. ``name`` makes its id."""
    known = known_as.get(call.name)
    if known is None:
        return {
            "id": f"fc_{name}",
            "type": "function_call",
            "status": "completed",
            "call_id": call.call_id,
            "name": call.name,
            "arguments": call.arguments,
        }
    item: Json = {"status": "completed", "call_id": call.call_id}
    if known.kind == TOOL_SEARCH:
        arguments = shown_arguments(call.arguments, "query")
        searched = {"type": "tool_search_call", "execution": "client", "arguments": arguments}
        return {"id": f"tsc_{name}", **item, **searched}
    item["name"] = known.name
    if known.namespace:
        item["namespace"] = known.namespace
    if known.kind == CUSTOM:
        item |= {"type": "custom_tool_call", "input": text_of(call.arguments)}
        return {"id": f"ctc_{name}", **item}
    return {"id": f"fc_{name}", **item, "type": "function_call", "arguments": call.arguments}


class DeclaredTools:
    """The tools of one request, as functions."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._known: dict[str, KnownAs] = {}
        """By function name: every tool, plain ones too."""

    def read(self, fields: Fields) -> None:
        """``tools`` of a request. Hosted ones beside the caller's own are left out, and it is told;
        alone they are what was asked for, so they are refused. Raises as all readers do."""
        hosted = []
        for tool in fields.objects("tools"):
            kind = tool.needed_text("type")
            if kind in _HOSTED:
                hosted.append((tool, kind))
            else:
                self._declare(tool, kind, "")
        for tool, kind in hosted:
            if not self._known:
                raise tool.untranslatable("type", "only OpenAI runs this tool")
            self._conversation.dropped.append(f"tools.{kind}")

    def read_found(self, item: Fields) -> Text:
        """What the caller's search for tools found: declared from now on and named to the model."""
        _check_client(item)
        names = []
        for tool in item.objects("tools"):
            names += self._declare(tool, tool.needed_text("type"), "", found=True)
        return Text(f"Tools that can be called now: {', '.join(names) or 'no others'}")

    def _declare(
        self, tool: Fields, kind: str, namespace: str, *, found: bool = False
    ) -> list[str]:
        """The names of the functions that stand for a declaration."""
        if kind == "namespace" and not namespace:
            return self._declare_namespace(tool, found=found)
        if kind == FUNCTION:
            made = declared_tool(tool)
            hints = tool.given(("defer_loading", "output_schema"))
            self._conversation.dropped += [f"tools.{key}" for key in hints]
        elif kind == CUSTOM:
            made = _custom(tool)
        elif kind == TOOL_SEARCH and not namespace:
            _check_client(tool)
            schema = tool.json("parameters") or {"type": "object", "properties": {}}
            made = Tool(TOOL_SEARCH, tool.text("description"), schema)
        else:
            raise tool.untranslatable("type", f"tools of the type {kind[:40]!r} are not carried")
        tool.raw("type")
        tool.done()
        known = KnownAs(kind, made.name, namespace)
        made.name = function_name(made.name, namespace)
        before = self._known.setdefault(made.name, known)
        if before != known:
            # Calls of the two could not be told apart.
            raise tool.untranslatable("name", "another tool would have the same name elsewhere")
        if known != KnownAs(FUNCTION, made.name):
            self._conversation.known_as[made.name] = known
        if before is known or not found:
            # Found again, it is declared already.
            self._conversation.tools.append(made)
        return [made.name]

    def _declare_namespace(self, tool: Fields, *, found: bool) -> list[str]:
        namespace, names = tool.needed_text("name"), []
        for inner in tool.objects("tools"):
            names += self._declare(inner, inner.needed_text("type"), namespace, found=found)
        description = tool.text("description")
        if description:
            text = f"About the tools named {function_name('', namespace)}*: {description}"
            self._conversation.system.append(Text(text))
        tool.raw("type")
        tool.done()
        return names


def _custom(tool: Fields) -> Tool:
    """A tool of free text: the grammar that the text must follow is told in words."""
    field: Json = {"type": "string", "description": "The whole input, as plain text."}
    wanted = tool.object("format")
    if wanted is not None:
        kind = wanted.needed_text("type")
        if kind == "grammar":
            syntax, definition = wanted.text("syntax"), wanted.text("definition")
            field["description"] += f" It must follow this {syntax} grammar:\n{definition}"
        elif kind != "text":
            raise wanted.untranslatable("type", f"the format {kind[:30]!r} is not carried")
        wanted.done()
    schema = {
        "type": "object",
        "properties": {FIELD: field},
        "required": [FIELD],
        "additionalProperties": False,
    }
    return Tool(tool.needed_text("name"), tool.text("description"), schema)


def _check_client(fields: Fields) -> None:
    if fields.text("execution") != "client":
        raise fields.untranslatable("execution", "only OpenAI searches for tools by itself")
