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


def test_only_the_keys_that_are_named_are_taken(demo: Demo) -> None:
    demo.faults("openai", keys="sk-one,sk-two")
    for key, status in (("sk-one", 200), ("sk-two", 200), ("sk-three", 401), ("none", 401)):
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": "gpt-4o-mini", "messages": MESSAGES}
        answer = httpx.post(f"{demo.openai_url}/chat/completions", json=body, headers=headers)
        assert answer.status_code == status


def test_a_provider_may_give_its_callers_key_back(demo: Demo) -> None:
    demo.faults("openai", echo_key=True)
    headers = {"authorization": "Bearer sk-echo"}
    body = {"model": "gpt-4o-mini", "messages": MESSAGES}
    url = f"{demo.openai_url}/chat/completions"
    well = httpx.post(url, json=body, headers=headers)
    assert well.headers["x-received-authorization"] == "Bearer sk-echo"
    assert "sk-echo" not in well.text
    demo.faults("openai", echo_key=True, status=500)
    failed = httpx.post(url, json=body, headers=headers)
    assert failed.headers["x-received-authorization"] == "Bearer sk-echo"
    assert "Bearer sk-echo" in failed.json()["error"]["message"]


def test_azure_wants_its_header_and_its_version(demo: Demo) -> None:
    place = f"{demo.url}/az/azure/openai"
    body = {"model": "gpt-4o-mini", "messages": MESSAGES}
    dated = f"{place}/deployments/gpt-4o-mini/chat/completions"
    key = {"api-key": "k"}
    asked = [
        (f"{dated}?api-version=2024-10-21", key, 200),
        (f"{dated}?api-version=2024-10-21", {"authorization": "Bearer k"}, 401),
        (dated, key, 404),
        (f"{place}/v1/chat/completions", key, 200),
        (f"{place}/v1/chat/completions", {}, 401),
        (f"{place}/chat/completions?api-version=2024-10-21", key, 404),
    ]
    for url, headers, status in asked:
        assert httpx.post(url, json=body, headers=headers).status_code == status, url
    named = f"{demo.url}/azure/openai/v1/chat/completions"  # a provider that is called so
    assert httpx.post(named, json=body).status_code == 200
    assert {line["model"] for line in demo.bill(6)} == {"gpt-4o-mini", ""}
