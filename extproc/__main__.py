"""The command line: ``tokenweir COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from extproc import __version__
from extproc.cli import check, keys, render, sidecar, up
from extproc.demo import command as demo_provider

COMMANDS: dict[str, ModuleType] = {
    "up": up,
    "sidecar": sidecar,
    "demo-provider": demo_provider,
    "check": check,
    "render": render,
    "keys": keys,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Exit codes: 0 ok, 1 finding or failure, 2 usage."""
    parser = argparse.ArgumentParser(prog="tokenweir", description="A bound on every dollar.")
    parser.add_argument("--version", action="version", version=f"tokenweir {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").partition("\n")[0].partition(": ")[2]
        example = getattr(module, "EXAMPLE", f"tokenweir {name}")
        command = commands.add_parser(
            name, help=summary, description=summary, epilog=f"example: {example}"
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    status: int = parsed.run(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
