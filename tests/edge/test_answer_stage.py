"""The answer's messages, and the clock that gives an attempt up."""

from __future__ import annotations

import asyncio

import pytest
from event_loop import in_a_loop
from fake_stream import FakeStream
from gateway import chat
from world import World

from extproc.core.attempt import AttemptMachine
from extproc.core.events import AttemptStarted
from extproc.edge.answer_stage import AnswerStage
from extproc.edge.clock import Clock
from extproc.edge.metrics import Metrics
from extproc.pb import extproc_pb2 as pb

MODEL = """
name: quick
type: gateway-load-balancing-config
rules:
  - {id: a, target: {provider: openai, model: gpt-4o}, first_token_timeout_ms: 50}
"""
MORE = "fallbacks: [{id: b, provider: openai, model: gpt-4o-mini}]\n"
ROLE = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
WORD = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'


def stage(more: str = "", since_ms: int = 0) -> tuple[AnswerStage, FakeStream, Metrics]:
    world = World(MODEL + more)
    first = world.ask(chat(model="quick", stream=True))
    target = first.chain.targets[0]
    cluster = target.clusters[first.chain.operation]
    machine = AttemptMachine(world.gate, AttemptStarted("r1", 1, cluster))
    clock = Clock()
    machine.on_body(first.body, clock.now_ms() - since_ms)
    metrics = Metrics()
    return AnswerStage(machine, clock, metrics), FakeStream(), metrics


def headers(status: str = "200", *, end: bool = False) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    message.response_headers.end_of_stream = end
    message.response_headers.headers.headers.add(key=":status", raw_value=status.encode())
    return message


def body(data: bytes, *, end: bool = False) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    message.response_body.body = data
    message.response_body.end_of_stream = end
    return message


@in_a_loop
async def test_it_is_let_go_with_the_first_token_and_asked_for_no_more() -> None:
    found, stream, metrics = stage()
    found.message(stream, headers(), "response_headers")
    found.message(stream, body(ROLE), "response_body")
    assert stream.sent == []
    found.message(stream, body(WORD), "response_body")
    assert stream.phases == ["response_headers"]
    assert stream.ended
    # What was on its way already is not answered: Envoy has it.
    found.message(stream, body(b"", end=True), "response_body")
    assert len(stream.sent) == 1
    await asyncio.sleep(0.08)
    assert metrics.first_token_timeouts == 0


@pytest.mark.parametrize("late_already", [False, True])
@in_a_loop
async def test_in_time_it_is_given_up_for_the_next_target(late_already: bool) -> None:
    found, stream, metrics = stage(MORE, 60 * late_already)
    found.message(stream, headers(), "response_headers")
    if not late_already:
        found.message(stream, body(ROLE), "response_body")
        assert stream.sent == []
        await asyncio.sleep(0.08)
    (message,) = stream.sent
    (status,) = message.response_headers.response.header_mutation.set_headers
    assert (status.header.key, status.header.raw_value) == (":status", b"504")
    assert stream.ended
    assert metrics.first_token_timeouts == 1


@in_a_loop
async def test_without_another_target_the_caller_is_refused() -> None:
    found, stream, metrics = stage()
    found.message(stream, headers(), "response_headers")
    await asyncio.sleep(0.08)
    assert stream.sent[0].immediate_response.status.code == 503
    assert sum(metrics.refused.values()) == 1


@in_a_loop
async def test_a_stream_that_envoy_gave_up_is_left_alone() -> None:
    found, stream, metrics = stage()
    found.message(stream, headers(), "response_headers")
    found.closed()
    await asyncio.sleep(0.08)
    assert stream.sent == []
    assert metrics.first_token_timeouts == 0


@in_a_loop
async def test_headers_without_a_body_are_a_whole_answer() -> None:
    found, stream, _ = stage()
    found.message(stream, headers(end=True), "response_headers")
    assert stream.phases == ["response_headers"]
    assert stream.ended


@in_a_loop
async def test_a_message_of_another_phase_ends_it() -> None:
    found, stream, _ = stage()
    found.message(stream, pb.ProcessingRequest(), "request_body")
    assert stream.failed
