"""The page of complaints names tests that exist, and all that were written for it."""

from __future__ import annotations

import re

from command import ROOT

PAGE = (ROOT / "docs" / "complaints.md").read_text()
NAMED = set(re.findall(r"`(test_\w+)`", PAGE))


def names_in(folder: str) -> set[str]:
    text = "".join(path.read_text() for path in (ROOT / "tests" / folder).rglob("test_*.py"))
    return set(re.findall(r"^def (test_\w+)\(", text, re.MULTILINE))


def test_every_named_test_exists() -> None:
    assert not sorted(NAMED - names_in("."))


def test_every_regression_test_is_named() -> None:
    assert not sorted(names_in("regressions") - NAMED)


def test_every_complaint_has_a_test_or_a_reason() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| \w+[/-]", line)]
    assert len(rows) > 35
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert re.search(r"(?:#|PR#)\d+", cells[0]), row
        assert cells[-1].startswith("`test_") or len(cells) == 2, row
