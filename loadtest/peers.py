"""Other gateways, installed into environments of their own and measured in the same run.

Each has on what it can do of the governed work, with limits too high to trip: a key, a model alias,
rate limits and a budget where it has them in memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extproc.edge.supervisor import free_port
from loadtest.bodies import KEY, small_requests
from loadtest.processes import GATEWAY_CPU, Child, Processes
from loadtest.stack import HOST, Stack, Variant, wait_until_served

NAMES = ("ferrogw", "litellm", "portkey")
FERROGW = "ferrogw==1.5.10"
LITELLM = "litellm[proxy]==1.106.2"
PORTKEY = "@portkey-ai/gateway@1.15.2"
REAL_MODEL = "gpt-4o-mini"
INSTALL_S = 600
_HIGH = 100_000_000


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer on this disk."""

    name: str
    folder: Path


def install(name: str) -> Installed:
    """Installs a peer unless it was before. Raises ``CalledProcessError`` and ``KeyError``."""
    package, installer = _PACKAGES[name]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "tokenweir-peers" / package.replace("/", "_")
    done = folder / ".installed"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        installer(folder, package)
        done.touch()
    return Installed(name, folder)


def start(peer: Installed, processes: Processes, stack: Stack, root: Path) -> Variant:
    """Starts a peer on the gateway's core. Raises ``StartError``."""
    home = root / f"peer-{peer.name}"
    home.mkdir()
    return _STARTERS[peer.name](peer, processes, stack, home)


# -- installation ---------------------------------------------------------------------------------


def _install_python(folder: Path, package: str) -> None:
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "pip"), "install", "--quiet", package]
    subprocess.run(command, check=True, timeout=INSTALL_S, stdout=sys.stderr)


def _install_node(folder: Path, package: str) -> None:
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", package]
    subprocess.run(command, check=True, timeout=INSTALL_S, stdout=sys.stderr)


_PACKAGES: dict[str, tuple[str, Callable[[Path, str], None]]] = {
    "ferrogw": (FERROGW, _install_python),
    "litellm": (LITELLM, _install_python),
    "portkey": (PORTKEY, _install_node),
}


# -- start ----------------------------------------------------------------------------------------


def ferrogw_config() -> dict[str, object]:
    """Alias, request limits (all, per key, per user) and a budget per key, all in memory."""
    budget = {
        "store_id": "load",
        "spend_limit_usd": _HIGH,
        "input_per_m_tokens": 1,
        "output_per_m_tokens": 5,
    }
    limits = {"requests_per_second": _HIGH, "burst": _HIGH, "key_rpm": _HIGH, "user_rpm": _HIGH}

    def plugin(name: str, stage: str, config: dict[str, object]) -> dict[str, object]:
        return {
            "name": name,
            "type": "ratelimit",
            "stage": stage,
            "enabled": True,
            "config": config,
        }

    return {
        "strategy": {"mode": "single"},
        "targets": [{"virtual_key": "openai"}],
        "aliases": {"intent-fast": REAL_MODEL},
        "plugins": [
            plugin("rate-limit", "before_request", {**limits}),
            plugin("budget", "before_request", {**budget}),
            plugin("budget", "after_request", {**budget}),
        ],
    }


def _start_ferrogw(peer: Installed, processes: Processes, stack: Stack, home: Path) -> Variant:
    port = free_port(HOST)
    config = home / "config.json"
    config.write_text(json.dumps(ferrogw_config()))
    environ = {
        "GATEWAY_CONFIG": str(config),
        "MASTER_KEY": KEY,
        "PORT": str(port),
        "LOG_LEVEL": "error",
        # Its own limiter in front of the plugins allows about 20 requests a second unless told.
        "RATE_LIMIT_RPS": str(_HIGH),
        "RATE_LIMIT_BURST": str(_HIGH),
        "OPENAI_API_KEY": "sk-loadtest",
        "OPENAI_BASE_URL": f"http://{HOST}:{stack.upstream_port}",
    }
    command = [str(peer.folder / "bin" / "ferrogw"), "serve"]
    return _serve(peer.name, processes, command, environ, port, small_requests())


def _start_litellm(peer: Installed, processes: Processes, stack: Stack, home: Path) -> Variant:
    port = free_port(HOST)
    config = home / "config.json"  # JSON is YAML
    params = {
        "model": f"openai/{REAL_MODEL}",
        "api_base": f"http://{HOST}:{stack.upstream_port}/v1",
        "api_key": "sk-loadtest",
        "rpm": _HIGH,
        "tpm": _HIGH * 1000,
    }
    document = {
        "model_list": [{"model_name": "intent-fast", "litellm_params": params}],
        "general_settings": {"master_key": f"sk-{KEY}"},
    }
    config.write_text(json.dumps(document))
    binary = str(peer.folder / "bin" / "litellm")
    command = [binary, "--config", str(config), "--host", HOST, "--port", str(port)]
    requests = small_requests(key=f"sk-{KEY}")
    return _serve(peer.name, processes, command, {"LITELLM_LOG": "ERROR"}, port, requests)


def _start_portkey(peer: Installed, processes: Processes, stack: Stack, home: Path) -> Variant:
    port = free_port(HOST)
    script = peer.folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    # Provider and address come with each request: the open version has no names or limits.
    extra = (
        "x-portkey-provider: openai\r\n"
        f"x-portkey-custom-host: http://{HOST}:{stack.upstream_port}/v1\r\n"
    )
    requests = small_requests(model=REAL_MODEL, extra=extra)
    environ = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": HOST}
    command = ["node", str(script), f"--port={port}", "--headless"]
    return _serve(peer.name, processes, command, environ, port, requests)


def _serve(
    name: str,
    processes: Processes,
    command: list[str],
    environ: dict[str, str],
    port: int,
    requests: tuple[bytes, ...],
) -> Variant:
    child: Child
    child, _ = processes.start(name, command, cpu=GATEWAY_CPU, environ=environ)
    wait_until_served(port, requests[0], child)
    return Variant(name, port, python=child, requests=requests)


_STARTERS: dict[str, Callable[[Installed, Processes, Stack, Path], Variant]] = {
    "ferrogw": _start_ferrogw,
    "litellm": _start_litellm,
    "portkey": _start_portkey,
}
