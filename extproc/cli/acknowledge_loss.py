"""``tokenweir acknowledge-loss``: opens a shared store that lost what some sidecars counted."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from uuid import uuid4

import hiredis
import orjson

from extproc.cli.arguments import policy_folder, store
from extproc.cli.findings import say_refused
from extproc.edge.store import store_address
from extproc.ledger.port import LedgerUnavailableError
from extproc.ledger.redis_session import Loss, StoreRefusedError, acknowledge_loss
from extproc.policy.loader import load_folder
from extproc.values.store_address import DEFAULT_NAMESPACE, EMBEDDED

EXAMPLE = "tokenweir acknowledge-loss --store redis://127.0.0.1:6379/0"

_SOMEWHERE = "http://127.0.0.1:1"
"""Stands for the demo provider: only the store of the policy is looked at."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``acknowledge-loss``."""
    add = parser.add_argument
    add("--store", type=store, default=None, metavar="STORE", help="redis://HOST:PORT/DB")
    add(
        "--policy",
        type=policy_folder,
        default=None,
        metavar="DIR",
        help="the policy folder that names the store and its namespace",
    )
    add("--json", action="store_true", help="what was lost as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints whose counts are missing; they are not waited for any more."""
    address, namespace = arguments.store, DEFAULT_NAMESPACE
    if arguments.policy is not None:
        policy = load_folder(arguments.policy, 1, os.environ, _SOMEWHERE)
        if isinstance(policy, list):
            say_refused(policy)
            return 1
        address, namespace = address or policy.store, policy.store_namespace
    if address in (None, EMBEDDED):
        print("tokenweir acknowledge-loss: name a shared store with --store", file=sys.stderr)
        return 2
    try:
        loss = asyncio.run(
            acknowledge_loss(store_address(address, os.environ), namespace, uuid4().hex[:12])
        )
    except (LedgerUnavailableError, StoreRefusedError, hiredis.ReplyError) as error:
        print(f"tokenweir acknowledge-loss: {address}: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(orjson.dumps(loss._asdict(), option=orjson.OPT_INDENT_2).decode())
    else:
        print(_text(loss))
    return 0


def _text(loss: Loss) -> str:
    if loss.state == "open":
        return "the store is open: nothing was lost"
    lines = [f"the store was {loss.state} and is open now"]
    if loss.state == "empty":
        lines.append("what was counted in it is gone, unless a sidecar comes back with its part")
    lines += [f"not waited for any more: sidecar {name}" for name in loss.missing]
    return "\n".join(lines)
