"""``tokenweir keys``: makes an API key and the policy lines that admit it, lists or revokes one."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson

from extproc.cli.arguments import policy_folder
from extproc.cli.findings import say_refused
from extproc.ledger.replaced_file import replace_file
from extproc.policy.compiler import compile_folder
from extproc.policy.loader import load_folder, read_folder
from extproc.policy.snapshot import Credential, PolicySnapshot

EXAMPLE = "tokenweir keys new search-app"

_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}")
"""Of what policy admits as an id, that which needs no quotes in YAML."""
_YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of ``keys``."""
    add = parser.add_argument
    add("action", choices=("new", "list", "revoke"), help="make, list, or revoke a credential")
    add("id", nargs="?", default="", metavar="ID", help="credential id, of new and revoke")
    add("--policy", type=policy_folder, metavar="DIR", help="folder that is read (configs)")
    add("--json", action="store_true", help="the same as JSON")


def run(arguments: argparse.Namespace) -> int:
    """A key is shown once and stored nowhere: policy holds its hash."""
    actions = {"list": _list, "revoke": _revoke, "new": _new}
    return actions[arguments.action](arguments)


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
        # Quoted: a digest may look like a number, as 0b0d... or 12e4... do.
        print(f'  - id: {credential_id}\n    sha256: "{digest}"')
    return 0


def _list(arguments: argparse.Namespace) -> int:
    loaded = load_folder(arguments.policy or policy_folder("configs"), 1, os.environ)
    if isinstance(loaded, list):
        say_refused(loaded)
        return 1
    rows = [
        {
            "id": credential.id,
            "sha256": credential.sha256.hex(),
            "team": credential.team,
            "revoked": credential.revoked,
        }
        for credential in loaded.credentials.values()
    ]
    if arguments.json:
        print(orjson.dumps(rows).decode())
    else:
        for row in rows:
            state = "revoked" if row["revoked"] else ""
            print(f"{row['id']}  {str(row['sha256'])[:12]}…  {row['team']}  {state}".rstrip())
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    """Writes ``revoked: true`` beside the id. The text is changed in that place only, and only when
    the policy then says just that."""
    folder: Path = arguments.policy or policy_folder("configs")
    before = load_folder(folder, 1, os.environ)
    if isinstance(before, list):
        say_refused(before)
        return 1
    named = [one for one in before.credentials.values() if one.id == arguments.id]
    if not named:
        print(f"tokenweir keys: the policy has no credential {arguments.id!r}", file=sys.stderr)
        return 2
    wanted = replace(named[0], revoked=True)
    if not named[0].revoked and not _write_revoked(folder, before, wanted):
        print(
            f"tokenweir keys: cannot tell where {arguments.id} is written; add the line "
            "'revoked: true' to it",
            file=sys.stderr,
        )
        return 1
    if arguments.json:
        print(orjson.dumps({"id": wanted.id, "revoked": True}).decode())
    else:
        print(f"{wanted.id} is revoked; a running gateway takes it up within a second")
    return 0


def _write_revoked(folder: Path, before: PolicySnapshot, wanted: Credential) -> bool:
    files = read_folder(folder)
    if isinstance(files, list):
        return False
    credentials = {**before.credentials, wanted.sha256: wanted}
    for name, content in files.items():
        for changed in _with_revoked(content, wanted.id.encode()):
            after = compile_folder({**files, name: changed}, 1, os.environ)
            if isinstance(after, PolicySnapshot) and after.credentials == credentials:
                path = folder / name
                replace_file(path, changed, mode=path.stat().st_mode & 0o777)
                return True
    return False


def _with_revoked(content: bytes, credential_id: bytes) -> Iterator[bytes]:
    """The text with the line added at each place where such an id is set."""
    name = re.escape(credential_id)
    block = rb"(?m)^( *)- id: *(?:%b|\"%b\"|'%b') *(?:#.*)?$" % (name, name, name)
    for match in re.finditer(block, content):
        line = b"\n" + match[1] + b"  revoked: true"
        yield content[: match.end()] + line + content[match.end() :]
    flow = rb"\{ *id: *(?:%b|\"%b\"|'%b') *," % (name, name, name)
    for match in re.finditer(flow, content):
        yield content[: match.end()] + b" revoked: true," + content[match.end() :]
