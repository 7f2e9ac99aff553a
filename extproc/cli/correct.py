"""``tokenweir correct LIMIT``: appends a correction of mispriced usage to a running gateway."""

from __future__ import annotations

import argparse
import getpass
import http.client
import sys
from decimal import Decimal, InvalidOperation

import orjson

from extproc.cli.addresses import address
from extproc.values.money import MICRO_USD_PER_USD

EXAMPLE = "tokenweir correct search-monthly --scope-value search --usd -12.50 --reason mispriced"

TIMEOUT_S = 10.0


def micro_usd(text: str) -> int:
    """Dollars, as a whole number of micro-USD."""
    try:
        amount = Decimal(text) * MICRO_USD_PER_USD
        whole = int(amount)
    except (InvalidOperation, ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of dollars") from None
    if whole != amount or not whole:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of at least a millionth dollar")
    return whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``correct``."""
    add = parser.add_argument
    add("limit", metavar="LIMIT", help="id of a rule or budget, or a limit as /usage names it")
    add("--scope-value", default="", metavar="VALUE", help="whose counter, as /usage names it")
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--usd", type=micro_usd, metavar="USD", help="dollars; negative gives back")
    amount.add_argument("--amount", type=int, metavar="N", help="tokens or requests")
    add("--reason", required=True, help="kept in the usage log")
    add("--operator", default="", help="who does it (the user of this shell)")
    add(
        "--console",
        type=address,
        default=("127.0.0.1", 8090),
        metavar="HOST:PORT",
        help="console of the gateway (127.0.0.1:8090)",
    )
    add("--json", action="store_true", help="the answer as JSON")


def run(arguments: argparse.Namespace) -> int:
    """0 when the entry is in the log; 1 when it was refused."""
    fields: dict[str, object] = {
        "limit": arguments.limit,
        "scope_value": arguments.scope_value,
        "reason": arguments.reason,
        "operator": arguments.operator or getpass.getuser(),
    }
    if arguments.usd is not None:
        fields["amount_micro_usd"] = arguments.usd
    else:
        fields["amount"] = arguments.amount
    host, port = arguments.console
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", "/corrections", orjson.dumps(fields), headers)
        answer = connection.getresponse()
        document = orjson.loads(answer.read())
    except (http.client.HTTPException, orjson.JSONDecodeError):
        print(f"tokenweir correct: {host}:{port} is no console of a gateway", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if arguments.json:
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    elif answer.status == 200:
        name = f"{document['limit']} {document['scope_value']}".rstrip()
        print(f"{name}: {document['settled']} {document['unit']} settled now")
    else:
        error = document["error"]
        print(f"tokenweir correct: {error['code']}: {error['message']}", file=sys.stderr)
    return 0 if answer.status == 200 else 1
