"""Bedrock as botocore meets it at the demo provider."""

from __future__ import annotations

import json
from typing import Any

import botocore.exceptions
import httpx
import pytest
from demo_provider import Demo

HAIKU = "anthropic.claude-haiku-4-5"
MESSAGES = [{"role": "user", "content": [{"text": "hello"}]}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = {"tools": [{"toolSpec": {"name": "get_weather", "inputSchema": {"json": SCHEMA}}}]}


def both_ways(client: Any, model: str = HAIKU, **fields: Any) -> tuple[dict[str, Any], list[Any]]:
    asked = {"modelId": model, "messages": MESSAGES, **fields}
    return client.converse(**asked), list(client.converse_stream(**asked)["stream"])


def named(events: list[dict[str, Any]], name: str) -> list[Any]:
    return [event[name] for event in events if name in event]


def deltas(events: list[dict[str, Any]], kind: str) -> list[Any]:
    found = [event["delta"] for event in named(events, "contentBlockDelta")]
    return [delta[kind] for delta in found if kind in delta]


def test_botocore_json_and_stream_report_what_is_billed(demo: Demo, bedrock_sdk: Any) -> None:
    demo.faults("aws", cached_tokens=4, cache_write_tokens=3)
    whole, events = both_ways(bedrock_sdk, inferenceConfig={"maxTokens": 100})
    (text,) = whole["output"]["message"]["content"]
    assert "".join(deltas(events, "text")) == text["text"]
    assert named(events, "messageStop")[0]["stopReason"] == whole["stopReason"] == "end_turn"
    (metadata,) = named(events, "metadata")
    for usage, line in zip((whole["usage"], metadata["usage"]), demo.bill(2), strict=True):
        assert usage == {
            "inputTokens": line["input_tokens"] - 7,
            "outputTokens": 32,
            "totalTokens": line["input_tokens"] + 32,
            "cacheReadInputTokens": 4,
            "cacheWriteInputTokens": 3,
            "cacheDetails": [{"ttl": "5m", "inputTokens": 3}],
        }
        millionths = usage["inputTokens"] * 100 + 4 * 10 + 3 * 125 + 32 * 500
        assert line["micro_usd"] == -(-millionths // 100)
        assert (line["model"], line["key_end"], line["state"]) == (HAIKU, "our4", "completed")


def test_model_ids_with_colons_and_slashes_are_decoded(demo: Demo, bedrock_sdk: Any) -> None:
    names = (
        "eu.anthropic.claude-haiku-4-5-20251001-v1:0",
        "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu.anthropic.claude",
    )
    for name in names:
        both_ways(bedrock_sdk, name)
    assert [line["model"] for line in demo.bill(4)] == [names[0]] * 2 + [names[1]] * 2


@pytest.mark.parametrize("model", [HAIKU, "eu.anthropic.claude-haiku-4-5-20251001-v1:0"])
def test_signatures_are_verified_where_the_secret_is_known(
    demo: Demo, bedrock_sdk: Any, model: str
) -> None:
    demo.faults("aws", aws_secret="secret")
    both_ways(bedrock_sdk, model)
    demo.faults("aws", aws_secret="another")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        bedrock_sdk.converse(modelId=model, messages=MESSAGES)
    assert caught.value.response["Error"]["Code"] == "InvalidSignatureException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    bare = httpx.post(f"{demo.bedrock_url}/model/{HAIKU}/converse", json={"messages": MESSAGES})
    assert bare.status_code == 403
    assert "Missing Authentication Token" in bare.json()["message"]
    assert [line["status"] for line in demo.bill(4)] == [200, 200, 403, 403]


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "ValidationException"),
        (403, "AccessDeniedException"),
        (429, "ThrottlingException"),
        (503, "ServiceUnavailableException"),
    ],
)
def test_errors_are_typed_by_their_header(
    demo: Demo, bedrock_sdk: Any, status: int, name: str
) -> None:
    demo.faults("aws", status=status)
    for call in (bedrock_sdk.converse, bedrock_sdk.converse_stream):
        with pytest.raises(getattr(bedrock_sdk.exceptions, name)):
            call(modelId=HAIKU, messages=MESSAGES)


def test_tools_and_thinking_in_both_ways(demo: Demo, bedrock_sdk: Any) -> None:
    demo.faults("aws", answer="thinking_tools")
    whole, events = both_ways(bedrock_sdk, toolConfig=TOOLS)
    thought, call = whole["output"]["message"]["content"]
    reasoning = thought["reasoningContent"]["reasoningText"]
    streamed = deltas(events, "reasoningContent")
    assert "".join(piece.get("text", "") for piece in streamed) == reasoning["text"]
    assert streamed[-1] == {"signature": reasoning["signature"]}
    assert call["toolUse"]["name"] == "get_weather"
    assert call["toolUse"]["input"] == {"city": "sample 1"}
    (start,) = named(events, "contentBlockStart")
    assert start["start"]["toolUse"]["name"] == "get_weather"
    pieces = [piece["input"] for piece in deltas(events, "toolUse")]
    assert len(pieces) > 1
    assert json.loads("".join(pieces)) == {"city": "sample 1"}
    assert named(events, "messageStop")[0]["stopReason"] == whole["stopReason"] == "tool_use"


