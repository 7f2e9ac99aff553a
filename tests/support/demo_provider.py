"""The demo provider of a test, as a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx

MESSAGES: list[Any] = [{"role": "user", "content": "Say something about tokens."}]
VERSION = {"anthropic-version": "2023-06-01"}
HAIKU = "claude-haiku-4-5"


class Demo:
    def __init__(self, url: str) -> None:
        self.url = url
        self.openai_url = f"{url}/openai/openai/v1"
        self.anthropic_url = f"{url}/anthropic/anthropic"
        self.gemini_url = f"{url}/google/gemini"
        self.bedrock_url = f"{url}/aws/bedrock"

    def faults(self, provider: str = "openai", **faults: Any) -> None:
        httpx.put(f"{self.url}/faults/{provider}", json=faults).raise_for_status()

    def bill(self, lines: int) -> list[dict[str, Any]]:
        """The bill, once it has this many lines."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            found = httpx.get(f"{self.url}/bill").json()
            if len(found) >= lines:
                break
            time.sleep(0.01)
        assert len(found) == lines
        return found

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": "gpt-4o-mini", "messages": MESSAGES, **fields}
        return httpx.post(f"{self.openai_url}/chat/completions", json=body, timeout=5)


@contextlib.contextmanager
def demo_process(*arguments: str) -> Iterator[str]:
    """A demo provider's URL, which policies can name before their gateway runs."""
    command = [sys.executable, "-m", "extproc", "demo-provider", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().removeprefix("ready ").strip()
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
