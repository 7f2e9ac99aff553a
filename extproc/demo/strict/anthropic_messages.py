"""What Anthropic's messages refuse."""

from __future__ import annotations

from typing import NamedTuple

from extproc.demo.answer import BadRequestError
from extproc.demo.asked import Json
from extproc.demo.signatures import is_sealed, is_signed
from extproc.demo.strict.anthropic_shape import BETA_REQUEST, COUNTED, REQUEST
from extproc.demo.strict.claude import (
    Sampling,
    check_first_block,
    check_model,
    check_sampling,
    check_thinking,
)
from extproc.demo.strict.schemas import bounded, open_object
from extproc.demo.strict.shape import Misfit, dotted

MAX_CACHE_MARKS = 4


class _Turn(NamedTuple):
    """Neighbouring messages of one role are one turn. ``place`` is the first one's."""

    place: int
    role: str
    blocks: list[Json]


def check(body: Json, *, beta: bool = False, counting: bool = False) -> None:
    """Raises BadRequestError."""
    for message in body["messages"]:
        if message["role"] == "system" and not beta:
            raise BadRequestError(
                'messages: Unexpected role "system". The Messages API accepts a top-level `system` '
                'parameter, not "system" as an input message role.'
            )
    try:
        (COUNTED if counting else BETA_REQUEST if beta else REQUEST)(body, ())
    except Misfit as misfit:
        raise BadRequestError(_said(misfit)) from misfit
    turns = _turns(body["messages"])
    _check_words(body, turns)
    _check_cache_marks(body, turns)
    _check_tools(body)
    _check_pairs(turns)
    _check_signatures(turns)
    _check_thinking(body, turns)


def _said(misfit: Misfit) -> str:
    where = dotted(misfit.path)
    if misfit.why == "unknown":
        return f"{where}: Extra inputs are not permitted"
    if misfit.why == "missing":
        return f"{where}: Field required"
    if misfit.why == "type":
        kind = {"object": "dictionary", "array": "list"}.get(misfit.wanted, misfit.wanted)
        return f"{where}: Input should be a valid {kind}"
    if misfit.wanted.startswith("pattern"):
        return f"{where}: String should match {misfit.wanted}"
    bound = misfit.wanted.replace(">=", "greater than or equal to")
    return f"{where}: Input should be {bound.replace('<=', 'less than or equal to')}"


def _turns(messages: list[Json]) -> list[_Turn]:
    turns: list[_Turn] = []
    for place, message in enumerate(messages):
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if message["role"] == "system":
            _check_instructions(place, messages)
            continue
        if not blocks and place + 1 < len(messages):
            raise BadRequestError(
                f"messages.{place}: all messages must have non-empty content except for the "
                "optional final assistant message"
            )
        if turns and turns[-1].role == message["role"]:
            turns[-1].blocks.extend(blocks)
        else:
            turns.append(_Turn(place, message["role"], list(blocks)))
    if turns[0].role != "user":
        raise BadRequestError('messages: first message must use the "user" role')
    return turns


def _check_instructions(place: int, messages: list[Json]) -> None:
    """What the operator says in the middle stands behind what the user said (a beta)."""
    if place == 0 or messages[place - 1]["role"] == "assistant":
        raise BadRequestError(f"messages.{place}: a system message must follow a user message")


def _check_words(body: Json, turns: list[_Turn]) -> None:
    groups = [("messages", turn.blocks) for turn in turns]
    if isinstance(body.get("system"), list):
        groups.append(("system", body["system"]))
    for where, blocks in groups:
        for block in blocks:
            inner = block.get("content") if block["type"] == "tool_result" else None
            for told in (block, *(inner if isinstance(inner, list) else ())):
                if told["type"] == "text" and not told["text"]:
                    raise BadRequestError(f"{where}: text content blocks must be non-empty")
                if told["type"] == "text" and not told["text"].strip():
                    raise BadRequestError(
                        f"{where}: text content blocks must contain non-whitespace text"
                    )
    last = turns[-1]
    if last.role == "assistant" and last.blocks and last.blocks[-1]["type"] == "text":
        said = last.blocks[-1]["text"]
        if said != said.rstrip():
            raise BadRequestError(
                "messages: final assistant content cannot end with trailing whitespace"
            )
    if any(not stop.strip() for stop in body.get("stop_sequences") or ()):
        raise BadRequestError("stop_sequences: each stop sequence must contain non-whitespace")


def _check_cache_marks(body: Json, turns: list[_Turn]) -> None:
    system = body.get("system")
    blocks = [*(body.get("tools") or ()), *(system if isinstance(system, list) else ())]
    for turn in turns:
        for block in turn.blocks:
            inner = block.get("content")
            blocks += inner if isinstance(inner, list) else ()
            blocks.append(block)
    marks = [block["cache_control"] for block in blocks if block.get("cache_control")]
    if len(marks) > MAX_CACHE_MARKS:
        raise BadRequestError(
            f"A maximum of {MAX_CACHE_MARKS} blocks with cache_control may be provided. Found "
            f"{len(marks)}."
        )
    lengths = [mark.get("ttl", "5m") for mark in marks]
    if lengths != sorted(lengths):  # "1h" sorts before "5m", as it must stand
        raise BadRequestError(
            "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. "
            "Note that blocks are processed in the following order: `tools`, `system`, `messages`."
        )


