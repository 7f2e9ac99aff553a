"""What the tests of all channels share."""

from __future__ import annotations

import pytest

from extproc.values.notice import Notice, Severity

AT_MS = 1_795_611_900_000


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers are on loopback, whatever a developer's machine says of proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def notice() -> Notice:
    return Notice(
        "a/usd|80%|daily UTC|1",
        "Budget a has used 80 % of $4,000.00",
        Severity.ERROR,
        (("Rule", "a"), ("Spent", "$3,200.00"), ("Used", "80 %")),
        AT_MS,
        {"rule_id": "a", "alert": "80%", "spent_micro_usd": 3_200_000_000},
    )
