from __future__ import annotations

from typing import Any

import pytest
from google.genai import types

from extproc.demo.strict.gemini_shape import REQUEST
from extproc.demo.strict.shape import Misfit

CONTENTS = [{"parts": [{"text": "hi"}]}]


def names(model: Any) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


@pytest.mark.parametrize(
    ("model", "wrap", "newer"),
    [
        (
            types.GenerationConfig,
            lambda value: {"generationConfig": value},
            {"responseFormat", "translationConfig", "audioTranscriptionConfig"},
        ),
        (
            types.FunctionDeclaration,
            lambda value: {"tools": [{"functionDeclarations": [{"name": "f", **value}]}]},
            set(),
        ),
        (types.Schema, lambda value: {"generationConfig": {"responseSchema": value}}, set()),
    ],
)
def test_no_field_of_the_official_sdk_is_unknown(model: Any, wrap: Any, newer: set[str]) -> None:
    unknown = set()
    for name in names(model):
        try:
            REQUEST({"contents": CONTENTS, **wrap({name: None})}, ())
        except Misfit as misfit:
            if misfit.why == "unknown":
                unknown.add(name)
    assert unknown == newer
