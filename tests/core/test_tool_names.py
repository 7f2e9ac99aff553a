from __future__ import annotations

from extproc.core.tool_names import MAX_TOOLS, OTHER_TOOLS, ToolNames


def test_whoever_invents_names_fills_no_bucket_but_its_own() -> None:
    names = ToolNames()
    for number in range(MAX_TOOLS):
        assert names.counted(("docs", "app"), f"t{number}") == f"t{number}"
    assert names.counted(("docs", "app"), "one more") == OTHER_TOOLS
    assert names.counted(("docs", "app"), "t7") == "t7"
    assert names.counted(("docs", "other"), "one more") == "one more"
