"""``tokenweir revive``: lets a value that was stopped by ``tokenweir kill`` spend again."""

from __future__ import annotations

import argparse
import sys

import orjson

from extproc.cli.console import ConsoleError, ask_console
from extproc.cli.kill import PATH, add_console
from extproc.policy.matching import MATCH_FIELDS

EXAMPLE = "tokenweir revive user_id mallory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``revive``."""
    add = parser.add_argument
    add("field", choices=MATCH_FIELDS, metavar="FIELD", help="as it was given to kill")
    add("value", metavar="VALUE", help="as it was given to kill")
    add_console(parser)


def run(arguments: argparse.Namespace) -> int:
    """What policy stops, only policy revives."""
    change = {"field": arguments.field, "value": arguments.value}
    try:
        answer = ask_console(arguments.console, "DELETE", PATH, change)
    except ConsoleError as error:
        print(f"tokenweir revive: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(orjson.dumps(answer).decode())
    else:
        print(f"{arguments.field} {arguments.value} may spend again")
    return 0
