"""The dialect keeps the seam's promises."""

from __future__ import annotations

from extproc.dialects.anthropic.dialect import AnthropicMessages
from extproc.dialects.codec import CallerDialect, Context, TargetDialect


def test_it_is_a_callers_and_a_targets_dialect() -> None:
    caller: CallerDialect = AnthropicMessages()
    target: TargetDialect = AnthropicMessages()
    context = Context("r", 1, "m")
    assert caller.stream_writer(context).write([]) == b""
    assert target.stream_reader(context).feed(b"") == []
