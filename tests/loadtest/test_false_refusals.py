from __future__ import annotations

import pytest

from loadtest import false_refusals
from loadtest.false_refusals import AMPLE_PCT, SCARCE_PCT, Run, workload

SESSIONS = workload(3)


def test_the_same_seed_gives_the_same_calls_and_the_calls_are_those_of_agents() -> None:
    assert workload(3, agents=2, calls=3) == workload(3, agents=2, calls=3)
    outputs = sorted(c.usage.output_tokens for calls in workload(1, agents=20) for c in calls)
    assert 700 < sum(outputs) / len(outputs) < 1_100
    assert b'"max_tokens": 64000' in SESSIONS[0][0].body


@pytest.mark.parametrize("demand_pct", [AMPLE_PCT, SCARCE_PCT])
def test_a_strict_budget_never_spends_more_than_its_ceiling(demand_pct: int) -> None:
    result = Run(SESSIONS, "strict", demand_pct).run()
    assert result.asked == 1_200
    assert result.over_usd == 0
    assert result.settled <= result.ceiling


def test_a_statistical_budget_refuses_next_to_nothing_while_the_money_lasts() -> None:
    strict = Run(SESSIONS, "strict", AMPLE_PCT).run()
    statistical = Run(SESSIONS, "statistical", AMPLE_PCT).run()
    assert statistical.refused_pct + statistical.cut_short < strict.refused_pct + strict.cut_short
    assert statistical.refused_pct < 5


def test_its_overrun_is_small_and_shown() -> None:
    result = Run(SESSIONS, "statistical", SCARCE_PCT).run()
    assert result.spent_pct > 95
    assert result.over_usd < 0.05 * result.ceiling / 1e6


def test_a_policy_that_does_not_compile_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="bad_value"):
        false_refusals._compiled("1", "hopeful")
