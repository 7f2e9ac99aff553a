"""Entries of Envoy's access logs to events."""

from __future__ import annotations

from extproc.core.events import AttemptFailed, Ending, RequestEnded, RequestGoesOn
from extproc.envoy.ext_proc import ATTEMPT_HEADER
from extproc.pb import extproc_pb2 as pb
from extproc.values.wire_names import REFUSED_DETAILS, RETRY_AFTER, USAGE_METADATA
from extproc.wire.retry_after import retry_after_ms

_OUR_FAILURES = "ext_proc_"
"""How Envoy's details begin where it could not ask the sidecar: whether a request may go on, or an
answer."""
_RESTING_STATUSES = frozenset((429, 503, 529))
"""With these a wait is about the provider, and not about one request."""


def decode_request_ended(
    entry: pb.HttpAccessLogEntry, now_ms: int, *, timed: bool = False
) -> RequestEnded:
    """A request's own log entry; ``timed``: with how fast its last attempt was answered."""
    common = entry.common_properties
    ending = _ending(entry, now_ms)
    first = last = tail = b""
    metadata = common.metadata.filter_metadata
    if USAGE_METADATA in metadata:
        fields = metadata[USAGE_METADATA].fields
        first = fields["first"].string_value.encode() if "first" in fields else b""
        last = fields["last"].string_value.encode() if "last" in fields else b""
        tail = fields["tail"].string_value.encode() if "tail" in fields else b""
        if "answered" in fields:
            ending = ending._replace(ours=True)
    first_byte_us, answered_us = _answer_times_us(common) if timed else (0, 0)
    return RequestEnded(
        common.stream_id,
        common.upstream_request_attempt_count,
        ending,
        first,
        last,
        tail,
        now_ms,
        entry.response.response_body_bytes,
        first_byte_us,
        answered_us,
    )


def _answer_times_us(common: pb.AccessLogCommon) -> tuple[int, int]:
    """From the sending of the last attempt to the first and the last byte of its answer; zeros
    where there was none."""
    sent, last = common.time_to_first_upstream_tx_byte, common.time_to_last_upstream_rx_byte
    if not (common.HasField("time_to_first_upstream_tx_byte") and last.ByteSize()):
        return 0, 0
    first = common.time_to_first_upstream_rx_byte
    sent_us = sent.ToMicroseconds()
    return max(0, first.ToMicroseconds() - sent_us), max(0, last.ToMicroseconds() - sent_us)


def decode_request_goes_on(entry: pb.HttpAccessLogEntry, now_ms: int) -> RequestGoesOn:
    """An entry that Envoy writes while a request is being answered."""
    request_id = entry.common_properties.stream_id
    return RequestGoesOn(request_id, entry.response.response_body_bytes, now_ms)


def decode_attempt_failed(entry: pb.HttpAccessLogEntry, now_ms: int) -> AttemptFailed:
    """A failed attempt's log entry."""
    headers = entry.request.request_headers
    number = headers.get(ATTEMPT_HEADER, "")
    return AttemptFailed(
        headers.get("x-request-id", ""),
        int(number) if number.isdigit() else 0,
        _ending(entry, now_ms),
        now_ms,
    )


def _ending(entry: pb.HttpAccessLogEntry, now_ms: int) -> Ending:
    response = entry.response
    status, details = response.response_code.value, response.response_code_details
    rest_ms = 0
    if status in _RESTING_STATUSES and details != REFUSED_DETAILS:
        wait = response.response_headers.get(RETRY_AFTER, b"")
        rest_ms = retry_after_ms(wait.decode("ascii", "replace"), now_ms)
    ours = details.startswith(_OUR_FAILURES)
    common = entry.common_properties
    if not common.HasField("response_flags"):
        return Ending(status, rest_ms=rest_ms, ours=ours) if rest_ms or ours else Ending(status)
    flags = common.response_flags
    return Ending(
        status,
        connect_failed=(
            flags.upstream_connection_failure
            or flags.no_healthy_upstream
            or flags.no_cluster_found
            or flags.dns_resolution_failure
            or flags.upstream_overflow
        ),
        timed_out=(
            flags.upstream_request_timeout
            or flags.stream_idle_timeout
            or flags.duration_timeout
            or flags.upstream_max_stream_duration_reached
        ),
        reset=(
            flags.local_reset
            or flags.upstream_remote_reset
            or flags.upstream_connection_termination
            or flags.upstream_protocol_error
        ),
        client_gone=(flags.downstream_connection_termination or flags.downstream_remote_reset),
        rest_ms=rest_ms,
        ours=ours,
    )
