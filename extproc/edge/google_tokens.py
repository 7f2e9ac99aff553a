"""Access tokens for Google's service accounts, renewed off the request path and away from the
sidecar: ``tokenweir up`` does it in its own process, ``tokenweir google-tokens`` beside any Envoy.

What is wanted is said in a file by the sidecar, as ``google:`` credentials of the policy come and
go. Tokens go into files that Envoy watches. A token that expired is taken away, so that Envoy has
none to send: the attempt is refused there. How each one is, is said in another file, from which the
sidecar learns which targets to leave out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import ssl
import time
from pathlib import Path
from random import Random
from typing import NamedTuple

import aiohttp
import orjson

from extproc.core.renewal import Renewal
from extproc.edge.google_key import GoogleKeyError, read_google_key
from extproc.envoy.credentials import token_file
from extproc.envoy.settings import GatewaySettings
from extproc.envoy.token_folder import (
    TokenState,
    open_token_folder,
    read_key_list,
    read_token_state,
    write_token_state,
)
from extproc.ledger.replaced_file import replace_file

_log = logging.getLogger(__name__)

POLL_S = 0.25
"""A key file that changed, or a credential that the policy has newly, is seen within this."""
ANSWER_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024
MAX_LIFETIME_S = 24 * 3_600
"""Google's live an hour, twelve at most. Of more, that much is believed."""
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")

Stamp = tuple[int, int, int]


class TokenRefusedError(Exception):
    """No token came. Says why, and nothing that was sent or answered but a status and a code."""


class Token(NamedTuple):
    """What an exchange gave."""

    text: str
    lifetime_s: int

    def __repr__(self) -> str:
        return f"Token(..., {self.lifetime_s})"


class GoogleTokens:
    """Keeps a token for each key file that is wanted."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._draw = Random()  # noqa: S311  no secret
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._tried: set[str] = set()

    async def run(self) -> None:
        """Runs until cancelled."""
        try:
            while True:
                self._follow()
                await asyncio.sleep(POLL_S)
        finally:
            for keeper in self._keepers.values():
                keeper.cancel()
            await asyncio.gather(*self._keepers.values(), return_exceptions=True)

    async def first(self, seconds: float) -> None:
        """Waits until every key that is wanted was tried once, or for that long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._tried.issuperset(read_key_list(self._settings.config_folder)):
                return
            await asyncio.sleep(0.02)

    def _follow(self) -> None:
        wanted = read_key_list(self._settings.config_folder)
        for key_file in wanted:
            if key_file not in self._keepers:
                self._keepers[key_file] = asyncio.create_task(self._keep(key_file))
        for key_file in self._keepers.keys() - set(wanted):
            self._keepers.pop(key_file).cancel()
            with contextlib.suppress(OSError):
                self._put(key_file, "", TokenState())

    async def _keep(self, key_file: str) -> None:
        """Renews one token. One that an earlier process left is good until it expires."""
        renewal = Renewal()
        seen: Stamp | None = None
        left = read_token_state(self._settings.tokens, key_file)
        renewal.expires_at_s = left.expires_at_ms / 1_000
        while True:
            stamp = _stamp(key_file)
            if stamp != seen:
                seen = stamp
                renewal.hurry()
            try:
                await self._turn(key_file, renewal)
            except Exception as error:  # noqa: BLE001  the next turn tries again
                # Not its own text: whose it is, and what it repeats, is not known.
                _log.error("the token of %s cannot be kept: %s", key_file, type(error).__name__)
            self._tried.add(key_file)
            await asyncio.sleep(POLL_S)

    async def _turn(self, key_file: str, renewal: Renewal) -> None:
        problem, came, now_s = "", None, time.time()
        if renewal.is_due(now_s):
            try:
                came = await self._exchange(key_file)
                renewal.succeeded(now_s, came.lifetime_s)
            except TokenRefusedError as error:
                problem = str(error)
                renewal.failed(time.time(), self._draw.random())
                _log.warning("no Google token for %s: it %s", key_file, problem)
        has_expired = renewal.expires(time.time())
        if came is None and not problem and not has_expired:
            return
        state = TokenState(int(renewal.expires_at_s * 1_000), renewal.failures, problem)
        if came is not None:
            self._put(key_file, came.text, state)
        elif not renewal.expires_at_s:
            self._put(key_file, "", state)
        else:
            write_token_state(self._settings.tokens, key_file, state)

    def _put(self, key_file: str, token: str, state: TokenState) -> None:
        # Without a token Envoy sends nothing, and with one nobody is told before Envoy has it.
        folder = open_token_folder(self._settings)
        mode = 0o640 if self._settings.is_shared else 0o600
        replace_file(folder / token_file(key_file), token.encode(), mode=mode)
        write_token_state(folder, key_file, state)

    async def _exchange(self, key_file: str) -> Token:
        try:
            key = await asyncio.to_thread(read_google_key, Path(key_file))
        except GoogleKeyError as error:
            raise TokenRefusedError(str(error)) from None
        assertion = await asyncio.to_thread(key.assertion, time.time())
        form = {"grant_type": GRANT, "assertion": assertion.decode()}
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
        try:
            context = await asyncio.to_thread(
                ssl.create_default_context, cafile=self._settings.ca_file
            )
            connector = aiohttp.TCPConnector(ssl=context)
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.post(key.token_uri, data=form, allow_redirects=False) as response,
            ):
                body = b""
                async for piece in response.content.iter_chunked(4096):
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise TokenRefusedError("was answered at too great a length")
                return _token(response.status, body)
        except TimeoutError:
            raise TokenRefusedError("got no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Never the error's own text: it may hold what was sent.
            raise TokenRefusedError(f"could not be exchanged ({type(error).__name__})") from None


def _token(status: int, body: bytes) -> Token:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    document = document if isinstance(document, dict) else {}
    if status != 200:
        code = document.get("error")
        said = f" {code}" if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else ""
        raise TokenRefusedError(f"was refused with status {status}{said}")
    text, lifetime_s = document.get("access_token"), document.get("expires_in")
    if not isinstance(text, str) or not _TOKEN.fullmatch(text):
        raise TokenRefusedError("was answered without a usable token")
    if type(lifetime_s) is not int or lifetime_s <= 0:
        raise TokenRefusedError("was answered with a token of no known life")
    return Token(text, min(lifetime_s, MAX_LIFETIME_S))


def _stamp(path: str) -> Stamp | None:
    """What changes when a file does, also the one that a link leads to."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)
