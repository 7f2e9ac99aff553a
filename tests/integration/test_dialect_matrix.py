"""Every caller's API at every target's, through the real Envoy: what callers ask for and what
providers answer, whole and streamed.

Callers are the official SDKs, targets the demo provider in each provider's own dialect, as strict
as the real APIs, its bill the judge of all counts. What is asked for, and which of it is refused or
asked without something, is what ``docs/dialects.md`` publishes: both are made of the same requests
by the same code (``docs/generate.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import anthropic
import httpx
import openai
import pytest
from gateway import BUDGET, GATEWAY, KEY, Gateway, base_policy, virtual_model
from published import generator
from sdk_callers import Caller, ChatCaller, MessagesCaller, ResponsesCaller, Told

from extproc.demo.parts import DEFAULT_REASONING_TOKENS, PNG
from extproc.values.dialect import Dialect, Operation

Json = dict[str, Any]


class Target(NamedTuple):
    """Where the virtual model of the same name leads."""

    name: str
    dialect: Dialect
    settings: str = ""

    @property
    def model(self) -> str:
        """Of the provider."""
        name: str = generator.MODELS[self.speaks][0]
        return name

    @property
    def speaks(self) -> Dialect:
        """The API that it is asked in."""
        return Dialect.OPENAI if self.dialect is Dialect.AZURE_OPENAI else self.dialect

    @property
    def is_claude(self) -> bool:
        """Who made the model."""
        return "claude" in self.model

    def is_translated(self, operation: Operation) -> bool:
        """Whether the caller's requests are translated for it."""
        if operation is Operation.RESPONSES and self.settings:
            return True
        return operation.dialect is not self.speaks


TARGETS = [
    Target("openai", Dialect.OPENAI),
    Target("compatible", Dialect.OPENAI, ", responses: false"),
    Target("azure", Dialect.AZURE_OPENAI),
    Target("anthropic", Dialect.ANTHROPIC),
    Target("gemini", Dialect.GEMINI),
    Target("bedrock", Dialect.BEDROCK),
]
CALLERS = (ChatCaller, ResponsesCaller, MessagesCaller)
PRICE = {"input": 1_000_000, "cached_input": 100_000, "cache_write": 1_250_000, "output": 5_000_000}
THOUGHTS = "First I weigh what each token would buy"
WORDS = {"Tokens", "buy", "outcomes", "only", "when", "somebody", "counts", "both", "of", "them"}


class Rig(NamedTuple):
    """The gateway, its demo provider, and who asks."""

    gateway: Gateway
    demo: httpx.Client
    callers: dict[Operation, Caller]

    def faults(self, target: Target, **faults: Any) -> None:
        """What the provider of a target does from now on; it is strict whatever else."""
        body = {"strict": True, "keep_bodies": True, **faults}
        self.demo.put(f"/faults/{target.name}", json=body).raise_for_status()

    def billed(self, since: int) -> list[Json]:
        """The provider's bill after some lines."""
        lines: list[Json] = self.demo.get(f"/bill?since={since}").json()
        return lines

    def requests(self) -> int:
        """Lines on the bill."""
        return int(self.demo.get("/bill/total").json()["requests"])


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """At its end all that was settled is the bill, but for streams that broke off or lied:
    these are charged at what was reserved, and the tests of them say so."""
    providers = "".join(
        f"  {one.name}: {{dialect: {one.dialect}, base_url: 'https://x.invalid', "
        f"credential: 'env:NO', demo: native{one.settings}}}\n"
        for one in TARGETS
    )
    prices = "".join(
        f"  - {{provider: {one.name}, model: {one.model}, input_usd_per_mtok: 1, "
        "cached_input_usd_per_mtok: 0.1, cache_write_usd_per_mtok: 1.25, "
        "output_usd_per_mtok: 5}\n"
        for one in TARGETS
    )
    models = {one.name: virtual_model(one.name, one.name, one.model, 5_000) for one in TARGETS}
    policy = base_policy(**models, money=BUDGET)
    del policy["models.yaml"]
    head = GATEWAY[: GATEWAY.index("providers:")]
    head = head.format(digest=hashlib.sha256(KEY.encode()).hexdigest())
    policy["gateway.yaml"] = f"{head}providers:\n{providers}prices:\n{prices}"
    gateway = Gateway(tmp_path_factory.mktemp("matrix"), policy).start()
    callers = {one.operation: one(gateway.url, KEY) for one in CALLERS}
    with httpx.Client(base_url=gateway.demo) as demo:
        for target in TARGETS:
            demo.put(f"/prices/{target.model}", json=PRICE).raise_for_status()
        yield Rig(gateway, demo, callers)
        settled = gateway.settled("all/usd")
        assert settled - EXCESS.micro_usd == gateway.billed_micro_usd()
    assert gateway.stop() == 0


