"""TLS on both sides of the gateway: who proves nothing gets no byte, and costs nothing."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from certificates import Authority, server_context
from gateway import BUDGET, HEADERS, Gateway, base_policy, chat

KINDS = ("good", "other-name", "foreign-authority", "expired")
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500}
COST_MICRO_USD = 2_000
"""A dollar per million tokens of input, two of output."""

PRICE = (
    "  - {{provider: {name}, model: m, input_usd_per_mtok: 1, output_usd_per_mtok: 2,"
    " context_tokens: 8000, max_output_tokens: 1000, as_of: 2026-11-01, source: test}}\n"
)
PROVIDER = '  {name}: {{dialect: openai, base_url: "https://localhost:{port}/v1"}}\n'
MODEL = """
name: {model}
type: gateway-load-balancing-config
rules:
  - {{id: {model}, weight: 1, timeout_ms: 2000, target: {{provider: {first}, model: m}}}}
fallbacks: {fallbacks}
"""


class Provider(ThreadingHTTPServer):
    """A chat provider on https."""

    def __init__(self, pem: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.context = server_context(pem)
        self.asked: list[str] = []
        self.port = self.server_address[1]

    def finish_request(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        try:
            with self.context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except OSError:
            pass  # the client did not like the certificate


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Provider)
        self.server.asked.append(self.headers["host"])
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "hello"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        body = json.dumps({"id": "c", "choices": choices, "usage": USAGE}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


@pytest.fixture(scope="module")
def providers(authority: Authority, tmp_path_factory) -> Iterator[dict[str, Provider]]:
    foreign = Authority(tmp_path_factory.mktemp("foreign"), "foreign")
    pems = {
        "good": authority.server("localhost"),
        "other-name": authority.server("other.test"),
        "foreign-authority": foreign.server("localhost"),
        "expired": authority.server("localhost", expired=True),
    }
    running = {kind: Provider(pems[kind]) for kind in KINDS}
    for server in running.values():
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield running
    for server in running.values():
        server.shutdown()
        server.server_close()


def policy(providers: dict[str, Provider]) -> dict[str, str]:
    """Each provider as a model of its own, and again with the good one as its fallback."""
    files = base_policy(budget=BUDGET)
    named = {kind: kind.replace("-", "_") for kind in providers}
    files["gateway.yaml"] += "".join(
        PROVIDER.format(name=named[kind], port=server.port) for kind, server in providers.items()
    )
    files["gateway.yaml"] += "prices:\n"
    files["gateway.yaml"] += "".join(PRICE.format(name=name) for name in named.values())
    for kind, name in named.items():
        alone = MODEL.format(model=kind, first=name, fallbacks="[]")
        saved = "[{provider: good, model: m, timeout_ms: 2000}]"
        both = MODEL.format(model=f"{kind}-or-good", first=name, fallbacks=saved)
        files[f"{kind}.yaml"] = f"{alone}---{both}" if kind != "good" else alone
    return files


@pytest.fixture
def gateway(module_gateway, providers: dict[str, Provider], authority: Authority) -> Gateway:
    gateway = module_gateway(policy(providers), "--ca-file", str(authority.file))
    for server in providers.values():
        server.asked.clear()
    return gateway


def test_the_right_name_by_a_trusted_authority_serves_and_is_asked_by_name(
    gateway: Gateway, providers: dict[str, Provider]
) -> None:
    before = gateway.settled("all/usd")
    response = gateway.post(chat(model="good"))
    assert response.status_code == 200, response.text
    good = providers["good"]
    assert good.asked == [f"localhost:{good.port}"]
    assert good.context.asked == "localhost"  # SNI
    assert gateway.settled("all/usd") - before == COST_MICRO_USD


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_certificate_that_proves_nothing_fails_over_and_costs_nothing(
    gateway: Gateway, providers: dict[str, Provider], kind: str
) -> None:
    before = gateway.settled("all/usd")
    released = gateway.metric("tokenweir_released_total")
    response = gateway.post(chat(model=f"{kind}-or-good"))
    assert response.status_code == 200, response.text
    assert response.headers["x-tfy-resolved-model"] == "good/m"
    assert providers[kind].asked == []
    assert gateway.settled("all/usd") - before == COST_MICRO_USD
    assert gateway.metric("tokenweir_released_total") == released + 1


@pytest.mark.parametrize("kind", KINDS[1:])
def test_without_another_target_it_is_a_503_that_costs_nothing(
    gateway: Gateway, providers: dict[str, Provider], kind: str
) -> None:
    before = gateway.settled("all/usd")
    response = gateway.post(chat(model=kind))
    assert response.status_code == 503
    assert response.json()["error"]["metadata"]["code"] == "no_healthy_target"
    assert providers[kind].asked == []
    assert gateway.settled("all/usd") == before


def test_the_public_listener_serves_tls(start_gateway, authority: Authority) -> None:
    pem = str(authority.server("127.0.0.1"))
    gateway = start_gateway(base_policy(), "--tls", pem, pem)
    assert gateway.url.startswith("https://")
    trusting = ssl.create_default_context(cafile=str(authority.file))
    assert gateway.post(verify=trusting).status_code == 200
    with httpx.Client(http2=True, verify=trusting, headers=HEADERS) as client:
        answer = client.post(gateway.url + "/v1/chat/completions", json=chat())
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        gateway.post()
    with pytest.raises(httpx.TransportError):
        httpx.get(gateway.url.replace("https://", "http://") + "/v1/models")
