"""The published matrix of what is translated to what is the code's own."""

from __future__ import annotations

from published import generator


def test_the_matrix_is_fresh() -> None:
    assert generator.FILE.read_text() == generator.document()
