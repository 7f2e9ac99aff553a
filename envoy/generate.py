"""Renders the shipped policy's Envoy configuration into ``envoy/example``, to be read and diffed.

    python envoy/generate.py [FOLDER]

Two of the four providers are taken to have their keys, so that the example shows both kinds: with
TLS and a key that Envoy reads, and the demo provider's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from extproc.envoy.bootstrap import bootstrap
from extproc.envoy.render import render
from extproc.envoy.settings import GatewaySettings
from extproc.policy.loader import load_folder

HERE = Path(__file__).resolve().parent
SETTINGS = GatewaySettings(
    listen_host="0.0.0.0",  # noqa: S104  as compose.yaml has it
    listen_port=8080,
    socket_folder=Path("/run/tokenweir"),
    config_folder=Path("/state/envoy"),
)
ENVIRON = {"ANTHROPIC_API_KEY": "set", "OPENAI_API_KEY": "set"}
"""That a key is set is all that rendering asks; no value is ever rendered."""
DEMO_URL = "http://127.0.0.1:9000"


def generate(folder: Path) -> None:
    """Writes one file per kind of resource. Raises ``ValueError`` when the policy is refused."""
    snapshot = load_folder(HERE.parent / "configs", 1, ENVIRON, DEMO_URL)
    if isinstance(snapshot, list):
        raise ValueError("\n".join(map(str, snapshot)))
    documents = {"bootstrap": bootstrap(SETTINGS), **render(snapshot, SETTINGS)}
    folder.mkdir(parents=True, exist_ok=True)
    for kind, document in documents.items():
        text = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        (folder / f"{kind}.json").write_bytes(text)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "example")
