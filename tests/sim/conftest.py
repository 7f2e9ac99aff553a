"""A folder in memory where there is one: a world writes its journal thousands of times."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def sim_folder() -> Iterator[Path]:
    memory = "/dev/shm"
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tw-sim-", dir=place) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Every simulated fault is logged by the real code, millions of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
