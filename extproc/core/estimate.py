"""What a request may use, before it is sent.

Two different questions get two different answers. For money the answer must be a bound: a token is
at least one byte, so the body's bytes (and the target's hidden template) bound the input, and the
caller's maximum bounds the output. For token limits the answer should be *likely*: the byte bound
of a 200 KB agent call would trip a 200,000-token guard at once, so bytes per token are learned from
what providers report, and what was guessed too low is carried as debt.
"""

from __future__ import annotations

from typing import NamedTuple

from extproc.policy.snapshot import Target
from extproc.values.limit import Amounts, Unit
from extproc.values.usage import TokenUsage
from extproc.wire.inference_request import InferenceRequest

HIDDEN_TEMPLATE_TOKENS = 1_024
"""Prompt tokens a provider may add that are not in the body: chat template, tool-use system prompt
(159 to 530 tokens published for Anthropic), one marker or two per message (counted in the bytes of
the message's own JSON). A generous constant, because the proof rests on it."""

UNKNOWN_CONTEXT_TOKENS = 2_000_000
"""The input of a request by reference to a model of unknown context: above every published one."""

FIRST_BYTES_PER_TOKEN = 3.6
"""English prose as JSON before anything was learned; the order of what providers report."""
MIN_BYTES_PER_TOKEN = 1.0
MAX_BYTES_PER_TOKEN = 12.0
"""Learned values outside are a provider's mistake (or images), not a tokenizer."""
FIRST_OUTPUT_TOKENS = 1_024.0
LEARNING_RATE = 0.05
"""Weight of one request in the moving averages: some twenty requests to follow a change."""
MAX_LEARNED_MODELS = 4_096


class Learned(NamedTuple):
    """Moving averages of one model."""

    bytes_per_token: float
    output_tokens: float


_UNLEARNED = Learned(FIRST_BYTES_PER_TOKEN, FIRST_OUTPUT_TOKENS)


class Estimator:
    """Learns bytes per token and output length per model. Bounded; a restart forgets."""

    __slots__ = ("_learned",)

    def __init__(self) -> None:
        self._learned: dict[str, Learned] = {}

    def likely_tokens(self, model: str, body_bytes: int, max_output_tokens: int) -> tuple[int, int]:
        """Likely (input, output) tokens of a request to the model."""
        learned = self._learned.get(model, _UNLEARNED)
        output = min(int(learned.output_tokens), max_output_tokens)
        return int(body_bytes / learned.bytes_per_token) + 1, output

    def learn(self, model: str, body_bytes: int, input_tokens: int, output_tokens: int) -> None:
        """Takes one settled request into the averages."""
        old = self._learned.get(model)
        if old is None:
            if len(self._learned) >= MAX_LEARNED_MODELS:
                return
            old = _UNLEARNED
        ratio = body_bytes / max(1, input_tokens)
        ratio = min(MAX_BYTES_PER_TOKEN, max(MIN_BYTES_PER_TOKEN, ratio))
        self._learned[model] = Learned(
            old.bytes_per_token + LEARNING_RATE * (ratio - old.bytes_per_token),
            old.output_tokens + LEARNING_RATE * (output_tokens - old.output_tokens),
        )


def output_bound_tokens(request: InferenceRequest, target: Target, default_tokens: int) -> int:
    """The most output tokens one choice can have: the caller's maximum, else what is injected."""
    if not request.generates:
        return 0
    if request.max_output_tokens is not None:
        return request.max_output_tokens
    model_maximum = target.price.max_output_tokens
    return default_tokens if model_maximum is None else min(default_tokens, model_maximum)


def input_bound_tokens(request: InferenceRequest, target: Target) -> int:
    """The most input tokens the request can have at the target."""
    context = target.price.context_tokens
    if request.input_by_reference:
        return UNKNOWN_CONTEXT_TOKENS if context is None else context
    by_bytes = request.body_bytes + target.added_bytes + HIDDEN_TEMPLATE_TOKENS
    if request.written_bytes and request.operation in target.translated:
        by_bytes += request.written_bytes - request.body_bytes
    return by_bytes if context is None else min(context, by_bytes)


def estimate_amounts(
    request: InferenceRequest, target: Target, default_tokens: int, estimator: Estimator
) -> Amounts:
    """What to reserve for one attempt: tokens as likely, money as the proven worst case."""
    output_bound = output_bound_tokens(request, target, default_tokens) * request.choices
    # A caller's prompt is billed once per request, whatever the number of choices.
    worst = target.price.worst_case_micro_usd(input_bound_tokens(request, target), output_bound)
    input_tokens, output_tokens = estimator.likely_tokens(
        target.canonical_model, request.body_bytes, output_bound
    )
    return (1, input_tokens + output_tokens, input_tokens, output_tokens, worst, worst)


def likely_micro_usd(amounts: Amounts, target: Target) -> int:
    """What an attempt with these token estimates will likely cost."""
    usage = TokenUsage(amounts[Unit.INPUT_TOKENS], amounts[Unit.OUTPUT_TOKENS])
    return target.price.cost_micro_usd(usage)
