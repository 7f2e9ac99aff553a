"""What providers may write into ``Retry-After``, and what is made of it."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.wire.retry_after import MAX_RETRY_AFTER_MS, retry_after_ms

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("value", "expected_ms"),
    [
        ("0", 0),
        ("1", 1_000),
        (" 30 ", 30_000),
        ("1.5", 1_500),
        ("86400", MAX_RETRY_AFTER_MS),
        ("86401", MAX_RETRY_AFTER_MS),
        ("9" * 400, MAX_RETRY_AFTER_MS),
        ("-1", 0),
        ("-99999999999999999999", 0),
        ("", 0),
        ("soon", 0),
        ("1e9", 0),
        ("inf", 0),
        ("NaN", 0),
        ("0x10", 0),
        ("1,5", 0),
        ("\u0663\u0663", 0),
        ("1_000", 0),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10_000),
        ("Tue, 14 Nov 2023 22:13:20 GMT", 0),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_MS),
        ("Tue, 14 Nov 0000 22:13:30 GMT", 0),
        ("Tue, 31 Feb 2024 22:13:30 GMT", 0),
        ("Tue, 14 Nob 2023 22:13:30 GMT", 0),
        ("Tuesday, 14-Nov-23 22:13:30 GMT", 0),
    ],
)
def test_F53_a_wait_is_clamped_and_nonsense_is_none(value: str, expected_ms: int) -> None:
    assert retry_after_ms(value, NOW_MS) == expected_ms


@given(st.text(max_size=60))
def test_F53_any_text_is_a_wait_of_up_to_a_day(value: str) -> None:
    assert 0 <= retry_after_ms(value, NOW_MS) <= MAX_RETRY_AFTER_MS


@given(st.integers(0, 86_400))
def test_a_date_is_read_as_python_writes_it(seconds: int) -> None:
    until = datetime.fromtimestamp(NOW_MS // 1000 + seconds, UTC)
    assert retry_after_ms(format_datetime(until, usegmt=True), NOW_MS) == seconds * 1_000
