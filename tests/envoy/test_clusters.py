"""Providers through the real Envoy: failover, credentials, TLS. What a provider gets to see."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy_rig import PLAIN, Received, answer

from extproc.envoy.clusters import MAX_ATTEMPTS, clusters

CLOSED = '{endpoints: {openai: "http://127.0.0.1:9/v1", anthropic: "http://127.0.0.1:9"}}'
NO_HOST = '{dialect: openai, base_url: "http://no-such-host.invalid/v1"}'


# -- failover -------------------------------------------------------------------------------------


async def reset(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def hang(_: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(1.0)
    writer.close()


@pytest.mark.parametrize(
    "failure", [answer(status=s) for s in (408, 429, 500, 503, 529)] + [reset, hang]
)
def test_F53_the_next_target_answers_when_one_cannot(rig, failure: Any) -> None:
    rig.providers["p1"].respond = failure
    response = rig.post(["p1", "p2"], ms=200)
    assert response.status_code == 200
    assert response.headers["x-tfy-resolved-model"] == "p2/m-p2"
    attempt = rig.log(response.headers["x-request-id"], "attempt")
    assert attempt.request.request_headers["x-envoy-attempt-count"] == "1"


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_F53_an_answer_to_the_callers_mistake_is_not_retried(rig, status: int) -> None:
    rig.providers["p1"].respond = answer(b'{"error": 1}', status)
    response = rig.post(["p1", "p2"])
    assert (response.status_code, response.content) == (status, b'{"error": 1}')
    assert rig.providers["p2"].requests == []


def test_F53_a_redirect_is_not_followed(rig) -> None:
    rig.providers["p1"].respond = answer(status=302)
    assert rig.post(["p1", "p2"]).status_code == 302
    assert rig.providers["p2"].requests == []


def test_a_chain_ends_with_the_last_targets_own_answer(rig) -> None:
    for number, provider in enumerate(rig.providers.values()):
        provider.respond = answer(b'{"who": %d}' % number, 503)
    response = rig.post(["p1", "p2", "p3"])
    assert (response.status_code, response.json()) == (503, {"who": 2})
    assert [len(provider.requests) for provider in rig.providers.values()] == [1, 1, 1]


def test_F52_what_is_cut_after_its_first_byte_is_not_retried(rig) -> None:
    async def cut(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    rig.providers["p1"].respond = cut
    with pytest.raises(Exception, match=r"peer closed|disconnected"):
        rig.post(["p1", "p2"])
    assert rig.providers["p2"].requests == []


def test_a_later_attempt_starts_from_the_first_ones_body_and_clean_headers(rig) -> None:
    for name in ("p1", "p2"):
        rig.providers[name].respond = answer(status=503)
    assert rig.post(["p1", "p2", "p3"], body="x" * 3_000_000).status_code == 200
    (first,) = rig.providers["p1"].requests
    assert first.body == b"x" * 3_000_000
    for number, name in ((2, "p2"), (3, "p3")):
        (received,) = rig.providers[name].requests
        assert received.body == b"attempt %d" % number
        assert received.line == f"POST /later/{number} HTTP/1.1"
        assert received.header("host") == "later.test"
        assert received.header("content-length") == "9"
    assert [body for _, _, body in rig.attempts] == [b"x" * 3_000_000] * 2
    assert [cluster for _, cluster, _ in rig.attempts] == [
        next(iter(rig.target(name).clusters.values())) for name in ("p2", "p3")
    ]


def test_the_first_attempt_asks_the_sidecar_nothing_more(rig) -> None:
    assert rig.post(["p1"]).status_code == 200
    assert rig.attempts == []


@pytest.fixture(scope="module")
def holes(start_rig) -> Any:
    return start_rig({"p1": PLAIN, "closed": CLOSED, "nohost": NO_HOST})


def test_a_refused_connection_and_a_host_without_address_are_left_at_once(holes) -> None:
    for chain in (["closed", "p1"], ["nohost", "p1"], ["nohost", "closed", "nohost", "p1"]):
        started = time.monotonic()
        response = holes.post(chain)
        assert response.status_code == 200, (chain, response.text)
        assert time.monotonic() - started < 1.0
        attempt = holes.log(response.headers["x-request-id"], "attempt")
        assert attempt.common_properties.response_flags.upstream_connection_failure


def test_a_chain_as_long_as_allowed_ends_and_one_more_is_no_error_of_envoy(holes) -> None:
    assert holes.post(["closed"] * (MAX_ATTEMPTS - 1) + ["p1"]).status_code == 200
    response = holes.post(["closed"] * (MAX_ATTEMPTS + 1) + ["p1"])
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "no_healthy_target"


# -- what a provider sees -------------------------------------------------------------------------


def test_a_provider_sees_no_more_than_it_needs(rig) -> None:
    private = {
        "authorization": "Bearer caller",
        "x-api-key": "caller",
        "api-key": "caller",
        "x-goog-api-key": "caller",
        "proxy-authorization": "caller",
        "cookie": "caller",
        "x-tfy-user-id": "alice",
        "x-tfy-metadata": "{}",
        "x-forwarded-for": "10.1.2.3",
        "x-forwarded-host": "inner",
        "forwarded": "for=10.1.2.3",
        "x-real-ip": "10.1.2.3",
        "via": "1.1 proxy",
        "x-tw-decided": "1",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "te": "trailers",
        "accept-encoding": "gzip",
    }
    assert rig.post(["p1"], headers=private).status_code == 200
    (received,) = rig.providers["p1"].requests
    names = {name for name, _ in received.headers}
    assert names == {
        "host",
        "accept",
        "user-agent",
        "content-length",
        "x-request-id",
        "x-envoy-attempt-count",
        "accept-encoding",
    }
    assert received.header("accept-encoding") == "identity"


# -- credentials ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyed(start_rig, tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "key").write_text("file-key-1\n")
    ends = 'openai: "http://127.0.0.1:PORT/v1", anthropic: "http://127.0.0.1:PORT"'
    rig = start_rig(
        {
            "env": f'{{endpoints: {{{ends}}}, credential: "env:TW_TEST_KEY"}}',
            "file": f'{{endpoints: {{{ends}}}, credential: "file:{folder}/key"}}',
            "none": PLAIN,
        },
        environ={"TW_TEST_KEY": "env-key-31415926"},
    )
    rig.keys = folder
    return rig


def test_each_dialect_gets_its_key_in_its_header(keyed) -> None:
    keyed.forget()
    assert keyed.post(["env"]).status_code == 200
    assert keyed.post(["env"], path="/v1/messages?beta=true").status_code == 200
    chat, messages = keyed.providers["env"].requests
    assert (chat.header("authorization"), chat.header("x-api-key")) == (
        "Bearer env-key-31415926",
        None,
    )
    assert (messages.header("authorization"), messages.header("x-api-key")) == (
        None,
        "env-key-31415926",
    )


def test_the_callers_key_never_takes_the_place_of_ours(keyed) -> None:
    keyed.forget()
    for name in ("env", "none"):
        headers = {"authorization": "Bearer caller", "x-api-key": "caller"}
        assert keyed.post([name], headers=headers).status_code == 200
    (with_key,) = keyed.providers["env"].requests
    assert with_key.header("authorization") == "Bearer env-key-31415926"
    (without,) = keyed.providers["none"].requests
    assert "caller" not in str(without.headers)


def test_no_key_goes_from_one_attempt_to_the_next(keyed) -> None:
    keyed.forget()
    for name in ("env", "file"):
        keyed.providers[name].respond = answer(status=503)
    assert keyed.post(["env", "file", "none"]).status_code == 200
    (second,), (third,) = keyed.providers["file"].requests, keyed.providers["none"].requests
    assert second.header("authorization").startswith("Bearer file-key")
    assert "key" not in str(third.headers)


def test_a_key_file_is_rotated_by_rename_without_a_restart(keyed) -> None:
    keyed.forget()
    assert keyed.post(["file"]).status_code == 200
    assert keyed.providers["file"].requests[-1].header("authorization") == "Bearer file-key-1"
    (keyed.keys / "new").write_text("file-key-2\n")
    os.replace(keyed.keys / "new", keyed.keys / "key")
    deadline = time.monotonic() + 3
    seen = None
    while seen != "Bearer file-key-2" and time.monotonic() < deadline:
        assert keyed.post(["file"]).status_code == 200
        seen = keyed.providers["file"].requests[-1].header("authorization")
    assert seen == "Bearer file-key-2"


def test_I8_no_key_is_in_any_file_dump_or_log(keyed) -> None:
    assert keyed.post(["env"]).status_code == 200
    texts = {str(path): path.read_text() for path in keyed.root.rglob("*") if path.is_file()}
    texts["config_dump"] = keyed.admin("/config_dump?include_eds")
    texts["stats"] = keyed.admin("/stats")
    texts["logs"] = str(keyed.logs)
    assert "[redacted]" in texts["config_dump"]
    for name, text in texts.items():
        assert "31415926" not in text, name


def test_a_missing_key_keeps_its_own_provider_shut_and_no_other(start_rig, tmp_path) -> None:
    key = f"file:{tmp_path}/lost"
    lost = f'{{dialect: openai, base_url: "http://127.0.0.1:PORT/v1", credential: "{key}"}}'
    rig = start_rig({"p1": PLAIN, "lost": lost})
    assert rig.post(["p1"]).status_code == 200
    response = rig.post(["lost"])
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "The provider has no usable key."
    assert rig.providers["lost"].requests == []


# -- TLS ------------------------------------------------------------------------------------------


HOSTS = {"address": "127.0.0.1", "wild": "api.tw.localhost"}


class Authority:
    """A certificate authority of our own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, subject, self.key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        self.certificate = builder.sign(self.key, hashes.SHA256())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: Any, issuer: Any, key: Any) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def server(self, *names: str) -> ssl.SSLContext:
        """A server's context with a certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        alternatives: list[x509.GeneralName] = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        builder = self._builder(subject, self.certificate.subject, key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
        certificate = builder.sign(self.key, hashes.SHA256())
        path = self.folder / f"{self.name}-{'-'.join(names).replace('*', 'any')}.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        context.sni_callback = lambda _, name, ctx: setattr(ctx, "asked", name)
        return context


@pytest.fixture(scope="module")
def secured(start_rig, tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("tls")
    ours, foreign = Authority(folder, "ours"), Authority(folder, "foreign")
    contexts = {
        "good": ours.server("localhost"),
        "address": ours.server("127.0.0.1"),
        "wild": ours.server("*.tw.localhost"),
        "other": ours.server("other.test"),
        "foreign": foreign.server("localhost"),
    }
    text = '{{dialect: openai, base_url: "https://{}:PORT/v1"}}'
    rig = start_rig(
        {"plain": PLAIN, **{name: text.format(HOSTS.get(name, "localhost")) for name in contexts}},
        options={name: {"ssl": context} for name, context in contexts.items()},
        ca_file=str(ours.file),
    )
    rig.contexts = contexts
    return rig


@pytest.mark.parametrize("name", ["good", "address", "wild"])
def test_a_certificate_of_the_authority_for_the_name_is_accepted(secured, name: str) -> None:
    response = secured.post([name])
    assert response.status_code == 200, response.text
    (received,) = secured.providers[name].requests
    host = HOSTS.get(name, "localhost")
    assert received.header("host") == f"{host}:{secured.providers[name].port}"
    assert getattr(secured.contexts[name], "asked", None) == (None if name == "address" else host)


@pytest.mark.parametrize("name", ["other", "foreign"])
def test_a_certificate_for_another_name_or_of_another_authority_gets_no_byte(
    secured, name: str
) -> None:
    response = secured.post([name])
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "no_healthy_target"
    assert secured.providers[name].requests == []
    assert secured.post([name, "plain"]).status_code == 200


# -- the generated resources ----------------------------------------------------------------------


def test_every_cluster_has_no_limit_that_streams_would_meet(rig) -> None:
    made = clusters(rig.policy, rig.settings)
    assert len({cluster["name"] for cluster in made}) == len(made)
    for cluster in made:
        (threshold,) = cluster["circuit_breakers"]["thresholds"]
        assert set(threshold.values()) == {2**32 - 1}, cluster["name"]
    assert "tw-test-key" not in json.dumps(made)
