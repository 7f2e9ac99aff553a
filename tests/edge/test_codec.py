"""Answers written by hand are what the protobuf library would have written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World, compiled

from extproc.core.commands import Forward, Refuse, SendAttempt
from extproc.edge import codec
from extproc.edge.immediate_codec import encode_refuse
from extproc.ledger.port import Hold, Remaining
from extproc.pb import extproc_pb2 as pb
from extproc.values.dialect import Dialect, Operation
from extproc.values.limit import Unit
from extproc.values.refusal import Refusal, RefusalCode
from extproc.wire.error_body import amount_text


def forward(**changes: object) -> Forward:
    world = World()
    command = world.ask(session_id="s")
    assert isinstance(command, Forward)
    return command._replace(**changes)  # type: ignore[arg-type]


def decoded(command: Forward) -> pb.ProcessingResponse:
    return pb.ProcessingResponse.FromString(codec.encode_forward(command))


def headers(mutation: pb.HeaderMutation) -> dict[str, bytes]:
    assert all(option.append_action == 2 for option in mutation.set_headers)
    return {option.header.key: option.header.raw_value for option in mutation.set_headers}


@given(st.binary(max_size=70_000))
def test_F46_a_forwarded_body_has_its_own_length(body: bytes) -> None:
    common = decoded(forward(body=body)).request_body.response
    assert common.body_mutation.body == body
    assert common.clear_route_cache
    assert headers(common.header_mutation)["content-length"] == b"%d" % len(body)


def test_a_forward_says_where_to_go_and_in_which_order() -> None:
    command = forward()
    answer = decoded(command)
    sent = headers(answer.request_body.response.header_mutation)
    assert sent[":path"] == b"/anthropic/openai/v1/chat/completions"
    assert sent[":authority"] == b"127.0.0.1:9"
    assert sent["x-tw-decided"] == b"300000"
    assert sent["x-envoy-max-retries"] == b"3"
    assert sent["x-envoy-upstream-rq-per-try-timeout-ms"] == b"2000"
    verdict = answer.dynamic_metadata["tokenweir"]
    assert verdict["ok"] is True
    groups = [group["clusters"][0]["cluster_name"] for group in verdict["priority_groups"]]
    assert groups == [
        target.clusters[Operation.CHAT_COMPLETIONS] for target in command.chain.targets
    ]
    assert verdict["gen"] == "1"
    assert verdict["rules"] == "session,shadow,all"
    # Twice, as the second answer about a chain comes from its cache.
    assert codec.encode_forward(command) == codec.encode_forward(command)


def test_a_request_that_leaves_changed_has_a_path_and_headers_of_its_own() -> None:
    command = forward(path="/v1/messages?beta=true", set_headers=[("anthropic-version", "1\r\n2")])
    mutation = decoded(command).request_body.response.header_mutation
    # Envoy sets them in this order: the last path is the one that counts.
    paths = [o.header.raw_value for o in mutation.set_headers if o.header.key == ":path"]
    assert paths[-1] == b"/v1/messages?beta=true"
    assert b"\n" not in headers(mutation)["anthropic-version"]
    assert headers(mutation)[":authority"] == b"127.0.0.1:9"


@pytest.mark.parametrize(
    ("hold_ms", "seconds"), [(1, 6), (1_000, 6), (1_001, 7), (60_000, 65), (10**9, 65)]
)
def test_envoy_is_told_to_wait_in_whole_seconds_with_time_to_spare(hold_ms, seconds) -> None:
    answer = pb.ProcessingResponse.FromString(codec.encode_hold(hold_ms))
    assert answer.override_message_timeout.ToSeconds() == seconds
    answer.ClearField("override_message_timeout")
    assert answer == pb.ProcessingResponse()


def test_a_later_attempt_drops_every_credential_of_the_one_before() -> None:
    command = forward()
    attempt = SendAttempt(command.chain.targets[1], Operation.CHAT_COMPLETIONS, b"{}")
    common = pb.ProcessingResponse.FromString(
        codec.encode_send_attempt(attempt)
    ).request_body.response
    assert {"authorization", "x-api-key"} <= set(common.header_mutation.remove_headers)
    assert headers(common.header_mutation)["content-length"] == b"2"


def test_a_header_that_is_put_back_has_the_bytes_that_it_came_with() -> None:
    target, came = forward().chain.targets[1], "J\u00fcrgen".encode()
    put_back = (("x-asked-by", came.decode("latin-1")),)  # as attempts read them
    attempt = SendAttempt(target, Operation.CHAT_COMPLETIONS, b"{}", headers=put_back)
    written = pb.ProcessingResponse.FromString(codec.encode_send_attempt(attempt))
    mutation = written.request_body.response.header_mutation
    assert headers(mutation)["x-asked-by"] == came


@pytest.mark.parametrize("size", [1, 118, 120, 122, 127, 128, 16_374, 16_383, 16_384, 1 << 21])
def test_a_translated_answer_replaces_the_providers_bytes_as_the_library_writes_it(
    size: int,
) -> None:
    body = b"x" * size
    expected = pb.ProcessingResponse()
    expected.response_body.response.body_mutation.body = body
    assert codec.encode_answer_body(body) == expected.SerializeToString()


def test_a_translated_answer_of_no_bytes_still_replaces_the_providers() -> None:
    """In Envoy's own definition the body is one of two mutations: left out, none is made."""
    said = codec.encode_answer_body(b"")
    assert said.endswith(b"\x0a\x00")
    message = pb.ProcessingResponse.FromString(said)
    assert message.response_body.response.HasField("body_mutation")
    assert message.SerializeToString() != said  # the library leaves an empty body out


