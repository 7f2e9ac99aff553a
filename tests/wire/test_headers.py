from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.values.dialect import OPERATION_BY_PATH, Operation
from extproc.values.envelope import ENVELOPE_FIELDS, Envelope
from extproc.values.refusal import Refusal, RefusalCode
from extproc.wire.errors import WireError
from extproc.wire.headers import (
    CREDENTIAL_HEADERS,
    MAX_KEY_BYTES,
    MAX_METADATA_BYTES,
    SESSION_HEADERS,
    HeaderNames,
    api_key,
    client_timeout_ms,
)

Pairs = list[tuple[str, bytes]]
NAMES = HeaderNames("x-tfy-")
PATH = (":path", b"/v1/chat/completions")
KEY = ("authorization", b"Bearer sk-secret")
JSON = ("content-type", b"application/json")


class Read(NamedTuple):
    """Everything that the headers say."""

    operation: Operation
    api_key: bytes
    claims: Envelope
    request_id: str
    remove: Sequence[str]


def read(headers: Pairs, names: HeaderNames = NAMES) -> Read:
    caller = names.parse(headers)
    key = api_key(caller.authorization, caller.x_api_key)
    claims = names.claims(caller.identity)
    return Read(caller.operation, key, claims, caller.request_id, caller.remove)


def parse(*more: tuple[str, bytes]) -> Read:
    return read([PATH, KEY, JSON, *more])


def refused(headers: Pairs) -> Refusal:
    with pytest.raises(WireError) as caught:
        read(headers)
    return caught.value.refusal


def refused_with(*more: tuple[str, bytes]) -> Refusal:
    return refused([PATH, KEY, JSON, *more])


def test_the_seven_headers() -> None:
    caller = parse(
        ("x-tfy-project", b"platform-search"),
        ("x-tfy-team", b"data-platform"),
        ("x-tfy-user-id", b"alice@example.com"),
        ("x-tfy-session-id", b"s:1"),
        ("x-tfy-workflow-tag", b"classify-intent"),
        ("x-tfy-environment", b"production"),
        ("x-tfy-cost-center", b"eng_002.a"),
    )
    assert caller.operation is Operation.CHAT_COMPLETIONS
    assert caller.api_key == b"sk-secret"
    assert caller.claims == Envelope(
        "platform-search",
        "data-platform",
        "alice@example.com",
        "s:1",
        "classify-intent",
        "production",
        "eng_002.a",
    )
    assert caller.remove == []


def test_prefix_is_configurable() -> None:
    names = HeaderNames("x-acme-")
    caller = read([PATH, KEY, JSON, ("x-acme-team", b"a"), ("x-tfy-team", b"b")], names)
    assert caller.claims.team == "a"
    assert "x-acme-cost-center" in names.identity


@pytest.mark.parametrize(("path", "operation"), OPERATION_BY_PATH.items())
@pytest.mark.parametrize("query", ["", "?beta=true", "?a=1?b=2"])
def test_operation_is_told_by_the_path_without_its_query(
    path: str, operation: Operation, query: str
) -> None:
    caller = read([(":path", (path + query).encode()), KEY, JSON])
    assert caller.operation is operation


@pytest.mark.parametrize(
    "path",
    [b"", b"/", b"/v1/files", b"/v1/messages/", b"/V1/messages", b"/v1//messages", b"/v1/\xff"],
)
def test_unlisted_path_is_not_found(path: bytes) -> None:
    assert refused([(":path", path), KEY, JSON]).status == 404


def test_a_list_of_models_needs_no_media_type() -> None:
    assert read([(":path", b"/v1/models"), KEY]).operation is Operation.MODELS


# -- identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ENVELOPE_FIELDS)
@pytest.mark.parametrize("values", [(b"alice", b"bob"), (b"alice", b"alice"), (b"", b"bob")])
def test_F02_identity_header_twice_refused(field: str, values: tuple[bytes, bytes]) -> None:
    name = "x-tfy-" + field.replace("_", "-")
    refusal = refused_with((name, values[0]), ("accept", b"*/*"), (name, values[1]))
    assert refusal.code is RefusalCode.DUPLICATE_IDENTITY
    assert refusal.param == name


