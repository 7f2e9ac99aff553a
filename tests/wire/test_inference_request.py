from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.values.dialect import Operation
from extproc.values.refusal import Refusal, RefusalCode
from extproc.wire.errors import WireError
from extproc.wire.inference_request import (
    MAX_CHOICES,
    MAX_MODEL_CHARACTERS,
    MAX_PROMPTS,
    MAX_SEARCHED_BYTES,
    MAX_TOKENS,
    MAX_TOOL_OBJECTS,
    InferenceRequest,
    needs_usage_injected,
    parse_inference_request,
    renamed_maximum,
    rewrite,
)

CHAT = Operation.CHAT_COMPLETIONS
RESPONSES = Operation.RESPONSES
MESSAGES = Operation.MESSAGES
COMPLETIONS = Operation.COMPLETIONS
EMBEDDINGS = Operation.EMBEDDINGS

HELLO = [{"role": "user", "content": "hello"}]
MINIMAL: dict[Operation, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": HELLO},
    RESPONSES: {"model": "m", "input": HELLO},
    MESSAGES: {"model": "m", "max_tokens": 9, "messages": HELLO},
    COMPLETIONS: {"model": "m", "prompt": "hello"},
    EMBEDDINGS: {"model": "m", "input": "hello"},
}
ANY = pytest.mark.parametrize("operation", MINIMAL)
MAXIMUM_FIELDS = [
    (CHAT, "max_tokens"),
    (CHAT, "max_completion_tokens"),
    (COMPLETIONS, "max_tokens"),
    (RESPONSES, "max_output_tokens"),
    (MESSAGES, "max_tokens"),
]


def parse(operation: Operation, **more: Any) -> InferenceRequest:
    return parse_inference_request(operation, orjson.dumps(MINIMAL[operation] | more))


def parse_raw(operation: Operation, field: str, raw: bytes) -> InferenceRequest:
    """Parses a minimal body with one field given as raw JSON."""
    body = {key: value for key, value in MINIMAL[operation].items() if key != field}
    text = orjson.dumps(body)[:-1] + b',"%s":%s}' % (field.encode(), raw)
    return parse_inference_request(operation, text)


def refused(operation: Operation, field: str, raw: bytes) -> Refusal:
    with pytest.raises(WireError) as caught:
        parse_raw(operation, field, raw)
    return caught.value.refusal


@ANY
def test_minimal_request(operation: Operation) -> None:
    request = parse(operation)
    assert request.model == "m"
    assert request.operation is operation
    assert request.max_output_tokens == (9 if operation is MESSAGES else None)
    assert request.choices == 1
    assert request.generates is (operation is not EMBEDDINGS)
    assert request.body_bytes == len(orjson.dumps(MINIMAL[operation]))
    flags = (
        request.stream,
        request.input_by_reference,
        request.server_tools,
        request.priority_tier,
        request.asks_usage,
    )
    assert flags == (False,) * 5


# -- model and numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        *(b"null", b"1", b'""', b"[]", b'["m"]', b'{"m":1}', b"true"),
        b'"' + b"m" * (MAX_MODEL_CHARACTERS + 1) + b'"',
    ],
)
def test_model_must_be_a_name(raw: bytes) -> None:
    refusal = refused(CHAT, "model", raw)
    assert (refusal.code, refusal.param) == (RefusalCode.INVALID_REQUEST, "model")


def test_F26_escaped_spellings_of_key_and_value_are_decided_on_as_decoded() -> None:
    request = parse_inference_request(CHAT, b'{"mod\\u0065l":"\\u006dini","messages":[]}')
    assert request.model == "mini"
    assert rewrite(request, "t", None, False) == b'{"mod\\u0065l":"t","messages":[]}'


@pytest.mark.parametrize(("operation", "field"), MAXIMUM_FIELDS)
@pytest.mark.parametrize("tokens", [1, 100_000, MAX_TOKENS])
def test_F28_maximum_is_an_integer_in_range(operation: Operation, field: str, tokens: int) -> None:
    assert parse_raw(operation, field, b"%d" % tokens).max_output_tokens == tokens


