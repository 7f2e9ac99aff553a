"""Requests of agent clients with anything in any place: carried, or refused by name, never an
error of ours."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.translated import CALLERS, TARGETS
from extproc.dialects.codec import TargetFacts
from extproc.dialects.conversation import UntranslatableError, Vendor
from extproc.values.dialect import Dialect, Operation
from extproc.wire.errors import WireError

RECORDED = sorted((Path(__file__).parents[1] / "integration" / "recorded").glob("*.json"))
FACTS = {
    Dialect.OPENAI: TargetFacts("gpt-5", Vendor.OPENAI),
    Dialect.ANTHROPIC: TargetFacts("claude-opus-4-6", Vendor.ANTHROPIC, 64_000),
    Dialect.GEMINI: TargetFacts("gemini-2.5-pro", Vendor.GOOGLE),
    Dialect.BEDROCK: TargetFacts("anthropic.claude-haiku-4-5", Vendor.ANTHROPIC),
}
ANYTHING: tuple[Any, ...] = (
    None, 1, -1, 1.5, 10**30, True, "", "x", "\ud800", [], {}, [1], ["x"], [[]], [None], [{}],
    {"type": "x"}, {"type": "text"}, [{"type": "text"}], {"a": 1},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a document."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with something else in one place."""
    if not path:
        return value
    made = inner = copy.deepcopy(document)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return made


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
@given(st.data())
def test_anything_in_any_place_is_carried_or_refused_by_name(
    path: Path, data: st.DataObject
) -> None:
    body = json.loads(path.read_text())["body"]
    place = data.draw(st.sampled_from(list(places(body))))
    raw = json.dumps(changed(body, place, data.draw(st.sampled_from(ANYTHING)))).encode()
    codex = path.stem.startswith("codex")
    caller = CALLERS[Operation.RESPONSES if codex else Operation.MESSAGES]
    with suppress(WireError, UntranslatableError):
        conversation = caller.read_request(raw)
        for dialect, facts in FACTS.items():
            with suppress(UntranslatableError):
                TARGETS[dialect].write_request(conversation, facts)
