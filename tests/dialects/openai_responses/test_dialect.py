"""The dialect keeps the seam's promises."""

from __future__ import annotations

from extproc.dialects.codec import CallerDialect, Context, TargetDialect
from extproc.dialects.openai_responses.dialect import OpenAiResponses


def test_it_is_a_callers_and_a_targets_dialect() -> None:
    caller: CallerDialect = OpenAiResponses()
    target: TargetDialect = OpenAiResponses()
    context = Context("r", 1, "m")
    assert caller.stream_writer(context).write([]) == b""
    assert target.stream_reader(context).feed(b"") == []
