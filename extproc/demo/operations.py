"""The operations that the demo provider serves: which dialect, checks and shapes each one has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from extproc.demo import (
    anthropic_messages,
    bedrock,
    gemini,
    openai_chat,
    openai_embeddings,
    openai_responses,
)
from extproc.demo.answer import Answer, Dialect, Events, Finish
from extproc.demo.asked import Asked, Json
from extproc.demo.faults import Faults
from extproc.demo.parts import DEFAULT_REASONING_TOKENS, AnswerKind, Part, parts_of

DEFAULT_OUTPUT_TOKENS = 32
LONG_OUTPUT_TOKENS = 2_000
"""Of an answer that is to be long; the caller's maximum ends it before."""

_VERTEX = "/{provider}/gemini/{version:v1|v1beta1}/projects/{project}/locations/{location}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One inference endpoint.

    ``asked`` reads a body that ``check`` let through. ``document`` and ``events`` tell an answer.
    ``streams``: where the path says it; None: where the body does.
    """

    path: str
    dialect: Dialect
    check: Callable[[Json], None]
    asked: Callable[[Json], Asked]
    document: Callable[[Answer, Json], Json]
    events: Callable[[Answer], Events] | None = None
    routes: tuple[str, ...] = ()
    streams: bool | None = None

    def answer(self, asked: Asked, number: int, input_tokens: int, faults: Faults) -> Answer:
        """The answer to what was asked."""
        told = _tokens(asked, faults)
        reasoning = _reasoning_tokens(faults, told)
        parts = parts_of(faults.answer, asked, told, reasoning, input_tokens)
        finish = _finish(faults.answer, asked, parts, told)
        cached = min(faults.cached_tokens, input_tokens)
        answer = Answer(
            id=f"{number:08d}",
            model=asked.model,
            input_tokens=input_tokens,
            output_tokens=told * asked.choices,
            max_tokens=asked.max_tokens,
            cached_tokens=cached,
            cache_write_tokens=min(faults.cache_write_tokens, input_tokens - cached),
            reasoning_tokens=reasoning,
            choices=asked.choices,
            include_usage=asked.include_usage,
            omit_usage=faults.omit_usage,
            lie=faults.falsify_usage,
            no_done=faults.no_done,
            parts=parts,
            finish=finish,
            stop_sequence=asked.stops[0] if finish == "stop_sequence" else "",
            fails=faults.answer == "error",
            logprobs=asked.logprobs,
            encrypted_reasoning=asked.encrypted_reasoning,
        )
        if self.events is None:
            return replace(answer, output_tokens=0, reasoning_tokens=0, parts=())
        if self.dialect == "gemini":
            # Google caches by itself and charges no writing.
            return replace(answer, cache_write_tokens=0)
        return answer


def _tokens(asked: Asked, faults: Faults) -> int:
    """The output tokens of each choice."""
    default = LONG_OUTPUT_TOKENS if faults.answer == "long" else DEFAULT_OUTPUT_TOKENS
    wanted = default if faults.output_tokens < 0 else faults.output_tokens
    return min(wanted, asked.max_tokens) if asked.max_tokens else wanted


def _reasoning_tokens(faults: Faults, told: int) -> int:
    wanted = faults.reasoning_tokens
    if not wanted and "thinking" in faults.answer:
        wanted = min(DEFAULT_REASONING_TOKENS, told // 2)
    return min(wanted, told)


def _finish(kind: AnswerKind, asked: Asked, parts: tuple[Part, ...], told: int) -> Finish:
    """What was asked for explains the end, else the caller's maximum if it is reached."""
    if any(part.kind == "call" for part in parts):
        return "tool_calls"
    if kind == "refusal":
        return "refusal"
    if kind == "stop_sequence" and asked.stops:
        return "stop_sequence"
    return "length" if told == asked.max_tokens and kind != "json" else "stop"


def _without_body(document: Callable[[Answer], Json]) -> Callable[[Answer, Json], Json]:
    return lambda answer, _: document(answer)


def _v1(dialect: str, path: str) -> tuple[str, ...]:
    return (f"/{{provider}}/{dialect}/v1/{path}",)


def _openai(path: str) -> tuple[str, ...]:
    """OpenAI's own path, and Azure's: of its v1 API, and of its dated one, which names what was
    deployed in the path, but for responses."""
    dated = path if path == "responses" else f"deployments/{{model}}/{path}"
    azure = (f"/{{provider}}/azure/openai/v1/{path}", f"/{{provider}}/azure/openai/{dated}")
    return (*_v1("openai", path), *azure)


def gemini_routes(method: str) -> tuple[str, ...]:
    """The paths of one of Google's methods: Gemini's own API and Vertex AI."""
    model = f"models/{{model}}:{method}"
    return (
        f"/{{provider}}/gemini/{{version:v1|v1beta}}/{model}",
        f"{_VERTEX}/publishers/google/{model}",
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "chat/completions",
        "openai",
        openai_chat.check_chat,
        openai_chat.asked,
        _without_body(openai_chat.chat_json),
        openai_chat.chat_events,
        _openai("chat/completions"),
    ),
    Operation(
        "completions",
        "openai",
        openai_chat.check_completion,
        openai_chat.asked,
        _without_body(openai_chat.completion_json),
        openai_chat.completion_events,
        _openai("completions"),
    ),
    Operation(
        "responses",
        "openai",
        openai_responses.check,
        openai_responses.asked,
        _without_body(openai_responses.document),
        openai_responses.events,
        _openai("responses"),
    ),
    Operation(
        "embeddings",
        "openai",
        openai_embeddings.check,
        openai_embeddings.asked,
        openai_embeddings.document,
        None,
        _openai("embeddings"),
    ),
    Operation(
        "messages",
        "anthropic",
        anthropic_messages.check,
        anthropic_messages.asked,
        _without_body(anthropic_messages.document),
        anthropic_messages.events,
        _v1("anthropic", "messages"),
    ),
    *(
        Operation(
            method,
            "gemini",
            gemini.check,
            gemini.asked,
            _without_body(gemini.document),
            gemini.events,
            gemini_routes(method),
            streams,
        )
        for method, streams in (("generateContent", False), ("streamGenerateContent", True))
    ),
    *(
        Operation(
            method,
            "bedrock",
            bedrock.check,
            bedrock.asked,
            _without_body(bedrock.document),
            bedrock.events,
            (f"/{{provider}}/bedrock/model/{{model}}/{method}",),
            streams,
        )
        for method, streams in (("converse", False), ("converse-stream", True))
    ),
)
