"""The published matrix of what is translated to what is the code's own."""

from __future__ import annotations

import runpy
from pathlib import Path

GENERATOR = Path(__file__).parents[2] / "docs" / "generate.py"


def test_the_matrix_is_fresh() -> None:
    made = runpy.run_path(str(GENERATOR))
    assert made["FILE"].read_text() == made["document"]()
