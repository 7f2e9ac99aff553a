"""``tokenweir kill``: stops every request of a user, team, model or the like at once."""

from __future__ import annotations

import argparse
import sys

import orjson

from extproc.cli.console import DEFAULT_CONSOLE, ConsoleError, ask_console, console_url
from extproc.policy.matching import MATCH_FIELDS

EXAMPLE = "tokenweir kill user_id mallory --reason runaway"
PATH = "/kill-switch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kill``."""
    add = parser.add_argument
    add(
        "field",
        nargs="?",
        choices=MATCH_FIELDS,
        metavar="FIELD",
        help=f"{', '.join(MATCH_FIELDS)}; nothing: list what is stopped",
    )
    add("value", nargs="?", metavar="VALUE", help="whose requests are refused from now on")
    add("--reason", default="", metavar="TEXT", help="for operators; callers are not told")
    add_console(parser)


def add_console(parser: argparse.ArgumentParser) -> None:
    """Where the gateway's console is."""
    parser.add_argument(
        "--console",
        type=console_url,
        default=DEFAULT_CONSOLE,
        metavar="URL",
        help=f"of the running gateway ({DEFAULT_CONSOLE})",
    )
    parser.add_argument("--json", action="store_true", help="the console's answer as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Requests that begin from now on are refused; streams that run are not cut."""
    if arguments.field and not arguments.value:
        print("tokenweir kill: FIELD needs a VALUE", file=sys.stderr)
        return 2
    change = {"field": arguments.field, "value": arguments.value, "reason": arguments.reason}
    try:
        if arguments.field:
            answer = ask_console(arguments.console, "POST", PATH, change)
        else:
            answer = ask_console(arguments.console, "GET", PATH)
    except ConsoleError as error:
        print(f"tokenweir kill: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(orjson.dumps(answer).decode())
    elif arguments.field:
        print(f"{arguments.field} {arguments.value} is stopped")
        if not answer["known"]:
            print(f"warning: the policy has no {arguments.field} of that name", file=sys.stderr)
    else:
        for kill in answer["killed"]:
            since = kill.get("since", "")
            row = (kill["field"], kill["value"], kill["by"], since, kill["reason"])
            print("  ".join(part for part in row if part))
    return 0
