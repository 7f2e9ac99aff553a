"""``tokenweir up``: the whole gateway on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from extproc.cli.addresses import address
from extproc.edge.supervisor import StartError, Supervisor, UpSettings

EXAMPLE = "tokenweir up --policy configs --listen 127.0.0.1:8080 --state .state"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``up``."""
    parser.add_argument("--policy", type=Path, default=Path("configs"), help="policy folder")
    parser.add_argument("--listen", type=address, default=("127.0.0.1", 8080), metavar="HOST:PORT")
    parser.add_argument("--console", type=address, default=("127.0.0.1", 8090), metavar="HOST:PORT")
    parser.add_argument("--state", type=Path, default=Path(".state"), help="ledger, logs, sockets")
    parser.add_argument("--demo-provider", choices=("on", "off", "auto"), default="auto")
    parser.add_argument("--transport", choices=("lean", "grpcio"), default="lean")
    parser.add_argument("--concurrency", type=int, default=None, help="Envoy's worker threads")
    parser.add_argument("--tls", nargs=2, default=("", ""), metavar=("CERT", "KEY"))
    parser.add_argument("--ca-file", default="", help="authorities that providers are checked by")


def run(arguments: argparse.Namespace) -> int:
    """Runs until it is told to stop."""
    settings = UpSettings(
        policy=arguments.policy.resolve(),
        state=arguments.state.resolve(),
        listen_host=arguments.listen[0],
        listen_port=arguments.listen[1],
        console_host=arguments.console[0],
        console_port=arguments.console[1],
        demo_provider=arguments.demo_provider,
        transport=arguments.transport,
        concurrency=arguments.concurrency,
        tls_certificate=arguments.tls[0],
        tls_key=arguments.tls[1],
        ca_file=arguments.ca_file,
    )
    try:
        asyncio.run(Supervisor(settings, os.environ).run())
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
