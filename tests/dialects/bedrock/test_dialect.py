"""The dialect keeps the seam's promises."""

from __future__ import annotations

from extproc.dialects.bedrock.dialect import Converse
from extproc.dialects.codec import Context, TargetDialect


def test_it_is_a_targets_dialect() -> None:
    target: TargetDialect = Converse()
    assert target.stream_reader(Context("r", 1, "m")).feed(b"") == []
