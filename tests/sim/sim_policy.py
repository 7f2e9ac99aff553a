"""The policies of the simulated gateway, and their prices as the provider knows them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache

from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import PolicySnapshot

KEYS = {"one": "tw-sim-key-one", "two": "tw-sim-key-two"}

PRICES = {
    ("alpha", "small"): (1_000_000, 5_000_000),
    ("beta", "small"): (1_200_000, 6_000_000),
    ("alpha", "large"): (3_000_000, 15_000_000),
    ("beta", "tiny"): (100_000, 400_000),
}
"""Micro-USD per million input and output tokens, by provider and model."""
OVERRIDDEN = "beta/small"
"""The target whose requests get another temperature, and nobody else's."""
VARIANTS = 4
DEFAULT_OUTPUT_TOKENS = 1_000

_GATEWAY = """
name: sim
type: gateway-config
envelope: {{prefix: X-TFY-, required: {{"*": [project, environment]}}}}
credentials:
{credentials}
providers:
  alpha: {{endpoints: {{openai: "http://alpha.invalid/v1", anthropic: "http://alpha.invalid"}}}}
  beta: {{endpoints: {{openai: "http://beta.invalid/v1", anthropic: "http://beta.invalid"}}}}
prices:
{prices}
"""
_CREDENTIAL = """\
  - id: {name}
    sha256: {digest}
    claims: {{projects: [p1, p2], environments: [production]}}
    defaults: {{project: p1, environment: production}}
"""
_PRICE = """\
  - {{provider: {provider}, model: {model}, input_usd_per_mtok: {input}, context_tokens: 100000,
     output_usd_per_mtok: {output}, max_output_tokens: 4000}}
"""
_MODELS = """
name: fast
type: gateway-load-balancing-config
rules:
  - {id: a, weight: 70, target: {provider: alpha, model: small}, timeout_ms: 8000}
  - {id: b, weight: 30, target: {provider: beta, model: small}, timeout_ms: 8000,
     override_params: {temperature: 0}}
fallbacks:
  - {provider: alpha, model: large, timeout_ms: 8000}
  - {provider: beta, model: tiny, timeout_ms: 8000}
circuit_breaker: {failure_threshold: 5, window_seconds: 60, cooldown_seconds: 30}
---
name: dear
type: gateway-load-balancing-config
rules:
  - {id: large, weight: 1, target: {provider: alpha, model: large}}
fallbacks:
  - {provider: beta, model: tiny}
---
name: thrifty
type: gateway-load-balancing-config
rules:
  - {id: tiny, weight: 1, target: {provider: beta, model: tiny}}
circuit_breaker: {failure_threshold: 2, window_seconds: 60, cooldown_seconds: 30}
"""
_LIMITS = """
name: limits
type: gateway-rate-limit-config
rules:
  - {{id: per-session, limit: {{requests: {session_requests}, window: 1m}}, scope: session}}
  - {{id: per-user, limit: {{tokens: {user_tokens}, window: 5m}}, scope: user,
     on_breach: queue_then_429, max_wait: 2s}}
  - {{id: crowd, limit: {{requests: {crowd}, window: 10s}}, scope: user,
     on_breach: queue_then_429, max_wait: 4s}}
  - {{id: watched, limit: {{requests: 3, window: 1m}}, scope: project, enforce: shadow}}
  - {{id: soft, when: {{metadata: {{X-TFY-Workflow-Tag: classify}}}},
     limit: {{requests: 4, window: 1h}}, on_breach: fallback_to_thrifty}}
---
name: budgets
type: gateway-budget-config
budgets:
  - {{id: project, scope: {{metadata: {{X-TFY-Project: p2}}}}, ceiling_usd: {p2_usd}, window: daily,
     on_exceed: fallback_to_cheaper}}
  - {{id: all, ceiling_usd: {all_usd}, window: monthly, timezone: Europe/Berlin}}
  - {{id: user-likely, ceiling_usd: {likely_usd}, window: daily, per: user, mode: statistical}}
"""
_SIZES = (
    {"session_requests": 6, "user_tokens": 60_000, "p2_usd": 0.05, "all_usd": 0.3,
     "likely_usd": 0.2, "crowd": 6},
    {"session_requests": 4, "user_tokens": 90_000, "p2_usd": 0.03, "all_usd": 0.4,
     "likely_usd": 0.1, "crowd": 1000},
    {"session_requests": 9, "user_tokens": 30_000, "p2_usd": 0.08, "all_usd": 0.25,
     "likely_usd": 0.3, "crowd": 3},
    {"session_requests": 1000, "user_tokens": 9_000_000, "p2_usd": 9, "all_usd": 0.06,
     "likely_usd": 9, "crowd": 4},
)  # fmt: skip


def price(variant: int, provider: str, model: str) -> tuple[int, int]:
    """What the provider charges; a later policy may know another price."""
    input_price, output_price = PRICES[provider, model]
    return input_price + variant % 2 * 100_000, output_price + variant % 2 * 500_000


def sim_policy(variant: int, generation: int) -> PolicySnapshot:
    """One of ``VARIANTS`` policies as the given generation."""
    return replace(_compiled(variant), generation=generation)


@lru_cache
def _compiled(variant: int) -> PolicySnapshot:
    credentials = "".join(
        _CREDENTIAL.format(name=name, digest=hashlib.sha256(key.encode()).hexdigest())
        for name, key in KEYS.items()
    )
    prices = ""
    for provider, model in PRICES:
        input_price, output_price = price(variant, provider, model)
        prices += _PRICE.format(
            provider=provider, model=model, input=input_price / 1e6, output=output_price / 1e6
        )
    files = {
        "gateway.yaml": _GATEWAY.format(credentials=credentials, prices=prices),
        "models.yaml": _MODELS,
        "limits.yaml": _LIMITS.format(**_SIZES[variant]),
    }
    snapshot = compile_folder({name: text.encode() for name, text in files.items()}, 1, {})
    assert isinstance(snapshot, PolicySnapshot), list(map(str, snapshot))
    return snapshot
