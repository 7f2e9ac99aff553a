from __future__ import annotations

import pytest

from extproc.demo.strict.anthropic_shape import BETA_REQUEST, COUNTED, REQUEST
from extproc.demo.strict.shape import Misfit

ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_a_maximum_is_needed_unless_tokens_are_counted() -> None:
    COUNTED(ASKED, ())
    REQUEST({**ASKED, "max_tokens": 1}, ())
    with pytest.raises(Misfit, match="max_tokens"):
        REQUEST(ASKED, ())


def test_beta_fields_are_known_to_betas_only() -> None:
    body = {**ASKED, "max_tokens": 1, "mcp_servers": []}
    BETA_REQUEST(body, ())
    with pytest.raises(Misfit, match="mcp_servers"):
        REQUEST(body, ())
