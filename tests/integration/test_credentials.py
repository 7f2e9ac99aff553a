"""Credentials of providers through the whole gateway: renewed and rotated without a restart."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from demo_provider import Demo
from gateway import Gateway, base_policy, chat
from google_accounts import TokenEndpoint

from extproc.envoy.token_folder import memory_folder

StartGateway = Callable[..., Gateway]

GEMINI = "gemini-2.0-flash"
PRICE = (
    "  - {{provider: {name}, model: {model}, input_usd_per_mtok: 1, output_usd_per_mtok: 2,"
    " context_tokens: 128000, max_output_tokens: 1000}}\n"
)
MODEL = """
name: {name}
type: gateway-load-balancing-config
rule_type: priority-based
rules:
  - {{id: {name}-1, priority: 1, timeout_ms: 5000, target: {{provider: {first}, model: {model}}}}}
fallbacks: {fallbacks}
"""


@pytest.fixture
def google() -> Iterator[TokenEndpoint]:
    endpoint = TokenEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A demo provider that policies can name before their gateway runs."""
    command = [sys.executable, "-m", "extproc", "demo-provider", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().removeprefix("ready ").strip()
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.fixture
def demo(server: str) -> Demo:
    httpx.delete(f"{server}/faults").raise_for_status()
    httpx.delete(f"{server}/bill").raise_for_status()
    return Demo(server)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def with_providers(
    lines: str, models: dict[str, tuple[str, str]], fallbacks: dict[str, str] | None = None
) -> dict[str, str]:
    """A policy with these providers (YAML lines) and virtual models (provider and model)."""
    policy = base_policy()
    prices = "".join(
        PRICE.format(name=provider, model=model)
        for provider, model in dict.fromkeys(models.values())
    )
    policy["gateway.yaml"] += lines + "prices:\n" + prices
    for name, (provider, model) in models.items():
        policy[f"{name}.yaml"] = MODEL.format(
            name=name, first=provider, model=model, fallbacks=(fallbacks or {}).get(name, "[]")
        )
    return policy


def vertex(url: str, key_file: Path) -> str:
    place = "v1/projects/p/locations/us-central1/publishers/google"
    return (
        f'  google: {{dialect: gemini, base_url: "{url}/google/gemini/{place}",'
        f' credential: "file:{key_file}"}}\n'
    )


def billed(demo: Demo, provider: str) -> list[str]:
    """The ends of the keys that a provider was asked with, in order."""
    lines = httpx.get(f"{demo.url}/bill").json()
    return [line["key_end"] for line in lines if f"/{provider}/" in line["path"]]


OTHER = '  other: {{dialect: openai, base_url: "{url}/other/openai/v1"}}\n'
TO_OTHER = {"gem": "[{provider: other, model: gpt-4o-mini}]"}


def test_a_google_key_file_is_exchanged_for_tokens_and_they_are_renewed(
    start_gateway: StartGateway, demo: Demo, google: TokenEndpoint, tmp_path: Path
) -> None:
    google.lifetime_s = 6
    google.on_token = lambda token: demo.faults("google", keys=f"{google.prefix}-1,{token}")
    google.write_key(tmp_path / "gcp.json")
    models = {"gem": ("google", GEMINI)}
    gateway = start_gateway(with_providers(vertex(demo.url, tmp_path / "gcp.json"), models))
    # The first token is there when the gateway is ready; the sidecar sees it a moment later.
    until(lambda: gateway.post(chat(model="gem")).is_success, 1.0)
    google.on_token = lambda token: demo.faults("google", keys=f"{google.given[-1]},{token}")
    while len(google.given) < 3:
        answer = gateway.post(chat(model="gem"))
        assert answer.status_code == 200, answer.text
        time.sleep(0.05)
    assert google.problems == []
    until(
        lambda: gateway.post(chat(model="gem")).is_success and billed(demo, "google")[-1] == "en-3"
    )
    assert {"en-1", "en-2"} <= set(billed(demo, "google"))
    metrics = httpx.get(f"{gateway.console}/metrics").text
    (line,) = [one for one in metrics.splitlines() if one.startswith("tokenweir_google_token_sec")]
    assert 0 < float(line.split()[1]) <= 6
    assert str(tmp_path / "gcp.json") in line


def test_without_a_token_the_others_are_asked_and_nothing_goes_out_without_one(
    start_gateway: StartGateway, demo: Demo, google: TokenEndpoint, tmp_path: Path
) -> None:
    google.status, google.lifetime_s = 503, 2
    google.write_key(tmp_path / "gcp.json")
    providers = vertex(demo.url, tmp_path / "gcp.json") + OTHER.format(url=demo.url)
    models = {"gem": ("google", GEMINI), "alone": ("google", GEMINI), "o": ("other", "gpt-4o-mini")}
    gateway = start_gateway(with_providers(providers, models, TO_OTHER))

    def served_by() -> str:
        answer = gateway.post(chat(model="gem"))
        assert answer.status_code == 200, answer.text
        return answer.headers["x-tfy-resolved-model"]

    assert "gpt-4o-mini" in served_by()
    alone = gateway.post(chat(model="alone"))
    assert (alone.status_code, alone.json()["error"]["code"]) == (503, "no_healthy_target")
    assert 1 <= int(alone.headers["retry-after"]) <= 5
    assert billed(demo, "google") == []

    google.status = 200
    until(lambda: GEMINI in served_by())
    google.status = 500
    asked = google.asked
    until(lambda: "gpt-4o-mini" in served_by())  # the token was good until it expired
    assert google.asked > asked
    assert gateway.metric_sum("tokenweir_google_token_failures") > 0
    assert set(billed(demo, "google")) <= {token[-4:] for token in google.given}
    google.status = 200
    until(lambda: GEMINI in served_by(), 20)
    assert google.problems == []


def test_a_google_credential_that_a_reload_brings_works_and_its_key_can_be_replaced(
    start_gateway: StartGateway, demo: Demo, google: TokenEndpoint, tmp_path: Path
) -> None:
    key_file = tmp_path / "gcp.json"
    google.write_key(key_file)
    gateway = start_gateway(base_policy())
    policy = with_providers(vertex(demo.url, key_file), {"gem": ("google", GEMINI)})
    for name in ("gem.yaml", "gateway.yaml"):
        gateway.save_policy(name, policy[name])
    until(lambda: gateway.post(chat(model="gem")).status_code == 200)
    assert billed(demo, "google")[-1] == "en-1"
    key_file.write_text("{")  # what cannot be used changes nothing
    until(lambda: gateway.metric_sum("tokenweir_google_token_failures") > 0)
    assert gateway.post(chat(model="gem")).status_code == 200
    key_file.write_text(json.dumps(google.key_document("key-2")))
    until(
        lambda: gateway.post(chat(model="gem")).is_success and billed(demo, "google")[-1] == "en-2"
    )
    assert google.problems == []
    tokens = memory_folder(gateway.state.resolve())
    assert tokens is not None
    (token,) = tokens.glob("*.token")
    assert (tokens.stat().st_mode & 0o777, token.stat().st_mode & 0o777) == (0o700, 0o600)
    assert gateway.stop() == 0
    assert not tokens.exists()
