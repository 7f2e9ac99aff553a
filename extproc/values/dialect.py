"""Which API a caller or a provider speaks, and which operation of it a path names."""

from __future__ import annotations

from enum import StrEnum


class Dialect(StrEnum):
    """A provider API, named as in policy YAML."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    BEDROCK = "bedrock"
    GEMINI = "gemini"
    AZURE_OPENAI = "azure-openai"


CALLER_DIALECTS = (Dialect.OPENAI, Dialect.ANTHROPIC)
"""What a client may speak. Everything else is a target's dialect only."""


class Operation(StrEnum):
    """What a caller asks for. The value is the path below the dialect's base URL."""

    CHAT_COMPLETIONS = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    MODELS = "models"
    MESSAGES = "v1/messages"
    COUNT_TOKENS = "v1/messages/count_tokens"

    @property
    def dialect(self) -> Dialect:
        """The dialect whose operation this is."""
        return _DIALECT_OF[self]

    @property
    def free(self) -> bool:
        """Whether providers answer it without a charge, so that nothing is reserved."""
        return self in (Operation.MODELS, Operation.COUNT_TOKENS)


_DIALECT_OF = {
    operation: Dialect.ANTHROPIC if operation.startswith("v1/") else Dialect.OPENAI
    for operation in Operation
}

OPENAI_PREFIXES = ("/v1/", "/api/llm/api/inference/openai/")
"""Where the OpenAI operations are served. The second is what TrueFoundry clients are set to."""

OPERATION_BY_PATH: dict[str, Operation] = {
    **{
        prefix + operation.value: operation
        for prefix in OPENAI_PREFIXES
        for operation in Operation
        if operation.dialect is Dialect.OPENAI
    },
    "/v1/messages": Operation.MESSAGES,
    "/v1/messages/count_tokens": Operation.COUNT_TOKENS,
}
"""Every path of the public listener. A path that is not here is a 404: there is no catch-all."""
