"""Asking the console: what it says, what it does not, and that no proxy is in between."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from extproc.cli.console import ConsoleError, ask_console, console_url

Answering = Callable[..., str]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Starts a server that gives one answer to everything, and keeps what it was asked."""
    servers: list[HTTPServer] = []

    def start(status: int, body: bytes, asked: list[tuple[str, str, bytes]] | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                if asked is not None:
                    asked.append((self.command, self.path, self.rfile.read(length)))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_answer_is_parsed_and_no_proxy_is_asked(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    asked: list[tuple[str, str, bytes]] = []
    url = answering(200, b'{"killed": []}', asked)
    assert ask_console(url, "GET", "/kill-switch") == {"killed": []}
    ask_console(url, "DELETE", "/kill-switch", {"field": "team"})
    assert asked == [("GET", "/kill-switch", b""), ("DELETE", "/kill-switch", b'{"field":"team"}')]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"error": "no such field"}', "no such field"),
        (500, b"{}", "the console answered 500"),
        (500, b"[1]", "the console answered 500"),
        (200, b"<html>", "is no console"),
        (404, b"404: Not Found", "is no console"),
    ],
)
def test_what_is_no_good_answer_is_an_error(
    answering: Answering, status: int, body: bytes, said: str
) -> None:
    with pytest.raises(ConsoleError, match=said):
        ask_console(answering(status, body), "GET", "/")


def test_where_nobody_listens_the_place_is_named() -> None:
    with pytest.raises(ConsoleError, match=r"no console at http://127.0.0.1:1: "):
        ask_console("http://127.0.0.1:1", "GET", "/")


@pytest.mark.parametrize("text", ["http://127.0.0.1:8090", "http://[::1]:1/", "http://console"])
def test_urls_of_a_console(text: str) -> None:
    assert console_url(text) == text.rstrip("/")


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1:8090", "https://x", "http://", "http://x/y", "http://x:0", "http://x:a"]
)
def test_what_is_no_url_of_a_console(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        console_url(text)
