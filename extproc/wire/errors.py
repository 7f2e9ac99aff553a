"""The one exception of the wire package: input that is refused, with the refusal to send."""

from __future__ import annotations

from extproc.values.refusal import Refusal, RefusalCode


class WireError(Exception):
    """Input that no decision can be made on. Carries what the caller is told."""

    def __init__(
        self,
        message: str,
        *,
        code: RefusalCode = RefusalCode.INVALID_REQUEST,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.refusal = Refusal(code, message, param=param)
