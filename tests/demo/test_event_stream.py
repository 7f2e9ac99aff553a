from __future__ import annotations

from botocore.eventstream import EventStreamBuffer

from extproc.demo.event_stream import event_message, exception_message


def test_botocore_reads_both_kinds_and_their_checksums() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(event_message("metadata", {"a": "ä"}))
    buffer.add_data(exception_message("throttlingException", {"message": "slow"}))
    event, exception = buffer
    assert event.headers[":event-type"] == "metadata"
    assert event.headers[":content-type"] == "application/json"
    assert event.payload == b'{"a":"\\u00e4"}'
    assert exception.headers[":message-type"] == "exception"
    assert exception.headers[":exception-type"] == "throttlingException"
