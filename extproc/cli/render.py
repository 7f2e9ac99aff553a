"""``tokenweir render DIR``: the Envoy configuration that a policy would be served with."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import orjson

from extproc.cli.addresses import address
from extproc.cli.arguments import policy_folder
from extproc.cli.findings import say_refused
from extproc.envoy.bootstrap import bootstrap
from extproc.envoy.render import render
from extproc.envoy.settings import GatewaySettings
from extproc.policy.loader import load_folder

EXAMPLE = "tokenweir render configs --static > envoy.json && envoy --mode validate -c envoy.json"

Json = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``render``."""
    add = parser.add_argument
    add("policy", type=policy_folder, metavar="DIR", help="policy folder")
    add(
        "--static",
        action="store_true",
        help="one bootstrap with everything in it, for a look or a validation: it cannot reload",
    )
    add(
        "--listen",
        type=address,
        default=("127.0.0.1", 8080),
        metavar="HOST:PORT",
        help="where clients connect (127.0.0.1:8080)",
    )
    add(
        "--state",
        type=Path,
        default=Path("/var/lib/tokenweir"),
        metavar="DIR",
        help="where the sidecar keeps its sockets (run) and Envoy's files (envoy)",
    )
    add("--demo-url", default=None, metavar="URL", help="where the demo provider stands in")
    add("--json", action="store_true", help="no effect: the output is JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints one JSON document: bootstrap and resources, or with ``--static`` both in one."""
    snapshot = load_folder(arguments.policy, 1, os.environ, arguments.demo_url)
    if isinstance(snapshot, list):
        say_refused(snapshot)
        return 1
    state = arguments.state.absolute()
    settings = GatewaySettings(
        arguments.listen[0], arguments.listen[1], state / "run", state / "envoy"
    )
    resources = render(snapshot, settings)
    if arguments.static:
        document = _static(bootstrap(settings), resources)
    else:
        document = {"bootstrap": bootstrap(settings), **resources}
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    return 0


def _static(document: Json, resources: dict[str, list[Json]]) -> Json:
    """The bootstrap with the resources themselves in place of where they are watched."""
    del document["dynamic_resources"]
    static = document["static_resources"]
    static["clusters"] += _without_sds(resources["cds"])
    static["listeners"] = resources["lds"]
    static["secrets"] = resources["secrets"]
    for listener in resources["lds"]:
        for chain in listener["filter_chains"]:
            manager = chain["filters"][0]["typed_config"]
            del manager["rds"]
            manager["route_config"] = resources["rds"][0]
    return document


def _without_sds(item: Any) -> Any:
    """A secret that names no place to be fetched from is looked up among the static ones."""
    if isinstance(item, dict):
        return {key: _without_sds(value) for key, value in item.items() if key != "sds_config"}
    return [_without_sds(value) for value in item] if isinstance(item, list) else item
