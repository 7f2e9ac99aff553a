"""``tokenweir google-tokens``: renews Google tokens, for an Envoy that somebody else starts."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from pathlib import Path

from extproc.cli.arguments import add_socket_mode
from extproc.edge.google_tokens import GoogleTokens
from extproc.envoy.settings import SYSTEM_CA_FILE, GatewaySettings

EXAMPLE = "tokenweir google-tokens --config .state/envoy --tokens .state/run/tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``google-tokens``."""
    add = parser.add_argument
    add(
        "--config",
        type=Path,
        required=True,
        metavar="DIR",
        help="Envoy's files (the folder 'envoy' of the sidecar's --state): they name the keys",
    )
    add(
        "--tokens",
        type=Path,
        required=True,
        metavar="DIR",
        help="where tokens are kept for Envoy; the sidecar is told the same",
    )
    add_socket_mode(parser)
    add("--ca-file", default=SYSTEM_CA_FILE, help="authorities that Google is checked by")
    add("--json", action="store_true", help="no effect: it prints nothing but its log")


def run(arguments: argparse.Namespace) -> int:
    """Runs until it is told to stop."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = GatewaySettings(
        "",
        0,
        arguments.tokens.resolve(),
        arguments.config.resolve(),
        ca_file=arguments.ca_file,
        socket_mode=arguments.socket_mode,
        token_folder=arguments.tokens.resolve(),
    )
    asyncio.run(_run(GoogleTokens(settings)))
    return 0


async def _run(tokens: GoogleTokens) -> None:
    running = asyncio.create_task(tokens.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
