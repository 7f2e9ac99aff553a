"""Providers and clients that misbehave: what is delivered, what is charged."""

from __future__ import annotations

import json

import httpx
import pytest
from gateway import BUDGET, HEADERS, Gateway, base_policy, chat


@pytest.fixture
def gateway(module_gateway) -> Gateway:
    gateway = module_gateway(base_policy(budget=BUDGET))
    gateway.clear_faults()
    return gateway


class Charge:
    """What one piece of a test adds to ledger and bill."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._ledger = gateway.settled("all/usd")
        self._bill = gateway.billed_micro_usd()

    @property
    def ledger(self) -> int:
        return self._gateway.settled("all/usd") - self._ledger

    @property
    def bill(self) -> int:
        return self._gateway.billed_micro_usd() - self._bill


def both(gateway: Gateway, **faults: object) -> None:
    """The same faults for both targets of the split."""
    for provider in ("anthropic", "bedrock"):
        gateway.faults(provider, **faults)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_F48_a_client_that_leaves_is_charged(gateway: Gateway, path: str) -> None:
    both(gateway, chunk_delay_ms=20, output_tokens=60, bill_after_disconnect=True)
    charge = Charge(gateway)
    headers = {**HEADERS, "anthropic-version": "2023-06-01"}
    body = chat(stream=True, max_tokens=60)
    with httpx.stream("POST", gateway.url + path, json=body, headers=headers) as answer:
        next(answer.iter_bytes())
    assert charge.ledger >= charge.bill > 0


@pytest.mark.parametrize("stream", [False, True])
def test_F49_no_usage_reported_is_charged_at_the_reservation(
    gateway: Gateway, stream: bool
) -> None:
    both(gateway, omit_usage=True)
    charge = Charge(gateway)
    assert gateway.post(chat(stream=stream)).status_code == 200
    assert charge.ledger >= charge.bill > 0


def test_F49_a_stream_that_is_cut_is_charged_at_the_reservation(gateway: Gateway) -> None:
    both(gateway, cut_after_events=4)
    charge = Charge(gateway)
    with pytest.raises(httpx.HTTPError):
        gateway.post(chat(stream=True))
    assert charge.ledger >= charge.bill > 0


@pytest.mark.parametrize("lie", ["negative", "huge", "string", "float", "missing_field"])
@pytest.mark.parametrize("stream", [False, True])
def test_F54_usage_that_lies_never_lowers_the_charge(
    gateway: Gateway, lie: str, stream: bool
) -> None:
    both(gateway, falsify_usage=lie)
    charge = Charge(gateway)
    assert gateway.post(chat(stream=stream)).status_code == 200
    assert charge.ledger >= charge.bill > 0


def test_F55_compressed_answers_are_asked_not_to_be_and_still_charged(gateway: Gateway) -> None:
    charge = Charge(gateway)
    assert gateway.post(headers={"accept-encoding": "gzip, br"}).status_code == 200
    assert charge.ledger == charge.bill
    both(gateway, gzip=True)
    charge = Charge(gateway)
    assert gateway.post().json()["choices"]
    assert charge.ledger >= charge.bill > 0


@pytest.mark.parametrize(
    "how",
    [
        {"split_bytes": 1},
        {"split_bytes": 7},
        {"crlf": True},
        {"comments": True},
        {"crlf": True, "split_bytes": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("asked", [False, True])
def test_F50_the_injected_usage_chunk_is_hidden_however_the_stream_is_cut(
    gateway: Gateway, how: dict[str, object], asked: bool
) -> None:
    both(gateway, output_tokens=12, **how)
    charge = Charge(gateway)
    body = chat(stream=True, max_tokens=50)
    if asked:
        body["stream_options"] = {"include_usage": True}
    text = gateway.post(body).text.replace("\r\n", "\n")
    events = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    words = [c["choices"][0]["delta"].get("content") for c in chunks if c["choices"]]
    assert sum(bool(word) for word in words) == 12
    usages = [chunk for chunk in chunks if not chunk["choices"]]
    assert len(usages) == (1 if asked else 0)
    assert charge.ledger == charge.bill


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_F53_a_failed_attempt_costs_nothing_and_the_next_target_answers(
    gateway: Gateway, status: int
) -> None:
    both(gateway, status=status)
    charge = Charge(gateway)
    answer = gateway.post()
    assert answer.status_code == 200
    assert answer.headers["x-tfy-resolved-model"] == "openai/gpt-4o-mini"
    assert json.loads(answer.text)["model"] == "gpt-4o-mini"
    assert charge.ledger == charge.bill > 0


def test_when_every_target_fails_the_caller_gets_the_providers_own_answer(gateway: Gateway) -> None:
    for provider in ("anthropic", "bedrock", "openai", "vertex"):
        gateway.faults(provider, status=503)
    charge = Charge(gateway)
    answer = gateway.post()
    assert answer.status_code == 503
    assert "told to fail" in answer.text
    assert charge.ledger == charge.bill == 0
