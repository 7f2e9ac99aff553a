"""Fixtures of the tests that need the real Envoy but no decision."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy_rig import PLAIN, Rig, start_rig_in

StartRig = Callable[..., Rig]


@pytest.fixture(scope="module")
def start_rig() -> Iterator[StartRig]:
    """Starts rigs that live as long as the module: see ``start_rig_in``."""
    with contextlib.ExitStack() as stack:

        def start(providers: dict[str, str], **more: Any) -> Rig:
            # Under /tmp, where socket paths are short.
            folder = tempfile.TemporaryDirectory(prefix="tw-", ignore_cleanup_errors=True)
            rig = start_rig_in(Path(stack.enter_context(folder)), providers, **more)
            stack.callback(rig.end)
            return rig

        yield start


@pytest.fixture(scope="module")
def shared_rig(start_rig: StartRig) -> Rig:
    """One for the module."""
    return start_rig(dict.fromkeys(("p1", "p2", "p3"), PLAIN))


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    """Three plain providers, all well; nothing has happened yet."""
    shared_rig.forget()
    return shared_rig
