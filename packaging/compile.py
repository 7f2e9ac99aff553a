"""Compiles the hot path to C extensions with mypyc, in place.

The modules are the same Python that the tests run and mypy checks; compiled they need about a third
less time per request. An import prefers the extension beside the source, so this is for a copy that
nobody edits: a container image, or ``build/compiled``. Needs a C compiler, and mypy and setuptools
in the running interpreter.

    python packaging/compile.py FOLDER    # the folder that holds the package extproc
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext

HOT_MODULES = (
    "core/answer_passage",
    "core/attempt",
    "core/breaker",
    "core/callers",
    "core/commands",
    "core/estimate",
    "core/events",
    "core/gate",
    "core/generation",
    "core/holds",
    "core/kill_switch",
    "core/machine",
    "core/outgoing",
    "core/queueing",
    "core/routing",
    "core/sessions",
    "core/settlement",
    "core/spread",
    "core/translated",
    "core/velocity",
    "core/verification",
    "core/workflows",
    "dialects/anthropic/streams",
    "dialects/bedrock/event_stream",
    "dialects/bedrock/streams",
    "dialects/gemini/streams",
    "dialects/openai_chat/streams",
    "dialects/openai_responses/streams",
    "dialects/reading_streams",
    "dialects/soundness",
    "dialects/sse",
    "dialects/translation",
    "edge/answer_service",
    "edge/answer_stage",
    "edge/clock",
    "edge/codec",
    "edge/header_text",
    "edge/immediate_codec",
    "edge/lean",
    "edge/log_codec",
    "edge/services",
    "ledger/books",
    "ledger/counter",
    "ledger/embedded",
    "ledger/journal",
    "ledger/port",
    "ledger/recovery",
    "ledger/redis_batch",
    "ledger/redis_courier",
    "ledger/redis_names",
    "ledger/redis_part",
    "values/money",
    "values/window",
    "wire/error_body",
    "wire/headers",
    "wire/usage",
)
"""What a request runs through between Envoy's message and its answer. The rest is cold, or (the
readers of request bodies) has classes of msgspec, which are compiled already."""


def compile_in_place(folder: Path) -> None:
    """Puts an extension beside each hot module of ``folder/extproc``."""
    os.chdir(folder)
    sources = [f"extproc/{module}.py" for module in HOT_MODULES]
    extensions = mypycify(["--config-file=", "--ignore-missing-imports", *sources], opt_level="3")
    distribution = Distribution({"name": "tokenweir", "ext_modules": extensions})
    command = build_ext(distribution)
    command.inplace = True
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    compile_in_place(Path(sys.argv[1]))
