"""What is wrong with the key files that a policy names, as far as they are on this machine.

Warnings only: a policy may be checked elsewhere than where its keys are.
"""

from __future__ import annotations

from pathlib import Path

from extproc.edge.google_key import GoogleKeyError, read_google_key
from extproc.policy.snapshot import Finding, PolicySnapshot


def key_file_warnings(policy: PolicySnapshot) -> list[Finding]:
    """``credential_unreadable`` and ``bad_google_key``, by provider. No key is repeated."""
    warnings = []
    for provider in policy.providers.values():
        credential = provider.credential
        if credential is None or credential.kind not in ("file", "google"):
            continue
        code, problem = _problem(Path(credential.name), is_google=credential.kind == "google")
        if problem:
            message = f"provider {provider.name}: {credential.name} {problem}"
            warnings.append(Finding("", 0, code, message))
    return warnings


def _problem(path: Path, *, is_google: bool) -> tuple[str, str]:
    code = "credential_unreadable"
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return code, "is empty"
    except OSError as error:
        return code, f"cannot be read ({error.strerror})"
    if is_google:
        try:
            read_google_key(path)
        except GoogleKeyError as error:
            return "bad_google_key", str(error)
    return code, ""
