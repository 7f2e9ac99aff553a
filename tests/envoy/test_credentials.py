"""Credentials of providers through the real Envoy: whose goes where, and what becomes of a file."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from envoy_rig import PLAIN, Received, Rig, answer

from extproc.envoy.clusters import clusters
from extproc.envoy.credentials import secret_name, signs, token_file
from extproc.envoy.settings import GatewaySettings
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import CredentialRef, PolicySnapshot
from extproc.values.dialect import Dialect

ENDS = (
    '{{endpoints: {{openai: "http://127.0.0.1:PORT/v1", anthropic: "http://127.0.0.1:PORT"}},'
    ' credential: "{}"}}'
)
GOOGLE = '{{dialect: openai, base_url: "http://127.0.0.1:PORT/v1", credential: "{}"}}'
SECRET = "env-key-31415926"


@pytest.fixture(scope="module")
def keyed_rig(start_rig) -> Rig:
    providers = {"env": ENDS.format("env:TW_TEST_KEY"), "none": PLAIN}
    return start_rig(providers, environ={"TW_TEST_KEY": SECRET})


@pytest.fixture
def keyed(keyed_rig: Rig) -> Rig:
    keyed_rig.forget()
    return keyed_rig


def test_each_dialect_gets_its_key_in_its_header(keyed) -> None:
    assert keyed.post(["env"]).status_code == 200
    assert keyed.post(["env"], path="/v1/messages?beta=true").status_code == 200
    chat, messages = keyed.providers["env"].requests
    assert (chat.header("authorization"), chat.header("x-api-key")) == (f"Bearer {SECRET}", None)
    assert (messages.header("authorization"), messages.header("x-api-key")) == (None, SECRET)


def test_the_callers_key_never_takes_the_place_of_ours(keyed) -> None:
    for name in ("env", "none"):
        headers = {"authorization": "Bearer caller", "x-api-key": "caller"}
        assert keyed.post([name], headers=headers).status_code == 200
    (with_key,) = keyed.providers["env"].requests
    assert with_key.header("authorization") == f"Bearer {SECRET}"
    (without,) = keyed.providers["none"].requests
    assert "caller" not in str(without.headers)


def test_no_key_goes_from_one_attempt_to_the_next(keyed) -> None:
    keyed.providers["env"].respond = answer(status=503)
    assert keyed.post(["env", "none"]).status_code == 200
    assert SECRET in str(keyed.providers["env"].requests[0].headers)
    assert SECRET not in str(keyed.providers["none"].requests[0].headers)


def test_a_later_attempt_gets_its_own_key(keyed) -> None:
    keyed.providers["none"].respond = answer(status=503)
    assert keyed.post(["none", "env"]).status_code == 200
    assert keyed.providers["env"].requests[0].header("authorization") == f"Bearer {SECRET}"


def test_no_key_is_in_any_file_dump_or_log(keyed) -> None:
    assert keyed.post(["env"]).status_code == 200
    texts = {str(path): path.read_text() for path in keyed.root.rglob("*") if path.is_file()}
    texts["config_dump"] = keyed.admin("/config_dump?include_eds")
    texts["stats"] = keyed.admin("/stats")
    texts["logs"] = str(keyed.logs)
    assert "[redacted]" in texts["config_dump"]
    for name, text in texts.items():
        assert SECRET not in text, name


def test_two_providers_with_keys_get_each_its_own(start_rig) -> None:
    rig = start_rig(
        {"a": ENDS.format("env:TW_KEY_A"), "b": ENDS.format("env:TW_KEY_B")},
        environ={"TW_KEY_A": "key-a", "TW_KEY_B": "key-b"},
    )
    for name in ("a", "b"):
        assert rig.post([name]).status_code == 200
        assert rig.providers[name].requests[0].header("authorization") == f"Bearer key-{name}"


def test_a_missing_key_keeps_its_own_provider_shut_and_no_other(start_rig, tmp_path) -> None:
    rig = start_rig({"p1": PLAIN, "lost": ENDS.format(f"file:{tmp_path}/lost")})
    assert rig.post(["p1"]).status_code == 200
    response = rig.post(["lost"])
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "The provider has no usable key."
    assert rig.providers["lost"].requests == []


def wrapper_filters(dialect: str, credential: str) -> list[dict[str, Any]]:
    """The upstream filters of the only wrapper of one foreign provider."""
    text = f"""
name: g
type: gateway-config
providers:
  p: {{dialect: {dialect}, base_url: "https://bedrock-runtime.eu-west-1.amazonaws.com",
       credential: "{credential}"}}
prices:
  - {{provider: p, model: m, input_usd_per_mtok: 1, output_usd_per_mtok: 1}}
---
name: v
type: gateway-load-balancing-config
rules:
  - {{id: r, target: {{provider: p, model: m}}}}
