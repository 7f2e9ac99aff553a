"""What a request asks for, whatever the dialect it was asked in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that the model may call; ``schema`` is of its arguments."""

    name: str
    schema: Json


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. ``max_tokens`` None: the caller named none."""

    model: str
    stream: bool = False
    max_tokens: int | None = None
    choices: int = 1
    include_usage: bool = False
    tools: tuple[ToolSpec, ...] = ()
    only_tool: str = ""
    """The one that the caller forces."""
    parallel: bool = True
    schema: Json | None = None
    """What the text of the answer must follow."""
    stops: tuple[str, ...] = ()
    logprobs: bool = False
    encrypted_reasoning: bool = False
    """Responses: thoughts are to be given back by the caller, nothing is stored."""

    def tools_to_call(self, count: int) -> tuple[ToolSpec, ...]:
        """The tools of ``count`` calls: the forced one, or the first declared; none if there are
        none."""
        tools = tuple(tool for tool in self.tools if self.only_tool in ("", tool.name))
        if not tools:
            return ()
        count = count if self.parallel else 1
        return tuple(tools[place % len(tools)] for place in range(count))
