"""``tokenweir demo-provider``: answers like the providers do, and bills nobody."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from aiohttp import web

from extproc.cli.addresses import address
from extproc.demo.provider import DemoProvider

EXAMPLE = "tokenweir demo-provider --listen 127.0.0.1:9000"

BACKLOG = 1024
"""Connections that may wait to be accepted: several hundred clients arrive in the same moment."""

SHUTDOWN_S = 0.5
"""What a stream still open at SIGTERM gets before it is cut off and billed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``demo-provider``."""
    parser.add_argument(
        "--listen",
        type=address,
        default=("127.0.0.1", 0),
        metavar="HOST:PORT",
        help="where it serves; port 0 takes a free one (default 127.0.0.1:0)",
    )
    parser.add_argument("--bill", type=Path, default=None, help="file to append the bill to")
    parser.add_argument(
        "--files",
        type=Path,
        default=None,
        metavar="DIR",
        help="what its MCP server lets search and read (this program's source)",
    )
    parser.add_argument("--json", action="store_true", help="say where it listens as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Serves until it is told to stop."""
    host, port = arguments.listen
    provider = DemoProvider(arguments.bill, arguments.files)
    asyncio.run(_serve(host, port, provider, as_json=arguments.json))
    return 0


async def _serve(host: str, port: int, provider: DemoProvider, *, as_json: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        provider.application(),
        access_log=None,
        shutdown_timeout=SHUTDOWN_S,
        handler_cancellation=True,
    )
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
    where = runner.addresses[0]
    # On stderr: the first line of stdout is the one that says where it listens.
    print(f"input tokens counted by {provider.tokenizer.name}", file=sys.stderr)  # noqa: T201
    url = f"http://{where[0]}:{where[1]}"
    ready = json.dumps({"ready": url}) if as_json else f"ready {url}"
    print(ready, flush=True)  # noqa: T201
    await stop.wait()
    await runner.cleanup()
    provider.bill.close()
