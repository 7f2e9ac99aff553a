"""The seam between a transport and the services it carries.

A service sees one stream per HTTP request (or one per access-log connection) and whole messages.
It cannot end a stream well without having answered: that is what keeps a bug of ours from letting a
request through, because Envoy treats a stream that ends with OK and no answer as "continue".
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

MAX_MESSAGE_BYTES = 40 * 1024 * 1024
"""A body of 32 MiB, the largest that Envoy buffers for us, with headers and framing."""


class StreamKind(Enum):
    """What the peer expects of a method."""

    BIDIRECTIONAL = "bidirectional"
    """Messages are answered by messages; ending without an answer is an error."""
    CLIENT = "client"
    """The peer only sends; when it is done it gets one empty message."""


class Stream(Protocol):
    """One gRPC stream, whatever carries it."""

    state: Any
    """The service's own."""

    def send(self, message: bytes, *, end: bool = False) -> None:
        """Sends one message, now or after an await; ``end`` closes the stream with OK.

        Does nothing when the peer is gone.
        """
        ...

    def fail(self) -> None:
        """Ends the stream with an error status, never with OK."""
        ...


class Service(Protocol):
    """What a transport calls, on the event loop."""

    kind: StreamKind

    def message(self, stream: Stream, data: bytes) -> None:
        """A whole message arrived. Raising fails the stream."""
        ...

    def closed(self, stream: Stream) -> None:
        """The stream ended before the service ended it."""
        ...

    def before_write(self) -> None:
        """Answers are about to leave. Raising keeps all of them back and fails their streams.

        The ledger flushes its journal here: one write for every request of this turn of the event
        loop, and no answer is ever on the wire before its reservation is durable.
        """
        ...
