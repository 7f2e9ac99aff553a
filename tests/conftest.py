"""Shared fixtures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gateway import Gateway
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=60)
settings.load_profile("default")

StartGateway = Callable[..., Gateway]


SLOWEST_FIRST = (
    "test_money_race.py", "test_shared_store.py", "test_queue.py", "test_credentials.py",
    "test_canaries.py", "test_simulation.py", "test_statistical_budget.py",
    "test_shared_breakers.py", "test_faults_providers.py", "test_faults_lifecycle.py",
)  # fmt: skip
"""Files are shared out whole: one that takes minutes and comes last is waited for by everybody."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first, the rest as they come."""
    rank = {name: place for place, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture
def start_gateway() -> Iterator[StartGateway]:
    """Starts gateways that end with the test. Under /tmp, where socket paths are short."""
    running: list[Gateway] = []
    folders: list[tempfile.TemporaryDirectory[str]] = []

    def start(policy: dict[str, str], *arguments: str) -> Gateway:
        folder = tempfile.TemporaryDirectory(prefix="tw-", ignore_cleanup_errors=True)
        folders.append(folder)
        gateway = Gateway(Path(folder.name), policy, *arguments)
        running.append(gateway)
        return gateway.start()

    yield start
    for gateway in running:
        if gateway.process is not None:
            gateway.stop()
    for folder in folders:
        folder.cleanup()


@pytest.fixture(scope="module")
def module_gateway() -> Iterator[StartGateway]:
    """As ``start_gateway``, one per module."""
    running: list[Gateway] = []
    folder = tempfile.TemporaryDirectory(prefix="tw-", ignore_cleanup_errors=True)

    def start(policy: dict[str, str], *arguments: str) -> Gateway:
        if not running:
            running.append(Gateway(Path(folder.name), policy, *arguments).start())
        return running[0]

    yield start
    for gateway in running:
        gateway.stop()
    folder.cleanup()


@pytest.fixture
def patient_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may take its time: for tests that are about something else, on a busy machine."""
    monkeypatch.setattr("extproc.ledger.redis_link.ANSWER_TIMEOUT_S", 2.0)
    monkeypatch.setattr("extproc.ledger.redis_courier.DEADLINE_S", 3.0)