@pytest.mark.parametrize("name", ["x-tfy-metadata", *SESSION_HEADERS])
def test_F02_metadata_and_session_headers_twice_refused(name: str) -> None:
    value = b'{"team":"a"}' if name == "x-tfy-metadata" else b"a"
    refusal = refused_with((name, value), (name, value))
    assert (refusal.code, refusal.param) == (RefusalCode.DUPLICATE_IDENTITY, name)


@pytest.mark.parametrize("name", ["x_tfy_user_id", "x-tfy-user_id", "x_tfy-user-id"])
def test_F03_underscore_spelling_is_never_an_identity(name: str) -> None:
    # Envoy drops such names; if one came through it must not count, and not be forwarded
    # where it begins like ours.
    caller = parse(("x-tfy-user-id", b"alice"), (name, b"root"))
    assert caller.claims.user_id == "alice"
    assert caller.remove == ([name] if name.startswith("x-tfy-") else [])


@pytest.mark.parametrize("value", [b"alice,bob", b"alice, bob", b",", b"alice,"])
@pytest.mark.parametrize("field", ["project", "user-id", "cost-center"])
def test_F04_comma_refused(field: str, value: bytes) -> None:
    refusal = refused_with(("x-tfy-" + field, value))
    assert refusal.code is RefusalCode.INVALID_REQUEST
    assert refusal.param == "x-tfy-" + field
    assert "alice" not in refusal.message


@pytest.mark.parametrize("value", [b"", b" ", b"\t "])
def test_F05_blank_is_the_same_as_missing(value: bytes) -> None:
    assert parse(("x-tfy-user-id", value)).claims == parse().claims == Envelope()
    assert parse(("x-tfy-metadata", value)).claims == Envelope()
    assert parse(("x-amp-thread-id", value)).claims == Envelope()


@given(st.binary(max_size=140))
def test_F06_any_bytes_are_an_exact_identifier_or_a_400(value: bytes) -> None:
    for name in ("x-tfy-user-id", "x-claude-code-session-id", "x-tfy-metadata"):
        try:
            claims = parse((name, value)).claims
        except WireError as error:
            refusal = error.refusal
            assert refusal.status == 400
            assert refusal.param == name
            continue
        claimed = [claim for claim in claims if claim]
        if value.strip(b" \t") and name != "x-tfy-metadata":
            assert claimed == [value.decode("ascii")]


@given(
    st.text(min_size=1, max_size=20).filter(lambda text: not text.isascii())
    | st.sampled_from(
        ["аlice", "ａlice", "alice\u200b", "alice\u0301", "alicé", "\u212aate", "ali\u00adce"]
    )
)
def test_F07_look_alikes_are_refused_never_folded(text: str) -> None:
    assert refused_with(("x-tfy-user-id", text.encode())).status == 400
    assert refused_with(("x-tfy-metadata", orjson.dumps({"user_id": text}))).status == 400


def test_F07_case_and_dots_are_kept() -> None:
    assert parse(("x-tfy-user-id", b"Alice.")).claims.user_id == "Alice."


@pytest.mark.parametrize("field", ENVELOPE_FIELDS)
def test_identifier_length_is_bounded(field: str) -> None:
    name = "x-tfy-" + field.replace("_", "-")
    assert getattr(parse((name, b"x" * 128)).claims, field) == "x" * 128
    assert refused_with((name, b"x" * 129)).param == name


# -- the JSON form --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["user_id", "user-id", "User-ID", "X-TFY-User-ID", "x_tfy_user_id", "us\\u0065r_id"]
)
def test_metadata_spells_fields_like_policies_or_like_headers(key: str) -> None:
    document = b'{"project": "p", "%s": "alice"}' % key.encode()
    claims = parse(("x-tfy-metadata", document)).claims
    assert claims == Envelope(project="p", user_id="alice")


