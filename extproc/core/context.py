"""Targets whose context a request cannot fit, left out before anything is reserved.

A text longer than any tokenizer could make fit never goes there. One that merely is likely to be
too long goes elsewhere where it is likely to fit; where it does not, the provider knows better.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.core.estimate import Estimator
from extproc.core.routing import Chain, text_bytes
from extproc.policy.snapshot import Target
from extproc.values.dialect import Operation
from extproc.wire.capabilities import LONG_CONTEXT, LONG_CONTEXT_TOKENS
from extproc.wire.inference_request import InferenceRequest

_ONE_PROMPT = (Operation.CHAT_COMPLETIONS, Operation.MESSAGES, Operation.RESPONSES)
"""Lists of prompts (embeddings, legacy completions) are several requests in one."""
_SHORTENED = frozenset(("truncation", "context_management"))
"""Fields by which the provider cuts a prompt to its context."""


def without_narrow(request: InferenceRequest, chain: Chain, estimator: Estimator) -> Chain:
    """The chain without targets that cannot hold the request; it may be empty then. Images and
    other references are shorter in tokens than in bytes, so they say nothing."""
    measurable = (
        request.operation in _ONE_PROMPT
        and not request.input_by_reference
        and _SHORTENED.isdisjoint(request.body.values)
    )
    if not measurable:
        return chain
    body_bytes = request.body_bytes
    narrow = [target for target in chain.targets if text_bytes(target) < body_bytes]
    tight = [
        target
        for target in chain.targets
        if target not in narrow and not _likely_fits(target, body_bytes, estimator)
    ]
    if len(narrow) + len(tight) < len(chain.targets):
        narrow += tight
    return chain.without(narrow) if narrow else chain


def opens_longer_context(headers: Sequence[tuple[str, bytes]], chain: Chain) -> bool:
    """Whether a header asks some target for a longer context than reservations assume."""
    asked = [value.decode("latin-1") for name, value in headers if name == "anthropic-beta"]
    return any(map(LONG_CONTEXT.search, asked)) and any(
        (target.price.context_tokens or LONG_CONTEXT_TOKENS) < LONG_CONTEXT_TOKENS
        for target in chain.targets
    )


def outgrows_context(
    request: InferenceRequest, headers: Sequence[tuple[str, bytes]], target: Target, chain: Chain
) -> bool:
    """Whether the prompt may need a longer context than is reserved at a target, and a header asks
    for it."""
    context = target.price.context_tokens
    if context is None or (request.body_bytes <= context and not request.input_by_reference):
        return False
    return opens_longer_context(headers, chain)


def _likely_fits(target: Target, body_bytes: int, estimator: Estimator) -> bool:
    context = target.price.context_tokens
    if context is None:
        return True
    return estimator.likely_tokens(target.canonical_model, body_bytes, 0)[0] <= context