class Excess:
    """What streams that broke, or that lied, were charged above their bill."""

    micro_usd = 0


EXCESS = Excess()


@contextmanager
def never_undercharged(gateway: Gateway) -> Iterator[None]:
    """What happens inside is charged at its bill or above."""
    before = gateway.settled("all/usd"), gateway.billed_micro_usd()
    yield
    excess = gateway.settled("all/usd") - before[0]
    excess -= gateway.billed_micro_usd() - before[1]
    assert excess >= 0
    EXCESS.micro_usd += excess


def cell_id(value: object) -> str:
    """The name of a parameter."""
    if isinstance(value, bool):
        return "stream" if value else "json"
    return value.name.lower() if isinstance(value, Operation | Target) else str(value)


EACH_CELL = [
    pytest.mark.parametrize("stream", [False, True], ids=cell_id),
    pytest.mark.parametrize("target", TARGETS, ids=cell_id),
    pytest.mark.parametrize("operation", [one.operation for one in CALLERS], ids=cell_id),
]


def each_cell(test: Any) -> Any:
    """The whole matrix."""
    for mark in EACH_CELL:
        test = mark(test)
    return test


def asked(operation: Operation, row: str, target: Target) -> Json:
    """A request of the published matrix, to a target."""
    rows: Json = generator.rows(operation)
    return {**rows[row], "model": target.name}


KINDS = {
    "plain": ("text", "text"),
    "tools": ("tools", "tools"),
    "parallel tools": ("tools", "parallel_tools"),
    "image": ("image", "text"),
    "schema": ("JSON schema", "json"),
    "thinking": ("thinking", "thinking"),
    "refusal": ("text", "refusal"),
}
"""What is asked for, by its row in the published matrix, and what the provider answers."""


@each_cell
@pytest.mark.parametrize("kind", KINDS)
def test_a_cell(rig: Rig, operation: Operation, target: Target, kind: str, stream: bool) -> None:
    row, answer = KINDS[kind]
    request = asked(operation, row, target)
    verdict = generator.verdict(operation, target.speaks, request)
    assert not verdict.refused, "no kind of answer is beyond any target"
    written = 5 if target.is_claude else 0  # OpenAI's chat and Google tell no writes
    rig.faults(target, answer=answer, cached_tokens=6, cache_write_tokens=written)
    before = rig.requests()
    told = rig.callers[operation].ask(request, stream=stream)
    (line,) = rig.billed(before)
    assert line["dialect"] == target.speaks
    assert line["stream"] is stream
    check_counts(told, line)
    check_meaning(told, kind, line, operation, target)


def check_counts(told: Told, line: Json) -> None:
    """What the SDK says was used is what the provider bills."""
    assert told.input_tokens == line["input_tokens"]
    assert told.output_tokens == line["output_tokens"]
    assert told.cached_tokens == line["cached_tokens"] == 6
    assert told.cache_write_tokens == line["cache_write_tokens"]


END = {
    Operation.CHAT_COMPLETIONS: ("stop", "tool_calls"),
    Operation.RESPONSES: ("completed", "completed"),
    Operation.MESSAGES: ("end_turn", "tool_use"),
}


def check_meaning(told: Told, kind: str, line: Json, operation: Operation, target: Target) -> None:
    """What the SDK gives its caller is what the provider said."""
    end, called = END[operation]
    assert told.refused is (kind == "refusal")
    if kind == "refusal":
        # Google gives a reason and no words.
        assert bool(told.text) is (target.speaks is not Dialect.GEMINI)
        assert told.text.split()[:2] in ([], ["I", "cannot"])
        return
    calls = {"tools": 1, "parallel tools": 2}.get(kind, 0)
    assert told.calls == [("f", {"a": f"sample {place + 1}"}) for place in range(calls)]
    assert len(set(told.call_ids)) == calls
    assert told.end == (called if calls else end)
    if kind == "schema":
        assert json.loads(told.text) == {"a": "sample"}
    elif calls != 1:
        assert set(told.text.split()) <= WORDS
        assert told.text
    if kind == "image":
        assert PNG in line["body"]
    hidden = target.speaks is Dialect.OPENAI and (
        operation is not Operation.RESPONSES or target.is_translated(operation)
    )
    assert told.thoughts.strip() == (THOUGHTS if kind == "thinking" and not hidden else "")
    if kind == "thinking" and target.speaks is not Dialect.BEDROCK:  # which counts them as others
        assert told.reasoning_tokens == DEFAULT_REASONING_TOKENS