def test_metadata_may_repeat_but_not_contradict_a_header() -> None:
    team = ("x-tfy-team", b"a")
    assert parse(team, ("x-tfy-metadata", b'{"team":"a"}')).claims.team == "a"
    assert parse(team, ("x-tfy-metadata", b'{"team":""}')).claims.team == "a"
    refusal = refused_with(team, ("x-tfy-metadata", b'{"team":"b"}'))
    assert (refusal.code, refusal.param) == (RefusalCode.DUPLICATE_IDENTITY, "x-tfy-team")


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b'{"team":"a","team":"b"}', RefusalCode.DUPLICATE_KEY),
        (b'{"team":"a","t\\u0065am":"b"}', RefusalCode.DUPLICATE_KEY),
        (b'{"team":"a","Team":"b"}', RefusalCode.DUPLICATE_IDENTITY),
        (b'{"user_id":"a","x-tfy-user-id":"b"}', RefusalCode.DUPLICATE_IDENTITY),
        (b'{"team":1}', RefusalCode.INVALID_REQUEST),
        (b'{"team":null}', RefusalCode.INVALID_REQUEST),
        (b'{"team":["a"]}', RefusalCode.INVALID_REQUEST),
        (b'{"teem":"a"}', RefusalCode.INVALID_REQUEST),
        (b'{"wor\xe2\x84\xaaflow_tag":"a"}', RefusalCode.INVALID_REQUEST),
        (b'{"team":"a b"}', RefusalCode.INVALID_REQUEST),
        (b'{"team":"\xff"}', RefusalCode.INVALID_REQUEST),
        (b'{"team":"a"', RefusalCode.INVALID_REQUEST),
        (b'["team"]', RefusalCode.INVALID_REQUEST),
        (b"team=a", RefusalCode.INVALID_REQUEST),
        (b'{"team":"' + b"a" * MAX_METADATA_BYTES + b'"}', RefusalCode.INVALID_REQUEST),
    ],
)
def test_metadata_that_cannot_be_believed_refused(document: bytes, code: RefusalCode) -> None:
    assert refused_with(("x-tfy-metadata", document)).code is code


def test_an_unknown_field_is_named() -> None:
    assert "teem" in refused_with(("x-tfy-metadata", b'{"teem":"a"}')).message
    odd = refused_with(("x-tfy-metadata", b'{"a\\r\\nb":"a"}'))
    assert "\n" not in odd.message


# -- sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SESSION_HEADERS)
def test_agents_own_session_headers_stand_in(name: str) -> None:
    assert parse((name, b"T-1/a=")).claims.session_id == "T-1/a="
    assert parse((name, b"T-1"), ("x-tfy-session-id", b"mine")).claims.session_id == "mine"
    assert refused_with((name, b"a b")).param == name


def test_the_most_specific_session_header_wins_in_any_order() -> None:
    pairs = [(name, name.encode()) for name in SESSION_HEADERS]
    assert parse(*pairs).claims.session_id == SESSION_HEADERS[0]
    assert parse(*reversed(pairs)).claims.session_id == SESSION_HEADERS[0]
    assert parse((SESSION_HEADERS[0], b" "), *pairs[1:]).claims.session_id == SESSION_HEADERS[1]


# -- credentials ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pairs",
    [
        [("authorization", b"Bearer k1")],
        [("authorization", b"bearer  k1 ")],
        [("x-api-key", b"k1")],
        [("authorization", b"Bearer k1"), ("x-api-key", b"k1")],
        [("authorization", b""), ("x-api-key", b"k1")],
        [("authorization", b"Bearer k1"), ("x-api-key", b"")],
    ],
)
def test_one_key_in_either_header(pairs: Pairs) -> None:
    assert read([PATH, JSON, *pairs]).api_key == b"k1"


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("authorization", b"")],
        [("authorization", b"Bearer")],
        [("authorization", b"Bearer ")],
        [("authorization", b"Basic azE=")],
        [("authorization", b"k1")],
        [("authorization", b"Bearer k1 k2")],
        [("authorization", b"Bearer k\xff")],
        [("authorization", b"Bearer k\x00")],
        [("authorization", b"Basic azE="), ("x-api-key", b"k1")],
        [("authorization", b"Bearer k1"), ("x-api-key", b"k2")],
        [("authorization", b"Bearer k1"), ("authorization", b"Bearer k1")],
        [("x-api-key", b"k1"), ("x-api-key", b"k1")],
        [("x-api-key", b"k 1")],
        [("x-api-key", b"k" * (MAX_KEY_BYTES + 1))],
        [("authorization", b"Bearer " + b"k" * (MAX_KEY_BYTES + 1))],
        [("api-key", b"k1")],
    ],
)
def test_anything_but_one_good_key_is_a_401(pairs: Pairs) -> None:
    refusal = refused([PATH, JSON, *pairs])
    assert refusal.code is RefusalCode.INVALID_CREDENTIAL
    assert "k1" not in refusal.message


def test_the_credential_is_judged_before_anything_that_a_stranger_could_probe() -> None:
    bad = [("x-tfy-team", b"a b"), ("content-type", b"text/plain")]
    assert refused([PATH, *bad]).status == 401


