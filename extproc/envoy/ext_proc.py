"""The ext_proc filters: the decision on the request, the stages on its attempts, and the one on its
answer."""

from __future__ import annotations

from typing import Any

from extproc.policy.limit_documents import MAX_WAIT_MS
from extproc.policy.model_documents import MAX_TIMEOUT_MS
from extproc.values.wire_names import METADATA, TRANSLATED_HEADER

Json = dict[str, Any]

REQUEST_CLUSTER = "tokenweir_request"
ATTEMPT_CLUSTER = "tokenweir_attempt"
ANSWER_CLUSTER = "tokenweir_answer"
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
ANSWER_FILTER = "translated answers"
REQUEST_ID_ATTRIBUTE = "request.id"
DETAILS_ATTRIBUTE = "response.code_details"
MAX_ANSWER_S = 86_400
"""Of a translated stream: silence ends one, not its length."""

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

    The first one leaves the gateway as its target takes it.
    """
    numbers = [str(number) for number in range(2, max_attempts + 1)]
    stage = _attempt_stage(_common(ATTEMPT_CLUSTER))
    return _only_where("later attempts", ATTEMPT_HEADER, numbers, stage)


def _only_where(name: str, header: str, values: list[str], ext_proc: Json) -> Json:
    """A filter for requests whose header has one of the values."""
    execute = {
        "action": {
            "name": name,
            "typed_config": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.filters.http.composite.v3.ExecuteFilterAction",
                "typed_config": ext_proc,
            },
        }
    }
    return {
        "name": name,
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
                        "name": "header",
                        "typed_config": {
                            "@type": "type.googleapis.com/"
                            "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                            "header_name": header,
                        },
                    },
                    "exact_match_map": {"map": dict.fromkeys(values, execute)},
                }
            },
        },
    }


def answer_filter() -> Json:
    """On the listener, between the router and what reads the caller's own dialect: the answers of
    translated attempts and lists of tools, headers and then bytes as they come.

    It is no stage of the attempt: there the provider's stream may be over and gone while bytes of
    it are still here. When those then fill the client's buffer, Envoy 1.40 tells the stream that is
    gone to pause, and dies of it.
    """
    common = _common(ANSWER_CLUSTER)
    common["grpc_service"]["timeout"] = f"{MAX_ANSWER_S}s"
    common["processing_mode"] = {
        "request_header_mode": "SKIP",
        "response_header_mode": "SEND",
        "response_body_mode": "STREAMED",
    }
    # A stream's first event is asked about together with its headers.
    common["send_body_without_waiting_for_header_response"] = True
    ext_proc = {
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": _TYPE,
            **common,
            "response_attributes": [REQUEST_ID_ATTRIBUTE, DETAILS_ATTRIBUTE],
        },
    }
    # Most policies have no use for it: the paths that have enable it.
    return {**_only_where(ANSWER_FILTER, TRANSLATED_HEADER, ["1"], ext_proc), "disabled": True}


def first_token_filter() -> Json:
    """On the wrapper cluster of a target whose streams are given up without a token in time: the
    request as above, then the answer. Its bytes come although its headers are held back, and for as
    long as Envoy itself would wait for those."""
    common = _common(ATTEMPT_CLUSTER)
    common["processing_mode"] |= {"response_header_mode": "SEND", "response_body_mode": "STREAMED"}
    common["send_body_without_waiting_for_header_response"] = True
    common["message_timeout"] = f"{MAX_TIMEOUT_MS // 1000 + MESSAGE_TIMEOUT_S}s"
    return _attempt_stage(common)


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
