"""Each pair's translations are those that were reviewed (see ``tests/support/golden.py``), and have
the shapes that the APIs publish."""

from __future__ import annotations

import json
from typing import Any

import golden
import pytest
from bedrock_api import service
from caller_shapes import check_answer, check_stream
from golden import FACTS, FOLDER, PAIRS, Pair
from google.genai import types as google_types
from openai.types.chat import ChatCompletion

from extproc.core.translated import CALLERS
from extproc.demo.operations import OPERATIONS
from extproc.demo.strict.dialects import check_strictly
from extproc.dialects.bedrock.event_stream import EventStreamReader
from extproc.values.dialect import Dialect, Operation

EACH_PAIR = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)


@EACH_PAIR
def test_nothing_is_translated_otherwise_than_reviewed(pair: Pair) -> None:
    made = golden.made(pair)
    folder = FOLDER / "pairs" / pair.name
    assert {path.name for path in folder.iterdir()} == set(made)
    for name, data in made.items():
        text = (folder / name).read_bytes()
        assert text == data, f"{name}: run `python tests/support/golden.py` and review its diff"


def test_there_are_no_other_files() -> None:
    assert {path.name for path in (FOLDER / "pairs").iterdir()} == {pair.name for pair in PAIRS}
    requests = {path.stem for path in (FOLDER / "requests").iterdir()}
    assert requests == {operation.name.lower() for operation in CALLERS}
    for kind in ("answers", "errors", "streams"):
        assert {path.stem for path in (FOLDER / kind).iterdir()} == set(FACTS)


@EACH_PAIR
def test_what_is_sent_is_what_the_real_api_takes(pair: Pair) -> None:
    """By the strict demo provider, which knows the APIs' own rules."""
    recorded = json.loads((FOLDER / "pairs" / pair.name / "requests.json").read_text())
    refused = [case for case, sent in recorded.items() if "refused" in sent]
    assert set(refused) <= {"refused"}
    for case, sent in recorded.items():
        if case not in refused:
            check_strictly(
                pair.dialect.value.removeprefix("azure-"),  # type: ignore[arg-type]
                _operation_path(sent["path"]),
                sent["body"],
                FACTS[pair.dialect].model,
                sent["headers"],
            )


def _operation_path(path: str) -> str:
    plain = path.partition("?")[0]
    return max((one.path for one in OPERATIONS if plain.endswith(one.path)), key=len)


@EACH_PAIR
def test_what_is_answered_is_what_the_callers_sdk_knows(pair: Pair) -> None:
    folder = FOLDER / "pairs" / pair.name
    for answer in json.loads((folder / "answers.json").read_text()).values():
        check_answer(pair.operation, json.dumps(answer).encode())
    for part in (folder / "streams.sse").read_bytes().split(b"===== ")[1:]:
        check_stream(pair.operation, part.partition(b" =====\n")[2])


@pytest.mark.parametrize("dialect", FACTS)
def test_what_is_recorded_has_the_shape_that_is_published(dialect: Dialect) -> None:
    for answer in golden.recorded("answers", dialect).values():
        check_recorded(dialect, answer)


def check_recorded(dialect: Dialect, answer: Any) -> None:
    if dialect is Dialect.GEMINI:
        google_types.GenerateContentResponse.model_validate(answer)
    elif dialect is Dialect.BEDROCK:
        known = service().operation_model("Converse").output_shape.members
        assert set(answer) <= set(known)
        for block in answer["output"]["message"]["content"]:
            assert set(block) <= set(service().shape_for("ContentBlock").members)
    elif dialect is Dialect.ANTHROPIC:
        check_answer(Operation.MESSAGES, json.dumps(answer).encode())
    else:
        ChatCompletion.model_validate(answer)


def test_the_comments_of_bedrocks_frames_are_true() -> None:
    for case in golden.cases(Dialect.BEDROCK):
        text = (FOLDER / "streams" / Dialect.BEDROCK / f"{case}.hex").read_text()
        for said, code in golden.frames(text):
            (message,) = EventStreamReader().feed(bytes.fromhex(code))
            headers = message.headers
            name = headers.get(":event-type") or headers[":exception-type"]
            assert said == f"{name} {message.payload.decode()}"
