"""``tokenweir google-tokens`` as a process beside a gateway that others started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from command import tokenweir
from google_accounts import TokenEndpoint

from extproc.envoy.credentials import token_file
from extproc.envoy.token_folder import write_key_list


def test_it_renews_what_the_sidecar_lists_and_ends_with_0(tmp_path: Path) -> None:
    google = TokenEndpoint(lifetime_s=2)
    key_file, config, tokens = tmp_path / "gcp.json", tmp_path / "envoy", tmp_path / "tokens"
    config.mkdir()
    google.write_key(key_file)
    write_key_list(config, [str(key_file)])
    command = [sys.executable, "-m", "extproc", "google-tokens", "--socket-mode", "660"]
    process = subprocess.Popen(
        [*command, "--config", config, "--tokens", tokens], stderr=subprocess.PIPE, text=True
    )
    try:
        token = tokens / token_file(str(key_file))
        deadline = time.monotonic() + 20
        while not (token.exists() and token.read_text() == "ya29.token-2"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert token.stat().st_mode & 0o777 == 0o640  # Envoy's group may read, nobody else
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
        google.close()
    assert (process.returncode, errors, google.problems) == (0, "", [])


def test_it_says_what_it_needs() -> None:
    outcome = tokenweir("google-tokens")
    assert outcome.returncode == 2
    assert "--config" in outcome.stderr
