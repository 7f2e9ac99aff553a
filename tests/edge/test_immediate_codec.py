"""What Envoy is told to answer at once."""

from __future__ import annotations

from extproc.core.commands import Answer, Refuse
from extproc.core.refusals import LEDGER_FAILED
from extproc.edge.immediate_codec import encode_answer, encode_refuse
from extproc.pb import extproc_pb2 as pb
from extproc.values.dialect import Dialect
from extproc.values.refusal import LimitState, Refusal, RefusalCode


def answered(message: bytes) -> tuple[pb.ImmediateResponse, dict[str, bytes]]:
    answer = pb.ProcessingResponse.FromString(message).immediate_response
    options = answer.headers.set_headers
    assert all(option.append_action == 2 for option in options)
    return answer, {option.header.key: option.header.raw_value for option in options}


def test_a_document_of_our_own_says_what_it_is_and_by_which_policy() -> None:
    answer, said = answered(encode_answer(Answer(b'{"object":"list"}', "r1", 7)))
    assert (answer.status.code, answer.body) == (200, b'{"object":"list"}')
    assert said == {"content-type": b"application/json", "x-tfy-policy-generation": b"7"}


def test_what_a_minute_has_left_is_not_shown_as_a_budget() -> None:
    state = LimitState("fast", "user", "1m", "usd", 20, 5, 0, 1, None)
    for code, shown in (
        (RefusalCode.BUDGET_EXCEEDED, True),
        (RefusalCode.SPEND_VELOCITY_EXCEEDED, False),
    ):
        refuse = Refuse(Refusal(code, "no", limit=state), Dialect.OPENAI, "r", 1, "")
        _, sent = answered(encode_refuse(refuse))
        assert ("x-budget-remaining-usd" in sent) == shown


def test_a_refusal_because_the_store_is_away_says_so_and_when_to_come_again() -> None:
    command = Refuse(LEDGER_FAILED, Dialect.OPENAI, "r", 1, "all")
    answer, said = answered(encode_refuse(command))
    assert answer.status.code == 503
    assert said["retry-after"] == b"1"
    assert said["x-tfy-degraded"] == b"store_unavailable"