@pytest.mark.parametrize(("operation", "field"), MAXIMUM_FIELDS)
@pytest.mark.parametrize(
    "raw",
    [
        *(
            b"-1",
            b"0",
            b"-0",
            b"1e5",
            b"1E400",
            b"1.0",
            b"100.5",
            b"9" * 30,
            b"%d" % (MAX_TOKENS + 1),
        ),
        *(b'"100"', b"true", b"false", b"[]", b"{}", b'"\\u0031"'),
    ],
)
def test_F28_any_other_maximum_is_a_400(operation: Operation, field: str, raw: bytes) -> None:
    refusal = refused(operation, field, raw)
    assert (refusal.status, refusal.param) == (400, field)


@pytest.mark.parametrize("raw", [b"NaN", b"Infinity", b"01", b"+1", b"0x1"])
def test_F28_what_is_no_json_number_is_a_400(raw: bytes) -> None:
    assert refused(CHAT, "max_tokens", raw).status == 400


def test_F28_null_is_the_same_as_absent() -> None:
    assert parse(CHAT, max_tokens=None).max_output_tokens is None
    assert parse(CHAT, max_tokens=None, max_completion_tokens=7).max_output_tokens == 7
    assert refused(MESSAGES, "max_tokens", b"null").param == "max_tokens"


def test_messages_without_a_maximum_refused() -> None:
    with pytest.raises(WireError, match="max_tokens is required"):
        parse_inference_request(MESSAGES, b'{"model":"m","messages":[]}')


def test_the_larger_of_two_maxima_bounds_whichever_is_used() -> None:
    assert parse(CHAT, max_tokens=5, max_completion_tokens=50).max_output_tokens == 50
    assert parse(CHAT, max_tokens=50, max_completion_tokens=5).max_output_tokens == 50


@pytest.mark.parametrize("raw", [b'"true"', b"1", b"[]"])
def test_stream_must_be_a_boolean(raw: bytes) -> None:
    assert refused(CHAT, "stream", raw).param == "stream"


# -- choices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "more", "choices"),
    [
        (CHAT, {"n": 3}, 3),
        (CHAT, {"n": None}, 1),
        (CHAT, {"n": MAX_CHOICES}, MAX_CHOICES),
        (COMPLETIONS, {"n": 2, "best_of": 5}, 5),
        (COMPLETIONS, {"prompt": ["a", "b", "c"], "n": 2}, 6),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}, 2),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, 1),
        (COMPLETIONS, {"prompt": []}, 1),
        (COMPLETIONS, {"prompt": ["a"] * MAX_PROMPTS}, MAX_PROMPTS),
    ],
)
def test_F30_every_output_that_is_paid_for_is_counted(
    operation: Operation, more: dict[str, Any], choices: int
) -> None:
    assert parse(operation, **more).choices == choices


@pytest.mark.parametrize(
    ("operation", "field", "raw"),
    [
        (CHAT, "n", b"1000"),
        (CHAT, "n", b"0"),
        (CHAT, "n", b"-1"),
        (CHAT, "n", b'"2"'),
        (COMPLETIONS, "best_of", b"1000"),
        (COMPLETIONS, "prompt", b"[" + b'"a",' * MAX_PROMPTS + b'"a"]'),
    ],
)
def test_F30_choices_are_capped(operation: Operation, field: str, raw: bytes) -> None:
    assert refused(operation, field, raw).param == field


# -- input by reference ---------------------------------------------------------------------------


