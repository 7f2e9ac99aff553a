"""An attempt's answer until its first token: held back, so that Envoy still may go on to the next
target, and then let go as it is.

    headers -> let go | held
    body    -> let go | held
    late    -> given up: another target may answer, or the caller is told
"""

from __future__ import annotations

from extproc.core.first_token import FirstToken
from extproc.core.gate import Attempt
from extproc.dialects.codec import StreamError
from extproc.dialects.translation import AnswerTranslator
from extproc.wire.errors import WireError

_WHOLE = "application/json"
"""An answer in one piece, also to a request for a stream: it is there with its headers."""


class AnswerPassage:
    """One attempt's answer."""

    __slots__ = ("_attempt", "_reading", "_sent_ms", "_token", "deadline_ms", "is_held")

    def __init__(
        self,
        attempt: Attempt,
        reading: AnswerTranslator | None,
        token: FirstToken | None,
        sent_ms: int,
        deadline_ms: int,
    ) -> None:
        """``reading`` reads an answer of another dialect, only to see whether it says something.
        ``token`` is None where nothing is waited for."""
        self._attempt = attempt
        self._reading = reading
        self._token = token
        self._sent_ms = sent_ms
        self.deadline_ms = deadline_ms
        """By when a stream must have said its first token; 0: whenever."""
        self.is_held = False
        """Whether nothing was let go yet, and something waits."""

    def on_headers(self, status: int, content_type: str, error_name: str) -> bool:
        """The provider's status and type, and what its headers call an error. Whether they may go
        on."""
        if self._reading is not None:
            self._reading.on_headers(status, content_type, error_name)
            self._attempt.answered = status < 300
        self.is_held = self._token is not None and status < 400 and _WHOLE not in content_type
        return not self.is_held

    def on_body(self, data: bytes, now_ms: int, *, end: bool) -> bool:
        """The next bytes of an answer that is held. Whether all of it may go on."""
        if not (end or self._speaks(data)):
            return False
        if not end:
            # A millisecond is the finest there is, and 0 means unknown.
            self._attempt.first_token_us = max(1, now_ms - self._sent_ms) * 1_000
        self.is_held = False
        return True

    def give_up(self) -> None:
        """No token came in time. What the provider made of it is billed, and so it is charged."""
        self.is_held = False
        self._attempt.given_up = True

    def _speaks(self, data: bytes) -> bool:
        if self._reading is None:
            assert self._token is not None
            return self._token.is_in(data)
        try:
            self._reading.on_body(data, end=False)
        except (WireError, StreamError):
            return True  # found again, and dealt with, where it is translated
        return self._reading.speaks
