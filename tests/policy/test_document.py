"""Every kind of document has a reader, and the message of an unknown kind names them all."""

from __future__ import annotations

from policies import compiled

from extproc.policy.document import READERS


def test_an_unknown_kind_is_refused_with_the_kinds_there_are() -> None:
    findings = compiled(more="name: x\ntype: gateway-wishes\n")
    assert isinstance(findings, list)
    assert [finding.code for finding in findings] == ["bad_type"]
    assert len(READERS) == 4
    for kind in READERS:
        assert kind in findings[0].message