def block(**more: Any) -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": "see"}, more]}]


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        (CHAT, {"messages": block(type="image_url", image_url={"url": "https://x/y.png"})}),
        (CHAT, {"messages": block(type="file", file={"file_id": "f"})}),
        (CHAT, {"messages": block(type="input_audio", input_audio={"data": ""})}),
        (CHAT, {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
        (CHAT, {"messages": block(type="video_url", video_url={"url": "u"})}),
        (MESSAGES, {"messages": block(type="image", source={"type": "base64", "data": ""})}),
        (MESSAGES, {"messages": block(type="document", source={"type": "url", "url": "u"})}),
        (MESSAGES, {"messages": block(type="container_upload", file_id="f")}),
        (MESSAGES, {"container": "c"}),
        (RESPONSES, {"input": block(type="input_image", image_url="u")}),
        (RESPONSES, {"input": block(type="input_image", file_id="f")}),
        (RESPONSES, {"input": block(type="input_file", file_data="")}),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        (RESPONSES, {"input": [{"id": "rs_1", "type": "reasoning", "summary": []}]}),
        (RESPONSES, {"previous_response_id": "r"}),
        (RESPONSES, {"conversation": "conv_1"}),
        (RESPONSES, {"conversation": {"id": "conv_1"}}),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
    ],
)
def test_input_that_the_bytes_do_not_bound(operation: Operation, more: dict[str, Any]) -> None:
    assert parse(operation, **more).input_by_reference
    spaced = json.dumps(MINIMAL[operation] | more, indent=1).encode()
    assert parse_inference_request(operation, spaced).input_by_reference


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","max_tokens":1,"messages":[{"content":[{"type":"im\\u0061ge"}]}]}',
        b'{"model":"m","max_tokens":1,"messages":[{"content":[{"type":"\\u0064ocument"}]}]}',
        b'{"model":"m","max_tokens":1,"messages":[{"content":[{"typ\\u0065":1}]}]}',
        b'{"model":"m","max_tokens":1,"messages":[],"cont\\u0061iner":"c"}',
        b'{"model":"m","max_tokens":1,"m\\u0065ssages":[{"content":[{"type":"image"}]}]}',
    ],
)
def test_escaped_spellings_hide_no_reference(body: bytes) -> None:
    assert parse_inference_request(MESSAGES, body).input_by_reference


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        (CHAT, {"messages": block(type="text", text='say "image_url" and \\"file\\"')}),
        (CHAT, {"messages": block(type="text", text="é\u0000\u001b[1m <b>\n")}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "read", "file": 1}}]}),
        (MESSAGES, {"messages": block(type="text", text='{"type": "image"}')}),
        (MESSAGES, {"container": None}),
        (RESPONSES, {"previous_response_id": None, "conversation": None, "prompt": None}),
        (RESPONSES, {"tools": [{"type": "function", "name": "f", "parameters": {"id": 1}}]}),
    ],
)
def test_text_that_talks_of_references_is_no_reference(
    operation: Operation, more: dict[str, Any]
) -> None:
    assert not parse(operation, **more).input_by_reference


def test_a_prompt_too_long_to_search_counts_as_one_with_references() -> None:
    messages = [{"role": "user", "content": "x" * (MAX_SEARCHED_BYTES + 1)}]
    assert parse(CHAT, messages=messages).input_by_reference


# -- what is billed beside tokens -----------------------------------------------------------------

OPENAI_SERVER_TOOLS = (
    "web_search",
    "web_search_preview",
    "file_search",
    "code_interpreter",
    "computer_use_preview",
    "mcp",
    "image_generation",
    "anything_new",
)
ANTHROPIC_SERVER_TOOLS = (
    "web_search_20250305",
    "web_fetch_20250910",
    "code_execution_20250825",
    "mcp_toolset",
    "tool_search_tool_regex_20251119",
    "bash_",
    "memory_2",
)
NAMESPACE = {"type": "namespace", "name": "mcp__x", "tools": [{"type": "function", "name": "f"}]}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        *(
            (RESPONSES, {"tools": [{"type": "function", "name": "f"}, {"type": kind}]})
            for kind in OPENAI_SERVER_TOOLS
        ),
        *(
            (MESSAGES, {"tools": [{"name": "f", "input_schema": {}}, {"type": kind}]})
            for kind in ANTHROPIC_SERVER_TOOLS
        ),
        (MESSAGES, {"tools": [{"type": "web_search_20250305", "max_uses": 1}]}),
        (MESSAGES, {"mcp_servers": [{"url": "u"}]}),
        (MESSAGES, {"context_management": {"edits": [{"type": "compact_20260112"}]}}),
        (CHAT, {"web_search_options": {}}),
        (CHAT, {"prediction": {"type": "content", "content": "x"}}),
        (CHAT, {"audio": {"voice": "alloy"}, "modalities": ["text", "audio"]}),
        (CHAT, {"models": ["dear/model"]}),
        (CHAT, {"plugins": [{"id": "web"}]}),
        (RESPONSES, {"tools": [{**NAMESPACE, "tools": [{"type": "mcp"}]}]}),
        (RESPONSES, {"tools": [{**NAMESPACE, "tools": []}]}),
        (RESPONSES, {"tools": [{"type": "namespace"}]}),
        (RESPONSES, {"tools": [{"type": "tool_search"}]}),
        (RESPONSES, {"tools": [{"type": "tool_search", "execution": "server"}]}),
        (CHAT, {"tools": "all"}),
        (CHAT, {"tools": [1]}),
        (CHAT, {"tools": [{"type": 7}]}),
        (CHAT, {"tools": [{}] * (MAX_TOOL_OBJECTS + 1)}),
    ],
)
def test_what_is_billed_beside_the_bounded_tokens(
    operation: Operation, more: dict[str, Any]
) -> None:
    assert parse(operation, **more).server_tools


