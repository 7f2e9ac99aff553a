"""A stream as services see it, which keeps what is sent."""

from __future__ import annotations

from typing import Any

from extproc.pb import extproc_pb2 as pb


class FakeStream:
    """The peer's side of one request, or of one attempt."""

    def __init__(self) -> None:
        self.state: Any = None
        self.sent: list[pb.ProcessingResponse] = []
        self.ended = self.failed = False

    def send(self, message: bytes, *, end: bool = False) -> None:
        assert not self.ended
        self.sent.append(pb.ProcessingResponse.FromString(message))
        self.ended = end

    def fail(self) -> None:
        self.failed = True

    @property
    def phases(self) -> list[str]:
        """What each message is about."""
        return [field.name for message in self.sent for field, _ in message.ListFields()]
