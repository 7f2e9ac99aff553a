from __future__ import annotations

import httpx
import pytest
from demo_provider import HAIKU, MESSAGES, VERSION, Demo


@pytest.mark.parametrize(
    ("header", "key"),
    [("authorization", "Bearer sk-1234"), ("x-api-key", "sk-1234"), ("x-goog-api-key", "AI-1234")],
)
def test_the_bill_knows_the_end_of_any_credential(demo: Demo, header: str, key: str) -> None:
    body = {"model": HAIKU, "max_tokens": 5, "messages": MESSAGES}
    url = f"{demo.anthropic_url}/v1/messages"
    httpx.post(url, json=body, headers={**VERSION, header: key}).raise_for_status()
    assert [line["key_end"] for line in demo.bill(1)] == ["1234"]


def test_google_takes_a_key_from_the_query(demo: Demo) -> None:
    body = {"contents": [{"parts": [{"text": "hi"}]}]}
    url = f"{demo.gemini_url}/v1beta/models/gemini-2.0-flash:generateContent?key=abc"
    httpx.post(url, json=body).raise_for_status()
