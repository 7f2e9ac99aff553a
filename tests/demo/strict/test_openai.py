from __future__ import annotations

import pytest

from extproc.demo.answer import BadRequestError
from extproc.demo.strict.openai import (
    FIXED_SAMPLING,
    THINKS,
    check_effort,
    check_format,
    check_sampling,
    refused,
    unsupported_parameter,
)
from extproc.demo.strict.shape import Misfit


def test_misfits_in_openais_words() -> None:
    unknown = refused(Misfit(("a", 0, "b"), "unknown"))
    assert (str(unknown), unknown.param) == ("Unknown parameter: 'a[0].b'.", "a[0].b")
    missing = refused(Misfit(("a",), "missing"))
    assert (str(missing), missing.code) == (
        "Missing required parameter: 'a'.",
        "missing_required_parameter",
    )
    wrong = refused(Misfit(("a",), "type", "integer", None))
    assert str(wrong) == "Invalid type for 'a': expected an integer, but got a null instead."
    short = refused(Misfit(("a",), "value", "at least 1 characters", ""))
    assert short.code == "empty_string"
    assert unsupported_parameter("stop").code == "unsupported_parameter"


def test_which_models_think() -> None:
    assert [bool(THINKS.match(m)) for m in ("o3", "gpt-5.1", "gpt-4o", "omni")] == [1, 1, 0, 0]
    assert [bool(FIXED_SAMPLING.match(m)) for m in ("gpt-5", "gpt-5-mini", "gpt-5.1")] == [1, 1, 0]


def test_json_mode_needs_the_word() -> None:
    check_format(("text", "format"), {"type": "json_object"}, "Give me JSON")
    with pytest.raises(BadRequestError, match=r"'text.format' of type 'json_object'"):
        check_format(("text", "format"), {"type": "json_object"}, "Give me")


@pytest.mark.parametrize(
    ("model", "effort", "fits"),
    [
        ("gpt-5", "minimal", True),
        ("gpt-5-mini", "none", False),
        ("gpt-5.1", "none", True),
        ("gpt-5.1", "minimal", False),
        ("gpt-5.1", "xhigh", False),
        ("gpt-5.2", "xhigh", True),
        ("gpt-5-codex", "minimal", False),
        ("gpt-5.1-codex-max", "xhigh", True),
        ("gpt-5-pro", "low", False),
        ("gpt-5-chat-latest", "low", False),
        ("o3-mini", "high", True),
        ("o3-mini", "minimal", False),
        ("o3-mini", None, True),
    ],
)
def test_each_model_has_its_own_efforts(model: str, effort: str | None, fits: bool) -> None:
    if fits:
        check_effort(model, effort, "reasoning_effort")
        return
    with pytest.raises(BadRequestError, match="reasoning_effort"):
        check_effort(model, effort, "reasoning_effort")


@pytest.mark.parametrize(
    ("model", "effort", "fits"),
    [
        ("gpt-5.1", None, True),
        ("gpt-5.1", "none", True),
        ("gpt-5.1", "low", False),
        ("gpt-5.6", None, False),
        ("gpt-5.6", "none", True),
        ("gpt-4o", None, True),
    ],
)
def test_sampling_goes_without_thinking_only(model: str, effort: str | None, fits: bool) -> None:
    check_sampling(model, effort, {"temperature": 1})
    if fits:
        check_sampling(model, effort, {"temperature": 0.5})
        return
    with pytest.raises(BadRequestError, match="temperature"):
        check_sampling(model, effort, {"temperature": 0.5})
