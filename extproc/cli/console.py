"""Asking the console of a running gateway."""

from __future__ import annotations

import argparse
import http.client
from typing import Any
from urllib.parse import urlsplit

import orjson

DEFAULT_CONSOLE = "http://127.0.0.1:8090"
TIMEOUT_S = 10.0


class ConsoleError(Exception):
    """The console said no, or nothing."""


def console_url(text: str) -> str:
    """An ``http://HOST:PORT`` argument."""
    try:
        parts = urlsplit(text)
        good = parts.scheme == "http" and bool(parts.hostname) and parts.path in ("", "/")
        good = good and parts.port != 0 and not parts.query
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"{text!r} is not like {DEFAULT_CONSOLE}")
    return text.rstrip("/")


def ask_console(url: str, method: str, path: str, body: object = None) -> Any:
    """The console's JSON answer. Raises ``ConsoleError`` with what it says instead.

    No proxy is asked, whatever the environment says: the console is on this machine.
    """
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=TIMEOUT_S)
    content = None if body is None else orjson.dumps(body)
    headers = {} if content is None else {"content-type": "application/json"}
    try:
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        said = getattr(error, "strerror", None) or error or type(error).__name__
        raise ConsoleError(f"no console at {url}: {said}") from None
    finally:
        connection.close()
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ConsoleError(f"{url} is no console of Tokenweir") from None
    if answer.status != 200:
        said = document.get("error") if isinstance(document, dict) else None
        raise ConsoleError(str(said or f"the console answered {answer.status}"))
    return document
