"""What calls of a workflow usually cost: the hold of a ``statistical`` budget.

A strict budget holds the proven worst case, which for an agent that asks for 64,000 output tokens
and uses 900 is seventy times what it spends. A statistical one holds the 95th percentile of what
this workflow tag has cost with this model so far. That is a likelihood, not a bound: a call that
costs more is debt, its hold is raised while it still streams, and new calls wait for the debt.

Until enough calls of a workflow were seen the worst case is held: a new tag buys nobody anything.
"""

from __future__ import annotations

from extproc.core.spread import Spread
from extproc.policy.snapshot import Target
from extproc.values.dialect import Operation
from extproc.values.limit import Amounts
from extproc.values.money import TOKENS_PER_PRICE
from extproc.values.usage import TokenUsage

HELD_PCT = 95
"""The share of a workflow's calls that cost no more than is held for each."""
MIN_SAMPLES = 20
"""The least number of which a 95th percentile says anything."""
MAX_WORKFLOWS = 4_096
"""Pairs of workflow tag and model remembered, some 3 KB each; the one that was learned first is
forgotten, and held at its worst case again."""

FIRST_STREAM_BYTES_PER_TOKEN = 200
"""Bytes of a stream for each output token before any was measured: an OpenAI chunk with a token of
four letters."""
MAX_STREAM_BYTES_PER_TOKEN = 10_000
STREAM_LEARNING = 16
"""One stream moves the average by a sixteenth."""


class Workflow:
    """Calls of one workflow tag to one model."""

    __slots__ = ("input_rates", "output_tokens")

    def __init__(self) -> None:
        self.input_rates = Spread()
        """Micro-USD of input per million bytes of body: caching and tokenizer are both in it."""
        self.output_tokens = Spread()
        """Of whole calls, all choices together."""


class Workflows:
    """What was learned from settled calls. Bounded; a restart forgets."""

    __slots__ = ("_known", "_stream_bytes")

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Workflow] = {}
        self._stream_bytes: dict[tuple[Operation, str], int] = {}

    def likely(self, tag: str, target: Target, body_bytes: int, worst: Amounts) -> Amounts:
        """The amounts of a call with what it will likely cost, never above its worst case."""
        workflow = self._known.get((tag, target.canonical_model))
        if workflow is None or workflow.output_tokens.samples < MIN_SAMPLES:
            return worst
        output_tokens = workflow.output_tokens.at_pct(HELD_PCT)
        micro_usd = _micro_usd(workflow, target, body_bytes, output_tokens)
        requests, tokens, input_tokens, output, most, _ = worst
        return (requests, tokens, input_tokens, output, most, min(most, micro_usd))

    def learn(self, tag: str, target: Target, body_bytes: int, usage: TokenUsage) -> None:
        """Takes one settled call."""
        key = (tag, target.canonical_model)
        workflow = self._known.get(key)
        if workflow is None:
            if len(self._known) >= MAX_WORKFLOWS:
                del self._known[next(iter(self._known))]
            workflow = self._known[key] = Workflow()
        input_micro_usd = target.price.cost_micro_usd(usage._replace(output_tokens=0))
        workflow.input_rates.add(-(-input_micro_usd * TOKENS_PER_PRICE // max(1, body_bytes)))
        workflow.output_tokens.add(usage.output_tokens)

    def learn_stream(
        self, operation: Operation, model: str, response_bytes: int, output_tokens: int
    ) -> None:
        """Takes the length of one finished stream."""
        if response_bytes <= 0 or output_tokens <= 0:
            return
        seen = min(MAX_STREAM_BYTES_PER_TOKEN, max(1, response_bytes // output_tokens))
        key = (operation, model)
        before = self._stream_bytes.get(key)
        if before is None:
            if len(self._stream_bytes) < MAX_WORKFLOWS:
                self._stream_bytes[key] = seen
            return
        # Rounded towards what was seen, so that small differences are followed to their end.
        self._stream_bytes[key] = before + (seen - before + STREAM_LEARNING // 2) // STREAM_LEARNING

    def streamed(
        self, tag: str, operation: Operation, target: Target, body_bytes: int, response_bytes: int
    ) -> int:
        """What a call has likely cost already, in micro-USD, from the bytes of its stream."""
        model = target.canonical_model
        bytes_per_token = self._stream_bytes.get((operation, model), FIRST_STREAM_BYTES_PER_TOKEN)
        workflow = self._known.get((tag, model))
        return _micro_usd(workflow, target, body_bytes, response_bytes // bytes_per_token)


def _micro_usd(
    workflow: Workflow | None, target: Target, body_bytes: int, output_tokens: int
) -> int:
    price = target.price
    millionths = output_tokens * price.dearest.output
    if workflow is not None:
        millionths += workflow.input_rates.at_pct(HELD_PCT) * body_bytes
    return -(-millionths // TOKENS_PER_PRICE) + price.per_request_micro_usd
