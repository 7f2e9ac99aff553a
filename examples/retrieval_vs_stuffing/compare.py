"""One question about this repository, answered twice: with all of its source in the prompt, and
with two tools to search and read it. Prints what either costs.

    make example-retrieval
    python examples/retrieval_vs_stuffing/compare.py [--json]

Both go through a real gateway. Tokens are what the provider reports, dollars what the gateway's
ledger has booked at list prices. The demo provider has no mind of its own, so the tool calls are
the ones below, in the order in which an agent makes them; that the answer stands in what was read
is checked, for both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from openai import OpenAI

import extproc
from extproc.demo.folder import read_folder

HERE = Path(__file__).parent
KEY = "tw-demo-key"
QUESTION = (
    "What does Tokenweir do with a reservation whose lease ends before its settlement arrived? "
    "Name the file and the function."
)
ANSWER = 'Ends reservations past their lease by *charging* them in full."""'
"""The promise that every store keeps: whoever has read it can answer."""
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("search", {"query": "expire reservation lease charging in full"}),
    ("read_file", {"path": "ledger/port.py", "first_line": 120}),
)
MAX_OUTPUT_TOKENS = 400
TOOLS = ("search", "read_file")


class Asker:
    """One project's way to the model; adds up what the provider reports."""

    def __init__(self, gateway: str, project: str) -> None:
        headers = {"x-tfy-project": project, "x-tfy-session-id": f"example-{project}"}
        self.headers = {"authorization": f"Bearer {KEY}", **headers}
        self._client = OpenAI(base_url=f"{gateway}/v1", api_key=KEY, default_headers=headers)
        self.model_calls = self.tool_calls = self.input_tokens = self.output_tokens = 0

    def ask(self, messages: list[Any], tools: list[Any] | None = None) -> None:
        """One call of the model."""
        more: dict[str, Any] = {"tools": tools} if tools else {}
        answer = self._client.chat.completions.create(
            model="reader", messages=messages, max_tokens=MAX_OUTPUT_TOKENS, **more
        )
        assert answer.usage is not None
        self.model_calls += 1
        self.input_tokens += answer.usage.prompt_tokens
        self.output_tokens += answer.usage.completion_tokens


def stuff(asker: Asker, source: Path) -> None:
    """Every file in one prompt."""
    files = read_folder(source)
    text = "\n\n".join(f"=== {path}\n{content}" for path, content in files.items())
    assert ANSWER in text
    asker.ask([{"role": "user", "content": f"{text}\n\n{QUESTION}"}])


async def retrieve(asker: Asker, gateway: str) -> None:
    """The tools of the MCP server, offered to the model and called as it asks."""
    async with httpx2.AsyncClient(headers=asker.headers, timeout=30) as http:
        transport = streamable_http_client(f"{gateway}/mcp/source", http_client=http)
        async with Client(transport) as client:
            listed = (await client.list_tools()).tools
            assert {tool.name for tool in listed} == set(TOOLS)
            tools = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": tool.input_schema,
                    },
                }
                for tool in listed
            ]
            messages: list[Any] = [{"role": "user", "content": QUESTION}]
            read = ""
            for number, (name, arguments) in enumerate(CALLS):
                await asyncio.to_thread(asker.ask, messages, tools)
                result = await client.call_tool(name, arguments)
                assert not result.is_error, result
                asker.tool_calls += 1
                text = "".join(getattr(part, "text", "") for part in result.content)
                read += text
                call = {"name": name, "arguments": json.dumps(arguments)}
                call_id = f"call_{number}"
                messages += [
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": call_id, "type": "function", "function": call}],
                    },
                    {"role": "tool", "tool_call_id": call_id, "content": text},
                ]
            assert "ledger/port.py:" in read, "what was searched does not lead to what was read"
            assert ANSWER in read, "what was read does not hold the answer"
            await asyncio.to_thread(asker.ask, messages, tools)


def booked_usd(console: str) -> dict[str, float]:
    """What the ledger has settled, by project."""
    deadline = time.monotonic() + 10
    while True:
        usage = httpx2.get(f"{console}/usage").json()
        if usage["open_reservations"] == 0 or time.monotonic() > deadline:
            return {
                counter["scope_value"]: counter["settled"] / 1e6
                for counter in usage["counters"]
                if counter["limit"] == "spent-by/usd"
            }
        time.sleep(0.05)


def main() -> int:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as state:
        command = [
            sys.executable, "-m", "extproc", "up", "--policy", str(HERE / "policy"),
            "--state", state, "--listen", "127.0.0.1:0", "--console", "127.0.0.1:0",
            "--concurrency", "1", "--json",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            assert process.stdout is not None
            places = json.loads(process.stdout.readline())
            askers = {name: Asker(places["ready"], name) for name in ("stuffing", "retrieval")}
            stuff(askers["stuffing"], Path(extproc.__file__).parent)
            asyncio.run(retrieve(askers["retrieval"], places["ready"]))
            usd = booked_usd(places["console"])
        finally:
            process.terminate()
            process.wait(30)
    rows = [
        {
            "way": name,
            "model_calls": asker.model_calls,
            "tool_calls": asker.tool_calls,
            "input_tokens": asker.input_tokens,
            "output_tokens": asker.output_tokens,
            "usd": usd[name],
        }
        for name, asker in askers.items()
    ]
    if as_json:
        print(json.dumps(rows))
        return 0
    print(f"{'':<10}{'model calls':>12}{'tool calls':>12}{'input':>10}{'output':>8}{'USD':>10}")
    for row in rows:
        print(
            f"{row['way']:<10}{row['model_calls']:>12}{row['tool_calls']:>12}"
            f"{row['input_tokens']:>10,}{row['output_tokens']:>8}{row['usd']:>10.4f}"
        )
    print(f"stuffing costs {rows[0]['usd'] / rows[1]['usd']:.0f} times as much for one question")
    return 0


if __name__ == "__main__":
    sys.exit(main())
