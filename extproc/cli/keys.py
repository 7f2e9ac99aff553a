"""``tokenweir keys new``: makes an API key and the policy line that admits it."""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
from pathlib import Path

import orjson

from extproc.policy.loader import load_folder

EXAMPLE = "tokenweir keys new search-app"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of ``keys``."""
    parser.add_argument("action", choices=("new", "list"))
    parser.add_argument("id", nargs="?", default="", help="credential id of a new key")
    parser.add_argument("--policy", type=Path, default=Path("configs"), help="folder to list")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """A key is shown once and stored nowhere: policy holds its hash."""
    if arguments.action == "list":
        return _list(arguments)
    if not arguments.id:
        print("keys new needs a credential id")
        return 2
    key = "tw-" + secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    if arguments.json:
        print(orjson.dumps({"id": arguments.id, "key": key, "sha256": digest}).decode())
    else:
        print(f"key (shown once): {key}")
        print("add under credentials of a gateway-config:")
        print(f"  - id: {arguments.id}\n    sha256: {digest}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    loaded = load_folder(arguments.policy, 1, os.environ)
    if isinstance(loaded, list):
        for finding in loaded:
            print(finding)
        return 1
    rows = [
        {"id": credential.id, "sha256": credential.sha256.hex(), "team": credential.team}
        for credential in loaded.credentials.values()
    ]
    if arguments.json:
        print(orjson.dumps(rows).decode())
    else:
        for row in rows:
            print(f"{row['id']}  {row['sha256'][:12]}…  {row['team']}")
    return 0
