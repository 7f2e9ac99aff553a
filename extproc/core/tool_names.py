"""Which names of tools get counters of their own: callers invent names, counters are kept."""

from __future__ import annotations

MAX_TOOLS = 500
"""Of one credential at one server. Servers have some dozens; whoever asks for more names than this
counts the rest in one bucket, and fills nobody's but its own."""
OTHER_TOOLS = "~other"


class ToolNames:
    """The names that each credential has called."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], set[str]] = {}

    def counted(self, caller: tuple[str, str], tool: str) -> str:
        """What a call is counted under where counters are per tool. ``caller``: a server and a
        credential, both of the policy."""
        known = self._known.setdefault(caller, set())
        if tool in known:
            return tool
        if len(known) >= MAX_TOOLS:
            return OTHER_TOOLS
        known.add(tool)
        return tool