@given(st.text(max_size=50))
def test_F45_no_policy_text_breaks_a_header(text: str) -> None:
    refusal = Refusal(RefusalCode.UNKNOWN_MODEL, "no")
    command = Refuse(refusal, Dialect.OPENAI, "r", 1, "a\r\nx: y" + text)
    answer = pb.ProcessingResponse.FromString(encode_refuse(command)).immediate_response
    for value in headers(answer.headers).values():
        assert not set(b"\r\n\0") & set(value)
    verdict = decoded(forward(rules="a\r\nb" + text)).dynamic_metadata["tokenweir"]
    assert not set("\r\n\0") & set(verdict["rules"])


def body_message(body: bytes, **fields: object) -> bytes:
    http_body = pb.HttpBody(body=body, end_of_stream=True)
    return pb.ProcessingRequest(request_body=http_body, **fields).SerializeToString()


@given(st.integers(0, 40_000), st.binary(min_size=1, max_size=8))
def test_a_large_body_is_cut_out_as_the_library_reads_it(more: int, filling: bytes) -> None:
    body = filling * (codec.LARGE_MESSAGE_BYTES // len(filling) + more)
    data = body_message(body)
    assert codec.decode_body(data) == pb.ProcessingRequest.FromString(data).request_body.body


@given(st.binary(max_size=20), st.integers(0, 12))
def test_what_is_not_just_a_whole_body_is_left_to_the_library(noise: bytes, at: int) -> None:
    data = body_message(b"{}" * codec.LARGE_MESSAGE_BYTES)
    changed = data[:at] + noise + data[at:]
    found = codec.decode_body(changed)
    if found is not None:
        # Then the library must see the same: the same body, and nothing else.
        message = pb.ProcessingRequest.FromString(changed)
        assert message.request_body.body == found
        assert message.request_body.end_of_stream
    assert codec.decode_body(data[:-2]) is None
    assert codec.decode_body(b"\x22" * codec.LARGE_MESSAGE_BYTES) is None


@pytest.mark.parametrize(("strict", "likely", "shown"), [(7, 5, 5), (5, 7, 5), (0, 9, 0)])
def test_the_tightest_budget_is_shown_whatever_its_mode(
    strict: int, likely: int, shown: int
) -> None:
    command = forward()
    limit = next(one for one in compiled().limits if one.unit is Unit.MICRO_USD)
    guessed = replace(limit, unit=Unit.LIKELY_MICRO_USD)
    remaining = [
        Remaining(Hold(limit, "", limit.ceiling), strict, 0),
        Remaining(Hold(guessed, "", limit.ceiling), likely, 0),
    ]
    verdict = decoded(command._replace(remaining=remaining)).dynamic_metadata["tokenweir"]
    assert verdict["budget"] == amount_text("usd", shown)
    assert not [key for key in verdict if key.startswith("rl_")]


def test_an_answers_head_is_its_status_its_type_its_encoding_and_what_aws_calls_an_error() -> None:
    said = {
        ":status": b"429",
        "content-type": b"application/json",
        "x-amzn-errortype": b"ThrottlingException:http://internal.amazon.com/",
        "content-encoding": b"GZip",
        "server": b"x",
    }
    message = pb.HttpHeaders()
    for key, value in said.items():
        message.headers.headers.add(key=key, raw_value=value)
    status, content_type, error_name, encoding = codec.decode_answer_headers(message)
    assert (status, content_type, encoding) == (429, "application/json", "gzip")
    assert error_name.startswith("ThrottlingException:")
    assert codec.decode_answer_headers(pb.HttpHeaders()) == (0, "", "", "")
