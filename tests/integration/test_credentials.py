"""Credentials of providers through the whole gateway: renewed and rotated without a restart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
from demo_provider import Demo, demo_process
from gateway import KEY, Gateway, base_policy, chat
from google_accounts import TokenEndpoint
from until import until

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
    with demo_process() as url:
        yield url


@pytest.fixture
def demo(server: str) -> Demo:
    httpx.delete(f"{server}/faults").raise_for_status()
    httpx.delete(f"{server}/bill").raise_for_status()
    return Demo(server)


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
    google.status, google.lifetime_s = 503, 4
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
    until(lambda: gateway.metric_sum("tokenweir_google_token_failures") > 0)
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


KEYED = (
    '  keyed: {{dialect: openai, base_url: "{url}/keyed/openai/v1", credential: "file:{file}"}}\n'
)


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def renamed(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


@pytest.mark.parametrize("write", [in_place, renamed], ids=lambda write: write.__name__)
def test_a_key_is_rotated_under_load_and_no_request_fails(
    start_gateway: StartGateway, demo: Demo, tmp_path: Path, write: Callable[[Path, str], None]
) -> None:
    key_file = tmp_path / "key"
    write(key_file, "sk-old1")
    demo.faults("keyed", keys="sk-old1,sk-new2")
    policy = with_providers(
        KEYED.format(url=demo.url, file=key_file), {"gpt": ("keyed", "gpt-4o-mini")}
    )
    gateway = start_gateway(policy)
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            statuses.append(gateway.post(chat(model="gpt")).status_code)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    until(lambda: len(statuses) > 5)
    written_s = time.monotonic()
    write(key_file, "sk-new2")
    until(lambda: billed(demo, "keyed")[-3:] == ["new2"] * 3)
    taken_s = time.monotonic() - written_s
    demo.faults("keyed", keys="sk-new2")  # from now on the provider knows the new one only
    so_far = len(statuses)
    until(lambda: len(statuses) > so_far + 5)
    stop.set()
    for asker in askers:
        asker.join()
    assert set(statuses) == {200}
    assert taken_s < 5


def test_a_key_that_is_rotated_in_place_while_no_sidecar_runs_is_used(
    start_gateway: StartGateway, demo: Demo, tmp_path: Path
) -> None:
    """Only a sidecar sees such a change, and its next life has not seen what was there before."""
    key_file = tmp_path / "key"
    in_place(key_file, "sk-old1")
    policy = with_providers(
        KEYED.format(url=demo.url, file=key_file), {"gpt": ("keyed", "gpt-4o-mini")}
    )
    gateway = start_gateway(policy)
    assert gateway.post(chat(model="gpt")).status_code == 200
    assert billed(demo, "keyed")[-1] == "old1"
    gateway.child("sidecar").send_signal(signal.SIGKILL)
    in_place(key_file, "sk-new2")

    def asked_with() -> str:
        with contextlib.suppress(httpx.HTTPError):
            gateway.post(chat(model="gpt"))
        return billed(demo, "keyed")[-1]

    until(lambda: asked_with() == "new2")


BEDROCK = "anthropic.claude-haiku-4-5"
AWS = '  aws: {{dialect: bedrock, base_url: "{url}/aws/bedrock", credential: "{credential}"}}\n'
AWS_FILE = "[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"


def test_pairs_of_aws_keys_are_read_from_a_file_and_rotated(
    start_gateway: StartGateway, demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the environment says is another account's.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    key_file = tmp_path / "credentials"
    renamed(key_file, AWS_FILE.format(id="AKIDONE1", secret="secret-one"))
    demo.faults("aws", aws_secret="secret-one")
    providers = AWS.format(url=demo.url, credential=f"file:{key_file}")
    gateway = start_gateway(with_providers(providers, {"rock": ("aws", BEDROCK)}))
    assert gateway.post(chat(model="rock")).status_code == 200
    assert billed(demo, "aws")[-1] == "ONE1"
    renamed(key_file, AWS_FILE.format(id="AKIDTWO2", secret="secret-two"))
    until(lambda: gateway.post(chat(model="rock")).is_success or billed(demo, "aws")[-1] == "TWO2")
    demo.faults("aws", aws_secret="secret-two")
    until(lambda: gateway.post(chat(model="rock")).status_code == 200)
    assert billed(demo, "aws")[-1] == "TWO2"


def test_aws_keys_of_the_environment_sign_with_their_session(
    start_gateway: StartGateway, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV3")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-env")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-env")
    demo.faults("aws", aws_secret="secret-env")
    providers = AWS.format(url=demo.url, credential="env:AWS_*")
    gateway = start_gateway(with_providers(providers, {"rock": ("aws", BEDROCK)}))
    assert gateway.post(chat(model="rock")).status_code == 200
    (line,) = [one for one in httpx.get(f"{demo.url}/bill").json() if "/aws/" in one["path"]]
    assert line["key_end"] == "ENV3"
    assert "x-amz-security-token" in line["headers"]


AZURE = (
    '  azure: {{dialect: azure-openai, base_url: "{url}/az/azure/openai",'
    ' api_version: "2024-10-21", credential: "env:TEST_AZURE_KEY"}}\n'
    '  azure-v1: {{dialect: azure-openai, base_url: "{url}/az1/azure/openai/v1",'
    ' credential: "env:TEST_AZURE_KEY"}}\n'
)


def test_azure_is_asked_as_its_own_client_asks_and_fails_over_both_ways(
    start_gateway: StartGateway, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_AZURE_KEY", "azure-key9")
    demo.faults("az", keys="azure-key9", strict=True)
    demo.faults("az1", keys="azure-key9", strict=True)
    providers = AZURE.format(url=demo.url) + OTHER.format(url=demo.url)
    models = {
        "dated": ("azure", "gpt-4o-mini"),
        "v1": ("azure-v1", "gpt-4o-mini"),
        "from-openai": ("other", "gpt-4o-mini"),
    }
    fallbacks = {
        "dated": "[{provider: other, model: gpt-4o-mini}]",
        "from-openai": "[{provider: azure, model: gpt-4o-mini}]",
    }
    gateway = start_gateway(with_providers(providers, models, fallbacks))
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0)
    azure = openai.AzureOpenAI(
        azure_endpoint=f"{demo.url}/az/azure",
        api_key="azure-key9",
        api_version="2024-10-21",
        max_retries=0,
    )

    def paths(provider: str) -> list[str]:
        lines = httpx.get(f"{demo.url}/bill").json()
        return [one["path"] for one in lines if f"/{provider}/" in one["path"]]

    hello = [{"role": "user", "content": "hi"}]
    for stream in (False, True):
        for model in ("dated", "v1"):
            answer = client.chat.completions.create(model=model, messages=hello, stream=stream)
            assert list(answer) if stream else answer.choices[0].message.content
    assert client.responses.create(model="dated", input="hi").output_text
    claude = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0)
    assert claude.messages.create(model="dated", max_tokens=20, messages=hello).content
    by_gateway = paths("az")
    azure.chat.completions.create(model="gpt-4o-mini", messages=hello)
    azure.responses.create(model="gpt-4o-mini", input="hi")
    assert set(by_gateway) == set(paths("az")[len(by_gateway) :])
    assert set(paths("az1")) == {"/az1/azure/openai/v1/chat/completions"}

    demo.faults("az", status=503)
    over = client.chat.completions.with_raw_response.create(model="dated", messages=hello)
    assert over.headers["x-tfy-resolved-model"] == "other/gpt-4o-mini"
    demo.faults("az", keys="azure-key9", strict=True)
    demo.faults("other", status=503)
    over = client.chat.completions.with_raw_response.create(model="from-openai", messages=hello)
    assert over.headers["x-tfy-resolved-model"] == "azure/gpt-4o-mini"
    demo.faults("az", keys="another", strict=True)
    with pytest.raises(openai.AuthenticationError):
        azure.chat.completions.create(model="gpt-4o-mini", messages=hello)
