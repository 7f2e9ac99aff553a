from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway import base_policy
from redis_server import RedisServer, free_port, running_redis

from extproc.__main__ import main


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


def test_an_empty_store_is_opened_once(
    server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.client().flushall()
    assert main(["acknowledge-loss", "--store", server.url, "--json"]) == 0
    loss = json.loads(capsys.readouterr().out)
    assert loss["state"] == "empty"
    assert loss["missing"] == []
    assert server.client().hget("{tokenweir}:meta", "state") == b"open"
    assert main(["acknowledge-loss", "--store", server.url]) == 0
    assert capsys.readouterr().out == "the store is open: nothing was lost\n"


def test_whoever_is_missing_is_named(
    server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = server.client()
    client.flushall()
    fields = {"epoch": "e", "seq": 1, "clock": 1, "state": "rebuilding", "run": "x", "format": 1}
    client.hset("{shared}:meta", mapping=fields)
    client.hset("{shared}:members", "abc", "99999999999999 0 0")
    policy = base_policy()
    policy["store.yaml"] = (
        f"name: store\ntype: gateway-config\nstore: {server.url}\nstore_namespace: shared\n"
    )
    for name, text in policy.items():
        (tmp_path / name).write_text(text)
    assert main(["acknowledge-loss", "--policy", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "the store was rebuilding and is open now",
        "not waited for any more: sidecar abc",
    ]
    assert client.hgetall("{shared}:members") == {}


def test_what_cannot_be_done_has_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["acknowledge-loss"]) == 2
    assert "--store" in capsys.readouterr().err
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    assert main(["acknowledge-loss", "--store", nobody]) == 1
    assert "connection" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("type: nonsense\n")
    assert main(["acknowledge-loss", "--policy", str(tmp_path)]) == 1
    with pytest.raises(SystemExit) as stopped:
        main(["acknowledge-loss", "--store", "redis://:secret@h"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "TOKENWEIR_STORE_PASSWORD" in error
