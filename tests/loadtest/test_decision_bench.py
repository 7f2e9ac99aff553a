from __future__ import annotations

import pytest

from loadtest import decision_bench


@pytest.mark.parametrize("rules", [1, 10, 1000])
def test_every_number_of_rules_is_measured(rules: int, monkeypatch) -> None:
    monkeypatch.setattr(decision_bench, "WARM_UP", 5)
    times_ns = decision_bench.run_decision(rules, samples=20)
    assert len(times_ns) == 20
    assert min(times_ns) > 0


def test_ten_of_the_rules_match_the_caller() -> None:
    assert len(decision_bench.policy(1000).limits) == 1000


def test_a_load_that_is_refused_is_no_measurement(monkeypatch) -> None:
    monkeypatch.setattr(decision_bench, "KEY", "another-key")
    real = decision_bench.policy

    def policy_of_somebody_else(rules: int):
        monkeypatch.setattr(decision_bench, "KEY", "tw-load-key")
        try:
            return real(rules)
        finally:
            monkeypatch.setattr(decision_bench, "KEY", "another-key")

    monkeypatch.setattr(decision_bench, "policy", policy_of_somebody_else)
    with pytest.raises((RuntimeError, AssertionError)):
        decision_bench.run_decision(1, samples=1)
