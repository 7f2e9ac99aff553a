from __future__ import annotations

import pytest

from extproc.values.refusal import Refusal, RefusalCode
from extproc.wire.errors import WireError


def test_error_carries_the_refusal_to_send() -> None:
    with pytest.raises(WireError, match="too odd") as caught:
        raise WireError("too odd", code=RefusalCode.DUPLICATE_KEY, param="model")
    assert caught.value.refusal == Refusal(RefusalCode.DUPLICATE_KEY, "too odd", param="model")


def test_default_is_an_invalid_request() -> None:
    assert WireError("no").refusal.status == 400
