"""Entries of Envoy's access logs, as events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.edge import log_codec
from extproc.pb import extproc_pb2 as pb


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_an_answer_is_timed_from_the_sending_of_its_own_attempt(
    sent_us: int, first_us: int, rest_us: int
) -> None:
    entry = pb.HttpAccessLogEntry()
    common = entry.common_properties
    common.time_to_first_upstream_tx_byte.FromMicroseconds(sent_us)
    common.time_to_first_upstream_rx_byte.FromMicroseconds(sent_us + first_us)
    common.time_to_last_upstream_rx_byte.FromMicroseconds(sent_us + first_us + rest_us)
    ended = log_codec.decode_request_ended(entry, 0, timed=True)
    if sent_us + first_us + rest_us:
        assert (ended.first_byte_us, ended.answered_us) == (first_us, first_us + rest_us)
    untimed = log_codec.decode_request_ended(entry, 0)
    assert (untimed.first_byte_us, untimed.answered_us) == (0, 0)
    never_sent = log_codec.decode_request_ended(pb.HttpAccessLogEntry(), 0, timed=True)
    assert (never_sent.first_byte_us, never_sent.answered_us) == (0, 0)


@pytest.mark.parametrize("status", [200, 302, 400, 408, 429, 500, 502, 503, 504, 529])
@pytest.mark.parametrize("flagged", [False, True])
def test_F53_a_wait_is_read_with_the_statuses_that_are_about_the_provider(
    status: int, flagged: bool
) -> None:
    entry = pb.HttpAccessLogEntry()
    entry.response.response_code.value = status
    entry.common_properties.response_flags.upstream_overflow = flagged
    for text, wait_ms in ((None, 0), (b"7", 7_000), (b"\xff\xfe", 0)):
        if text is not None:
            entry.response.response_headers["retry-after"] = text
        expected = wait_ms if status in (429, 503, 529) else 0
        assert log_codec.decode_request_ended(entry, 0).ending.rest_ms == expected
        assert log_codec.decode_attempt_failed(entry, 0).ending.rest_ms == expected
        entry.response.response_code_details = "tokenweir_refused"  # our own word, no provider's
        assert log_codec.decode_request_ended(entry, 0).ending.rest_ms == 0
        entry.response.response_code_details = "via_upstream"
    # What the library wrote as text reads the same: it is one on the wire.
    again = pb.HttpAccessLogEntry.FromString(entry.SerializeToString())
    assert again.response.response_headers["retry-after"] == b"\xff\xfe"
