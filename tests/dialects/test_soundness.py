"""What no reader may let through, because every writer relies on it."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.dialects.answer import (
    Answer,
    Delta,
    Ended,
    Event,
    Failed,
    PartEnded,
    PartKind,
    PartStarted,
    Ping,
    ProviderError,
    Shown,
    Signature,
    Started,
    Stop,
    Stopped,
)
from extproc.dialects.codec import StreamError
from extproc.dialects.conversation import Media, Part, Refused, Text, Thinking, ToolCall
from extproc.dialects.soundness import EventOrder, check_answer
from extproc.wire.errors import WireError

ANY: Any = 7
BEGUN = Started("a", "m", None)
OPEN = PartStarted(0, PartKind.TEXT)
IMAGE = Media("image", "image/png", data="QQ==")
WHOLE: list[Event] = [
    Ping(), BEGUN, OPEN, Delta(0, "x"), Ping(), Signature(0, "s"), PartEnded(0), Shown(1, IMAGE),
    PartStarted(2, PartKind.TOOL_CALL, "c", "f"), PartEnded(2), Stopped(Stop.END), Ended(None),
]  # fmt: skip
FAILED = Failed(ProviderError(502, "api", "broken"))


def test_a_stream_in_its_order_passes_in_any_cut() -> None:
    order = EventOrder()
    for event in WHOLE:
        order.check([event])
    for place in range(len(WHOLE)):  # it may fail at any moment
        EventOrder().check([*WHOLE[:place], FAILED])


@pytest.mark.parametrize(
    "events",
    [
        [OPEN],
        [Ended(None)],
        [BEGUN, BEGUN],
        [BEGUN, Delta(0, "x")],
        [BEGUN, PartStarted(1, PartKind.TEXT)],
        [BEGUN, OPEN, OPEN],
        [BEGUN, OPEN, PartStarted(1, PartKind.TEXT)],
        [BEGUN, OPEN, Delta(1, "x")],
        [BEGUN, OPEN, Shown(1, IMAGE)],
        [BEGUN, OPEN, PartEnded(0), Delta(0, "x")],
        [BEGUN, OPEN, PartEnded(0), PartEnded(0)],
        [BEGUN, OPEN, Stopped(Stop.END)],
        [BEGUN, OPEN, Ended(None)],
        [BEGUN, OPEN, Delta(0, ANY)],
        [BEGUN, OPEN, Signature(0, ANY)],
        [BEGUN, PartStarted(0, PartKind.TOOL_CALL, "c", ANY)],
        [BEGUN, Shown(0, Media("image", "image/png", data=ANY))],
    ],
)
def test_no_other_order_and_no_other_types(events: list[Event]) -> None:
    with pytest.raises(StreamError):
        EventOrder().check(events)


TOKEN: dict[str, Any] = {"token": "x", "logprob": -1, "bytes": None}


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {},
        {**TOKEN, "token": 7},
        {**TOKEN, "logprob": "x"},
        {**TOKEN, "bytes": ["x"]},
        {**TOKEN, "top_logprobs": [7]},
        {**TOKEN, "top_logprobs": [{**TOKEN, "top_logprobs": [TOKEN]}]},
    ],
)
def test_log_probabilities_are_what_openai_says_they_are(entry: Any) -> None:
    good = {**TOKEN, "bytes": [120], "top_logprobs": [TOKEN]}
    EventOrder().check([BEGUN, OPEN, Delta(0, "x", (good, TOKEN))])
    check_answer(Answer("a", "m", [], Stop.END, None, logprobs=[good]))
    with pytest.raises(StreamError):
        EventOrder().check([BEGUN, OPEN, Delta(0, "x", (entry,))])
    with pytest.raises(WireError):
        check_answer(Answer("a", "m", [], Stop.END, None, logprobs=[entry]))


@pytest.mark.parametrize(
    "part", [Text(ANY), Refused(ANY), Thinking(ANY), ToolCall("c", "f", ANY), Media("image", ANY)]
)
def test_what_should_be_text_and_is_not_is_no_answer(part: Part) -> None:
    whole: list[Part] = [Text("x"), IMAGE, ToolCall("c", "f", "{}")]
    check_answer(Answer("a", "m", whole, Stop.END, None))
    for answer in (
        Answer("a", "m", [part], Stop.END, None),
        Answer("a", "m", [], Stop.END, None, others=[Answer("", "", [part], Stop.END, None)]),
    ):
        with pytest.raises(WireError):
            check_answer(answer)
