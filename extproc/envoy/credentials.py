"""How an attempt gets its provider's credential: injected from a secret, or signed with.

Only names and places are written here. Envoy reads the secrets themselves: from its environment,
from the operator's file, or from the file that a Google token is kept in.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath
from typing import Any

from extproc.envoy.settings import GatewaySettings
from extproc.policy.snapshot import CredentialRef, Endpoint, PolicySnapshot
from extproc.values.dialect import Dialect

Json = dict[str, Any]

_BEARER = ("authorization", "Bearer ")
_CREDENTIAL_HEADER = {
    Dialect.OPENAI: _BEARER,
    Dialect.ANTHROPIC: ("x-api-key", ""),
    Dialect.AZURE_OPENAI: ("api-key", ""),
    Dialect.GEMINI: ("x-goog-api-key", ""),
    Dialect.BEDROCK: _BEARER,
}
_VERTEX_HOST = "aiplatform.googleapis.com"
_AWS_HOST = re.compile(r"bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.")
_AWS_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_*")
_AWS_FILE = "credentials"
"""What AWS calls the file that its tools keep pairs of keys in."""


def secret_name(reference: CredentialRef) -> str:
    """The SDS name of a credential."""
    return f"{reference.kind}:{reference.name}"


def secret_file(name: str) -> str:
    """The watched file of one secret: Envoy refuses a file that holds any more than that one."""
    return f"secret-{_digest(name)}.json"


def token_file(key_file: str) -> str:
    """Where the access token of a Google key file is kept, in the token folder."""
    return f"google-{_digest(key_file)}.token"


def token_state_file(key_file: str) -> str:
    """Where it is said how that token is, in the token folder: see ``edge/google_tokens``."""
    return f"google-{_digest(key_file)}.json"


def references(snapshot: PolicySnapshot) -> list[CredentialRef]:
    """The credentials of all providers and MCP servers, each once."""
    found = {each.credential for each in snapshot.providers.values() if each.credential}
    return sorted(found | _of_mcp_servers(snapshot), key=secret_name)


def secrets(snapshot: PolicySnapshot, settings: GatewaySettings) -> list[Json]:
    """``Secret`` resources: where Envoy reads each credential that it injects."""
    injected = {
        provider.credential
        for provider in snapshot.providers.values()
        for dialect in provider.endpoints
        if provider.credential and not signs(provider.credential, dialect)
    }
    injected |= _of_mcp_servers(snapshot)
    return [_secret(each, settings) for each in sorted(injected, key=secret_name)]


def _of_mcp_servers(snapshot: PolicySnapshot) -> set[CredentialRef]:
    return {each.credential for each in snapshot.mcp_servers.values() if each.credential}


def signs(reference: CredentialRef, dialect: Dialect) -> bool:
    """Whether calls are signed with a pair of AWS keys, of Envoy's environment or of a file; any
    other credential of Bedrock is one of its API keys."""
    if dialect is not Dialect.BEDROCK:
        return False
    if reference.kind == "env":
        return reference.name in _AWS_VARIABLES
    return reference.kind == "file" and PurePath(reference.name).name == _AWS_FILE


def credential_filter(
    credential: CredentialRef, endpoint: Endpoint, settings: GatewaySettings
) -> Json:
    """The upstream filter that gives an attempt its credential. Without one it sends nothing."""
    if signs(credential, endpoint.dialect):
        return _signer(credential, endpoint)
    return _injector(credential, endpoint, settings)


def _secret(reference: CredentialRef, settings: GatewaySettings) -> Json:
    # Envoy reads the value itself: it is in no file of ours, and never passes through the sidecar.
    if reference.kind == "env":
        source: Json = {"environment_variable": reference.name}
    elif reference.kind == "demo":
        source = {"inline_string": reference.name}
    elif reference.kind == "google":
        source = _watched(str(settings.tokens / token_file(reference.name)))
    else:
        source = _watched(reference.name)
    return {"name": secret_name(reference), "generic_secret": {"secret": source}}


def _watched(path: str) -> Json:
    return {"filename": path, "watched_directory": {"path": path.rpartition("/")[0] or "."}}


def _signer(credential: CredentialRef, endpoint: Endpoint) -> Json:
    """After the stage: what is signed is the translated request."""
    region = _AWS_HOST.match(endpoint.host)
    config: Json = {
        "@type": "type.googleapis.com/"
        "envoy.extensions.filters.http.aws_request_signing.v3.AwsRequestSigning",
        "service_name": "bedrock",
        "region": region[1] if region else "us-east-1",
        "host_rewrite": endpoint.authority,
    }
    if credential.kind == "file":
        source = _watched(credential.name)
        config["credential_provider"] = {
            "custom_credential_provider_chain": True,
            "credentials_file_provider": {"credentials_data_source": source},
        }
    return {"name": "envoy.filters.http.aws_request_signing", "typed_config": config}


def _injector(credential: CredentialRef, endpoint: Endpoint, settings: GatewaySettings) -> Json:
    header, prefix = _CREDENTIAL_HEADER[endpoint.dialect]
    is_token = credential.kind == "google" or endpoint.host.endswith(_VERTEX_HOST)
    if endpoint.dialect is Dialect.GEMINI and is_token:
        header, prefix = _BEARER  # an access token; API keys are Gemini's own
    folder = str(settings.config_folder)
    return {
        "name": "envoy.filters.http.credential_injector",
        "typed_config": {
            "@type": "type.googleapis.com/"
            "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
            "overwrite": True,
            "credential": {
                "name": "envoy.http.injected_credentials.generic",
                "typed_config": {
                    "@type": "type.googleapis.com/"
                    "envoy.extensions.http.injected_credentials.generic.v3.Generic",
                    "credential": {
                        "name": secret_name(credential),
                        "sds_config": {
                            "path_config_source": {
                                "path": f"{folder}/{secret_file(secret_name(credential))}",
                                "watched_directory": {"path": folder},
                            },
                            "resource_api_version": "V3",
                        },
                    },
                    "header": header,
                    "header_value_prefix": prefix,
                },
            },
        },
    }


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]
