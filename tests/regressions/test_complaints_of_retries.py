"""What users of other gateways complain of: 429 and retries (peers.md 3.8).

``docs/complaints.md`` lists every complaint with its test, or why it does not apply.
"""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from world import NOW, World, targets

from extproc.core.commands import Forward, Refuse, Reserve
from extproc.envoy.routes import RETRIABLE_STATUS_CODES
from extproc.ledger.port import Denied, Standing
from extproc.values.dialect import Dialect
from extproc.values.refusal import RefusalCode
from extproc.wire.error_body import refusal_body, refusal_headers

POLICY = """
name: chain
type: gateway-load-balancing-config
rules:
  - {id: one, weight: 1, target: {provider: anthropic, model: claude-haiku-4-5}}
fallbacks:
  - {id: two, provider: openai, model: gpt-4o}
  - {id: three, provider: vertex, model: gemini-2.0-flash}
---
name: limits
type: gateway-rate-limit-config
rules:
  - {id: few, when: {metadata: {X-TFY-Project: p2}}, limit: {requests: 1, window: 30s}}
---
name: money
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 0.02, window: daily}
"""


def asked(**fields: Any) -> dict[str, Any]:
    body = {"model": "chain", "messages": [{"role": "user", "content": "hi"}], **fields}
    return {"max_tokens": 500, **body}


def full(resets_ms: int, **fields: Any) -> Any:
    """What is said when the first limit is full and capacity returns by then."""
    world = World(POLICY)

    def denied(command: Reserve) -> Denied:
        hold = command.account.holds[0]
        return Denied([Standing(hold, hold.ceiling, 0, NOW + resets_ms)])

    world.reserve = denied  # type: ignore[method-assign]
    return world.ask(asked(), **fields)


def spent() -> Any:
    """What a spent budget says: it begins anew tomorrow."""
    return full(86_400_000)


def test_litellm_4695_a_limit_that_gives_way_says_when() -> None:
    """Clients want to know how long to wait: whole seconds, which is all that Claude Code reads."""
    refused = full(29_500, project="p2")
    assert refused.refusal.code is RefusalCode.RATE_LIMIT_EXCEEDED
    assert dict(refusal_headers(refused.refusal))["retry-after"] == "30"


def test_litellm_19985_no_target_is_tried_twice_for_one_request() -> None:
    """A fallback began the cycle of retries anew: the same call was executed again and again."""
    command = World(POLICY).ask(asked())
    names = targets(command)
    assert len(names) == len(set(names)) == 3


def test_litellm_3274_a_provider_that_limits_us_is_left_at_once() -> None:
    """The fallback came after waiting for the provider that had said 429."""
    assert 429 in RETRIABLE_STATUS_CODES
    assert 529 in RETRIABLE_STATUS_CODES


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.ANTHROPIC])
def test_lightrag_pr3736_a_spent_budget_is_not_tried_again(dialect: Dialect) -> None:
    """Clients repeat permanent 429s, as the status says no more than "later"."""
    refused = spent()
    assert refused.refusal.code is RefusalCode.BUDGET_EXCEEDED
    headers = dict(refusal_headers(refused.refusal))
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers
    error = json.loads(refusal_body(dialect, refused.refusal, "r", 1))["error"]
    assert error["metadata"]["retryable"] is False


def test_lightrag_pr3736_the_official_sdk_asks_once() -> None:
    """With its usual two retries switched on."""
    refused = spent()
    calls: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        calls.append(request.url.path)
        body = refusal_body(Dialect.OPENAI, refused.refusal, "r", 1)
        return httpx2.Response(429, headers=refusal_headers(refused.refusal), content=body)

    client = openai.OpenAI(
        api_key="k", http_client=httpx2.Client(transport=httpx2.MockTransport(answer))
    )
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="chain", messages=[])
    assert len(calls) == 1


def test_repopilot_pr223_a_budget_stop_is_never_failed_over() -> None:
    """Another provider would spend exactly the money that the limit is there to keep."""
    world = World(POLICY)
    first = world.ask(asked(max_tokens=1_500))
    assert isinstance(first, Forward)
    (hold,) = world.reservations[0].account.holds
    # Somebody else spends the rest.
    left = 20_000 - world.ledger.used(hold, NOW)
    assert world.ledger.correct(hold.limit, "", left, NOW, {})
    stopped = world.attempt(first, 1)
    assert isinstance(stopped, Refuse)
    assert stopped.refusal.code is RefusalCode.BUDGET_EXCEEDED
    assert world.ledger.used(hold, NOW) <= 20_000


def test_continue_11579_a_refusal_says_which_budget_is_spent_and_when_it_begins_anew() -> None:
    """Users saw "400 ExceededBudget: User=... Spend=10.63, Budget=10.0", and spent it was."""
    refused = spent()
    error = json.loads(refusal_body(Dialect.OPENAI, refused.refusal, "r", 1))["error"]
    assert error["code"] == "budget_exceeded"
    told = error["metadata"]
    assert (told["rule_id"], told["limit"]) == ("all", "0.02")
    assert (told["spent"], told["reserved"]) == ("0.02", "0.00")
    assert told["resets_at"]
