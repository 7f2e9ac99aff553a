"""``tokenweir keys``: makes an API key and the policy lines that admit it, or lists them."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import secrets
import sys

import orjson

from extproc.cli.arguments import policy_folder
from extproc.cli.findings import say_refused
from extproc.policy.loader import load_folder

EXAMPLE = "tokenweir keys new search-app"

_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}")
"""Of what policy admits as an id, that which needs no quotes in YAML."""
_YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of ``keys``."""
    add = parser.add_argument
    add("action", choices=("new", "list"), help="make a key, or list the policy's credentials")
    add("id", nargs="?", default="", metavar="ID", help="credential id of a new key")
    add("--policy", type=policy_folder, metavar="DIR", help="folder that list reads (configs)")
    add("--json", action="store_true", help="the same as JSON")


def run(arguments: argparse.Namespace) -> int:
    """A key is shown once and stored nowhere: policy holds its hash."""
    return _list(arguments) if arguments.action == "list" else _new(arguments)


def _new(arguments: argparse.Namespace) -> int:
    credential_id = arguments.id
    if not credential_id:
        print("tokenweir keys: new needs a credential id", file=sys.stderr)
        return 2
    if not _ID.fullmatch(credential_id) or credential_id.lower() in _YAML_WORDS:
        wanted = "a letter, then up to 127 of A-Z a-z 0-9 . _ -"
        print(f"tokenweir keys: {credential_id!r} is no id: {wanted}", file=sys.stderr)
        return 2
    key = "tw-" + secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    if arguments.json:
        print(orjson.dumps({"id": credential_id, "key": key, "sha256": digest}).decode())
    else:
        print(f"key (shown once): {key}")
        print("add under credentials of a gateway-config:")
        print(f"  - id: {credential_id}\n    sha256: {digest}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    loaded = load_folder(arguments.policy or policy_folder("configs"), 1, os.environ)
    if isinstance(loaded, list):
        say_refused(loaded)
        return 1
    rows = [
        {"id": credential.id, "sha256": credential.sha256.hex(), "team": credential.team}
        for credential in loaded.credentials.values()
    ]
    if arguments.json:
        print(orjson.dumps(rows).decode())
    else:
        for row in rows:
            print(f"{row['id']}  {row['sha256'][:12]}…  {row['team']}".rstrip())
    return 0
