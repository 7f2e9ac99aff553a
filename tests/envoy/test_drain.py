"""Draining a real Envoy: what is under way finishes, nothing new begins, nobody waits for ever."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from envoy_rig import PLAIN, Rig, chunked

from extproc.envoy.drain import drain_envoy
from extproc.values.wire_names import ADMIN_SOCKET


def drained(rig: Rig, at_most_s: float) -> bool:
    return asyncio.run(drain_envoy(rig.settings.socket_folder / ADMIN_SOCKET, at_most_s))


def slow(pieces: int) -> Any:
    return chunked([b"data: {}\n\n"] * pieces, pause_s=0.05)


def test_what_is_under_way_finishes_and_nothing_new_begins(start_rig) -> None:
    rig = start_rig({"p1": PLAIN})
    rig.providers["p1"].respond = slow(16)
    with ThreadPoolExecutor() as pool:
        under_way = pool.submit(rig.post, ["p1"])
        while not rig.providers["p1"].requests:
            time.sleep(0.01)
        assert drained(rig, 10)
        answer = under_way.result()
    assert answer.status_code == 200
    assert answer.content == b"data: {}\n\n" * 16
    assert rig.log(answer.headers["x-request-id"], seconds=0.01)  # it was sent before the end
    with pytest.raises(httpx.ConnectError):
        rig.post(["p1"])


def test_a_stream_without_end_is_not_waited_for(start_rig) -> None:
    rig = start_rig({"p1": PLAIN})
    rig.providers["p1"].respond = slow(40)
    with ThreadPoolExecutor() as pool:
        under_way = pool.submit(rig.post, ["p1"])
        while not rig.providers["p1"].requests:
            time.sleep(0.01)
        started = time.monotonic()
        assert not drained(rig, 0.3)
        assert time.monotonic() - started < 1.5
        assert under_way.result().status_code == 200


def test_an_envoy_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    assert not asyncio.run(drain_envoy(tmp_path / "nobody.sock"))
    assert time.monotonic() - started < 1
