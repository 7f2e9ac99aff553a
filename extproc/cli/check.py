"""``tokenweir check DIR``: lints a policy folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import orjson

from extproc.policy.loader import load_folder

EXAMPLE = "tokenweir check configs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``check``."""
    parser.add_argument("policy", type=Path, help="policy folder")
    parser.add_argument("--json", action="store_true", help="findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints every finding; 1 when the folder would be refused."""
    loaded = load_folder(arguments.policy, 1, os.environ)
    refused = isinstance(loaded, list)
    errors = loaded if isinstance(loaded, list) else []
    warnings = () if isinstance(loaded, list) else loaded.warnings
    if arguments.json:
        report = {
            "ok": not refused,
            "errors": [_fields(finding) for finding in errors],
            "warnings": [_fields(finding) for finding in warnings],
        }
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        for finding in errors:
            print(f"error   {finding}")
        for finding in warnings:
            print(f"warning {finding}")
        print("refused" if refused else f"ok, {len(warnings)} warnings")
    return 1 if refused else 0


def _fields(finding: object) -> dict[str, object]:
    return {name: getattr(finding, name) for name in ("file", "line", "code", "message")}