# -- media type, stripping ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b'application/json;Charset="UTF-8"',
        b"application/json; profile=x",
    ],
)
def test_json_is_accepted(value: bytes) -> None:
    assert read([PATH, KEY, ("content-type", value)])


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("content-type", b"")],
        [("content-type", b"text/plain")],
        [("content-type", b"application/jsonx")],
        # Whoever is behind us may read it by its word: +AHQ- is a t in UTF-7.
        [("content-type", b"application/json; charset=utf-7")],
        [("content-type", b"application/json; charset=utf-16le")],
        [("content-type", b"application/json; charset=utf-8; charset=utf-7")],
        [("content-type", b"application/json; x=y;CHARSET = ibm037")],
        [("content-type", b"multipart/form-data; boundary=application/json")],
        [JSON, ("content-encoding", b"gzip")],
        [JSON, ("content-encoding", b"identity, br")],
    ],
)
def test_any_other_body_is_a_415(pairs: Pairs) -> None:
    assert refused([PATH, KEY, *pairs]).status == 415


def test_content_type_twice_refused() -> None:
    refusal = refused_with(("content-type", b"text/plain"))
    assert (refusal.status, refusal.param) == (400, "content-type")


def test_what_has_no_fixed_name_is_removed_by_name() -> None:
    caller = parse(
        ("x-tfy-provider-name", b"a"),
        ("x-tfy-request-timeout", b"250"),
        ("x-amz-security-token", b"a"),
        ("x-claude-code-agent-id", b"a"),
        ("anthropic-beta", b"a"),
        ("x-tfy-team", b"a"),
        ("user-agent", b"a"),
    )
    assert caller.remove == [
        "x-tfy-provider-name",
        "x-tfy-request-timeout",
        "x-amz-security-token",
        "x-claude-code-agent-id",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "x-vertex-ai-llm-shared-request-type",  # priority: nearly twice the price
        "x-vertex-ai-llm-request-type",
        "x-amzn-bedrock-service-tier",
        "x-amzn-bedrock-performanceconfig-latency",
        "x-amzn-bedrock-guardrailidentifier",
        "x-ms-spillover-deployment",
    ],
)
def test_a_header_that_chooses_a_dearer_variant_reaches_no_provider(name: str) -> None:
    assert parse((name, b"priority")).remove == [name]


def test_every_identity_and_credential_header_is_stripped_by_name_or_by_route() -> None:
    identity = [f"x-tfy-{field.replace('_', '-')}" for field in ENVELOPE_FIELDS]
    identity += ["x-tfy-metadata", *SESSION_HEADERS]
    assert set(identity) == set(NAMES.identity)
    assert {"authorization", "x-api-key", "cookie", "api-key"} <= set(CREDENTIAL_HEADERS)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*NAMES.identity, *CREDENTIAL_HEADERS, "x-request-id", "x"]),
            st.binary(max_size=20),
        )
    )
)
def test_arbitrary_headers_raise_only_the_typed_error(pairs: Pairs) -> None:
    try:
        caller = read([PATH, JSON, *pairs])
    except WireError as error:
        text = error.refusal.message + (error.refusal.param or "")
        assert text.isascii()
        assert text.isprintable()
        return
    assert caller.api_key
    assert all(claim.isascii() for claim in caller.claims)


@pytest.mark.parametrize(
    ("pairs", "timeout_ms"),
    [
        ([], None),
        ([("x-stainless-timeout", b"600")], 600_000),
        ([("x-stainless-read-timeout", b"600.0")], 600_000),
        ([("x-stainless-timeout", b"2"), ("x-stainless-read-timeout", b"1.5")], 1_500),
        ([("x-stainless-timeout", b"0")], 0),
        ([("x-stainless-timeout", b"999999999")], 86_400_000),
        ([("x-stainless-timeout", b"NOT_GIVEN")], None),
        ([("x-stainless-timeout", b"None")], None),
        ([("x-stainless-timeout", b"-1")], None),
        ([("x-stainless-timeout", b"inf")], None),
        ([("x-stainless-timeout", b"\xff")], None),
        ([("x-stainless-timeout", b"1" * 400)], None),
        ([("x-timeout", b"1")], None),
    ],
)
def test_how_long_the_callers_sdk_waits(pairs: Pairs, timeout_ms: int | None) -> None:
    assert client_timeout_ms(pairs) == timeout_ms
