"""The operations that the demo provider serves: which dialect, checks and shapes each one has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from extproc.demo import anthropic_messages, openai_chat, openai_embeddings, openai_responses
from extproc.demo.answer import Answer, Events, Json
from extproc.demo.faults import Faults

DEFAULT_OUTPUT_TOKENS = 32

Dialect = Literal["openai", "anthropic"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One inference endpoint. ``maxima`` are the fields that cap its output, first one wins."""

    path: str
    dialect: Dialect
    check: Callable[[Json], None]
    document: Callable[[Answer, Json], Json]
    events: Callable[[Answer], Events] | None = None
    maxima: tuple[str, ...] = ()

    def answer(self, body: Json, number: int, input_tokens: int, faults: Faults) -> Answer:
        """The answer to a checked body."""
        maximum = next((body[name] for name in self.maxima if body.get(name)), None)
        wanted = DEFAULT_OUTPUT_TOKENS if faults.output_tokens < 0 else faults.output_tokens
        output = min(wanted, maximum) if maximum else wanted
        choices = body.get("n") or 1
        cached = min(faults.cached_tokens, input_tokens)
        answer = Answer(
            id=f"{number:08d}",
            model=body["model"],
            input_tokens=input_tokens,
            output_tokens=output * choices,
            max_tokens=maximum,
            cached_tokens=cached,
            cache_write_tokens=min(faults.cache_write_tokens, input_tokens - cached),
            reasoning_tokens=min(faults.reasoning_tokens, output),
            choices=choices,
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            omit_usage=faults.omit_usage,
            lie=faults.falsify_usage,
            no_done=faults.no_done,
            first_word=input_tokens,
        )
        if self.events is None:
            return replace(answer, output_tokens=0, reasoning_tokens=0)
        return answer


def _without_body(document: Callable[[Answer], Json]) -> Callable[[Answer, Json], Json]:
    return lambda answer, _: document(answer)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "chat/completions",
        "openai",
        openai_chat.check_chat,
        _without_body(openai_chat.chat_json),
        openai_chat.chat_events,
        openai_chat.MAXIMA,
    ),
    Operation(
        "completions",
        "openai",
        openai_chat.check_completion,
        _without_body(openai_chat.completion_json),
        openai_chat.completion_events,
        openai_chat.MAXIMA,
    ),
    Operation(
        "responses",
        "openai",
        openai_responses.check,
        _without_body(openai_responses.document),
        openai_responses.events,
        openai_responses.MAXIMA,
    ),
    Operation("embeddings", "openai", openai_embeddings.check, openai_embeddings.document),
    Operation(
        "messages",
        "anthropic",
        anthropic_messages.check,
        _without_body(anthropic_messages.document),
        anthropic_messages.events,
        anthropic_messages.MAXIMA,
    ),
)
