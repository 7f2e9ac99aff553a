"""Showing what is wrong with a policy folder."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from extproc.policy.snapshot import Finding


def say_refused(findings: Iterable[Finding]) -> None:
    """To stderr, for commands whose output is something else."""
    for finding in findings:
        print(f"error   {text(finding)}", file=sys.stderr)
    print("refused", file=sys.stderr)


def text(finding: Finding) -> str:
    """``file:line: code: message``; place and line are left out where there is none."""
    if finding.line:
        return str(finding)
    place = f"{finding.file}: " if finding.file else ""
    return f"{place}{finding.code}: {finding.message}"


def fields(finding: Finding) -> dict[str, object]:
    """For ``--json``. ``file`` and ``line`` are null where the finding is about the whole."""
    return {
        "file": finding.file or None,
        "line": finding.line or None,
        "code": finding.code,
        "message": finding.message,
    }
