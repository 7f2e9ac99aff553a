from __future__ import annotations

from extproc.demo.asked import Asked, ToolSpec

ONE, TWO = ToolSpec("one", {}), ToolSpec("two", {})


def test_the_forced_tool_or_the_first_declared_are_called() -> None:
    assert Asked("m").tools_to_call(2) == ()
    assert Asked("m", tools=(ONE, TWO)).tools_to_call(1) == (ONE,)
    assert Asked("m", tools=(ONE, TWO)).tools_to_call(2) == (ONE, TWO)
    assert Asked("m", tools=(ONE,)).tools_to_call(2) == (ONE, ONE)
    assert Asked("m", tools=(ONE, TWO), only_tool="two").tools_to_call(2) == (TWO, TWO)
    assert Asked("m", tools=(ONE, TWO), parallel=False).tools_to_call(2) == (ONE,)
