"""The dialect keeps the seam's promises."""

from __future__ import annotations

from extproc.dialects.codec import Context, TargetDialect
from extproc.dialects.gemini.dialect import Gemini


def test_it_is_a_targets_dialect() -> None:
    target: TargetDialect = Gemini()
    assert target.stream_reader(Context("r", 1, "m")).feed(b"") == []
