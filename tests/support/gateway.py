"""A real gateway for tests: ``tokenweir up`` as a process, its demo provider, its ledger."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from usage_logs import verified

START_S = 40.0
SETTLE_S = 10.0
KEY = "tw-test-key"
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}

GATEWAY = """
name: test
type: gateway-config
envelope:
  prefix: X-TFY-
  required: {{"*": [project, environment]}}
credentials:
  - id: app
    sha256: {digest}
    claims: {{projects: [p1, p2, intern-sandbox], environments: [test, production]}}
    defaults: {{project: p1, environment: test}}
providers:
  anthropic: {{dialect: anthropic, base_url: "https://a.invalid", credential: "env:NO", demo: auto}}
  openai: {{dialect: openai, base_url: "https://o.invalid/v1", credential: "env:NO", demo: auto}}
  bedrock: {{dialect: bedrock, credential: "env:NO", demo: auto}}
  vertex: {{dialect: gemini, credential: "env:NO", demo: auto}}
"""

MODEL = """
name: intent-fast
type: gateway-load-balancing-config
rule_type: weight-based
rules:
  - id: primary-haiku
    weight: 90
    target: {provider: anthropic, model: claude-haiku-4-5}
    timeout_ms: 2000
  - id: secondary-bedrock-haiku
    weight: 10
    target: {provider: bedrock, model: anthropic.claude-haiku-4-5}
    timeout_ms: 2000
fallbacks:
  - {provider: openai, model: gpt-4o-mini, timeout_ms: 2000}
  - {provider: vertex, model: gemini-2.0-flash, timeout_ms: 2000}
circuit_breaker: {failure_threshold: 50, window_seconds: 60, cooldown_seconds: 2}
"""


BUDGET = """
name: money
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 100, window: monthly, on_exceed: hard_block}
"""
"""Counts what everything costs, and stops nothing."""


def virtual_model(
    name: str, provider: str, model: str, timeout_ms: int = 2_000, fallbacks: str = ""
) -> str:
    """A virtual model that leads to one target, whose breaker stays closed. ``fallbacks``: YAML
    items, a line each."""
    return (
        f"name: {name}\ntype: gateway-load-balancing-config\nrules:\n"
        f"  - {{id: {name}-r, target: {{provider: {provider}, model: {model}}}, "
        f"timeout_ms: {timeout_ms}}}\n"
        + (f"fallbacks:\n{fallbacks}" if fallbacks else "")
        + "circuit_breaker: {failure_threshold: 10000, window_seconds: 60, cooldown_seconds: 1}\n"
    )


def base_policy(**more: str) -> dict[str, str]:
    """Policy files: credentials and providers, ``intent-fast``, and what else is given."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    return {
        "gateway.yaml": GATEWAY.format(digest=digest),
        "models.yaml": MODEL,
        **{f"{name}.yaml": text for name, text in more.items()},
    }


def native_policy(**more: str) -> dict[str, str]:
    """The same, with the demo provider in each provider's own dialect: requests are translated."""
    policy = base_policy(**more)
    policy["gateway.yaml"] = policy["gateway.yaml"].replace("demo: auto", "demo: native")
    return policy


def chat(**fields: Any) -> dict[str, Any]:
    """A small chat request."""
    return {
        "model": "intent-fast",
        "max_tokens": 16,
        "messages": [{"role": "user", "content": "Which intent is this?"}],
        **fields,
    }


