"""Tokens kept for key files: renewed, kept while they are good, taken away when they are not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from google_accounts import TokenEndpoint
from until import until_on_loop

from extproc.edge import google_tokens
from extproc.edge.google_tokens import GoogleTokens
from extproc.envoy.credentials import token_file
from extproc.envoy.settings import GatewaySettings
from extproc.envoy.token_folder import (
    TokenState,
    read_token_state,
    write_key_list,
    write_token_state,
)


@pytest.fixture
def google() -> Iterator[TokenEndpoint]:
    endpoint = TokenEndpoint()
    yield endpoint
    endpoint.close()


class World:
    """One renewer, its folders, and a key file that is wanted."""

    def __init__(self, root: Path, google: TokenEndpoint) -> None:
        self.google = google
        self.key_file = root / "gcp.json"
        self.settings = GatewaySettings("", 0, root / "run", root / "envoy")
        self.settings.config_folder.mkdir()
        google.write_key(self.key_file)
        self.want(str(self.key_file))

    def want(self, *key_files: str) -> None:
        write_key_list(self.settings.config_folder, list(key_files))

    @property
    def token(self) -> str:
        path = self.settings.tokens / token_file(str(self.key_file))
        return path.read_text() if path.exists() else ""

    @property
    def state(self) -> TokenState:
        return read_token_state(self.settings.tokens, str(self.key_file))

    def run(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def running() -> None:
            tokens = GoogleTokens(self.settings)
            task = asyncio.create_task(tokens.run())
            try:
                await tokens.first(5.0)
                await scenario()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        asyncio.run(running())


@pytest.fixture
def world(tmp_path: Path, google: TokenEndpoint, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(google_tokens, "POLL_S", 0.02)
    return World(tmp_path, google)


def test_a_token_is_kept_for_its_owner_alone_and_for_as_long_as_it_is_good(world: World) -> None:
    async def scenario() -> None:
        assert world.token == "ya29.token-1"
        left_ms = world.state.expires_at_ms - time.time() * 1_000
        assert 3_590_000 < left_ms <= 3_600_000
        path = world.settings.tokens / token_file(str(world.key_file))
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        await asyncio.sleep(0.2)
        assert world.google.asked == 1

    world.run(scenario)
    assert world.google.problems == []
    assert world.token  # a restart of this process does not close the provider


def test_a_refused_renewal_keeps_the_token_until_it_expires_and_then_takes_it_away(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.google.lifetime_s = 2

    async def scenario() -> None:
        world.google.status = 503
        world.google.document = {"error": "backend", "error_description": "ya29.token-1 canary"}
        await until_on_loop(lambda: world.state.failures > 0)
        assert world.token == "ya29.token-1"
        assert world.state.problem == "was refused with status 503 backend"
        await until_on_loop(lambda: not world.token)
        assert world.state.expires_at_ms == 0
        world.google.status, world.google.document = 200, None
        await until_on_loop(lambda: world.token == "ya29.token-2", 15)
        assert (world.state.failures, world.state.problem) == (0, "")

    world.run(scenario)
    assert "no Google token for" in caplog.text
    assert "canary" not in caplog.text
    assert "ya29" not in caplog.text


def test_another_key_in_the_file_is_taken_at_once_and_a_broken_one_changes_nothing(
    world: World,
) -> None:
    async def scenario() -> None:
        world.key_file.write_text("{")
        await until_on_loop(lambda: world.state.failures > 0)
        assert world.token == "ya29.token-1"
        assert world.state.problem == "is not JSON"
        world.google.write_key(world.key_file, "key-2")
        await until_on_loop(lambda: world.token == "ya29.token-2")

    world.run(scenario)
    assert world.google.problems == []


def test_a_credential_that_goes_takes_its_token_along(world: World) -> None:
    async def scenario() -> None:
        world.want()
        await until_on_loop(lambda: not world.token and not world.state.expires_at_ms)
        world.want(str(world.key_file))
        await until_on_loop(lambda: world.token == "ya29.token-2")

    world.run(scenario)


@pytest.mark.parametrize(
    "document",
    [
        b"<html>",
        b"[]",
        {"access_token": "a b", "expires_in": 60},
        {"access_token": "a\r\nx-injected: 1", "expires_in": 60},
        {"access_token": "", "expires_in": 60},
        {"access_token": 7, "expires_in": 60},
        {"access_token": "a", "expires_in": 0},
        {"access_token": "a", "expires_in": "60"},
        {"access_token": "a", "expires_in": True},
        {"access_token": "a" * 70_000, "expires_in": 60},
        {"id_token": "a"},
    ],
    ids=lambda document: repr(document)[:40],
)
def test_an_answer_that_makes_no_sense_is_no_token(world: World, document: Any) -> None:
    world.google.document = document

    async def scenario() -> None:
        assert world.token == ""
        assert world.state.problem.startswith("was answered")

    world.run(scenario)


def test_an_endpoint_that_is_away_or_hangs_is_said_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google_tokens, "ANSWER_TIMEOUT_S", 0.2)
    world.google.delay_s = 1.0
    away = {"token_uri": "http://127.0.0.1:9/token"}

    async def scenario() -> None:
        assert world.state.problem == "got no answer in time"
        world.google.write_key(world.key_file, "key-2", **away)
        await until_on_loop(lambda: "could not be exchanged" in world.state.problem)

    world.run(scenario)


def test_a_renewal_holds_up_nobody(world: World) -> None:
    """The loop turns while the endpoint thinks, and while a key is read and signed with."""
    world.google.delay_s = 0.5

    async def turning() -> None:
        tokens = GoogleTokens(world.settings)
        task = asyncio.create_task(tokens.run())
        longest_s, before = 0.0, time.monotonic()
        while not world.token:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            longest_s, before = max(longest_s, now - before), now
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert longest_s < 0.3

    asyncio.run(turning())


def test_a_token_that_an_earlier_process_left_is_good_until_it_expires(world: World) -> None:
    world.google.status = 500
    folder = world.settings.tokens
    folder.mkdir(parents=True, mode=0o700)
    (folder / token_file(str(world.key_file))).write_text("ya29.earlier")
    until_ms = int(time.time() * 1_000) + 1_500
    write_token_state(folder, str(world.key_file), TokenState(until_ms))

    async def scenario() -> None:
        assert world.token == "ya29.earlier"
        assert world.state.failures == 1
        await until_on_loop(lambda: not world.token)
        assert time.time() * 1_000 >= until_ms

    world.run(scenario)


def test_neither_tokens_nor_problems_show_in_what_is_printed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def scenario() -> None:
        assert "ya29" in world.token

    world.run(scenario)
    assert "ya29" not in caplog.text
    assert "BEGIN" not in caplog.text
