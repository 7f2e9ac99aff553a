"""The demo provider as its users meet it: the official SDKs, its faults, its bill."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from demo_provider import HAIKU, MESSAGES, VERSION, Demo


def test_chat_sdk_json_and_stream_report_what_is_billed(
    demo: Demo, openai_sdk: openai.OpenAI
) -> None:
    whole = openai_sdk.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    chunks = list(
        openai_sdk.chat.completions.create(
            model="gpt-4o-mini",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [bool(c.usage) for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    for usage, line in zip((whole.usage, chunks[-1].usage), demo.bill(2), strict=True):
        assert (usage.prompt_tokens, usage.completion_tokens) == (line["input_tokens"], 32)
        assert line["micro_usd"] == -(-(line["input_tokens"] * 150 + 32 * 600) // 1000)
        assert line["key_end"] == "one1"
        assert line["state"] == "completed"


def test_responses_sdk_json_and_stream(openai_sdk: openai.OpenAI) -> None:
    whole = openai_sdk.responses.create(model="gpt-4o", input="hello")
    events = list(openai_sdk.responses.create(model="gpt-4o", input="hello", stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage == whole.usage
    assert [event.sequence_number for event in events] == list(range(len(events)))
    short = openai_sdk.responses.create(model="gpt-4o", input="hello", max_output_tokens=3)
    assert short.status == "incomplete"
    assert short.usage.output_tokens == 3


def test_embeddings_completions_and_models_sdk(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    made = openai_sdk.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    assert [len(one.embedding) for one in made.data] == [8, 8]
    assert made.usage.prompt_tokens == demo.bill(1)[0]["input_tokens"]
    told = openai_sdk.completions.create(model="gpt-4o", prompt="hello", max_tokens=2)
    assert told.usage.completion_tokens == 2
    parts = openai_sdk.completions.create(model="gpt-4o", prompt="hello", max_tokens=2, stream=True)
    assert "".join(part.choices[0].text for part in parts) == told.choices[0].text
    assert "gpt-4o-mini" in [model.id for model in openai_sdk.models.list()]


def test_messages_sdk_json_stream_and_count_tokens(
    demo: Demo, anthropic_sdk: anthropic.Anthropic
) -> None:
    asked: Any = {"model": HAIKU, "max_tokens": 5, "messages": MESSAGES}
    whole = anthropic_sdk.messages.create(**asked)
    with anthropic_sdk.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert streamed.content[0].text == whole.content[0].text
    assert streamed.stop_reason == whole.stop_reason == "max_tokens"
    assert streamed.usage.output_tokens == whole.usage.output_tokens == 5
    counted = anthropic_sdk.messages.count_tokens(model=HAIKU, messages=MESSAGES)
    lines = demo.bill(2)
    assert {line["input_tokens"] for line in lines} == {counted.input_tokens}
    assert {line["micro_usd"] for line in lines} == {counted.input_tokens + 25}
    assert {line["key_end"] for line in lines} == {"two2"}


def test_async_sdks(demo: Demo) -> None:
    async def ask() -> tuple[Any, Any]:
        async with (
            openai.AsyncOpenAI(base_url=demo.openai_url, api_key="k") as one,
            anthropic.AsyncAnthropic(base_url=demo.anthropic_url, api_key="k") as two,
        ):
            parts = await one.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, stream=True
            )
            text = "".join([part.choices[0].delta.content or "" async for part in parts])
            message = await two.messages.create(model=HAIKU, max_tokens=40, messages=MESSAGES)
            return text, message.content[0].text

    text, message = asyncio.run(ask())
    assert text == message


@pytest.mark.parametrize("faults", [{}, {"cached_tokens": 6, "cache_write_tokens": 4}], ids=str)
def test_usage_shapes_of_cached_and_reasoning_tokens(
    demo: Demo, anthropic_sdk: anthropic.Anthropic, faults: dict[str, int]
) -> None:
    demo.faults("anthropic", **faults)
    demo.faults("openai", reasoning_tokens=10, **faults)
    cached, written = faults.get("cached_tokens", 0), faults.get("cache_write_tokens", 0)
    usage = anthropic_sdk.messages.create(model=HAIKU, max_tokens=9, messages=MESSAGES).usage
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (cached, written)
    told = demo.chat().json()["usage"]
    assert told["completion_tokens_details"]["reasoning_tokens"] == 10
    assert told["completion_tokens"] == 32
    assert told["prompt_tokens_details"]["cached_tokens"] == cached
    line = demo.bill(2)[0]
    assert usage.input_tokens == line["input_tokens"] - cached - written
    millionths = usage.input_tokens * 100 + cached * 10 + written * 125 + 9 * 500
    assert line["micro_usd"] == -(-millionths // 100)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/openai/v1/chat/completions", {"messages": MESSAGES}),
        ("/openai/v1/chat/completions", {"model": "m"}),
        ("/openai/v1/chat/completions", {"model": "m", "messages": "hi"}),
        ("/openai/v1/chat/completions", {"model": "m", "messages": MESSAGES, "max_tokens": True}),
        ("/openai/v1/responses", {"model": "m"}),
        ("/openai/v1/embeddings", {"model": "m", "input": 3}),
        ("/openai/v1/chat/completions", ["not", "an", "object"]),
        ("/anthropic/v1/messages", {"model": HAIKU, "messages": MESSAGES}),
    ],
)
def test_bad_requests_get_the_real_shape_and_cost_nothing(
    demo: Demo, path: str, body: object
) -> None:
    answer = httpx.post(f"{demo.url}/any{path}", json=body, headers=VERSION)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert [(line["status"], line["micro_usd"]) for line in demo.bill(1)] == [(400, 0)]


def test_messages_without_a_version_are_refused(demo: Demo) -> None:
    body = {"model": HAIKU, "max_tokens": 5, "messages": MESSAGES}
    answer = httpx.post(f"{demo.anthropic_url}/v1/messages", json=body)
    assert "anthropic-version" in answer.json()["error"]["message"]


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_F53_a_status_is_raised_typed_and_billed_nothing(
    demo: Demo, anthropic_sdk: anthropic.Anthropic, status: int
) -> None:
    demo.faults("anthropic", status=status, retry_after="-7", first_n=1)
    with pytest.raises(anthropic.APIStatusError) as caught:
        anthropic_sdk.messages.create(model=HAIKU, max_tokens=5, messages=MESSAGES)
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "-7"
    anthropic_sdk.messages.create(model=HAIKU, max_tokens=5, messages=MESSAGES)
    costs = [(line["status"], line["micro_usd"] > 0) for line in demo.bill(2)]
    assert costs == [(status, False), (200, True)]


def test_F53_html_redirect_and_an_error_with_200(demo: Demo) -> None:
    demo.faults(html_error=True)
    assert demo.chat().headers["content-type"].startswith("text/html")
    demo.faults(redirect=True)
    assert demo.chat().status_code == 302
    demo.faults(error_200=True)
    answer = demo.chat()
    assert (answer.status_code, list(answer.json())) == (200, ["error"])
    assert {line["micro_usd"] for line in demo.bill(3)} == {0}


LIES = {
    "negative": -7,
    "huge": 10**18,
    "string": "34",
    "float": 2.5,
    "zero": 0,
    "missing_field": None,
    "decreasing": 16,
    "over_max_tokens": 1001,
    "twice": 32,
}


@pytest.mark.parametrize("lie", LIES)
def test_F54_lies_are_told_but_the_bill_is_true(demo: Demo, lie: str) -> None:
    demo.faults(falsify_usage=lie)
    assert demo.chat(max_tokens=100).json()["usage"].get("completion_tokens") == LIES[lie]
    stream = demo.chat(max_tokens=100, stream=True, stream_options={"include_usage": True}).text
    usages = [chunk["usage"] for chunk in _chunks(stream) if chunk["usage"]]
    assert len(usages) == (2 if lie in ("twice", "decreasing") else 1)
    assert usages[-1].get("completion_tokens") == LIES[lie]
    assert [line["output_tokens"] for line in demo.bill(2)] == [32, 32]


def test_F49_usage_and_the_end_marker_can_be_left_out(demo: Demo) -> None:
    demo.faults(omit_usage=True, no_done=True)
    assert "usage" not in demo.chat().json()
    text = demo.chat(stream=True, stream_options={"include_usage": True}).text
    assert "[DONE]" not in text
    assert not any(chunk["usage"] for chunk in _chunks(text))


@pytest.mark.parametrize("how", [{"split_bytes": 1}, {"crlf": True}, {"comments": True}], ids=str)
def test_F50_the_same_events_however_they_are_written(demo: Demo, how: dict[str, Any]) -> None:
    plain = _contents(demo.chat(stream=True).text)
    demo.faults(**how)
    text = demo.chat(stream=True).text
    assert ("\r\n" in text) == ("crlf" in how)
    assert (": keep-alive" in text) == ("comments" in how)
    assert _contents(text) == plain


def test_F55_gzip_though_identity_was_asked(demo: Demo) -> None:
    demo.faults(gzip=True)
    for stream in (False, True):
        body = {"model": "gpt-4o", "messages": MESSAGES, "stream": stream}
        headers = {"accept-encoding": "identity"}
        answer = httpx.post(f"{demo.openai_url}/chat/completions", json=body, headers=headers)
        assert answer.headers["content-encoding"] == "gzip"
        assert "Tokens" in answer.text


@pytest.mark.parametrize(("everything", "billed"), [(False, 3), (True, 32)])
def test_F52_a_cut_stream_bills_what_was_sent(demo: Demo, everything: bool, billed: int) -> None:
    demo.faults(cut_after_events=4, bill_after_disconnect=everything)
    with pytest.raises(httpx.HTTPError):
        demo.chat(stream=True)
    assert [(x["state"], x["output_tokens"]) for x in demo.bill(1)] == [("failed", billed)]


@pytest.mark.parametrize("everything", [False, True])
def test_F48_a_client_that_leaves_is_billed(demo: Demo, everything: bool) -> None:
    demo.faults(chunk_delay_ms=20, bill_after_disconnect=everything)
    body = {"model": "gpt-4o", "messages": MESSAGES, "stream": True}
    with httpx.stream("POST", f"{demo.openai_url}/chat/completions", json=body) as answer:
        next(answer.iter_bytes())
    (line,) = demo.bill(1)
    assert line["state"] == "disconnected"
    assert line["micro_usd"] > 0
    assert (line["output_tokens"] == 32) == everything


@pytest.mark.parametrize("hang", ["before_headers", "after_headers", "mid_stream"])
def test_F51_a_hang_ends_with_the_client_and_bills_the_input(demo: Demo, hang: str) -> None:
    demo.faults(hang=hang)
    body = {"model": "gpt-4o", "messages": MESSAGES, "stream": True}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{demo.openai_url}/chat/completions", json=body, timeout=0.3)
    (line,) = demo.bill(1)
    assert line["state"] == "disconnected"
    assert line["input_tokens"] > 0
    assert line["output_tokens"] == (2 if hang == "mid_stream" else 0)


def test_the_byte_mode_counts_the_whole_body_and_the_template(demo: Demo) -> None:
    demo.faults(tokenizer="byte", hidden_template_tokens=100, keep_bodies=True)
    demo.chat()
    (line,) = demo.bill(1)
    assert line["input_tokens"] == len(line["body"].encode()) + 100


def test_headers_set_faults_for_one_request(demo: Demo) -> None:
    url, body = f"{demo.openai_url}/chat/completions", {"model": "m", "messages": MESSAGES}
    answer = httpx.post(url, json=body, headers={"x-demo-output-tokens": "3"})
    assert answer.json()["usage"]["completion_tokens"] == 3
    assert demo.chat().json()["usage"]["completion_tokens"] == 32
    assert httpx.post(url, json=body, headers={"x-demo-nonsense": "3"}).status_code == 400


def test_prices_can_be_set_and_unknown_models_are_dear(demo: Demo) -> None:
    demo.chat(model="mystery")
    price = {"input": 0, "cached_input": 0, "cache_write": 0, "output": 1_000_000}
    httpx.put(f"{demo.url}/prices/mystery", json=price).raise_for_status()
    demo.chat(model="mystery")
    dear, cheap = demo.bill(2)
    assert dear["micro_usd"] == dear["input_tokens"] * 15 + 32 * 75
    assert cheap["micro_usd"] == 32
    assert httpx.put(f"{demo.url}/prices/mystery", json={"input": 1}).status_code == 400


def test_a_refused_fault_changes_nothing(demo: Demo) -> None:
    assert httpx.put(f"{demo.url}/faults/openai", json={"stat": 500}).status_code == 400
    assert demo.chat().status_code == 200


def test_the_bill_adds_up_in_memory_and_on_disk(demo: Demo, server: tuple[str, Path]) -> None:
    for _ in range(3):
        demo.chat()
    lines = demo.bill(3)
    total = httpx.get(f"{demo.url}/bill/total").json()
    assert total == {"micro_usd": sum(line["micro_usd"] for line in lines), "requests": 3}
    assert httpx.get(f"{demo.url}/bill?since=2").json() == lines[2:]
    written = [json.loads(line) for line in server[1].read_text().splitlines()]
    assert written[-3:] == lines
    assert httpx.get(f"{demo.url}/bill?since=x").status_code == 400


def test_five_hundred_streams_at_once(demo: Demo) -> None:
    demo.faults(chunk_delay_ms=20)
    host, port = demo.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "gpt-4o", "messages": MESSAGES, "stream": True, "max_tokens": 10})
    head = f"POST /openai/openai/v1/chat/completions HTTP/1.1\r\nhost: {host}\r\n"
    request = f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()

    async def one() -> bool:
        reader, writer = await asyncio.open_connection(host, int(port), family=socket.AF_INET)
        writer.write(request)
        answer = await reader.read(-1)
        writer.close()
        return b"[DONE]" in answer

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(one() for _ in range(500)))

    assert all(asyncio.run(all_of_them()))
    assert {line["state"] for line in demo.bill(500)} == {"completed"}


def _chunks(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line[:5] == "data:"]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def _contents(text: str) -> list[str | None]:
    return [chunk["choices"][0]["delta"].get("content") for chunk in _chunks(text)]
