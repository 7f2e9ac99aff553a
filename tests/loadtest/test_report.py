from __future__ import annotations

from loadtest.latency import Percentiles
from loadtest.measure import Slice
from loadtest.processes import Noise
from loadtest.report import Figure, figure_table, gateway_figures, variant_table

QUIET = Noise(0.0, 0.01)


def a_slice(kind: str, variant: str, **fields) -> Slice:
    given = {
        "rps": 0.0,
        "latency": Percentiles(10, 1.0, 1.0, 2.0, 3.0),
        "valid": True,
        "refused": 0,
        "broken": 0,
        "envoy_us": 0.0,
        "python_us": 0.0,
        "noise": QUIET,
        **fields,
    }
    return Slice(kind=kind, variant=variant, **given)


def named(figures: list[Figure], start: str) -> Figure:
    return next(figure for figure in figures if figure.name.startswith(start))


def saturation(variant: str, *rps: float, **fields) -> dict:
    key = ("saturation", variant)
    return {key: [a_slice(*key, rps=value, **fields) for value in rps]}


def test_throughput_is_the_median_of_its_rounds() -> None:
    figure = named(
        gateway_figures(saturation("governed", 5_000, 9_000, 5_600), {}), "governed throughput"
    )
    assert figure.value == 5_600
    assert figure.verdict == "PASS"


def test_ratios_are_taken_within_a_round() -> None:
    """A slow round hits both variants: medians apart would say 0.75, no round does."""
    rounds = saturation("governed", 900, 450, 1_800) | saturation("allow", 1_000, 500, 2_000)
    figure = named(gateway_figures(rounds, {}), "governed / always allow")
    assert figure.value == 0.9
    assert figure.verdict == "PASS"


def test_added_latency_is_over_envoy_in_the_same_round() -> None:
    governed = Percentiles(10, 0.9, 1.0, 3.5, 4.0)
    envoy = Percentiles(10, 0.4, 0.5, 1.0, 4.0)
    rounds = {
        ("open_350", "governed"): [a_slice("open_350", "governed", latency=governed)],
        ("open_350", "envoy"): [a_slice("open_350", "envoy", latency=envoy)],
    }
    figures = gateway_figures(rounds, {})
    p50, p99 = named(figures, "added at 350/s, p50"), named(figures, "added at 350/s, p99")
    assert p50.value is not None
    assert abs(p50.value - 0.5) < 1e-9
    assert p50.verdict == "PASS"
    assert p99.value == 2.5
    assert p99.verdict == "MISSED"


def test_failed_requests_make_a_figure_invalid_however_fast_it_was() -> None:
    figures = gateway_figures(saturation("governed", 99_000, valid=False, refused=1), {})
    assert named(figures, "governed throughput").verdict == "INVALID"
    assert "99,000" not in figure_table(figures)


def test_noise_is_marked_stolen_time_too() -> None:
    rounds = saturation("governed", 8_000, noise=Noise(0.0, 0.3))
    figure = named(gateway_figures(rounds, {}), "governed throughput")
    assert figure.verdict == "PASS (stretch), NOISY"


def test_what_was_not_measured_does_not_pass() -> None:
    figures = gateway_figures({}, {})
    assert {figure.verdict for figure in figures} == {"not measured"}


def test_the_decision_is_held_to_time_and_growth() -> None:
    figures = gateway_figures({}, {10: 19.0, 1000: 40.0})
    assert named(figures, "decision with 10").verdict == "PASS (stretch)"
    assert named(figures, "decision, 1,000").verdict == "MISSED"


def test_the_tables_show_every_figure_and_variant() -> None:
    rounds = saturation("governed", 6_000) | saturation("ferrogw", 5_000)
    figures = gateway_figures(rounds, {})
    assert figure_table(figures).count("\n") == len(figures) + 1
    assert "| governed / ferrogw with limits | 1.20 x | >= 1 | >= 1.3 | PASS |" in figure_table(
        figures
    )
    table = variant_table(rounds, "saturation")
    assert "| governed | 6,000 |" in table
    assert "| ferrogw | 5,000 |" in table
