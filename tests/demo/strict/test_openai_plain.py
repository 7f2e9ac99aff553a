from __future__ import annotations

from typing import Any

import openai
import pytest
from demo_provider import Demo
from openai.types.completion_create_params import CompletionCreateParamsBase
from openai.types.embedding_create_params import EmbeddingCreateParams
from strictness import refusal_of, unknown_fields

from extproc.demo.strict.openai_plain import check_completion, check_embeddings

EMBEDDINGS = {"model": "m", "input": ["a", "b"]}
COMPLETION = {"model": "m", "prompt": "a"}


def test_no_field_of_the_official_sdk_is_unknown() -> None:
    names = set(EmbeddingCreateParams.__annotations__) | {"frob"}
    assert unknown_fields(check_embeddings, EMBEDDINGS, names) == {"frob"}
    names = set(CompletionCreateParamsBase.__annotations__) | {"stream", "frob"}
    assert unknown_fields(check_completion, COMPLETION, names) == {"frob"}


@pytest.mark.parametrize("value", [[], [[]], [True], [{}], ["a"] * 2_049], ids=repr)
def test_inputs_that_are_refused(value: Any) -> None:
    assert "input" in str(refusal_of(check_embeddings, {**EMBEDDINGS, "input": value}))


def test_five_stops_are_refused() -> None:
    assert "stop" in str(refusal_of(check_completion, {**COMPLETION, "stop": list("abcde")}))


def test_the_official_sdk_passes(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    demo.faults(strict=True)
    openai_sdk.embeddings.create(model="text-embedding-3-small", input=[[1, 2], [3]])
    openai_sdk.completions.create(model="gpt-4o", prompt="hi", max_tokens=2)
    with pytest.raises(openai.BadRequestError, match="Unknown parameter: 'frob'"):
        openai_sdk.embeddings.create(model="m", input="a", extra_body={"frob": 1})
