"""Targets whose context a request cannot fit, left out before anything is reserved.

Only what is certain counts: a text longer than any tokenizer could make fit. What merely may be too
long is the provider's to refuse.
"""

from __future__ import annotations

from extproc.core.routing import Chain, text_bytes
from extproc.values.dialect import Operation
from extproc.wire.inference_request import InferenceRequest

_ONE_PROMPT = (Operation.CHAT_COMPLETIONS, Operation.MESSAGES, Operation.RESPONSES)
"""Lists of prompts (embeddings, legacy completions) are several requests in one."""
_SHORTENED = frozenset(("truncation", "context_management"))
"""Fields by which the provider cuts a prompt to its context."""


def without_narrow(request: InferenceRequest, chain: Chain) -> Chain:
    """The chain without targets that cannot hold the request; it may be empty then. Images and
    other references are shorter in tokens than in bytes, so they say nothing."""
    certain = (
        request.operation in _ONE_PROMPT
        and not request.input_by_reference
        and _SHORTENED.isdisjoint(request.body.values)
    )
    if not certain:
        return chain
    narrow = [target for target in chain.targets if text_bytes(target) < request.body_bytes]
    return chain.without(narrow) if narrow else chain
