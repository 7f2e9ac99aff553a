"""``tokenweir check DIR``: says what is wrong with a policy folder."""

from __future__ import annotations

import argparse
import os

import orjson

from extproc.cli.arguments import policy_folder
from extproc.cli.findings import fields, text
from extproc.cli.key_files import key_file_warnings
from extproc.policy.loader import load_folder

EXAMPLE = "tokenweir check configs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``check``."""
    parser.add_argument("policy", type=policy_folder, metavar="DIR", help="policy folder")
    parser.add_argument("--json", action="store_true", help="findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints every finding; 1 when the folder would be refused."""
    loaded = load_folder(arguments.policy, 1, os.environ)
    refused = isinstance(loaded, list)
    errors = loaded if isinstance(loaded, list) else []
    warnings = [] if isinstance(loaded, list) else [*loaded.warnings, *key_file_warnings(loaded)]
    if arguments.json:
        report = {
            "ok": not refused,
            "errors": [fields(finding) for finding in errors],
            "warnings": [fields(finding) for finding in warnings],
        }
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        for finding in errors:
            print(f"error   {text(finding)}")
        for finding in warnings:
            print(f"warning {text(finding)}")
        print("refused" if refused else f"ok, {_number(len(warnings), 'warning')}")
    return 1 if refused else 0


def _number(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
