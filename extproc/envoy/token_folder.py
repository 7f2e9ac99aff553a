"""Where sidecar, Envoy and whoever renews Google tokens meet.

Which keys are wanted is said in the folder of Envoy's configuration; tokens, and how they are, are
in a folder of their own.

The sidecar says which key files the policy names, and reads how their tokens are; it reads neither
key nor token. Envoy reads the tokens.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

import orjson

from extproc.envoy.credentials import token_state_file
from extproc.envoy.settings import GatewaySettings
from extproc.ledger.replaced_file import replace_file

GOOGLE = "google:"
"""What SDS names of Google credentials begin with; the key file follows."""
_KEY_LIST = "google-keys.json"
_MAX_FILE_BYTES = 1_000_000


class TokenState(NamedTuple):
    """How the token of one key file is. Nothing in it is secret."""

    expires_at_ms: int = 0
    """Unix time; 0: there is none."""
    failures: int = 0
    """Of renewals, since the last one that succeeded."""
    problem: str = ""
    """Why the last one failed; empty: it did not."""


def memory_folder(state: Path) -> Path | None:
    """A folder of one gateway on this machine that is never on a disk; None where there is none."""
    shared_memory = Path("/dev/shm")  # noqa: S108  the folder in it is ours alone
    if not os.access(shared_memory, os.W_OK):
        return None
    name = hashlib.sha256(str(state).encode()).hexdigest()[:16]
    return shared_memory / f"tokenweir-{os.geteuid()}-{name}"


def open_token_folder(settings: GatewaySettings) -> Path:
    """The folder, made where there is none. Raises ``OSError``, also for another user's folder."""
    folder = settings.tokens
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if settings.is_shared:
        if is_ours:
            folder.chmod(0o2770)  # whatever the umask of this process
    elif not is_ours:
        raise PermissionError(1, "the folder of tokens is somebody else's", str(folder))
    return folder


def write_key_list(config_folder: Path, key_files: list[str]) -> None:
    """Says for which key files tokens are wanted. Raises ``OSError``."""
    replace_file(config_folder / _KEY_LIST, orjson.dumps(key_files), mode=0o644)


def read_key_list(config_folder: Path) -> list[str]:
    """The key files; none where nothing sensible is said."""
    try:
        listed = orjson.loads(_bounded(config_folder / _KEY_LIST))
    except (OSError, ValueError):
        return []
    return [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []


def read_token_state(folder: Path, key_file: str) -> TokenState:
    """How a token is; none, where nothing sensible is said."""
    try:
        state = orjson.loads(_bounded(folder / token_state_file(key_file)))
        return TokenState(
            int(state["expires_at_ms"]), int(state["failures"]), str(state["problem"])[:200]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return TokenState()


def write_token_state(folder: Path, key_file: str, state: TokenState) -> None:
    """Says how a token is. Raises ``OSError``."""
    replace_file(folder / token_state_file(key_file), orjson.dumps(state._asdict()), mode=0o644)


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES)
