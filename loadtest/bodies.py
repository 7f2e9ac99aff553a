"""The requests of the load: chat bodies of fixed sizes, with the full identity envelope."""

from __future__ import annotations

import json

KEY = "tw-load-key"
MODEL = "intent-fast"
CHAT_PATH = "/v1/chat/completions"
MESSAGES_PATH = "/v1/messages"
"""Anthropic's API, which takes the body of ``chat_body`` too."""
SMALL_BYTES = 1_068
"""A short chat turn."""
MEDIUM_BYTES = 200_000
"""A long conversation."""
LARGE_BYTES = 2_000_000
"""An agent's context with files in it."""
MEDIUM_MESSAGES = 34
LARGE_MESSAGES = 340
MAX_TOKENS = 64
CALLERS = 256
"""Different users and sessions in turn, so that per-session counters are really looked up."""

_WORDS = "The quick brown fox weighs its tokens before it jumps over the lazy budget. "


def chat_body(
    size_bytes: int,
    messages: int,
    *,
    model: str = MODEL,
    stream: bool = False,
    max_tokens: int = MAX_TOKENS,
) -> bytes:
    """A chat request of exactly ``size_bytes`` bytes, its text spread over its messages."""
    roles = ("user", "assistant")
    turns = [{"role": roles[number % 2], "content": ""} for number in range(messages)]
    document: dict[str, object] = {"model": model, "max_tokens": max_tokens, "messages": turns}
    if stream:
        document["stream"] = True
    missing = size_bytes - len(json.dumps(document, separators=(",", ":")))
    if missing < 0:
        raise ValueError(f"{messages} messages do not fit into {size_bytes} bytes")
    share, rest = divmod(missing, messages)
    for number, turn in enumerate(turns):
        length = share + (number < rest)
        turn["content"] = (_WORDS * (length // len(_WORDS) + 1))[:length]
    return json.dumps(document, separators=(",", ":")).encode()


def http_request(
    body: bytes, caller: int = 0, *, key: str = KEY, extra: str = "", path: str = CHAT_PATH
) -> bytes:
    """A whole HTTP/1.1 request. ``extra`` is more header lines, each ending with CRLF."""
    return (
        f"POST {path} HTTP/1.1\r\n"
        "Host: gateway\r\n"
        f"Authorization: Bearer {key}\r\n"
        "Content-Type: application/json\r\n"
        "X-TFY-Project: p1\r\n"
        "X-TFY-Team: t1\r\n"
        f"X-TFY-User-ID: user-{caller:03d}\r\n"
        f"X-TFY-Session-ID: session-{caller:03d}\r\n"
        "X-TFY-Workflow-Tag: classify-intent\r\n"
        "X-TFY-Environment: production\r\n"
        "X-TFY-Cost-Center: eng-platform-002\r\n"
        f"{extra}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def small_requests(*, model: str = MODEL, key: str = KEY, extra: str = "") -> tuple[bytes, ...]:
    """The 1 KB load: one body, many callers."""
    body = chat_body(SMALL_BYTES, 1, model=model)
    return tuple(http_request(body, caller, key=key, extra=extra) for caller in range(CALLERS))
