"""The ledger of a sidecar: embedded, or in a shared store. Opened here, and closed here."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

from extproc.edge.breaker_share import BreakerShare, OwnBreakers, RedisBreakerShare
from extproc.edge.kill_board import KillShare, NoShare
from extproc.edge.kill_share import RedisKillShare
from extproc.edge.services import Sidecar
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.emergency import EmergencyLedger
from extproc.ledger.journal import Journal
from extproc.ledger.port import Ledger, LedgerUnavailableError
from extproc.ledger.redis_ledger import RedisLedger
from extproc.ledger.redis_session import StoreRefusedError
from extproc.values.store_address import EMBEDDED, StoreAddress, parse_public_address

USERNAME, PASSWORD = "TOKENWEIR_STORE_USERNAME", "TOKENWEIR_STORE_PASSWORD"


def store_address(text: str, environ: Mapping[str, str]) -> StoreAddress:
    """An address of policy or command line, and who we are there by the environment. Raises
    ``ValueError``."""
    return replace(
        parse_public_address(text),
        username=environ.get(USERNAME, ""),
        password=environ.get(PASSWORD, ""),
    )


async def open_ledger(
    store: str, namespace: str, state: Path, environ: Mapping[str, str], draw: Random
) -> Ledger:
    """The ledger, ready to be asked; one in a store that cannot be reached yet is closed until it
    can. Raises ``LedgerUnavailableError`` for a folder in use or a store that must not be used."""
    folder = state / "ledger"
    if store == EMBEDDED:
        return EmbeddedLedger(Journal(folder))
    ledger = RedisLedger(store_address(store, environ), namespace, folder, draw)
    try:
        await ledger.start()
    except StoreRefusedError as error:
        ledger.close()
        raise LedgerUnavailableError(f"{store}: {error}", "configuration") from None
    try:
        book = EmbeddedLedger(Journal(state / "emergency"))
    except LedgerUnavailableError:
        await ledger.stop()
        ledger.close()
        raise
    return EmergencyLedger(ledger, book, ledger.name)


def kill_share(store: str, namespace: str, environ: Mapping[str, str]) -> KillShare:
    """How the sidecars on the store tell each other who must not spend."""
    if store == EMBEDDED:
        return NoShare()
    return RedisKillShare(store_address(store, environ), namespace)


def breaker_share(
    store: str, namespace: str, environ: Mapping[str, str], sidecar: Sidecar
) -> BreakerShare:
    """How they tell each other which targets fail."""
    if store == EMBEDDED:
        return OwnBreakers()
    address = store_address(store, environ)
    return RedisBreakerShare(address, namespace, sidecar.gate, sidecar.clock)


async def close_ledger(ledger: Ledger) -> None:
    """Delivers what can be delivered, and gives everything free."""
    if isinstance(ledger, EmergencyLedger):
        ledger.give_back()
        if isinstance(ledger.remote, RedisLedger):
            await ledger.remote.stop()
    with contextlib.suppress(OSError, LedgerUnavailableError):
        ledger.close()
