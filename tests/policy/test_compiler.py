"""The seed's documents load as written, and every mistake is refused with its file and line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import DEMO, compiled, rule

from extproc.policy.compiler import compile_folder
from extproc.policy.loader import load_folder
from extproc.policy.snapshot import PolicySnapshot
from extproc.values.dialect import OWN_OPERATIONS, Operation
from extproc.values.envelope import Envelope
from extproc.values.limit import BreachKind, Scope, Unit

ROOT = Path(__file__).parents[2]


def test_the_shipped_configs_are_the_seeds_documents() -> None:
    snapshot = load_folder(ROOT / "configs", 1, {}, DEMO)
    assert isinstance(snapshot, PolicySnapshot)
    limits = {limit.rule_id: limit for limit in snapshot.limits}
    guard = limits["per-session-loop-guard"]
    assert (guard.unit, guard.ceiling, guard.scope) == (Unit.TOKENS, 200_000, (Scope.SESSION,))
    assert str(guard.window) == "1h"
    assert limits["per-user-burst"].breach.kind is BreachKind.QUEUE_THEN_429
    assert limits["intern-sandbox-cap"].ceiling == 500_000_000
    platform = limits["platform-search-monthly"]
    assert platform.fallback_ceiling == 3_600_000_000
    fallback = snapshot.fallbacks[limits["classify-intent-soft-cap"].breach]
    assert [target.name for target in fallback.all_targets] == [
        "anthropic/claude-haiku-4-5",
        "bedrock/anthropic.claude-haiku-4-5",
    ]
    model = snapshot.virtual_models["intent-fast"]
    assert [target.weight for target in model.targets] == [90, 10]
    assert model.breaker.cooldown_ms == 30_000
    for target in model.all_targets:
        assert set(target.clusters) == {one for one in Operation if one not in OWN_OPERATIONS}
        assert not target.translated
    assert {warning.code for warning in snapshot.warnings} == {"channel_unset"}


def test_matching_limits_are_all_that_match() -> None:
    snapshot = load_folder(ROOT / "configs", 1, {}, DEMO)
    assert isinstance(snapshot, PolicySnapshot)

    def ids(**fields: str) -> set[str]:
        limits = snapshot.index.matching(Envelope(**fields), "c", "m", "p")
        return {limit.rule_id for limit in limits}

    assert ids() == set()
    assert ids(user_id="u") == {"per-user-burst"}
    assert ids(environment="production", workflow_tag="classify-intent", user_id="u") == {
        "per-session-loop-guard",
        "per-user-burst",
        "classify-intent-soft-cap",
    }


REFUSED = {
    "unknown_key": rule("{id: a, limt: {requests: 1, window: 1m}}"),
    "duplicate_key": rule("{id: a, id: b, limit: {requests: 1, window: 1m}}"),
    "wrong_type": rule('{id: a, limit: {requests: "many", window: 1m}}'),
    "missing_key": rule("{id: a, limit: {window: 1m}}"),
    "bad_window": rule("{id: a, limit: {requests: 1, window: fortnightly}}"),
    "bad_scope": rule("{id: a, limit: {requests: 1, window: 1m}, scope: planet}"),
    "bad_action": rule("{id: a, limit: {requests: 1, window: 1m}, on_breach: panic}"),
    "unknown_fallback": rule("{id: a, limit: {requests: 1, window: 1m}, on_breach: fallback_to_x}"),
    "ambiguous_fallback": rule(
        "{id: a, limit: {requests: 1, window: 1m}, on_breach: fallback_to_flash}"
    )
    + "---\nname: v\ntype: gateway-load-balancing-config\nrules:\n"
    "  - {id: v, target: {provider: vertex, model: gemini-2.5-flash}}\n",
    "unknown_field": rule(
        "{id: a, when: {metadata: {X-TFY-Plan: x}}, limit: {requests: 1, window: 1m}}"
    ),
    "out_of_range": rule("{id: a, limit: {requests: -1, window: 1m}}"),
    "ambiguous_number": rule("{id: a, limit: {requests: 0123, window: 1m}}"),
    "bad_type": "name: x\ntype: gateway-config-v2\n",
    "missing_price": "name: v\ntype: gateway-load-balancing-config\nrules:\n"
    "  - {id: v, target: {provider: openai, model: gpt-unheard-of}}\n",
    "unknown_provider": "name: v\ntype: gateway-load-balancing-config\nrules:\n"
    "  - {id: v, target: {provider: nobody, model: gpt-4o}}\n",
    "no_weight": "name: v\ntype: gateway-load-balancing-config\nrules:\n"
    "  - {id: v, weight: 0, target: {provider: openai, model: gpt-4o}}\n",
    "literal_secret": "name: g\ntype: gateway-config\nproviders:\n"
    "  x: {dialect: openai, base_url: http://h/v1, credential: sk-secret}\n",
    "bad_url": "name: g\ntype: gateway-config\nproviders:\n"
    "  x: {dialect: openai, base_url: nowhere}\n",
    "bad_store": "name: g\ntype: gateway-config\nstore: redis://user:secret@h:1/0\n",
    "bad_sha256": "name: g\ntype: gateway-config\ncredentials:\n  - {id: c, sha256: abc}\n",
    "alias": "name: &a x\ntype: gateway-config\n",
    "tag": "name: !!python/object:os.system x\ntype: gateway-config\n",
    "merge_key": "name: x\ntype: gateway-config\n<<: {store: embedded}\n",
    "key": "name: x\ntype: gateway-config\n[a]: b\n",
    "yaml_syntax": "name: [x\ntype: gateway-config\n",
    "too_deep": "name: " + "[" * 100 + "]" * 100 + "\ntype: gateway-config\n",
    "empty_file": "# nothing\n",
}


@pytest.mark.parametrize("code", REFUSED)
def test_F74_F75_F76_a_mistake_is_refused_with_file_and_line(code: str) -> None:
    findings = compiled(bad=REFUSED[code])
    assert isinstance(findings, list), code
    assert code in {finding.code for finding in findings}, findings
    for finding in findings:
        assert finding.file == "bad.yaml"
        assert finding.line >= 1
        assert "sk-secret" not in str(finding)


def test_F74_duplicate_ids_over_files_and_empty_folders_are_refused() -> None:
    text = rule("{id: a, limit: {requests: 1, window: 1m}}")
    findings = compiled(one=text, two=text)
    assert isinstance(findings, list)
    assert findings[0].code == "duplicate_id"
    assert "one.yaml:4" in findings[0].message
    assert isinstance(compile_folder({}, 1, {}), list)


def test_F74_a_file_of_10_mb_is_refused_quickly() -> None:
    started = time.monotonic()
    findings = compiled(big="a: b\n" * 2_000_000)
    assert isinstance(findings, list)
    assert findings[0].code == "file_too_large"
    assert time.monotonic() - started < 1


BOMBS = {
    "aliases": "a: &a [x,x]\n" + "".join(f"b{n}: &b{n} [*a,*a]\n" for n in range(30)),
    "deep_lists": "[" * 30_000,
    "deep_maps": "{a: " * 30_000,
    "deep_indent": "".join(" " * n + "a:\n" for n in range(1_000)),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_F75_a_bomb_is_refused_and_the_process_lives(bomb: str) -> None:
    # In a process of its own: a crash must fail this test, not the run.
    script = (
        "import sys\nfrom extproc.policy.compiler import compile_folder\n"
        "print(type(compile_folder({'x.yaml': sys.stdin.buffer.read()}, 1, {})).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=BOMBS[bomb].encode(), capture_output=True, timeout=30
    )
    assert done.stdout.strip() == b"list", done.stderr


def test_F75_yaml_1_1_surprises_are_plain_text_or_refused() -> None:
    text = rule(
        "{id: a, when: {metadata: {X-TFY-Team: [no, on, 1:30]}}, limit: {requests: 1, window: 1m}}"
    )
    snapshot = compiled(x=text)
    assert isinstance(snapshot, PolicySnapshot)
    matching = snapshot.index.matching(Envelope(team="no"), "c", "m", "p")
    assert [limit.rule_id for limit in matching] == ["a"]


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_F75_nothing_that_a_file_holds_raises(data: bytes) -> None:
    compile_folder({"x.yaml": data}, 1, {})


def test_F76_a_thousand_rules_cost_a_decision_little_more_than_ten() -> None:
    def index(count: int):
        rules = "".join(
            f"  - {{id: r{n}, when: {{metadata: {{X-TFY-Project: p{n}}}}}, "
            "limit: {requests: 1, window: 1m}}\n"
            for n in range(count)
        )
        snapshot = compiled(x=f"name: r\ntype: gateway-rate-limit-config\nrules:\n{rules}")
        assert isinstance(snapshot, PolicySnapshot)
        return snapshot.index

    def cost(index) -> float:
        best = 1.0
        for _ in range(5):
            started = time.perf_counter()
            for n in range(2_000):
                index.matching(Envelope(project=f"p{n % 10}", session_id=str(n)), "c", "m", "p")
            best = min(best, time.perf_counter() - started)
        return best

    assert cost(index(1_000)) < 2 * cost(index(10))


def test_a_target_of_another_dialect_serves_what_can_be_translated() -> None:
    text = """
