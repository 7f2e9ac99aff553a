"""``tokenweir sidecar``: the sidecar alone, for an Envoy that somebody else starts."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import uvloop

from extproc.cli.addresses import address
from extproc.edge.sidecar_process import PolicyRefusedError, SidecarSettings, run_sidecar
from extproc.envoy.settings import SYSTEM_CA_FILE, GatewaySettings
from extproc.ledger.port import LedgerUnavailableError

EXAMPLE = "tokenweir sidecar --policy configs --state .state --sockets .state/run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``sidecar``."""
    parser.add_argument("--policy", type=Path, default=Path("configs"), help="policy folder")
    parser.add_argument("--state", type=Path, default=Path(".state"), help="ledger and Envoy files")
    parser.add_argument("--sockets", type=Path, default=None, help="folder of the unix sockets")
    parser.add_argument("--listen", type=address, default=("127.0.0.1", 8080), metavar="HOST:PORT")
    parser.add_argument("--console", type=address, default=("127.0.0.1", 8090), metavar="HOST:PORT")
    parser.add_argument("--transport", choices=("lean", "grpcio"), default="lean")
    parser.add_argument("--demo-url", default=None, help="where the demo provider stands in")
    parser.add_argument("--socket-mode", type=lambda text: int(text, 8), default=0o600)
    parser.add_argument("--tls", nargs=2, default=("", ""), metavar=("CERT", "KEY"))
    parser.add_argument("--ca-file", default=SYSTEM_CA_FILE)


def run(arguments: argparse.Namespace) -> int:
    """Runs until it is told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    state = arguments.state.resolve()
    settings = SidecarSettings(
        policy=arguments.policy.resolve(),
        state=state,
        gateway=GatewaySettings(
            arguments.listen[0],
            arguments.listen[1],
            (arguments.sockets or state / "run").resolve(),
            state / "envoy",
            ca_file=arguments.ca_file,
            tls_certificate=arguments.tls[0],
            tls_key=arguments.tls[1],
            socket_mode=arguments.socket_mode,
        ),
        console_host=arguments.console[0],
        console_port=arguments.console[1],
        demo_url=arguments.demo_url,
        transport=arguments.transport,
    )
    try:
        uvloop.run(run_sidecar(settings, os.environ))
    except PolicyRefusedError as error:
        for finding in error.findings:
            print(finding, file=sys.stderr)
        return 1
    except LedgerUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
