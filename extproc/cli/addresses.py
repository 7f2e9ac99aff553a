"""Reading ``HOST:PORT`` arguments."""

from __future__ import annotations

import argparse


def address(text: str) -> tuple[str, int]:
    """``HOST:PORT`` to host and port; port 0 takes a free one. An IPv6 host is in brackets."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    port_is_good = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535
    if not host or bracketed != (":" in host) or not port_is_good:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)
