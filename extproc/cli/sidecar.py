"""``tokenweir sidecar``: the sidecar alone, for an Envoy that somebody else starts."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import orjson
import uvloop

from extproc.cli.addresses import address
from extproc.cli.arguments import (
    add_console,
    add_socket_mode,
    add_store_and_transport,
    policy_folder,
)
from extproc.cli.findings import say_refused
from extproc.edge.kill_board import KillBoardError
from extproc.edge.sidecar_process import PolicyRefusedError, SidecarSettings, run_sidecar
from extproc.envoy.process import EnvoyMissingError
from extproc.envoy.settings import SYSTEM_CA_FILE, GatewaySettings
from extproc.ledger.port import LedgerUnavailableError

EXAMPLE = "tokenweir sidecar --policy configs --state .state --sockets .state/run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``sidecar``."""
    add = parser.add_argument
    add("--policy", type=policy_folder, default="configs", metavar="DIR", help="policy folder")
    add(
        "--state",
        type=Path,
        default=Path(".state"),
        metavar="DIR",
        help="ledger, and Envoy's files in its folder 'envoy' (.state)",
    )
    add(
        "--sockets",
        type=Path,
        default=None,
        metavar="DIR",
        help="where Envoy and sidecar meet (the folder 'run' of --state)",
    )
    add_socket_mode(parser)
    add(
        "--tokens",
        type=Path,
        default=None,
        metavar="DIR",
        help="where Google tokens are kept, best in memory (the folder 'tokens' of --sockets)",
    )
    add(
        "--listen",
        type=address,
        default=("127.0.0.1", 8080),
        metavar="HOST:PORT",
        help="where Envoy is told to listen (127.0.0.1:8080)",
    )
    add_console(parser)
    add_store_and_transport(parser)
    add("--demo-url", default=None, metavar="URL", help="where the demo provider stands in")
    add(
        "--tls",
        nargs=2,
        default=("", ""),
        metavar=("CERT", "KEY"),
        help="PEM files, as Envoy finds them: serve https",
    )
    add("--ca-file", default=SYSTEM_CA_FILE, help="authorities that providers are checked by")
    add("--json", action="store_true", help="log lines as JSON objects")


class JsonLines(logging.Formatter):
    """One JSON object per record: ``time``, ``level``, ``logger``, ``message``, ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def run(arguments: argparse.Namespace) -> int:
    """Runs until it is told to stop."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonLines() if arguments.json else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
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
            token_folder=arguments.tokens and arguments.tokens.resolve(),
        ),
        console_host=arguments.console[0],
        console_port=arguments.console[1],
        demo_url=arguments.demo_url,
        transport=arguments.transport,
        store=arguments.store or "",
    )
    try:
        uvloop.run(run_sidecar(settings, os.environ))
    except PolicyRefusedError as error:
        say_refused(error.findings)
        return 1
    except (LedgerUnavailableError, EnvoyMissingError, KillBoardError) as error:
        print(f"tokenweir sidecar: {error}", file=sys.stderr)
        return 1
    return 0
