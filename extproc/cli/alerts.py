"""``tokenweir alerts``: sends a test notice, to know that a channel works before it matters."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time

import orjson

from extproc.cli.arguments import policy_folder
from extproc.cli.findings import say_refused
from extproc.edge.channels.channel import ChannelUnsetError, DeliveryError, Outside, open_channel
from extproc.envoy.settings import SYSTEM_CA_FILE
from extproc.policy.channel_documents import destination_fault
from extproc.policy.loader import load_folder
from extproc.policy.snapshot import Channels
from extproc.values.notice import Notice, Severity

EXAMPLE = "tokenweir alerts test slack:#ai-budget-alerts --policy configs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of ``alerts``."""
    add = parser.add_argument
    add("action", choices=("test",), help="send a test notice")
    add("destination", metavar="CHANNEL", help="as in notify: slack:#x, pagerduty:NAME, ...")
    add("--policy", type=policy_folder, default="configs", metavar="DIR", help="policy folder")
    add("--ca-file", default=SYSTEM_CA_FILE, help="authorities that receivers are checked by")
    add("--json", action="store_true", help="the outcome as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Tries once. 1 when the notice was not taken, with the reason."""
    policy = load_folder(arguments.policy, 1, os.environ)
    if isinstance(policy, list):
        say_refused(policy)
        return 1
    destination = arguments.destination
    code, message = destination_fault(destination, policy.channels)
    if code == "bad_channel":
        print(f"tokenweir alerts: {message}", file=sys.stderr)
        return 2
    problem = message or asyncio.run(_try(destination, policy.channels, arguments.ca_file))
    if arguments.json:
        print(orjson.dumps({"destination": destination, "problem": problem or None}).decode())
    else:
        print(f"{destination}: {problem or 'taken'}")
    return 1 if problem else 0


async def _try(destination: str, channels: Channels, ca_file: str) -> str:
    """Why a test notice was not taken; empty when it was. What it opens is closed again."""
    now_ms = time.time_ns() // 1_000_000
    key, title = f"test|{now_ms}", "A test of this channel: nothing has happened"
    facts = (("Sent by", "tokenweir alerts test"),)
    notice = Notice(key, title, Severity.INFO, facts, now_ms, {"alert": "test"})
    try:
        channel = await open_channel(destination, channels, Outside(os.environ, ca_file))
        await channel.send(notice)
        if destination.startswith("pagerduty:"):
            await channel.send(Notice(key, title, Severity.INFO, (), now_ms, resolved=True))
    except (ChannelUnsetError, DeliveryError) as error:
        return str(error)
    return ""
