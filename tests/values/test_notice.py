"""Notices: immutable, and in PagerDuty's words."""

from __future__ import annotations

import dataclasses

import pytest
from receivers import ROUTING_KEY, Request, pagerduty_problems

from extproc.values.notice import Notice, Severity


def test_a_notice_cannot_be_changed_on_its_way() -> None:
    notice = Notice("k", "t", Severity.INFO, (("Rule", "a"),), 1)
    assert (notice.data, notice.resolved) == ({}, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        notice.title = "other"  # type: ignore[misc]


@pytest.mark.parametrize("severity", Severity)
def test_every_severity_is_one_of_pagerdutys(severity: Severity) -> None:
    payload = (
        f'{{"summary": "s", "source": "x", "severity": "{severity}", "custom_details": {{}},'
        f' "timestamp": "2026-11-25T13:05:00+00:00"}}'
    )
    body = (
        f'{{"routing_key": "{ROUTING_KEY}", "event_action": "trigger", "dedup_key": "k",'
        f' "payload": {payload}}}'
    )
    assert pagerduty_problems(Request("/v2/enqueue", {}, body.encode())) == []
