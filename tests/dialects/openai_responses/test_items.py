"""Thoughts travel in reasoning items and come back to the vendor that signed them."""

from __future__ import annotations

import pytest

from extproc.dialects.conversation import Thinking, Vendor
from extproc.dialects.openai_responses.items import encrypted_content, thinking_of


@pytest.mark.parametrize(
    "thinking",
    [
        Thinking("hm", "sig.with.dots", Vendor.ANTHROPIC),
        Thinking("", "data", Vendor.ANTHROPIC, redacted=True),
        Thinking("hm", "QQ==", Vendor.GOOGLE),
        Thinking("hm", "gAAAAB.x", Vendor.OPENAI),
    ],
)
def test_there_and_back(thinking: Thinking) -> None:
    assert thinking_of(thinking.text, encrypted_content(thinking), "") == thinking


def test_openais_item_keeps_its_id_and_unsigned_thoughts_hold_nothing() -> None:
    assert thinking_of("", "enc", "rs_1").item_id == "rs_1"
    assert encrypted_content(Thinking("hm")) == ""
