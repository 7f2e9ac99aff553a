"""What only OpenAI's APIs can say is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.dialects.conversation import Conversation, Media, UntranslatableError
from extproc.dialects.unsayable import refuse_extra, refuse_openais_own, unshown


def test_what_was_generated_and_has_no_place_is_told() -> None:
    assert "image/png" in unshown(Media("image", "image/png"))
    assert "audio" in unshown(Media("audio", ""))


def conversation(**fields: Any) -> Conversation:
    return Conversation("asked", [], **fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"extra": {"new": 1}}, "new"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"choices": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"temperature": 1.5}, "temperature"),
    ],
)
def test_each_is_refused_by_the_callers_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UntranslatableError) as error:
        refuse_openais_own(conversation(**fields), "Nobody")
    assert error.value.param == param
    assert param == "new" or "Nobody" in str(error.value)


def test_what_says_nothing_passes() -> None:
    plain = conversation(top_logprobs=0, presence_penalty=0, frequency_penalty=0.0, temperature=1)
    refuse_openais_own(plain, "Nobody")
    refuse_extra(conversation(temperature=2))
    with pytest.raises(UntranslatableError):
        refuse_extra(conversation(extra={"new": 1}))
