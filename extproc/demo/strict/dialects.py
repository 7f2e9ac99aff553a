"""Which rules a request must keep: by the dialect and the operation."""

from __future__ import annotations

from collections.abc import Mapping

from extproc.demo.answer import Dialect
from extproc.demo.asked import Json
from extproc.demo.strict import (
    anthropic_messages,
    bedrock,
    gemini,
    openai_chat,
    openai_plain,
    openai_responses,
)

_OPENAI = {
    "chat/completions": openai_chat.check,
    "responses": openai_responses.check,
    "completions": openai_plain.check_completion,
    "embeddings": openai_plain.check_embeddings,
}


def check_strictly(
    dialect: Dialect, path: str, body: Json, model: str, headers: Mapping[str, str]
) -> None:
    """Raises BadRequestError for what the real API refuses. ``model`` is of the request's path."""
    if dialect == "openai":
        _OPENAI[path](body)
    elif dialect == "anthropic":
        counting = path.endswith("count_tokens")
        anthropic_messages.check(body, beta="anthropic-beta" in headers, counting=counting)
    elif dialect == "gemini":
        gemini.check(body, model)
    else:
        bedrock.check(body, model)
