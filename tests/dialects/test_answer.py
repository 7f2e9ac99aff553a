"""Events are values: compared, printed and matched by what they say."""

from __future__ import annotations

from extproc.dialects.answer import Delta, PartKind, PartStarted, Stop, Stopped


def test_events_of_different_kinds_are_told_apart_by_type() -> None:
    assert isinstance(Stopped(Stop.END), Stopped)
    assert PartStarted(0, PartKind.TEXT).call_id == ""
    assert Delta(1, "x") == Delta(part=1, text="x", logprobs=())
