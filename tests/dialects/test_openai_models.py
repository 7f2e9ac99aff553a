"""What each generation of OpenAI's models is asked, in either API."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.dialects.conversation import Conversation, ThinkingWish, UntranslatableError
from extproc.dialects.openai_models import (
    check_tool_name,
    effort_at,
    generation_of,
    sampling_at,
    strict_at,
)

OFF = ThinkingWish("off")


def wish(effort: str) -> ThinkingWish:
    return ThinkingWish("effort", effort=effort)


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("gpt-5", (5, 0)),
        ("openai/gpt-5.1-codex", (5, 1)),
        ("gpt-5-2025-08-07", (5, 0)),
        ("o4-mini", (0, 0)),
        ("gpt-4o", None),
        ("gpt-4.1", None),
        ("gpt-oss-120b", None),
        ("llama-3", None),
    ],
)
def test_generations(model: str, version: Any) -> None:
    found = generation_of(model)
    assert (found and found.version) == version


@pytest.mark.parametrize(
    ("model", "wanted", "effort", "dropped"),
    [
        ("gpt-5", None, "", []),
        ("gpt-5", wish("low"), "low", []),
        ("gpt-5", OFF, "minimal", ["thinking"]),
        ("gpt-5", wish("xhigh"), "high", []),
        ("gpt-5-codex", wish("minimal"), "low", []),
        ("gpt-5.1", OFF, "none", []),
        ("gpt-5.1", wish("minimal"), "low", []),
        ("gpt-5.1-codex-max", wish("xhigh"), "xhigh", []),
        ("gpt-5.2", wish("max"), "xhigh", []),
        ("gpt-5-pro", wish("low"), "high", []),
        ("gpt-5.2-pro", OFF, "medium", ["thinking"]),
        ("gpt-5-chat-latest", wish("low"), "", ["thinking"]),
        ("o3", OFF, "low", ["thinking"]),
        ("o3", ThinkingWish("budget", 10_000), "medium", []),
    ],
)
def test_efforts(model: str, wanted: ThinkingWish | None, effort: str, dropped: list[str]) -> None:
    generation = generation_of(model)
    assert generation is not None
    assert effort_at(generation, wanted, chat_tools=False) == (effort, dropped)


@pytest.mark.parametrize(
    ("model", "wanted", "effort", "dropped"),
    [
        ("gpt-5.1", wish("low"), "low", []),
        ("gpt-5.4", wish("low"), "", ["thinking"]),
        ("gpt-5.4", None, "", []),
        ("gpt-5.6", wish("low"), "none", ["thinking"]),
        ("gpt-5.6-terra", None, "none", []),
        ("gpt-5.6", OFF, "none", []),
    ],
)
def test_newer_models_do_not_think_where_chat_completions_offer_tools(
    model: str, wanted: ThinkingWish | None, effort: str, dropped: list[str]
) -> None:
    generation = generation_of(model)
    assert generation is not None
    assert effort_at(generation, wanted, chat_tools=True) == (effort, dropped)


@pytest.mark.parametrize(
    ("model", "effort", "kept", "dropped"),
    [
        ("gpt-4o", "", ["temperature", "top_p", "presence_penalty"], []),
        ("gpt-5", "low", [], ["temperature", "presence_penalty"]),
        ("o3", "", [], ["temperature", "presence_penalty"]),
        ("gpt-5.1", "", ["temperature", "top_p"], ["presence_penalty"]),
        ("gpt-5.1", "none", ["temperature", "top_p"], ["presence_penalty"]),
        ("gpt-5.1", "low", [], ["temperature", "presence_penalty"]),
        ("gpt-5.6", "", [], ["temperature", "presence_penalty"]),
    ],
)
def test_sampling_is_left_out_where_the_model_thinks_and_that_is_told(
    model: str, effort: str, kept: list[str], dropped: list[str]
) -> None:
    """A ``top_p`` of 1 says nothing, so nobody misses it."""
    conversation = Conversation("m", [], temperature=0.2, top_p=1, presence_penalty=0.5)
    values, left_out = sampling_at(conversation, generation_of(model), effort)
    assert (list(values), left_out) == (kept, dropped)


@pytest.mark.parametrize("fields", [{"stop": ["x"]}, {"logprobs": True}, {"logit_bias": {"1": 1}}])
def test_what_the_answer_would_lack_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(UntranslatableError) as caught:
        sampling_at(Conversation("m", [], **fields), generation_of("o3"), "")
    assert caught.value.param.removesuffix("_sequences") in fields
    sampling_at(Conversation("m", [], **fields), generation_of("gpt-4o"), "")


def test_names_and_schemas() -> None:
    assert check_tool_name("a-b_c") == "a-b_c"
    for name in ("x" * 65, "a.b", ""):
        with pytest.raises(UntranslatableError, match="tools"):
            check_tool_name(name)
    assert strict_at(True, {"type": "object"}, "tools.f") == (False, ["tools.f.strict"])
    assert strict_at(False, {"type": "object"}, "tools.f") == (False, [])
