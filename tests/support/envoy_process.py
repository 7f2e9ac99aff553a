"""The real Envoy as a process of a test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from extproc.envoy.process import envoy_command
from extproc.envoy.settings import GatewaySettings


async def start_envoy(
    settings: GatewaySettings,
    log: Path,
    *,
    concurrency: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> asyncio.subprocess.Process:
    """Starts Envoy with its log in a file."""
    command = envoy_command(settings, concurrency=concurrency)
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, env=environ, start_new_session=True
        )
