"""The published matrix of dialects (``docs/generate.py``), for tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

GENERATOR = Path(__file__).parents[2] / "docs" / "generate.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("published_dialects", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generator = _load()
