"""What happens to a request, past tense. Events are the only way in; commands are the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from extproc.ledger.port import Denied, Granted, Standing


class RequestHeaders(NamedTuple):
    """A caller's request headers arrived, in wire order, names in lower case."""

    headers: Sequence[tuple[str, bytes]]
    end_of_stream: bool
    now_ms: int


class RequestBody(NamedTuple):
    """The whole request body arrived."""

    body: bytes
    now_ms: int
    draw: float
    """Uniform in [0, 1): decides the weighted target."""


class Reserved(NamedTuple):
    """The ledger answered a ``Reserve``."""

    outcome: Granted | Denied
    now_ms: int


class Peeked(NamedTuple):
    """The ledger answered a ``Peek``: one standing per hold, in order."""

    standings: Sequence[Standing]
    now_ms: int


class AttemptStarted(NamedTuple):
    """Envoy is about to send attempt ``attempt`` of a request to a cluster: one after the first, or
    any to a target whose first token is waited for."""

    request_id: str
    attempt: int
    cluster: str
    headers: Sequence[tuple[str, bytes]] = ()
    """As they would be sent."""


class Ending(NamedTuple):
    """How an attempt, or a whole request, ended, as Envoy's access log tells it."""

    status: int
    """HTTP status towards the client; 0 when there was none."""
    connect_failed: bool = False
    """No connection to the provider was made: nothing can have been billed."""
    timed_out: bool = False
    reset: bool = False
    """The provider, or Envoy towards it, cut the exchange."""
    client_gone: bool = False
    rest_ms: int = 0
    """For how long the provider said that it cannot serve; 0: it did not say, or nonsense."""
    ours: bool = False
    """The status is that of a failure of ours: the provider may have answered, and bill it."""

    @property
    def redirected(self) -> bool:
        """The provider sent us elsewhere, where nobody goes."""
        return 300 <= self.status < 400


class AttemptFailed(NamedTuple):
    """One attempt failed; the request may go on with the next target."""

    request_id: str
    attempt: int
    ending: Ending
    now_ms: int


class RequestGoesOn(NamedTuple):
    """A request is still being answered: Envoy says so every few seconds."""

    request_id: str
    response_bytes: int
    """Of the answer's body so far."""
    now_ms: int


class RequestEnded(NamedTuple):
    """The request is over."""

    request_id: str
    attempts: int
    """0: nothing was ever sent to a provider."""
    ending: Ending
    usage_first: bytes
    """SSE: the first event that carried usage; else empty."""
    usage_last: bytes
    """SSE: the last event that carried usage; else empty."""
    usage_tail: bytes
    """JSON: the body from its last ``"usage":`` key on; else empty."""
    now_ms: int
    response_bytes: int = 0
    """Of the answer's body."""
    first_byte_us: int = 0
    """From the last attempt's sending to the first byte of its answer; 0: not known."""
    answered_us: int = 0
    """From the same moment to the last byte."""
