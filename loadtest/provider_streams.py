"""Streams as providers send them, byte for byte: each API's own events, with nothing left out that
a real one carries, so that reading them costs what it costs in earnest.

The text of every event is the time of its writing, in a fixed width: whatever dialect it is told
in at the end, the client finds it and knows how long it took.
"""

from __future__ import annotations

import re
from binascii import crc32
from dataclasses import dataclass

from extproc.demo.event_stream import event_message
from loadtest.timer import now_ns

STAMP_BYTES = 20
STAMP = re.compile(rb"@(\d{19})")
"""In an event's text, in every dialect: nanoseconds of ``loadtest.timer.now_ns``."""
_PLACE = "@" + "0" * 19
_CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class ProviderStream:
    """One API's stream."""

    content_type: str
    begin: bytes
    """Before the first text."""
    before: bytes
    """An event with text, up to its stamp."""
    after: bytes
    end: bytes
    checked: bool = False
    """An event ends with a checksum of itself."""

    def event(self) -> bytes:
        """One event that says when it was written."""
        data = b"%b@%019d%b" % (self.before, now_ns(), self.after)
        return data + crc32(data).to_bytes(_CHECKSUM_BYTES, "big") if self.checked else data


def stream_of(path: str) -> ProviderStream:
    """The stream of the API that is served there."""
    if path.endswith("/converse-stream"):
        return BEDROCK
    if ":streamGenerateContent" in path:
        return GEMINI
    return ANTHROPIC if path.endswith("/messages") else OPENAI


def _made(
    content_type: str, begin: bytes, event: bytes, end: bytes, *, checked: bool = False
) -> ProviderStream:
    if checked:
        event = event[:-_CHECKSUM_BYTES]
    before, _, after = event.partition(_PLACE.encode())
    return ProviderStream(content_type, begin, before, after, end, checked)


def _data(document: str, name: str = "") -> bytes:
    event = f"event: {name}\n" if name else ""
    return f"{event}data: {document}\n\n".encode()


# -- OpenAI ---------------------------------------------------------------------------------------

_CHUNK = (
    '{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion.chunk",'
    '"created":1790000000,"model":"gpt-4o-mini-2024-07-18","service_tier":"default",'
    '"system_fingerprint":"fp_44709d6fcb",'
)


def _chat(delta: str, reason: str = "null") -> bytes:
    choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}'
    return _data(f'{_CHUNK}"choices":[{choice}],"usage":null,"obfuscation":"b8Wf3k1"}}')


OPENAI = _made(
    "text/event-stream; charset=utf-8",
    _chat('{"role":"assistant","content":"","refusal":null}'),
    _chat(f'{{"content":"{_PLACE}"}}'),
    _chat("{}", '"stop"')
    + _data(
        f'{_CHUNK}"choices":[],"usage":{{"prompt_tokens":250,"completion_tokens":50,'
        '"total_tokens":300,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
        '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}}}'
    )
    + _data("[DONE]"),
)

# -- Anthropic ------------------------------------------------------------------------------------

ANTHROPIC = _made(
    "text/event-stream; charset=utf-8",
    _data(
        '{"type":"message_start","message":{"id":"msg_01Ab2Cd3Ef4Gh5Ij6Kl7Mn8Op",'
        '"type":"message","role":"assistant","model":"claude-haiku-4-5-20251001","content":[],'
        '"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":250,'
        '"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1,'
        '"service_tier":"standard"}}}',
        "message_start",
    )
    + _data(
        '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        "content_block_start",
    )
    + _data('{"type": "ping"}', "ping"),
    _data(
        '{"type":"content_block_delta","index":0,'
        f'"delta":{{"type":"text_delta","text":"{_PLACE}"}}}}',
        "content_block_delta",
    ),
    _data('{"type":"content_block_stop","index":0}', "content_block_stop")
    + _data(
        '{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
        '"usage":{"output_tokens":50}}',
        "message_delta",
    )
    + _data('{"type":"message_stop"}', "message_stop"),
)

# -- Gemini ---------------------------------------------------------------------------------------


def _gemini(text: str, reason: str = "") -> bytes:
    finish = f',"finishReason":"{reason}"' if reason else ""
    return _data(
        f'{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}],"role":"model"}}{finish},'
        '"index":0}],"usageMetadata":{"promptTokenCount":250,"candidatesTokenCount":50,'
        '"totalTokenCount":300,"promptTokensDetails":[{"modality":"TEXT","tokenCount":250}]},'
        '"modelVersion":"gemini-2.0-flash","responseId":"kX0tafO3Ks2Rz7IPmYqJ2Ak"}'
    )


GEMINI = _made("text/event-stream", b"", _gemini(_PLACE), _gemini("", "STOP"))

# -- Bedrock --------------------------------------------------------------------------------------

_PADDING = "abcdefghijklmnopqrstu"
BEDROCK = _made(
    "application/vnd.amazon.eventstream",
    event_message("messageStart", {"role": "assistant", "p": _PADDING}),
    event_message(
        "contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": _PLACE}, "p": _PADDING}
    ),
    event_message("contentBlockStop", {"contentBlockIndex": 0, "p": _PADDING})
    + event_message("messageStop", {"stopReason": "end_turn", "p": _PADDING})
    + event_message(
        "metadata",
        {
            "metrics": {"latencyMs": 700},
            "usage": {"inputTokens": 250, "outputTokens": 50, "totalTokens": 300},
            "p": _PADDING,
        },
    ),
    checked=True,
)
