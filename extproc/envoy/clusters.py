"""Clusters: one per provider endpoint, and up to two wrappers per target.

The wrapper (a composite cluster) carries what belongs to an attempt: the upstream stage (for later
attempts, or for all where a first token is waited for), the credential, the target's name. It lists
its endpoint several times and then a closed port: without a healthy host an attempt is refused
there, and that is retriable, whereas a plain cluster without a host ends the request.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from extproc.envoy.credentials import credential_filter
from extproc.envoy.ext_proc import attempt_filter, first_token_filter
from extproc.envoy.settings import GatewaySettings
from extproc.policy.mcp_server import McpServer
from extproc.policy.snapshot import Endpoint, PolicySnapshot, Target
from extproc.values.wire_names import METADATA

Json = dict[str, Any]

CONNECT_TIMEOUT_S = 2
UNLIMITED = 2**32 - 1
"""The default of 1,024 concurrent requests per cluster is what live streams run into first."""
MAX_ATTEMPTS = 8
"""Attempts of one request that the upstream stage is attached to. Chains are shorter."""
DEAD_CLUSTER = "tokenweir_dead"

_UPSTREAM_CODEC: Json = {
    "name": "envoy.filters.http.upstream_codec",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
    },
}


def clusters(snapshot: PolicySnapshot, settings: GatewaySettings) -> list[Json]:
    """Every cluster of a snapshot, each name once."""
    found: dict[str, Json] = {DEAD_CLUSTER: _dead()}
    for model in snapshot.virtual_models.values():
        for target in model.all_targets:
            for operation, name in target.clusters.items():
                if name in found:
                    continue
                endpoint = target.endpoints[operation]
                found.setdefault(endpoint.cluster, _endpoint(endpoint, settings))
                stage = _stage(target)
                found[name] = _wrapper(name, target, endpoint, stage, settings)
    for server in snapshot.mcp_servers.values():
        found[server.endpoint.cluster] = _mcp_server(server, settings)
    return list(found.values())


def _stage(target: Target) -> Json:
    return first_token_filter() if target.first_token_timeout_ms else attempt_filter(MAX_ATTEMPTS)


def _endpoint(endpoint: Endpoint, settings: GatewaySettings) -> Json:
    cluster: Json = {
        "name": endpoint.cluster,
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        "circuit_breakers": {"thresholds": [_unlimited()]},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "load_assignment": {
            "cluster_name": endpoint.cluster,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(endpoint)}}]}],
        },
    }
    if _is_address(endpoint.host):
        cluster["type"] = "STATIC"
    else:
        # One address at a time, as a provider's load balancer wants; the old one drains.
        cluster["type"] = "LOGICAL_DNS"
        cluster["dns_lookup_family"] = "V4_PREFERRED"
    if endpoint.scheme == "https":
        cluster["transport_socket"] = _tls(endpoint, settings)
    return cluster


def _wrapper(
    name: str, target: Target, endpoint: Endpoint, stage: Json, settings: GatewaySettings
) -> Json:
    filters = [stage]
    credential = target.provider.credential
    if credential is not None:
        filters.append(credential_filter(credential, endpoint, settings))
    filters.append(_UPSTREAM_CODEC)
    return {
        "name": name,
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        "lb_policy": "CLUSTER_PROVIDED",
        "metadata": {"filter_metadata": {METADATA: {"target": target.name}}},
        "circuit_breakers": {"thresholds": [_unlimited()]},
        "cluster_type": {
            "name": "envoy.clusters.composite",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.composite.v3.ClusterConfig",
                "clusters": [
                    *({"name": endpoint.cluster} for _ in range(MAX_ATTEMPTS)),
                    {"name": DEAD_CLUSTER},
                ],
            },
        },
        "typed_extension_protocol_options": _protocol_options(filters),
    }


def _protocol_options(filters: list[Json]) -> Json:
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {}},
            "http_filters": filters,
        }
    }


def _mcp_server(server: McpServer, settings: GatewaySettings) -> Json:
    """No wrapper: one server, one attempt."""
    filters = []
    if server.credential is not None:
        filters.append(credential_filter(server.credential, server.endpoint, settings))
    cluster = _endpoint(server.endpoint, settings)
    filters.append(_UPSTREAM_CODEC)
    cluster["typed_extension_protocol_options"] = _protocol_options(filters)
    return cluster


def _tls(endpoint: Endpoint, settings: GatewaySettings) -> Json:
    san: Json = {"san_type": "DNS", "matcher": {"exact": endpoint.host}}
    if _is_address(endpoint.host):
        san = {"san_type": "IP_ADDRESS", "matcher": {"exact": endpoint.host}}
    context: Json = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "validation_context": {
                "trusted_ca": {"filename": settings.ca_file},
                # A certificate of the right authority for another name is no proof.
                "match_typed_subject_alt_names": [san],
            }
        },
    }
    if not _is_address(endpoint.host):
        context["sni"] = endpoint.host
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _dead() -> Json:
    """A host that refuses every connection."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 1}}
    return {
        "name": DEAD_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "0.1s",
        "circuit_breakers": {"thresholds": [_unlimited()]},
        "load_assignment": {
            "cluster_name": DEAD_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _address(endpoint: Endpoint) -> Json:
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _unlimited() -> Json:
    return {
        "max_connections": UNLIMITED,
        "max_pending_requests": UNLIMITED,
        "max_requests": UNLIMITED,
        "max_retries": UNLIMITED,
    }
