"""An attempt's answer on its way through the sidecar: translated, or held until its first token.

    headers -> Let | nothing yet
    body    -> pieces, each to be sent in the place of one that arrived
    late    -> given up: another target may answer, or the caller is told

What is held back costs nothing but time: as long as no byte was passed on, Envoy may still go on to
the next target.
"""

from __future__ import annotations

from typing import NamedTuple

from extproc.core.first_token import FirstToken
from extproc.core.gate import Attempt
from extproc.core.translated import Translation

_WHOLE = "application/json"
"""An answer in one piece, also to a request for a stream: it is there with its headers."""
AS_IT_IS = None
"""A piece that is passed on as the provider sent it."""


class Let(NamedTuple):
    """What may go on to the caller."""

    headers: bool
    """The answer's headers, which were held until now."""
    content_type: str
    """What those become; empty: as they are."""
    pieces: list[bytes | None]
    """In place of those that arrived, in order; None for one that stays as it is."""


class AnswerPassage:
    """One attempt's answer."""

    __slots__ = (
        "_attempt",
        "_content_type",
        "_held",
        "_sent_ms",
        "_token",
        "_translation",
        "deadline_ms",
    )

    def __init__(
        self,
        attempt: Attempt,
        translation: Translation | None,
        token: FirstToken | None,
        sent_ms: int,
        deadline_ms: int,
    ) -> None:
        """``token`` is None where nothing is waited for."""
        self._attempt = attempt
        self._translation = translation
        self._token = token
        self._sent_ms = sent_ms
        self.deadline_ms = deadline_ms
        """By when a stream must have said its first token; 0: whenever."""
        self._held: list[bytes | None] | None = None
        self._content_type = ""

    @property
    def is_held(self) -> bool:
        """Whether nothing was passed on yet."""
        return self._held is not None

    def on_headers(self, status: int, content_type: str) -> Let | None:
        """The provider's status and type; None while they are held."""
        if self._translation is not None:
            self._content_type = self._translation.on_headers(status, content_type)
        if self._token is not None and status < 400 and _WHOLE not in content_type:
            self._held = []
            return None
        return Let(True, self._content_type, [])

    def on_body(self, data: bytes, now_ms: int, *, end: bool) -> Let | None:
        """The next bytes of the answer. Raises ``WireError`` and ``StreamError``."""
        translation = self._translation
        piece = AS_IT_IS if translation is None else translation.on_body(data, end=end)
        if self._held is None:
            return Let(False, "", [piece])
        self._held.append(piece)
        if not (end or self._speaks(data)):
            return None
        if not end:
            # A millisecond is the finest there is, and 0 means unknown.
            self._attempt.first_token_us = max(1, now_ms - self._sent_ms) * 1_000
        pieces, self._held = self._held, None
        return Let(True, self._content_type, pieces)

    def give_up(self) -> None:
        """No token came in time. What the provider made of it is billed, and so it is charged."""
        self._held = None
        self._attempt.given_up = True

    def _speaks(self, data: bytes) -> bool:
        if self._translation is not None:
            return self._translation.speaks
        assert self._token is not None
        return self._token.is_in(data)
