"""Kinds of command-line arguments: what is wrong with one is said before anything starts."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from extproc.cli.addresses import address
from extproc.values.store_address import EMBEDDED, parse_public_address

MAX_WORKERS = 1_024
"""Envoy's threads. More than any machine has cores."""


def policy_folder(text: str) -> Path:
    """A folder that is there."""
    path = Path(text)
    if path.is_dir():
        return path
    if path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is a file: name the folder that holds it")
    raise argparse.ArgumentTypeError(f"there is no folder {text!r}")


def file(text: str) -> str:
    """The absolute path of a file that can be read: whoever reads it may run elsewhere."""
    path = os.path.abspath(text)
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file that can be read")
    return path


def count(text: str) -> int:
    """A number of workers, 1 to ``MAX_WORKERS``."""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_WORKERS:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_WORKERS}")


def store(text: str) -> str:
    """``embedded`` or the address of a shared store, which names no password."""
    if text != EMBEDDED:
        try:
            parse_public_address(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return text


def mode(text: str) -> int:
    """Permission bits in octal."""
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not an octal file mode such as 660")
    return bits


def add_store_and_transport(parser: argparse.ArgumentParser) -> None:
    """Where counters are kept, and how Envoy asks: the same for whoever starts a sidecar."""
    parser.add_argument(
        "--store",
        type=store,
        default=None,
        metavar="STORE",
        help="embedded or redis://HOST:PORT/DB; wins over the policy's store",
    )
    parser.add_argument(
        "--transport", choices=("lean", "grpcio"), default="lean", help="Envoy to sidecar (lean)"
    )


def add_console(parser: argparse.ArgumentParser) -> None:
    """Where operators look: the same for whoever starts a sidecar."""
    parser.add_argument(
        "--console",
        type=address,
        default=("127.0.0.1", 8090),
        metavar="HOST:PORT",
        help="health, metrics, policy and usage (127.0.0.1:8090)",
    )


def add_socket_mode(parser: argparse.ArgumentParser) -> None:
    """Who may use what is made for Envoy."""
    parser.add_argument(
        "--socket-mode",
        type=mode,
        default=0o600,
        metavar="OCTAL",
        help="660 when Envoy runs as another user of the same group (600)",
    )
