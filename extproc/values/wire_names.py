"""The names that sidecar and Envoy agree on: metadata, headers, logs, sockets."""

from __future__ import annotations

METADATA = "tokenweir"
"""Dynamic metadata namespace of the sidecar's verdict; the guard and the router read it."""
USAGE_METADATA = "tokenweir.usage"
"""Dynamic metadata namespace of what Envoy finds in a response: first, last, tail."""

CALLER_KEY = "caller"
"""In the verdict of requests that may be translated: the caller's dialect."""
MCP_CALLER = "mcp"
"""The same for requests to MCP servers; and the value of ``DECIDED_HEADER`` that sends them on."""

DECIDED_HEADER = "x-tw-decided"
"""Set by the sidecar only; client copies are removed before any filter. Its value is the longest
silence of an answer in milliseconds, which chooses between the decided routes."""
INTERNAL_PREFIX = "x-tw-"

TRANSLATED_HEADER = "x-tw-translated"
"""Set by the sidecar where a chain has targets whose answers are translated."""

REFUSED_DETAILS = "tokenweir_refused"
"""Response code details of the sidecar's own answers, which are not to be wrapped again."""

RETRY_AFTER = "retry-after"
"""Of a provider's answer: logged with it."""

REQUEST_LOG = "request"
ATTEMPT_LOG = "attempt"

ANSWER_HEADERS = {
    "gen": "x-tfy-policy-generation",
    "rules": "x-tfy-applied-rules",
    "rl_lr": "x-ratelimit-limit-requests",
    "rl_rr": "x-ratelimit-remaining-requests",
    "rl_tr": "x-ratelimit-reset-requests",
    "rl_lt": "x-ratelimit-limit-tokens",
    "rl_rt": "x-ratelimit-remaining-tokens",
    "rl_tt": "x-ratelimit-reset-tokens",
    "budget": "x-budget-remaining-usd",
    "clamped": "x-tfy-clamped",
    "degraded": "x-tfy-degraded",
    "queued": "x-tfy-queued-ms",
    "overflow": "x-tfy-fallback-from",
    "dropped": "x-tfy-dropped",
}
"""Metadata key to the response header that shows it."""

REQUEST_SOCKET = "request.sock"
ATTEMPT_SOCKET = "attempt.sock"
ANSWER_SOCKET = "answer.sock"
ACCESS_LOG_SOCKET = "log.sock"
ADMIN_SOCKET = "admin.sock"
