"""The ext_proc filters: the decision on the request, and the stages on its attempts."""

from __future__ import annotations

from typing import Any

from extproc.policy.limit_documents import MAX_WAIT_MS
from extproc.policy.model_documents import MAX_TIMEOUT_MS
from extproc.values.wire_names import METADATA

Json = dict[str, Any]

REQUEST_CLUSTER = "tokenweir_request"
ATTEMPT_CLUSTER = "tokenweir_attempt"
LOG_CLUSTER = "tokenweir_log"

MESSAGE_TIMEOUT_S = 5
"""A decision takes microseconds; five seconds is a sidecar that was stopped. The default of 200 ms
kills requests whenever the machine pauses."""
MAX_MESSAGE_TIMEOUT_S = MAX_WAIT_MS // 1000 + MESSAGE_TIMEOUT_S
"""What the sidecar may ask for, once per message, when a rule lets a request wait: the longest
wait, and then the time that a decision has. The listener's request timeout ends with the upload,
so it does not cut a wait."""
CLUSTER_ATTRIBUTE = "xds.cluster_name"
ATTEMPT_HEADER = "x-envoy-attempt-count"

_RECEIVING: Json = {"receiving_namespaces": {"untyped": [METADATA]}}
"""Both stages say what the answer's headers shall show."""
_TYPE = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"


def request_filter() -> Json:
    """Before anything else: headers, then the whole body."""
    return {
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": _TYPE,
            **_common(REQUEST_CLUSTER),
            "max_message_timeout": f"{MAX_MESSAGE_TIMEOUT_S}s",
            "metadata_options": _RECEIVING,
        },
    }


def attempt_filter(max_attempts: int) -> Json:
    """On a wrapper cluster, for attempts after the first: the first costs no call.

    The body it receives is the one that left the gateway, whatever an earlier attempt made of it.
    """
    ext_proc = every_attempt_filter()
    execute = {
        "action": {
            "name": "later attempt",
            "typed_config": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.filters.http.composite.v3.ExecuteFilterAction",
                "typed_config": ext_proc,
            },
        }
    }
    attempts = {str(number): execute for number in range(2, max_attempts + 1)}
    return {
        "name": "later attempts",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {
                "name": "composite",
                "typed_config": {
                    "@type": "type.googleapis.com/"
                    "envoy.extensions.filters.http.composite.v3.Composite"
                },
            },
            "xds_matcher": {
                "matcher_tree": {
                    "input": {
                        "name": "attempt",
                        "typed_config": {
                            "@type": "type.googleapis.com/"
                            "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                            "header_name": ATTEMPT_HEADER,
                        },
                    },
                    "exact_match_map": {"map": attempts},
                }
            },
        },
    }


def every_attempt_filter() -> Json:
    """On the wrapper cluster of a target that sets something otherwise: the first attempt too."""
    return _attempt_stage(_common(ATTEMPT_CLUSTER))


def translating_filter() -> Json:
    """On the wrapper cluster of a target that is asked in another dialect, for every attempt: the
    request as above, then the answer's headers and its bytes as they come.

    Envoy does not wait for what the headers become before it sends the first bytes: the first token
    would otherwise pay for one more round trip. What the caller gets is in order all the same.
    """
    return _attempt_stage(_reading_answer())


def first_token_filter() -> Json:
    """The same where a stream is to be given up that has no token in time. The bytes come although
    the answer's headers are held back, and for as long as Envoy itself would wait for those."""
    common = _reading_answer()
    common["message_timeout"] = f"{MAX_TIMEOUT_MS // 1000 + MESSAGE_TIMEOUT_S}s"
    return _attempt_stage(common)


def _reading_answer() -> Json:
    common = _common(ATTEMPT_CLUSTER)
    common["processing_mode"] |= {"response_header_mode": "SEND", "response_body_mode": "STREAMED"}
    common["send_body_without_waiting_for_header_response"] = True
    return common


def _attempt_stage(common: Json) -> Json:
    return {
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": _TYPE,
            **common,
            "request_attributes": [CLUSTER_ATTRIBUTE],
            "metadata_options": _RECEIVING,
        },
    }


def listing_filter() -> Json:
    """On the cluster that lists of tools come from: who asked, then the answer as it comes."""
    common = _common(ATTEMPT_CLUSTER)
    common["processing_mode"] = {
        "request_header_mode": "SEND",
        "request_body_mode": "NONE",
        "response_header_mode": "SEND",
        "response_body_mode": "STREAMED",
    }
    return {"name": "envoy.filters.http.ext_proc", "typed_config": {"@type": _TYPE, **common}}


def _common(cluster: str) -> Json:
    return {
        "grpc_service": {"envoy_grpc": {"cluster_name": cluster}, "timeout": "300s"},
        "failure_mode_allow": False,
        "message_timeout": f"{MESSAGE_TIMEOUT_S}s",
        "status_on_error": {"code": 503},
        "processing_mode": {
            "request_header_mode": "SEND",
            "request_body_mode": "BUFFERED",
            "response_header_mode": "SKIP",
        },
        # The sidecar sets the path, the host, and Envoy's own retry and timeout headers.
        "mutation_rules": {"allow_all_routing": True, "allow_envoy": True},
    }
