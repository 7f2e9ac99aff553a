"""``tokenweir demo-provider``: answers like the providers do, and bills nobody."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from aiohttp import web

from extproc.cli.addresses import address
from extproc.demo.provider import DemoProvider

EXAMPLE = "tokenweir demo-provider --listen 127.0.0.1:9000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``demo-provider``."""
    parser.add_argument("--listen", type=address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    parser.add_argument("--bill", type=Path, default=None, help="file to append the bill to")


def run(arguments: argparse.Namespace) -> int:
    """Serves until it is told to stop."""
    host, port = arguments.listen
    asyncio.run(_serve(host, port, arguments.bill))
    return 0


async def _serve(host: str, port: int, bill: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    application = DemoProvider(bill).application()
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=1024).start()
    where = runner.addresses[0]
    print(f"ready http://{where[0]}:{where[1]}", flush=True)  # noqa: T201
    await stop.wait()
    await runner.cleanup()