def test_parallel_tools_json_refusal_image_and_length(demo: Demo, bedrock_sdk: Any) -> None:
    demo.faults("aws", answer="parallel_tools")
    whole, events = both_ways(bedrock_sdk, toolConfig=TOOLS)
    assert ["toolUse" in block for block in whole["output"]["message"]["content"]] == [0, 1, 1]
    ids = [start["start"]["toolUse"]["toolUseId"] for start in named(events, "contentBlockStart")]
    assert len(set(ids)) == 2
    demo.faults("aws", answer="json")
    structure = {"jsonSchema": {"name": "a", "schema": json.dumps(SCHEMA)}}
    wanted = {"textFormat": {"type": "json_schema", "structure": structure}}
    whole, events = both_ways(bedrock_sdk, outputConfig=wanted)
    assert json.loads("".join(deltas(events, "text"))) == {"city": "sample"}
    demo.faults("aws", answer="refusal")
    whole, events = both_ways(bedrock_sdk)
    assert (
        named(events, "messageStop")[0]["stopReason"] == whole["stopReason"] == "content_filtered"
    )
    demo.faults("aws", answer="image")
    whole, events = both_ways(bedrock_sdk)
    image = whole["output"]["message"]["content"][1]["image"]["source"]["bytes"]
    assert image.startswith(b"\x89PNG")
    assert deltas(events, "image")[0]["source"]["bytes"] == image
    demo.faults("aws", answer="long")
    whole, _ = both_ways(bedrock_sdk, inferenceConfig={"maxTokens": 50})
    assert (whole["stopReason"], whole["usage"]["outputTokens"]) == ("max_tokens", 50)
    demo.faults("aws", answer="redacted_thinking")
    whole, events = both_ways(bedrock_sdk)
    withheld = whole["output"]["message"]["content"][0]["reasoningContent"]["redactedContent"]
    assert deltas(events, "reasoningContent") == [{"redactedContent": withheld}]


def test_an_exception_inside_a_stream_is_typed_and_bills_what_was_sent(
    demo: Demo, bedrock_sdk: Any
) -> None:
    demo.faults("aws", answer="error")
    with pytest.raises(bedrock_sdk.exceptions.ServiceUnavailableException):
        bedrock_sdk.converse(modelId=HAIKU, messages=MESSAGES)
    stream = bedrock_sdk.converse_stream(modelId=HAIKU, messages=MESSAGES)["stream"]
    with pytest.raises(botocore.exceptions.EventStreamError) as caught:
        list(stream)
    assert caught.value.response["Error"]["Code"] == "modelStreamErrorException"
    lines = demo.bill(2)
    assert [(line["status"], line["output_tokens"]) for line in lines] == [(503, 0), (200, 3)]


@pytest.mark.parametrize("how", [{"split_bytes": 3}, {"crlf": True}, {"comments": True}], ids=str)
def test_the_binary_stream_survives_every_way_of_writing(
    demo: Demo, bedrock_sdk: Any, how: dict[str, Any]
) -> None:
    _, plain = both_ways(bedrock_sdk)
    demo.faults("aws", **how)
    _, events = both_ways(bedrock_sdk)
    assert events == plain


def test_lies_are_told_but_the_bill_is_true(demo: Demo, bedrock_sdk: Any) -> None:
    demo.faults("aws", falsify_usage="zero")
    whole, events = both_ways(bedrock_sdk)
    assert whole["usage"]["outputTokens"] == 0
    assert named(events, "metadata")[0]["usage"]["outputTokens"] == 0
    demo.faults("aws", omit_usage=True, no_done=True)
    whole, events = both_ways(bedrock_sdk)
    assert "usage" not in whole
    assert not named(events, "messageStop")
    assert {line["output_tokens"] for line in demo.bill(4)} == {32}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": "hi"},
        {"messages": [{"role": "user"}]},
        {"messages": MESSAGES, "inferenceConfig": {"maxTokens": 0}},
    ],
    ids=str,
)
def test_bad_requests_are_refused(demo: Demo, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{demo.bedrock_url}/model/{HAIKU}/converse", json=body)
    assert answer.status_code == 400
    assert answer.headers["x-amzn-errortype"].startswith("ValidationException:")
    assert answer.json()["message"]
