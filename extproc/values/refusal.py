"""Refusals: one code each, its HTTP status, and what the caller is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class RefusalCode(StrEnum):
    """The stable machine code of a refusal."""

    IDENTITY_REQUIRED = "identity_required"
    INVALID_REQUEST = "invalid_request"
    DUPLICATE_IDENTITY = "duplicate_identity"
    DUPLICATE_KEY = "duplicate_key"
    INVALID_CREDENTIAL = "invalid_credential"
    IDENTITY_CONFLICT = "identity_conflict"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    UNKNOWN_MODEL = "unknown_model"
    TOOL_NOT_ALLOWED = "tool_not_allowed"
    UNKNOWN_MCP_SERVER = "unknown_mcp_server"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    HEADER_MISMATCH = "header_mismatch"
    NOT_FOUND = "not_found"
    CONTEXT_LIMIT_EXCEEDED = "context_limit_exceeded"
    REQUEST_TOO_LARGE = "request_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    BUDGET_EXCEEDED = "budget_exceeded"
    LOOP_DETECTED = "loop_detected"
    SPEND_VELOCITY_EXCEEDED = "spend_velocity_exceeded"
    KILLED = "killed"
    STORE_UNAVAILABLE = "store_unavailable"
    NO_HEALTHY_TARGET = "no_healthy_target"
    INTERNAL_ERROR = "internal_error"


STATUS_OF: dict[RefusalCode, int] = {
    RefusalCode.IDENTITY_REQUIRED: 400,
    RefusalCode.INVALID_REQUEST: 400,
    RefusalCode.DUPLICATE_IDENTITY: 400,
    RefusalCode.DUPLICATE_KEY: 400,
    RefusalCode.INVALID_CREDENTIAL: 401,
    RefusalCode.IDENTITY_CONFLICT: 403,
    RefusalCode.MODEL_NOT_ALLOWED: 403,
    RefusalCode.UNKNOWN_MODEL: 404,
    RefusalCode.TOOL_NOT_ALLOWED: 403,
    RefusalCode.UNKNOWN_MCP_SERVER: 404,
    RefusalCode.METHOD_NOT_ALLOWED: 405,
    RefusalCode.HEADER_MISMATCH: 400,
    RefusalCode.NOT_FOUND: 404,
    RefusalCode.CONTEXT_LIMIT_EXCEEDED: 413,
    RefusalCode.REQUEST_TOO_LARGE: 413,
    RefusalCode.UNSUPPORTED_MEDIA_TYPE: 415,
    RefusalCode.RATE_LIMIT_EXCEEDED: 429,
    RefusalCode.BUDGET_EXCEEDED: 429,
    RefusalCode.LOOP_DETECTED: 429,
    RefusalCode.SPEND_VELOCITY_EXCEEDED: 429,
    RefusalCode.KILLED: 403,
    RefusalCode.STORE_UNAVAILABLE: 503,
    RefusalCode.NO_HEALTHY_TARGET: 503,
    RefusalCode.INTERNAL_ERROR: 503,
}

MAX_RETRY_AFTER_S = 60
"""Claude Code stops retrying, and the SDKs ignore the header, above a minute: beyond it a retry
within the client's patience cannot succeed, so the refusal says not to retry at all."""


@dataclass(frozen=True, slots=True)
class LimitState:
    """The limit that refused, as the caller is told it. Amounts are in the limit's unit."""

    rule_id: str
    scope: str
    window: str
    unit: str
    limit: int
    spent: int
    reserved: int
    estimated: int
    resets_at_ms: int | None
    """When the window next gives capacity back; None when it never fits (estimate > limit)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A decision to refuse: a value, never an exception."""

    code: RefusalCode
    message: str
    """For people. Never holds bytes of the request, secrets or prompt text."""
    retry_after_s: int | None = None
    """Whole seconds, only where a retry can succeed then."""
    limit: LimitState | None = None
    param: str | None = None
    """The body field or header at fault, by its own name."""
    extra: tuple[tuple[str, str], ...] = field(default=())
    """More metadata; what is a key of ``ANSWER_HEADERS`` is said in that header too."""

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return STATUS_OF[self.code]

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed after ``retry_after_s``."""
        return self.retry_after_s is not None and self.retry_after_s <= MAX_RETRY_AFTER_S