def _check_tools(body: Json) -> None:
    tools = body.get("tools") or []
    names = [tool.get("name") for tool in tools]
    if len(set(names)) != len(names):
        raise BadRequestError("tools: Tool names must be unique.")
    for place, tool in enumerate(tools):
        if tool.get("strict"):
            _check_closed(f"tools.{place}.custom.input_schema", tool["input_schema"])
    wanted = (body.get("output_config") or {}).get("format")
    if wanted:
        _check_closed("output_config.format.schema", wanted["schema"])
    choice = body.get("tool_choice")
    if choice and not tools:
        raise BadRequestError("tool_choice may only be specified while providing tools.")
    if choice and choice["type"] == "tool" and choice["name"] not in names:
        raise BadRequestError(f"Tool '{choice['name']}' not found in provided tools")


def _check_closed(where: str, schema: Json) -> None:
    if open_object(schema, all_required=False):
        raise BadRequestError(
            f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false"
        )
    bound = bounded(schema)
    if bound:
        kind, name = bound
        raise BadRequestError(f"{where}: For '{kind}' type, property '{name}' is not supported")


_ONLY_IN = {
    "tool_use": "assistant",
    "thinking": "assistant",
    "redacted_thinking": "assistant",
    "tool_result": "user",
}


def _check_pairs(turns: list[_Turn]) -> None:
    """Each call has its result first thing in the next turn, and each result its call before."""
    open_ids: list[str] = []
    seen: set[str] = set()
    opened_at = 0
    for turn in turns:
        for block in turn.blocks:
            only = _ONLY_IN.get(block["type"], turn.role)
            if only != turn.role:
                raise BadRequestError(
                    f"messages.{turn.place}: `{block['type']}` blocks can only be in `{only}` "
                    "messages"
                )
        answered = _leading_results(turn)
        missing = [call_id for call_id in open_ids if call_id not in answered]
        if missing:
            raise _unanswered(opened_at, missing)
        for place, block in enumerate(turn.blocks):
            if block["type"] == "tool_result" and block["tool_use_id"] not in open_ids:
                raise BadRequestError(
                    f"messages.{turn.place}.content.{place}: unexpected `tool_use_id` found in "
                    f"`tool_result` blocks: {block['tool_use_id']}. Each `tool_result` block must "
                    "have a corresponding `tool_use` block in the previous message."
                )
        if len(set(answered)) != len(answered):
            raise BadRequestError(
                f"messages.{turn.place}.content: each tool_use must have a single result. Found "
                "multiple `tool_result` blocks with the same id."
            )
        open_ids = [block["id"] for block in turn.blocks if block["type"] == "tool_use"]
        opened_at = turn.place
        if len(set(open_ids)) != len(open_ids) or seen & set(open_ids):
            raise BadRequestError(f"messages.{turn.place}: `tool_use` ids must be unique")
        seen |= set(open_ids)
    if open_ids:
        raise _unanswered(opened_at, open_ids)


def _leading_results(turn: _Turn) -> list[str]:
    """Results that come before anything else: behind other blocks they count for nothing."""
    answered = []
    for block in turn.blocks:
        if block["type"] != "tool_result":
            break
        answered.append(block["tool_use_id"])
    return answered


def _unanswered(place: int, ids: list[str]) -> BadRequestError:
    return BadRequestError(
        f"messages.{place}: `tool_use` ids were found without `tool_result` blocks immediately "
        f"after: {', '.join(ids)}. Each `tool_use` block must have a corresponding `tool_result` "
        "block in the next message."
    )


def _check_signatures(turns: list[_Turn]) -> None:
    for turn in turns:
        for place, block in enumerate(turn.blocks):
            where = f"messages.{turn.place}.content.{place}"
            if block["type"] == "thinking" and not is_signed(
                "anthropic", block["thinking"], block["signature"]
            ):
                raise BadRequestError(f"{where}: Invalid `signature` in `thinking` block")
            if block["type"] == "redacted_thinking" and not is_sealed("anthropic", block["data"]):
                raise BadRequestError(f"{where}: Invalid `data` in `redacted_thinking` block")


def _check_thinking(body: Json, turns: list[_Turn]) -> None:
    choice = (body.get("tool_choice") or {}).get("type")
    sampling = Sampling(
        body.get("max_tokens"),
        body.get("temperature"),
        body.get("top_p"),
        body.get("top_k"),
        choice in ("any", "tool"),
    )
    check_sampling(body["model"], sampling)
    thinking = body.get("thinking")
    check_thinking(thinking, sampling)
    check_model(body["model"], thinking, sampling)
    if _leading_results(turns[-1]):
        loop = turns[-2]
        check_first_block(thinking, loop.place, loop.blocks[0]["type"])
