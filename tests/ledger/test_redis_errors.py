from __future__ import annotations

import pytest

from extproc.ledger.redis_errors import Remedy, meaning, moved_to, unavailable

MESSAGES = {
    "READONLY You can't write against a read only replica.": ("readonly", Remedy.RECONNECT),
    "LOADING Redis is loading the dataset in memory": ("loading", Remedy.RECONNECT),
    "MISCONF Errors writing to the AOF file: No space left on device script: 5a, on @user_script:9."
    "": ("disk", Remedy.RECONNECT),
    "OOM command not allowed when used memory > 'maxmemory'.": ("memory", Remedy.RECONNECT),
    "BUSY Redis is busy running a script.": ("busy_script", Remedy.RECONNECT),
    "NOSCRIPT No matching script.": ("noscript", Remedy.RELOAD),
    "WRONGTYPE Operation against a key holding the wrong kind of value": (
        "wrong_type", Remedy.SINGLY,
    ),
    "NOPERM User limited has no permissions to run the 'evalsha' command": (
        "denied", Remedy.RECONNECT,
    ),
    "ERR max number of clients reached": ("max_clients", Remedy.RECONNECT),
    "MOVED 3999 127.0.0.1:6381": ("cluster", Remedy.RECONNECT),
    "CLUSTERDOWN The cluster is down": ("cluster", Remedy.RECONNECT),
    # As Redis 6.2 words what fails inside a script.
    "ERR Error running script (call to f_1): @user_script:3: -OOM command not allowed": (
        "memory", Remedy.RECONNECT,
    ),
    "ERR something new": ("refused", Remedy.SINGLY),
}  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES)
def test_F69_each_error_has_a_reason_and_a_remedy(message: str) -> None:
    assert meaning(message) == MESSAGES[message]


def test_a_cluster_tells_where_the_slot_is() -> None:
    assert moved_to("MOVED 3999 127.0.0.1:6381") == ("127.0.0.1", 6381)
    assert moved_to("MOVED 3999 [::1]:6381") == ("::1", 6381)
    assert moved_to("MOVED 1 :6381") is None
    assert moved_to("ERR no") is None


def test_the_error_of_the_port_carries_the_reason() -> None:
    assert unavailable("timeout").reason == "timeout"
    assert "busy" in str(unavailable("busy_script", "it is busy"))