"""
    snapshot = compile_folder({"x.yaml": text.encode()}, 1, {})
    assert isinstance(snapshot, PolicySnapshot)
    settings = GatewaySettings("127.0.0.1", 1, Path("/s"), Path("/c"))
    found = [one for one in clusters(snapshot, settings) if one["name"].startswith("x_")]
    (options,) = found[0]["typed_extension_protocol_options"].values()
    filters: list[dict[str, Any]] = options["http_filters"]
    return filters


def test_bedrock_is_signed_after_it_was_translated() -> None:
    stage, signer, codec = wrapper_filters("bedrock", "env:AWS_ACCESS_KEY_ID")
    assert stage["name"] == "later attempts"
    assert signer["name"] == "envoy.filters.http.aws_request_signing"
    assert signer["typed_config"]["service_name"] == "bedrock"
    assert signer["typed_config"]["region"] == "eu-west-1"
    assert codec["name"] == "envoy.filters.http.upstream_codec"


@pytest.mark.parametrize(
    ("dialect", "header"),
    [("bedrock", "authorization"), ("gemini", "x-goog-api-key"), ("azure-openai", "api-key")],
)
def test_each_api_gets_its_key_where_it_looks_for_it(dialect: str, header: str) -> None:
    _, injector, _ = wrapper_filters(dialect, "env:KEY")
    assert injector["typed_config"]["credential"]["typed_config"]["header"] == header


def test_google_gets_a_token_that_is_kept_elsewhere() -> None:
    _, injector, _ = wrapper_filters("gemini", "file:/run/secrets/gcp.json")
    generic = injector["typed_config"]["credential"]["typed_config"]
    assert (generic["header"], generic["header_value_prefix"]) == ("authorization", "Bearer ")
    assert generic["credential"]["name"] == "google:/run/secrets/gcp.json"


@pytest.mark.parametrize(
    ("reference", "signed"),
    [
        (CredentialRef("env", "AWS_ACCESS_KEY_ID"), True),
        (CredentialRef("env", "AWS_*"), True),
        (CredentialRef("file", "/run/secrets/aws/credentials"), True),
        (CredentialRef("env", "AWS_BEARER_TOKEN_BEDROCK"), False),
        (CredentialRef("file", "/run/secrets/bedrock-key"), False),
    ],
)
def test_pairs_of_aws_keys_sign_and_other_keys_are_sent(
    reference: CredentialRef, signed: bool
) -> None:
    assert signs(reference, Dialect.BEDROCK) is signed
    assert not signs(reference, Dialect.OPENAI)


def test_a_file_of_aws_keys_is_the_only_place_that_they_come_from() -> None:
    _, signer, _ = wrapper_filters("bedrock", "file:/run/secrets/aws/credentials")
    chain = signer["typed_config"]["credential_provider"]
    source = chain["credentials_file_provider"]["credentials_data_source"]
    assert source["filename"] == "/run/secrets/aws/credentials"
    assert chain["custom_credential_provider_chain"] is True


def renamed(folder: Path, text: str) -> None:
    (folder / "new").write_text(text)
    os.replace(folder / "new", folder / "key")


def swapped(folder: Path, text: str) -> None:
    """As a mounted secret of Kubernetes changes: the folder behind a link is another one."""
    versions = folder / f"..{text.strip()}"
    versions.mkdir()
    (versions / "key").write_text(text)
    os.symlink(versions.name, folder / "..data_tmp")
    os.replace(folder / "..data_tmp", folder / "..data")
    if not (folder / "key").is_symlink():
        os.symlink("..data/key", folder / "key")


def in_place(folder: Path, text: str) -> None:
    (folder / "key").write_text(text)


@pytest.mark.parametrize("write", [renamed, swapped, in_place], ids=lambda write: write.__name__)
def test_a_key_file_is_rotated_without_a_restart(
    start_rig, tmp_path, write: Callable[[Path, str], None]
) -> None:
    write(tmp_path, "one\n")
    rig: Rig = start_rig({"file": ENDS.format(f"file:{tmp_path}/key")})

    def sent() -> str | None:
        assert rig.post(["file"]).status_code == 200
        return rig.providers["file"].requests[-1].header("authorization")

    assert sent() == "Bearer one"
    for text in ("two", "three"):
        write(tmp_path, text)
        if write is in_place:  # Envoy sees only what moves; the sidecar's look at times finds it
            rig.delivery.read_again(secret_name(CredentialRef("file", f"{tmp_path}/key")))
        deadline = time.monotonic() + 3
        while sent() != f"Bearer {text}":
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_token_that_is_taken_away_keeps_its_provider_shut_until_the_next(
    start_rig, tmp_path
) -> None:
    rig: Rig = start_rig({"google": GOOGLE.format(f"file:{tmp_path}/gcp.json")})
    token = rig.settings.tokens / token_file(f"{tmp_path}/gcp.json")

    def status() -> int:
        return rig.post(["google"]).status_code

    def put(text: str) -> None:
        token.with_suffix(".new").write_text(text)
        os.replace(token.with_suffix(".new"), token)

    assert status() == 503
    for text, expected in (("ya29.a", 200), ("", 503), ("ya29.b", 200)):
        put(text)
        deadline = time.monotonic() + 3
        while status() != expected:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    sent = {request.header("authorization") for request in rig.providers["google"].requests}
    assert sent == {"Bearer ya29.a", "Bearer ya29.b"}


def test_headers_in_which_a_provider_gives_the_key_back_do_not_reach_the_caller(keyed) -> None:
    async def echo(received: Received, writer: asyncio.StreamWriter) -> None:
        key = received.header("authorization") or ""
        names = ("authorization", "X-Received-Authorization", "x-api-key", "My-Secret", "api-key")
        head = "".join(f"{name}: {key}\r\n" for name in names)
        kept = "x-ratelimit-remaining-tokens: 7\r\nopenai-organization: org\r\n"
        length = "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        writer.write(f"HTTP/1.1 {status} X\r\n{head}{kept}{length}".encode())

    for status in (200, 400, 503):
        keyed.providers["env"].respond = echo
        answered = keyed.post(["env"])
        assert answered.status_code == status
        assert SECRET not in str(answered.headers)
        assert answered.headers["openai-organization"] == "org"
    assert SECRET in str(keyed.providers["env"].requests[0].headers)
