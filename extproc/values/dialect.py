"""Which API a caller or a provider speaks, and which operation of it a path names."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Dialect(StrEnum):
    """A provider API, named as in policy YAML."""

    __hash__ = str.__hash__  # Enum's own is written in Python, and these are dictionary keys

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    BEDROCK = "bedrock"
    GEMINI = "gemini"
    AZURE_OPENAI = "azure-openai"


CALLER_DIALECTS = (Dialect.OPENAI, Dialect.ANTHROPIC)
"""What a client may speak. Everything else is a target's dialect only."""


class Operation(StrEnum):
    """What a caller asks for. The value is the path below the dialect's base URL."""

    __hash__ = str.__hash__
    dialect: Dialect
    """The dialect whose operation this is."""
    free: bool
    """Whether providers answer it without a charge, so that nothing is reserved."""

    def __new__(cls, path: str, dialect: Dialect, free: bool = False) -> Self:
        """A member with what is fixed about it."""
        member = str.__new__(cls, path)
        member._value_ = path
        member.dialect = dialect
        member.free = free
        return member

    CHAT_COMPLETIONS = "chat/completions", Dialect.OPENAI
    COMPLETIONS = "completions", Dialect.OPENAI
    EMBEDDINGS = "embeddings", Dialect.OPENAI
    RESPONSES = "responses", Dialect.OPENAI
    MODELS = "models", Dialect.OPENAI, True
    EFFECTIVE_BUDGET = "budget/effective", Dialect.OPENAI, True
    MESSAGES = "v1/messages", Dialect.ANTHROPIC
    COUNT_TOKENS = "v1/messages/count_tokens", Dialect.ANTHROPIC, True
    MCP = "mcp/", Dialect.OPENAI, True
    """Whatever is said to an MCP server: no provider's, and decided apart (``core/tool_calls``)."""


TRANSLATED_OPERATIONS = (Operation.CHAT_COMPLETIONS, Operation.RESPONSES, Operation.MESSAGES)
"""What can be asked of a target that speaks another dialect. Embeddings, legacy completions and
token counts have no equal there: they go to targets of the caller's own dialect only."""

OWN_OPERATIONS = (Operation.MODELS, Operation.EFFECTIVE_BUDGET, Operation.MCP)
"""What no target serves. The first two the gateway answers by itself, to a ``GET`` without a body,
whatever dialect the caller speaks: clients of both send their own kind of credential."""

MCP_PREFIX = "/mcp/"
"""Before the name of an MCP server."""

OPENAI_PREFIXES = ("/v1/", "/api/llm/api/inference/openai/")
"""Where the OpenAI operations are served. The second is what TrueFoundry clients are set to."""

OPERATION_BY_PATH: dict[str, Operation] = {
    **{
        prefix + operation.value: operation
        for prefix in OPENAI_PREFIXES
        for operation in Operation
        if operation.dialect is Dialect.OPENAI and operation is not Operation.MCP
    },
    "/v1/messages": Operation.MESSAGES,
    "/v1/messages/count_tokens": Operation.COUNT_TOKENS,
}
"""Every path of the public listener. A path that is not here is a 404: there is no catch-all."""
