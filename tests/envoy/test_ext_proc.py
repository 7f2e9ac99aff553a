"""The two calls of the sidecar: when they come, what they carry, and that silence is a refusal."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from envoy_rig import answer

from extproc.envoy.ext_proc import (
    ATTEMPT_HEADER,
    MESSAGE_TIMEOUT_S,
    answer_filter,
    attempt_filter,
    request_filter,
)


def test_the_decision_has_all_headers_of_the_caller(rig) -> None:
    rig.post(["p1"], headers={"authorization": "Bearer caller", "x-tfy-user-id": "alice"})
    (seen,) = rig.decided_headers
    assert seen["authorization"] == b"Bearer caller"
    assert seen["x-tfy-user-id"] == b"alice"
    assert seen[":method"] == b"POST"


def test_a_later_attempt_says_which_it_is_and_where_it_goes(rig) -> None:
    rig.providers["p1"].respond = answer(status=503)
    response = rig.post(["p1", "p2"], body="left so")
    ((headers, cluster, body),) = rig.attempts
    assert headers["x-request-id"].decode() == response.headers["x-request-id"]
    assert headers[ATTEMPT_HEADER] == b"2"
    assert cluster in rig.target("p2").clusters.values()
    assert body == b"left so"


def test_an_answers_first_bytes_do_not_wait_for_what_its_headers_become() -> None:
    """A translated stream's first token would pay for the round trip."""
    matching = answer_filter()["typed_config"]["xds_matcher"]["matcher_tree"]
    action = matching["exact_match_map"]["map"]["1"]["action"]["typed_config"]
    config = action["typed_config"]["typed_config"]
    assert config["processing_mode"]["response_body_mode"] == "STREAMED"
    assert config["send_body_without_waiting_for_header_response"] is True


def test_the_first_attempt_costs_no_second_call(rig) -> None:
    assert rig.post(["p1"]).status_code == 200
    assert len(rig.decided_headers) == 1
    assert rig.attempts == []


@pytest.fixture
def alone(start_rig) -> Any:
    return start_rig({"p1": '{dialect: openai, base_url: "http://127.0.0.1:PORT/v1"}'})


def test_F34_no_sidecar_no_request(alone) -> None:
    for path in alone.settings.socket_folder.glob("request.sock"):
        path.unlink()
    started = time.monotonic()
    response = alone.post(["p1"])
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "internal_error"
    assert time.monotonic() - started < 1
    assert alone.providers["p1"].requests == []


def test_F35_the_timeout_is_seconds_for_milliseconds_would_refuse_when_a_machine_pauses() -> None:
    assert 1 <= MESSAGE_TIMEOUT_S <= 10
    request = request_filter()["typed_config"]
    assert request["message_timeout"] == f"{MESSAGE_TIMEOUT_S}s"
    # Only the first decision may wait in a queue, for a minute at most.
    assert request["max_message_timeout"] == f"{60 + MESSAGE_TIMEOUT_S}s"
    assert "max_message_timeout" not in json.dumps(attempt_filter(2))
