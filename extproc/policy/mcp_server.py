"""One MCP server of a policy, and which of its tools may be called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from extproc.policy.snapshot import CredentialRef, Endpoint


@dataclass(frozen=True, slots=True)
class Patterns:
    """Names of tools, written out or ending in ``*``."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def holds(self, name: str) -> bool:
        """Whether a tool is meant."""
        return name in self.names or (bool(self.prefixes) and name.startswith(self.prefixes))


NO_TOOL = Patterns()
EVERY_TOOL = Patterns(prefixes=("",))


def patterns(texts: tuple[str, ...]) -> Patterns:
    """What a list in a policy means."""
    return Patterns(
        frozenset(text for text in texts if not text.endswith("*")),
        tuple(text[:-1] for text in texts if text.endswith("*")),
    )


@dataclass(frozen=True, slots=True)
class LoopGuardRule:
    """When calls of tools go round in circles."""

    repeats: int
    """So often the same calls may come in a row; the next is refused."""
    window_ms: int
    """Only what came within it counts."""
    exempt: Patterns = NO_TOOL
    """Tools that are there to be asked again and again."""


@dataclass(frozen=True, slots=True)
class McpServer:
    """A key of ``mcp_servers``."""

    name: str
    endpoint: Endpoint
    """Its ``base_path`` is the server's whole path."""
    credential: CredentialRef | None = None
    allow: Patterns = EVERY_TOOL
    deny: Patterns = NO_TOOL
    micro_usd_per_call: Mapping[str, int] = field(default_factory=dict)
    """By tool; ``*`` for those that are not named. What is not here is free."""
    loop_guard: LoopGuardRule | None = None
    named_tools: frozenset[str] = field(init=False)
    """The tools that the policy writes out: few enough to be told apart in metrics."""

    def __post_init__(self) -> None:
        exempt = self.loop_guard.exempt.names if self.loop_guard else frozenset()
        priced = frozenset(self.micro_usd_per_call) - {"*"}
        named = self.allow.names | self.deny.names | exempt | priced
        object.__setattr__(self, "named_tools", named)

    @property
    def filters(self) -> bool:
        """Some of its tools nobody may call."""
        return self.allow != EVERY_TOOL or self.deny != NO_TOOL

    def serves(self, tool: str) -> bool:
        """Whether the tool may be called at all."""
        return self.allow.holds(tool) and not self.deny.holds(tool)

    def price_micro_usd(self, tool: str) -> int:
        """What one call of the tool costs."""
        prices = self.micro_usd_per_call
        return prices.get(tool, prices.get("*", 0)) if prices else 0
