"""The providers of the simulated world, and the bill that they write themselves: the oracle."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

import sim_policy
from books import Violation

HIDDEN_TOKENS = 600
"""The most that a provider adds to a prompt: below what the gateway promises to cover."""


@dataclass(eq=False)
class Billed:
    """One attempt that reached a provider."""

    request_id: str
    number: int
    provider: str
    model: str
    variant: int
    """Of the policy under which the request was admitted: its prices."""
    input_tokens: int
    output_tokens: int = 0
    """What was generated so far. An overrun may be above what was asked for."""
    asked_tokens: int = 0
    started: bool = False

    @property
    def micro_usd(self) -> int:
        """What the provider charges, rounded up."""
        if not self.started:
            return 0
        input_price, output_price = sim_policy.price(self.variant, self.provider, self.model)
        millionths = self.input_tokens * input_price + self.output_tokens * output_price
        return -(-millionths // 1_000_000)


@dataclass
class Provider:
    """Every provider. ``bill`` is by reservation id, as the gateway would name it."""

    draw: Random
    bill: dict[str, Billed] = field(default_factory=dict)

    def receive(
        self, request_id: str, number: int, target: str, variant: int, body: bytes
    ) -> Billed:
        """A request arrives; it costs nothing until ``started``."""
        document: dict[str, Any] = json.loads(body)
        provider, _, model = target.partition("/")
        assert document["model"] == model, (document["model"], target)
        if ("temperature" in document) is not (target == sim_policy.OVERRIDDEN):
            raise Violation(f"another's request reached {target}: {document}")
        asked = document.get("max_completion_tokens", document.get("max_tokens", 0))
        # One token in the body needs at least one byte.
        spoken = self.draw.randint(len(body) // 6, len(body))
        billed = Billed(
            request_id,
            number,
            provider,
            model,
            variant,
            spoken + self.draw.randint(0, HIDDEN_TOKENS),
            asked_tokens=asked * document.get("n", 1),
        )
        self.bill[f"{request_id}/{number}"] = billed
        return billed

    @property
    def micro_usd(self) -> int:
        """The whole bill."""
        return sum(billed.micro_usd for billed in self.bill.values())