ERRORS: dict[int, tuple[type[Exception], type[Exception]]] = {
    400: (openai.BadRequestError, anthropic.BadRequestError),
    403: (openai.PermissionDeniedError, anthropic.PermissionDeniedError),
    429: (openai.RateLimitError, anthropic.RateLimitError),
    503: (openai.InternalServerError, anthropic.InternalServerError),
}
"""By status, the typed errors of the two SDKs."""
AWS_NAMES = {
    400: "ValidationException",
    403: "AccessDeniedException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}
"""What AWS calls them, in a header of its answer."""


@each_cell
@pytest.mark.parametrize("status", ERRORS)
def test_an_error(
    rig: Rig, operation: Operation, target: Target, status: int, stream: bool
) -> None:
    rig.faults(target, status=status)
    kind = ERRORS[status][operation is Operation.MESSAGES]
    with pytest.raises(kind) as raised:
        rig.callers[operation].ask(asked(operation, "text", target), stream=stream)
    error: Any = raised.value
    assert error.status_code == status
    assert "The demo provider was told to fail." in str(error)
    if target.speaks is Dialect.BEDROCK and operation is not Operation.MESSAGES:
        assert error.code == AWS_NAMES[status]


@pytest.mark.parametrize("target", TARGETS, ids=cell_id)
@pytest.mark.parametrize("operation", [one.operation for one in CALLERS], ids=cell_id)
def test_a_stream_that_fails(rig: Rig, operation: Operation, target: Target) -> None:
    """Told as each SDK tells it, and charged at no less than it was billed."""
    rig.faults(target, answer="error")
    with (
        never_undercharged(rig.gateway),
        pytest.raises((openai.APIError, anthropic.APIStatusError)) as raised,
    ):
        rig.callers[operation].ask(asked(operation, "text", target), stream=True)
    assert "The demo provider was told to fail." in str(raised.value)


@pytest.mark.parametrize(
    "lie", ["negative", "huge", "string", "float", "missing_field", "zero", "decreasing", "twice"]
)
@pytest.mark.parametrize("target", [TARGETS[0], *TARGETS[3:]], ids=cell_id)
def test_F54_usage_that_lies_never_lowers_the_charge_of_what_is_translated(
    rig: Rig, target: Target, lie: str
) -> None:
    """Of each API's streams; for which caller they are read changes nothing."""
    chat, messages = Operation.CHAT_COMPLETIONS, Operation.MESSAGES
    operation = chat if target.is_translated(chat) else messages
    rig.faults(target, falsify_usage=lie)
    request = asked(operation, "stream", target)
    with never_undercharged(rig.gateway):
        assert rig.callers[operation].send(request).status_code == 200


PUBLISHED = [
    (operation, dialect, row)
    for operation in (one.operation for one in CALLERS)
    for dialect in generator.columns(operation)
    for row in generator.rows(operation)
]


@pytest.mark.parametrize(("operation", "dialect", "row"), PUBLISHED, ids=cell_id)
def test_what_is_published_is_true(
    rig: Rig, operation: Operation, dialect: Dialect, row: str
) -> None:
    """Refused by the caller's own field, or taken by the strict provider and answered, with what
    was left out in the answer's header."""
    (target, *_) = (
        one for one in TARGETS if one.dialect is dialect and one.is_translated(operation)
    )
    rig.faults(target)
    request = asked(operation, row, target)
    verdict = generator.verdict(operation, dialect, request)
    caller, before = rig.callers[operation], rig.requests()
    if verdict.refused:
        with pytest.raises(caller.status_error) as raised:
            caller.send(request)
        error: Any = raised.value
        assert error.status_code == 400
        assert verdict.refused in str(error)
        assert rig.billed(before) == []
        return
    sent = caller.send(request)
    assert sent.headers.get("x-tfy-dropped", "") == ",".join(verdict.dropped)
    assert sent.status_code == 200
    (line,) = rig.billed(before)
    assert (line["dialect"], line["state"]) == (dialect, "completed")
