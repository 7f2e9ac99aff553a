"""Reading ``HOST:PORT`` arguments."""

from __future__ import annotations

import argparse


def address(text: str) -> tuple[str, int]:
    """Host and port; port 0 takes a free one."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)