@pytest.mark.parametrize(
    "raw",
    [
        b'[{"type":"web\\u005fsearch"}]',
        b'[{"typ\\u0065":"web_search"}]',
        b'[{"type":"function"},{"\\u0074ype":"mcp"}]',
        b'[ { "type" : "mcp" } ]',
    ],
)
def test_escaped_spellings_hide_no_server_tool(raw: bytes) -> None:
    assert parse_raw(RESPONSES, "tools", raw).server_tools


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        (CHAT, {"tools": [FUNCTION, {"type": "custom", "custom": {"name": "c"}}]}),
        (RESPONSES, {"tools": [NAMESPACE, {"type": "custom", "name": "apply_patch"}]}),
        (CHAT, {"tools": None}),
        (CHAT, {"tools": []}),
        (CHAT, {"web_search_options": None, "prediction": None, "audio": None}),
        (MESSAGES, {"tools": [{"name": "f", "input_schema": {}}, {"type": "custom"}]}),
        (MESSAGES, {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}),
    ],
)
def test_tools_of_the_caller_are_bounded(operation: Operation, more: dict[str, Any]) -> None:
    request = parse(operation, **more)
    assert not request.server_tools
    assert not request.input_by_reference


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        (MESSAGES, "bash_20250124"),
        (MESSAGES, "text_editor_20250728"),
        (MESSAGES, "computer_20250124"),
        (MESSAGES, "memory_20250818"),
        (RESPONSES, "local_shell"),
        (RESPONSES, "apply_patch"),
        (RESPONSES, "tool_search"),
    ],
)
def test_a_schema_that_the_provider_adds_is_not_bounded_by_the_bytes(
    operation: Operation, kind: str
) -> None:
    request = parse(operation, tools=[{"type": kind, "name": "x", "execution": "client"}])
    assert request.input_by_reference
    assert not request.server_tools


@pytest.mark.parametrize(
    ("field", "raw", "dear"),
    [
        ("service_tier", b'"priority"', True),
        ("service_tier", b'"pri\\u006frity"', True),
        ("service_tier", b'"something_new"', True),
        ("service_tier", b'"flex"', False),
        ("service_tier", b'"standard_only"', False),
        ("service_tier", b"null", False),
        ("speed", b'"fast"', True),
        ("speed", b'"standard"', False),
        ("inference_geo", b'"us"', True),
        ("inference_geo", b'"global"', False),
    ],
)
def test_dearer_variants(field: str, raw: bytes, dear: bool) -> None:
    assert parse_raw(MESSAGES, field, raw).priority_tier is dear


# -- rewriting ------------------------------------------------------------------------------------


@ANY
def test_only_the_model_changes(operation: Operation) -> None:
    body = json.dumps(MINIMAL[operation] | {"seed": 1.50, "x": "é\u2028"}).encode()
    request = parse_inference_request(operation, body)
    assert rewrite(request, "target/1", None, False) == body.replace(b'"m"', b'"target/1"')