class Gateway:
    """One running gateway."""

    def __init__(self, root: Path, policy: dict[str, str], *arguments: str) -> None:
        self.policy = root / "policy"
        self.state = root / "s"
        self.policy.mkdir(parents=True)
        for name, text in policy.items():
            (self.policy / name).write_text(text)
        self._arguments = arguments
        self.url = self.console = self.demo = ""
        self.wrapper: list[str] = []
        """A command that runs ours, such as ``prlimit``."""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Gateway:
        """Starts it and waits until it serves."""
        command = [
            *self.wrapper, sys.executable, "-m", "extproc", "up", "--policy", str(self.policy),
            "--state", str(self.state), "--listen", "127.0.0.1:0", "--console", "127.0.0.1:0",
            "--concurrency", "1", *self._arguments,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            word, _, url = line.strip().rpartition(" ")
            if word == "demo provider":
                self.demo = url
            elif word == "ready":
                self.url = url
            elif word == "console":
                self.console = url
                return self
        raise AssertionError("the gateway did not start:\n" + "".join(lines))

    def stop(self) -> int:
        """SIGTERM; the exit code. What it leaves must prove the bound: see ``verify``."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout=30)
            self.verify()
            return status
        finally:
            if self.process.poll() is None:
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    child.kill()
                self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def verify(self) -> None:
        """Fails with the first entry of the usage log that breaks the bound, if there is one."""
        folder = self.state / "ledger"
        if folder.is_dir():
            verified(folder)

    def child(self, word: str) -> psutil.Process:
        """The child process whose command line holds the word."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if word in child.cmdline() or any(
                part.endswith("/" + word) for part in child.cmdline()
            ):
                return child
        raise AssertionError(f"no {word} process")

    def post(
        self, body: Any = None, path: str = "/v1/chat/completions", **kwargs: Any
    ) -> httpx.Response:
        """One call with the test key; ``headers`` are added to the usual ones."""
        headers = {**HEADERS, **kwargs.pop("headers", {})}
        content = json.dumps(chat() if body is None else body)
        return httpx.post(self.url + path, content=content, headers=headers, timeout=30, **kwargs)

    def faults(self, provider: str, **faults: Any) -> None:
        """Sets a provider's faults."""
        httpx.put(f"{self.demo}/faults/{provider}", json=faults).raise_for_status()

    def clear_faults(self) -> None:
        """Every provider is well again."""
        httpx.delete(f"{self.demo}/faults").raise_for_status()

    def bill(self) -> list[dict[str, Any]]:
        """The provider's own bill."""
        return httpx.get(f"{self.demo}/bill").json()

    def billed_micro_usd(self) -> int:
        """The provider's own total."""
        return int(httpx.get(f"{self.demo}/bill/total").json()["micro_usd"])

    def usage(self) -> dict[str, dict[str, int]]:
        """Counters by ``limit`` or ``limit@scope value``."""
        document = httpx.get(f"{self.console}/usage").json()
        counters = {}
        for counter in document["counters"]:
            name = counter["limit"] + (
                "@" + counter["scope_value"] if counter["scope_value"] else ""
            )
            counters[name] = counter
        return counters

    def settled(self, name: str, seconds: float = SETTLE_S) -> int:
        """What a counter has settled, once nothing is reserved any more."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            document = httpx.get(f"{self.console}/usage").json()
            if document["open_reservations"] == 0:
                return self.usage().get(name, {"settled": 0})["settled"]
            time.sleep(0.05)
        raise AssertionError(f"reservations stay open: {document}")

    def generation(self) -> int:
        """The active policy generation."""
        return int(httpx.get(f"{self.console}/policy").json()["generation"])

    def policy_report(self) -> dict[str, Any]:
        """The console's account of the policy."""
        return httpx.get(f"{self.console}/policy").json()

    def metric(self, name: str) -> float:
        """One unlabelled metric."""
        for line in httpx.get(f"{self.console}/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    def metric_sum(self, name: str) -> float:
        """A metric over all its labels."""
        lines = httpx.get(f"{self.console}/metrics").text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith(name + "{"))

    def save_policy(self, name: str, text: str) -> None:
        """Saves a policy file as an editor does: written aside, then renamed."""
        temporary = self.policy / (name + ".tmp")
        temporary.write_text(text)
        os.replace(temporary, self.policy / name)

    def journal(self) -> str:
        """The usage log."""
        return "".join(path.read_text() for path in sorted((self.state / "ledger").glob("*.log")))
