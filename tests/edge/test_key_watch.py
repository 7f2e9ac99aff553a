"""What the sidecar notices of key files and tokens, without a look into them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from policies import snapshot

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge.key_watch import KeyWatch
from extproc.edge.metrics import Metrics
from extproc.envoy.settings import GatewaySettings
from extproc.envoy.token_folder import TokenState, open_token_folder, write_token_state
from extproc.policy.snapshot import PolicySnapshot

PROVIDERS = """
name: g
type: gateway-config
providers:
  keyed: {{dialect: openai, base_url: "http://h/v1", credential: "file:{folder}/key"}}
  vertex2: {{dialect: gemini, base_url: "http://h", credential: "file:{folder}/gcp.json"}}
"""
MODEL = """
name: mixed
type: gateway-load-balancing-config
rules:
  - {id: a, weight: 1, target: {provider: vertex2, model: gemini-2.0-flash}}
  - {id: b, weight: 1, target: {provider: keyed, model: gpt-4o-mini}}
"""
NOW_MS = 1_000_000


class Delivery:
    def __init__(self) -> None:
        self.again: list[str] = []

    def read_again(self, name: str) -> None:
        self.again.append(name)


@pytest.fixture
def policy(tmp_path: Path) -> PolicySnapshot:
    prices = "".join(
        f"  - {{provider: {provider}, model: {model}, input_usd_per_mtok: 1,"
        " output_usd_per_mtok: 1}\n"
        for provider, model in (("vertex2", "gemini-2.0-flash"), ("keyed", "gpt-4o-mini"))
    )
    text = PROVIDERS.format(folder=tmp_path) + "prices:\n" + prices
    return snapshot(more=text, mixed=MODEL)


def watch_of(root: Path) -> tuple[KeyWatch, Delivery]:
    delivery = Delivery()
    settings = GatewaySettings("", 0, root / "run", root / "envoy")
    return KeyWatch(settings, delivery), delivery  # type: ignore[arg-type]


def test_a_file_that_was_written_is_read_again_once_it_stands_still(
    policy: PolicySnapshot, tmp_path: Path
) -> None:
    watch, delivery = watch_of(tmp_path)
    key = tmp_path / "key"

    def looked() -> list[str]:
        asyncio.run(watch.look_at_files(policy))
        found, delivery.again = delivery.again, []
        return found

    key.write_text("one")
    # An Envoy that is older than this sidecar may have read what was there before.
    assert [looked(), looked(), looked()] == [[], [f"file:{key}"], []]
    key.write_text("tw")
    assert looked() == []
    key.write_text("two")
    assert looked() == []  # it was still being written
    assert looked() == [f"file:{key}"]
    assert looked() == []
    key.write_text("")
    assert [looked(), looked()] == [[], []]  # nobody means an empty key
    key.unlink()
    assert [looked(), looked()] == [[], []]
    key.write_text("three")
    assert [looked(), looked(), looked()] == [[], [f"file:{key}"], []]


def test_a_file_that_came_with_a_later_policy_was_only_just_read(
    policy: PolicySnapshot, tmp_path: Path
) -> None:
    watch, delivery = watch_of(tmp_path)
    (tmp_path / "key").write_text("one")
    (tmp_path / "other").write_text("one")
    for _ in range(3):
        asyncio.run(watch.look_at_files(policy))
    text = "name: m\ntype: gateway-config\nmcp_servers:\n"
    text += f'  docs: {{url: "http://h/mcp", credential: "file:{tmp_path}/other"}}\n'
    for _ in range(3):
        asyncio.run(watch.look_at_files(snapshot(more=text)))
    assert delivery.again == [f"file:{tmp_path}/key"]


def test_the_keys_of_mcp_servers_are_looked_at_too(tmp_path: Path) -> None:
    key = tmp_path / "key"
    text = "name: m\ntype: gateway-config\nmcp_servers:\n"
    text += f'  docs: {{url: "http://h/mcp", credential: "file:{key}"}}\n'
    policy, (watch, delivery) = snapshot(more=text), watch_of(tmp_path)
    key.write_text("one")
    asyncio.run(watch.look_at_files(policy))
    key.write_text("other")
    for _ in range(2):
        asyncio.run(watch.look_at_files(policy))
    assert delivery.again == [f"file:{key}"]


def test_the_same_length_at_another_time_is_another_key(
    policy: PolicySnapshot, tmp_path: Path
) -> None:
    watch, delivery = watch_of(tmp_path)
    key = tmp_path / "key"
    key.write_text("one")
    os.utime(key, (1, 1))
    asyncio.run(watch.look_at_files(policy))
    key.write_text("two")
    for _ in range(2):
        asyncio.run(watch.look_at_files(policy))
    assert delivery.again == [f"file:{key}"]


def test_targets_without_a_google_token_are_left_out_until_there_is_one(
    policy: PolicySnapshot, tmp_path: Path
) -> None:
    watch, _ = watch_of(tmp_path)
    gate, metrics, key_file = Gate(Generation(policy)), Metrics(), str(tmp_path / "gcp.json")
    model = policy.virtual_models["mixed"]
    google, keyed = model.all_targets
    admits = gate.breakers.admits
    # A new generation is not trusted to have what it needs.
    assert not admits(google.name, model.breaker, NOW_MS)
    assert not gate.breakers.all_closed
    folder = open_token_folder(GatewaySettings("", 0, tmp_path / "run", tmp_path / "envoy"))

    write_token_state(folder, key_file, TokenState(NOW_MS + 5_000, 2, "was refused"))
    watch.look_at_tokens(gate, metrics, NOW_MS)
    assert admits(google.name, model.breaker, NOW_MS)
    assert gate.breakers.all_closed
    assert metrics.google_tokens == {key_file: (5, 2)}
    assert 'google_token_failures{key_file="' in metrics.render(gate).decode()

    watch.look_at_tokens(gate, metrics, NOW_MS + 5_000)
    assert not admits(google.name, model.breaker, NOW_MS)
    assert admits(keyed.name, model.breaker, NOW_MS)
    assert gate.breakers.retry_after_ms(google.name, model.breaker, NOW_MS) > 0
    assert metrics.google_tokens == {key_file: (0, 2)}


def test_a_policy_without_google_pays_nothing(tmp_path: Path) -> None:
    watch, _ = watch_of(tmp_path)
    gate, metrics = Gate(Generation(snapshot())), Metrics()
    watch.look_at_tokens(gate, metrics, NOW_MS)
    assert gate.breakers.all_closed
    assert "google" not in metrics.render(gate).decode()
