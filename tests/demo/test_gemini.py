"""Gemini and Vertex AI as the official SDK meets them at the demo provider."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from demo_provider import Demo
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

FLASH = "gemini-2.0-flash"
PRO = "gemini-3-pro"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOLS = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(name=name, parameters_json_schema=SCHEMA)
        for name in ("get_weather", "get_time")
    ]
)


def both_ways(
    client: genai.Client, model: str = FLASH, **config: Any
) -> tuple[types.GenerateContentResponse, list[types.GenerateContentResponse]]:
    asked: Any = {"model": model, "contents": "hello", "config": config}
    whole = client.models.generate_content(**asked)
    return whole, list(client.models.generate_content_stream(**asked))


def parts_of(chunks: list[types.GenerateContentResponse]) -> list[types.Part]:
    return [
        p for chunk in chunks for p in (chunk.candidates[0].content or types.Content()).parts or ()
    ]


def test_sdk_json_and_stream_report_what_is_billed(demo: Demo, google_sdk: genai.Client) -> None:
    demo.faults("google", cached_tokens=3, cache_write_tokens=4, reasoning_tokens=5)
    whole, chunks = both_ways(google_sdk)
    assert whole.text
    assert "".join(part.text or "" for part in parts_of(chunks)) == whole.text
    assert chunks[-1].candidates[0].finish_reason == whole.candidates[0].finish_reason == "STOP"
    for usage, line in zip(
        (whole.usage_metadata, chunks[-1].usage_metadata), demo.bill(2), strict=True
    ):
        assert usage.prompt_token_count == line["input_tokens"]
        assert (usage.candidates_token_count, usage.thoughts_token_count) == (27, 5)
        assert usage.cached_content_token_count == line["cached_tokens"] == 3
        assert usage.total_token_count == line["input_tokens"] + line["output_tokens"]
        assert (line["output_tokens"], line["cache_write_tokens"]) == (32, 0)
        millionths = (line["input_tokens"] - 3) * 100 + 3 * 25 + 32 * 400
        assert line["micro_usd"] == -(-millionths // 1000)
        assert (line["model"], line["key_end"], line["state"]) == (FLASH, "ree3", "completed")
    assert [line["stream"] for line in demo.bill(2)] == [False, True]


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_vertex_paths_and_bearer_tokens_are_served(demo: Demo, version: str) -> None:
    client = genai.Client(
        vertexai=True,
        project="p-1",
        location="europe-west1",
        credentials=Credentials("ya29.five"),
        http_options={"base_url": demo.gemini_url, "api_version": version},
    )
    assert client.models.generate_content(model=FLASH, contents="hi").text
    assert [line["key_end"] for line in demo.bill(1)] == ["five"]


def test_count_tokens_is_free_and_counts_what_is_billed(
    demo: Demo, google_sdk: genai.Client
) -> None:
    counted = google_sdk.models.count_tokens(model=FLASH, contents="hello")
    google_sdk.models.generate_content(model=FLASH, contents="hello")
    assert [line["input_tokens"] for line in demo.bill(1)] == [counted.total_tokens]


def test_a_call_without_a_key_is_refused_as_google_does(demo: Demo) -> None:
    body = {"contents": [{"parts": [{"text": "hi"}]}]}
    answer = httpx.post(f"{demo.gemini_url}/v1beta/models/{FLASH}:generateContent", json=body)
    assert answer.status_code == 403
    assert answer.json()["error"]["status"] == "PERMISSION_DENIED"
    assert [line["micro_usd"] for line in demo.bill(1)] == [0]


def test_streams_come_as_events_only(demo: Demo) -> None:
    url = f"{demo.gemini_url}/v1beta/models/{FLASH}:streamGenerateContent"
    body = {"contents": [{"parts": [{"text": "hi"}]}]}
    answer = httpx.post(url, json=body, headers={"x-goog-api-key": "k"})
    assert answer.status_code == 400
    assert "alt=sse" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("status", "name"),
    [(400, "INVALID_ARGUMENT"), (429, "RESOURCE_EXHAUSTED"), (503, "UNAVAILABLE")],
)
def test_errors_have_googles_shape(
    demo: Demo, google_sdk: genai.Client, status: int, name: str
) -> None:
    demo.faults("google", status=status)
    for call in (google_sdk.models.generate_content, google_sdk.models.generate_content_stream):
        with pytest.raises(errors.APIError) as caught:
            list(call(model=FLASH, contents="hi"))
        assert (caught.value.code, caught.value.status) == (status, name)


@pytest.mark.parametrize("contents", [None, [], "hi", [{"role": "user"}]])
def test_bad_contents_are_refused(demo: Demo, contents: Any) -> None:
    url = f"{demo.gemini_url}/v1beta/models/{FLASH}:generateContent"
    body = {} if contents is None else {"contents": contents}
    answer = httpx.post(url, json=body, headers={"x-goog-api-key": "k"})
    assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"


def test_calls_are_signed_from_gemini_3_on(demo: Demo, google_sdk: genai.Client) -> None:
    demo.faults("google", answer="parallel_tools")
    for model in (FLASH, PRO):
        whole, chunks = both_ways(google_sdk, model, tools=[TOOLS])
        for parts in (whole.candidates[0].content.parts, parts_of(chunks)):
            calls = [part for part in parts if part.function_call]
            assert [part.function_call.name for part in calls] == ["get_weather", "get_time"]
            assert calls[0].function_call.args == {"city": "sample 1", "days": 1}
            signed = [bool(part.thought_signature) for part in calls]
            assert signed == [model == PRO, False]
            assert bool(calls[0].function_call.id) == (model == PRO)


def test_thoughts_are_marked_and_counted(demo: Demo, google_sdk: genai.Client) -> None:
    demo.faults("google", answer="thinking")
    whole, chunks = both_ways(google_sdk)
    for answer, parts in (
        (whole, whole.candidates[0].content.parts),
        (chunks[-1], parts_of(chunks)),
    ):
        thoughts = "".join(part.text for part in parts if part.thought)
        assert thoughts.startswith("First I weigh")
        assert any(part.thought_signature for part in parts if not part.thought)
        assert answer.usage_metadata.thoughts_token_count == 8


def test_json_refusal_image_and_length(demo: Demo, google_sdk: genai.Client) -> None:
    demo.faults("google", answer="json")
    whole, chunks = both_ways(
        google_sdk, response_mime_type="application/json", response_json_schema=SCHEMA
    )
    assert json.loads(whole.text) == {"city": "sample", "days": 1}
    assert "".join(part.text for part in parts_of(chunks)) == whole.text
    demo.faults("google", answer="refusal")
    whole, chunks = both_ways(google_sdk)
    assert whole.candidates[0].finish_reason == chunks[-1].candidates[0].finish_reason == "SAFETY"
    assert not parts_of(chunks)
    demo.faults("google", answer="image")
    whole, chunks = both_ways(google_sdk)
    for parts in (whole.candidates[0].content.parts, parts_of(chunks)):
        assert [p.inline_data.mime_type for p in parts if p.inline_data] == ["image/png"]
    demo.faults("google", answer="long")
    whole, _ = both_ways(google_sdk, max_output_tokens=100)
    assert whole.candidates[0].finish_reason == "MAX_TOKENS"
    assert whole.usage_metadata.candidates_token_count == 100


def test_several_candidates_are_counted_together(demo: Demo, google_sdk: genai.Client) -> None:
    whole, chunks = both_ways(google_sdk, candidate_count=2)
    assert [c.index or 0 for c in whole.candidates] == [0, 1]
    assert whole.usage_metadata.candidates_token_count == 64
    assert chunks[-1].usage_metadata == whole.usage_metadata


def test_an_error_inside_a_stream_bills_what_was_sent(demo: Demo, google_sdk: genai.Client) -> None:
    demo.faults("google", answer="error")
    with pytest.raises(errors.ServerError):
        google_sdk.models.generate_content(model=FLASH, contents="hi")
    got = []
    with pytest.raises(errors.APIError):
        got.extend(google_sdk.models.generate_content_stream(model=FLASH, contents="hi"))
    lines = demo.bill(2)
    assert [(line["status"], line["state"]) for line in lines] == [(503, "failed"), (200, "failed")]
    assert lines[0]["micro_usd"] == 0
    assert lines[1]["input_tokens"] > 0


def test_lies_are_told_but_the_bill_is_true(demo: Demo, google_sdk: genai.Client) -> None:
    demo.faults("google", falsify_usage="zero")
    whole, chunks = both_ways(google_sdk)
    assert whole.usage_metadata.candidates_token_count == 0
    assert chunks[-1].usage_metadata.candidates_token_count == 0
    demo.faults("google", omit_usage=True)
    whole, chunks = both_ways(google_sdk)
    assert whole.usage_metadata is None
    assert not any(chunk.usage_metadata for chunk in chunks)
    assert {line["output_tokens"] for line in demo.bill(4)} == {32}
