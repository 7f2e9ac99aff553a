"""``tokenweir up``: the whole gateway on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from extproc.cli.addresses import address
from extproc.cli.arguments import add_console, add_store_and_transport, count, file, policy_folder
from extproc.cli.findings import say_refused, text
from extproc.cli.key_files import key_file_warnings
from extproc.edge.child import StartError
from extproc.edge.supervisor import Supervisor, UpSettings
from extproc.policy.loader import load_folder

EXAMPLE = "tokenweir up --policy configs --listen 127.0.0.1:8080 --state .state"

_SOMEWHERE = "http://127.0.0.1:1"
"""Stands for the demo provider's address, which is not known before it runs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``up``."""
    add = parser.add_argument
    add("--policy", type=policy_folder, default="configs", metavar="DIR", help="policy folder")
    add(
        "--listen",
        type=address,
        default=("127.0.0.1", 8080),
        metavar="HOST:PORT",
        help="where clients connect; port 0 takes a free one (127.0.0.1:8080)",
    )
    add_console(parser)
    add(
        "--state",
        type=Path,
        default=Path(".state"),
        metavar="DIR",
        help="ledger, logs, sockets; one gateway at a time (.state)",
    )
    add(
        "--demo-provider",
        choices=("on", "off", "auto"),
        default="auto",
        help="on, auto: stands in for providers marked 'demo: auto' whose key is not set (auto)",
    )
    add_store_and_transport(parser)
    add("--concurrency", type=count, default=None, metavar="N", help="Envoy's worker threads")
    add(
        "--tls",
        nargs=2,
        type=file,
        default=("", ""),
        metavar=("CERT", "KEY"),
        help="PEM files: serve https",
    )
    add("--ca-file", type=file, default=None, help="authorities that providers are checked by")
    add("--json", action="store_true", help="one JSON line once it serves, instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Runs until it is told to stop."""
    demo_url = None if arguments.demo_provider == "off" else _SOMEWHERE
    policy = load_folder(arguments.policy, 1, os.environ, demo_url)
    if isinstance(policy, list):
        say_refused(policy)
        return 1
    for warning in (*policy.warnings, *key_file_warnings(policy)):
        print(f"warning {text(warning)}", file=sys.stderr)
    settings = UpSettings(
        policy=arguments.policy.resolve(),
        state=arguments.state.resolve(),
        listen_host=arguments.listen[0],
        listen_port=arguments.listen[1],
        console_host=arguments.console[0],
        console_port=arguments.console[1],
        demo_provider=arguments.demo_provider,
        transport=arguments.transport,
        store=arguments.store or "",
        concurrency=arguments.concurrency,
        tls_certificate=arguments.tls[0],
        tls_key=arguments.tls[1],
        ca_file=arguments.ca_file or "",
        json=arguments.json,
    )
    try:
        asyncio.run(Supervisor(settings, os.environ).run())
    except StartError as error:
        print(f"tokenweir up: {error}", file=sys.stderr)
        return 1
    return 0