@pytest.mark.parametrize(
    ("operation", "model", "field"),
    [
        (CHAT, "gpt-4o-mini", "max_tokens"),
        (CHAT, "llama-3.3-70b", "max_tokens"),
        (CHAT, "olmo-2", "max_tokens"),
        (CHAT, "o3", "max_completion_tokens"),
        (CHAT, "gpt-5-nano", "max_completion_tokens"),
        (CHAT, "openai/o1-mini", "max_completion_tokens"),
        (COMPLETIONS, "gpt-5", "max_tokens"),
        (RESPONSES, "gpt-5", "max_output_tokens"),
    ],
)
def test_injected_maximum_is_the_field_that_the_target_knows(
    operation: Operation, model: str, field: str
) -> None:
    request = parse(operation)
    rewritten = orjson.loads(rewrite(request, model, 77, False))
    assert rewritten == MINIMAL[operation] | {"model": model, field: 77}


def test_injected_maximum_takes_the_place_of_null() -> None:
    body = b'{"max_tokens":null,"model":"m","messages":[]}'
    rewritten = rewrite(parse_inference_request(CHAT, body), "t", 5, False)
    assert rewritten == b'{"max_tokens":5,"model":"t","messages":[]}'


@pytest.mark.parametrize(
    ("operation", "named", "expected"),
    [
        (CHAT, {"max_tokens": 100}, {"max_tokens": 77}),
        (CHAT, {"max_completion_tokens": 100}, {"max_completion_tokens": 77}),
        (CHAT, {"max_tokens": None, "max_completion_tokens": 100}, {"max_completion_tokens": 77}),
        (CHAT, {"max_tokens": 100, "max_completion_tokens": 200}, None),
        (CHAT, {"max_tokens": 10, "max_completion_tokens": 200}, {"max_completion_tokens": 77}),
        (CHAT, {"max_tokens": 10}, {}),
        (COMPLETIONS, {"max_tokens": 78}, {"max_tokens": 77}),
        (RESPONSES, {"max_output_tokens": 100}, {"max_output_tokens": 77}),
        (MESSAGES, {"max_tokens": 100}, {"max_tokens": 77}),
        (MESSAGES, {"max_tokens": 77}, {}),
    ],
)
def test_a_maximum_lowers_every_field_above_it_and_raises_none(
    operation: Operation, named: dict[str, Any], expected: dict[str, int] | None
) -> None:
    request = parse(operation, **named)
    rewritten = orjson.loads(rewrite(request, "gpt-5", 77, False))
    changed = dict.fromkeys(named, 77) if expected is None else expected
    assert rewritten == {**MINIMAL[operation], **named, "model": "gpt-5", **changed}


def test_edits_replace_whole_fields_and_nothing_else() -> None:
    body = b'{"model": "m", "reasoning_effort" : "high", "messages":[]}'
    request = parse_inference_request(CHAT, body)
    rewritten = rewrite(request, "t", None, False, {"reasoning_effort": b'"low"'})
    assert rewritten == b'{"model": "t", "reasoning_effort" : "low", "messages":[]}'


@pytest.mark.parametrize(
    ("model", "body", "expected"),
    [
        ("o3", b'{"model":"m","max_tokens":5}', b'{"model":"m","max_completion_tokens":5}'),
        ("m", b'{"model":"m","max_completion_tokens":5}', b'{"model":"m","max_tokens":5}'),
        ("m", b'{"model":"m","max_tokens":5}', b'{"model":"m","max_tokens":5}'),
        ("o3", b'{"x":"\\"max_tokens\\"","max_tokens" : 5,"model":"m"}',
         b'{"x":"\\"max_tokens\\"","max_completion_tokens" : 5,"model":"m"}'),
        ("o3", b'{"max_completion_tokens":null,"model":"m","max_tokens":5}',
         b'{"max_completion_tokens":5,"model":"m","max_tokens":null}'),
        ("o3", b'{"model":"m","max_tok\\u0065ns":5}', b'{"model":"m","max_tok\\u0065ns":5}'),
    ],
)  # fmt: skip
def test_F58_an_injected_maximum_moves_to_the_field_of_another_family(
    model: str, body: bytes, expected: bytes
) -> None:
    assert renamed_maximum(parse_inference_request(CHAT, body), model) == expected


