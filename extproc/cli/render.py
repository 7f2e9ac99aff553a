"""``tokenweir render DIR``: the Envoy configuration that a policy would be served with."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import orjson

from extproc.cli.addresses import address
from extproc.envoy.bootstrap import bootstrap
from extproc.envoy.render import render
from extproc.envoy.settings import GatewaySettings
from extproc.policy.loader import load_folder

EXAMPLE = "tokenweir render configs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``render``."""
    parser.add_argument("policy", type=Path, help="policy folder")
    parser.add_argument("--listen", type=address, default=("127.0.0.1", 8080), metavar="HOST:PORT")
    parser.add_argument("--state", type=Path, default=Path("/var/lib/tokenweir"))
    parser.add_argument("--demo-url", default=None)
    parser.add_argument("--json", action="store_true", help="no effect: the output is JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints one JSON document with the bootstrap and every resource."""
    snapshot = load_folder(arguments.policy, 1, os.environ, arguments.demo_url)
    if isinstance(snapshot, list):
        for finding in snapshot:
            print(finding, file=sys.stderr)
        return 1
    settings = GatewaySettings(
        arguments.listen[0],
        arguments.listen[1],
        arguments.state / "run",
        arguments.state / "envoy",
    )
    document = {"bootstrap": bootstrap(settings), **render(snapshot, settings)}
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    return 0
