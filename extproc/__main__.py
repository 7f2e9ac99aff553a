"""The command line: ``tokenweir COMMAND``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from extproc import __version__

COMMANDS = {
    "up": "extproc.cli.up",
    "sidecar": "extproc.cli.sidecar",
    "demo-provider": "extproc.demo.command",
    "check": "extproc.cli.check",
    "render": "extproc.cli.render",
    "keys": "extproc.cli.keys",
    "kill": "extproc.cli.kill",
    "revive": "extproc.cli.revive",
    "verify-ledger": "extproc.cli.verify_ledger",
    "correct": "extproc.cli.correct",
    "alerts": "extproc.cli.alerts",
    "acknowledge-loss": "extproc.cli.acknowledge_loss",
    "google-tokens": "extproc.cli.google_tokens",
}
"""Command to module. Imported when asked for: the servers' libraries take most of a second."""
INTERRUPTED = 130
"""What shells expect of a process that Ctrl-C ended."""


def parser(only: str = "") -> argparse.ArgumentParser:
    """Every command with its options; of ``only`` one, where that is a command."""
    top = argparse.ArgumentParser(
        prog="tokenweir",
        description="An AI gateway with a hard bound on every dollar.",
        epilog="example: tokenweir up --policy configs; tokenweir COMMAND --help says more",
    )
    top.add_argument("--version", action="version", version=f"tokenweir {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in [only] if only in COMMANDS else COMMANDS:
        module = import_module(COMMANDS[name])
        summary = (module.__doc__ or "").partition("\n")[0].partition(": ")[2].rstrip(".")
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[:1].upper() + summary[1:] + ".",
            epilog=f"example: {module.EXAMPLE}",
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Exit codes: 0 ok, 1 finding or failure, 2 usage."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parsed = parser(words[0] if words else "").parse_args(words)
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (``head``, a pager) has seen enough. Nothing more is written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # A port, a folder, a permission: the operator's business, told without a traceback.
        place = f"{error.filename}: " if error.filename else ""
        print(f"tokenweir {parsed.command}: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main())