def test_only_chat_has_two_fields_for_the_maximum() -> None:
    request = parse(RESPONSES, max_output_tokens=5)
    assert renamed_maximum(request, "o3") is request.body.body


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"", b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":null', b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":{}', b',"stream_options":{"include_usage":true}'),
        (
            b',"stream_options": {"include_usage": false, "x": 1.0}',
            b',"stream_options": {"include_usage": true, "x": 1.0}',
        ),
        (
            b',"stream_options":{"include_obfuscation":false}',
            b',"stream_options":{"include_obfuscation":false,"include_usage":true}',
        ),
    ],
)
def test_usage_is_asked_for_within_the_callers_options(options: bytes, expected: bytes) -> None:
    body = b'{"model":"m","stream":true' + options + b"}"
    request = parse_inference_request(CHAT, body)
    assert needs_usage_injected(request)
    rewritten = rewrite(request, "m", None, True)
    assert rewritten == b'{"model":"m","stream":true' + expected + b"}"
    again = parse_inference_request(CHAT, rewritten)
    assert again.asks_usage
    assert not needs_usage_injected(again)


@pytest.mark.parametrize("raw", [b"1", b"[]", b'{"a":1,"a":2}', b'"x"'])
def test_stream_options_must_be_an_object(raw: bytes) -> None:
    assert refused(CHAT, "stream_options", raw).param == "stream_options"


@pytest.mark.parametrize(
    ("operation", "stream", "needed"),
    [
        (CHAT, True, True),
        (COMPLETIONS, True, True),
        (CHAT, False, False),
        (MESSAGES, True, False),
        (RESPONSES, True, False),
    ],
)
def test_only_openai_chat_streams_need_to_be_asked(
    operation: Operation, stream: bool, needed: bool
) -> None:
    assert needs_usage_injected(parse(operation, stream=stream)) is needed


NUMBERS = st.none() | st.integers(-2, MAX_TOKENS + 2) | st.sampled_from(["5", 1.5, True])
BODIES = st.fixed_dictionaries(
    {"model": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)},
    optional={
        "max_tokens": NUMBERS,
        "max_completion_tokens": NUMBERS,
        "n": st.none() | st.integers(-1, MAX_CHOICES + 1),
        "stream": st.none() | st.booleans(),
        "stream_options": st.none() | st.just({}) | st.just({"include_usage": True}),
        "messages": st.just(HELLO),
        "seed": st.floats(allow_nan=False, allow_infinity=False),
    },
)


@given(BODIES, st.booleans())
def test_F26_what_the_provider_parses_is_what_was_decided(
    value: dict[str, Any], escaped: bool
) -> None:
    body = json.dumps(value, ensure_ascii=escaped).encode()
    try:
        request = parse_inference_request(CHAT, body)
    except WireError:
        return
    maximum = None if request.max_output_tokens is not None else 123
    inject_usage = needs_usage_injected(request)
    forwarded = json.loads(rewrite(request, "target", maximum, inject_usage))
    assert forwarded["model"] == "target"
    named = [forwarded.get("max_tokens"), forwarded.get("max_completion_tokens")]
    largest = max(tokens for tokens in named if tokens is not None)
    assert largest == (request.max_output_tokens or 123)
    assert (forwarded.get("n") or 1) == request.choices
    if request.stream:
        assert forwarded["stream"] is True
        assert forwarded["stream_options"]["include_usage"] is True
    rest = {"seed", "messages"} & value.keys()
    assert {key: forwarded[key] for key in rest} == {key: value[key] for key in rest}


@ANY
@given(st.binary(max_size=80))
def test_arbitrary_bytes_raise_only_the_typed_error(operation: Operation, body: bytes) -> None:
    with pytest.raises(WireError):
        parse_inference_request(operation, body)
    with pytest.raises(WireError):
        parse_inference_request(operation, b'{"model":"m","n":' + body + b'"}')