name: g
type: gateway-config
providers:
  claude: {dialect: anthropic, base_url: "https://api.anthropic.com"}
prices:
  - {provider: claude, model: claude-haiku-4-5, input_usd_per_mtok: 1, output_usd_per_mtok: 5}
---
name: only-claude
type: gateway-load-balancing-config
rules:
  - {id: c, target: {provider: claude, model: claude-haiku-4-5}}
"""
    snapshot = compiled(x=text)
    assert isinstance(snapshot, PolicySnapshot)
    target = snapshot.virtual_models["only-claude"].targets[0]
    own = {Operation.MESSAGES, Operation.COUNT_TOKENS}
    assert target.translated == {Operation.CHAT_COMPLETIONS, Operation.RESPONSES}
    assert set(target.clusters) == own | target.translated
    assert len({target.clusters[operation] for operation in own}) == 1
    assert len({target.clusters[operation] for operation in target.translated}) == 1
    assert len(set(target.clusters.values())) == 2
    assert "dialect_not_served" not in {warning.code for warning in snapshot.warnings}


def test_a_target_without_an_endpoint_is_left_out_with_a_warning() -> None:
    text = """
name: g
type: gateway-config
providers:
  google: {dialect: gemini}
prices:
  - {provider: google, model: gemini-2.5-pro, input_usd_per_mtok: 1, output_usd_per_mtok: 5}
---
name: only-gemini
type: gateway-load-balancing-config
rules:
  - {id: c, target: {provider: google, model: gemini-2.5-pro}}
"""
    snapshot = compiled(x=text)
    assert isinstance(snapshot, PolicySnapshot)
    assert not snapshot.virtual_models["only-gemini"].targets[0].clusters
    assert [one.code for one in snapshot.warnings].count("dialect_not_served") == 2
