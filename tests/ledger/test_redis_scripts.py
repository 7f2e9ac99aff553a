from __future__ import annotations

import re

import pytest

from extproc.ledger.redis_scripts import Scripts, text

SCRIPTS = Scripts()


def test_a_script_is_known_by_its_text() -> None:
    other = Scripts("local function clock_ms() return 1 end")
    assert SCRIPTS.digests == Scripts().digests
    assert SCRIPTS.digests["batch"] != other.digests["batch"]
    assert all(re.fullmatch(rb"[0-9a-f]{40}", digest) for digest in SCRIPTS.digests.values())


@pytest.mark.parametrize("name", ["batch", "join", "push", "acknowledge", "leave", "look"])
def test_a_script_makes_up_no_key_and_trusts_no_float_text(name: str) -> None:
    """A cluster must know every key beforehand; ``tostring`` and cjson lose digits of money."""
    source = text(name) + text("counters") + text("members")
    calls = re.findall(r"redis\.call\('(\w+)', ([^,)]+)", source)
    assert {key for _, key in calls} <= {
        "KEYS[1]", "KEYS[2]", "key", "counter.key", "meta.key", "leases", "members", "joined",
        "pushed", "former",
    }  # fmt: skip
    assert "cjson" not in source
    assert "tostring(" not in source
