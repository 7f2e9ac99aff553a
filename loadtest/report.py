"""From slices to figures, and from figures to a table against the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from loadtest.latency import Percentiles
from loadtest.measure import Slice

NOISE_LIMIT_CORES = 0.05
"""More than this taken by others, and a slice does not count as quiet."""

Rounds = Mapping[tuple[str, str], Sequence[Slice]]
"""Slices by kind and variant, in the order of their rounds."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure against its target."""

    name: str
    value: float | None
    """None: not measured in this run."""
    unit: str
    target: float
    stretch: float | None = None
    at_least: bool = False
    """Larger is better."""
    slices: tuple[Slice, ...] = ()
    """What it was computed from."""

    def meets(self, bound: float) -> bool:
        """Whether the value is on the right side of a bound."""
        assert self.value is not None
        return self.value >= bound if self.at_least else self.value <= bound

    @property
    def verdict(self) -> str:
        """PASS or MISSED; INVALID when requests failed, NOISY when the machine was not ours."""
        if self.value is None:
            return "not measured"
        if any(not item.valid for item in self.slices):
            return "INVALID"
        word = "PASS" if self.meets(self.target) else "MISSED"
        if self.stretch is not None and self.meets(self.stretch):
            word = "PASS (stretch)"
        noisy = any(item.noise.cores > NOISE_LIMIT_CORES for item in self.slices)
        return f"{word}, NOISY" if noisy else word


def gateway_figures(rounds: Rounds, decision_us: Mapping[int, float]) -> list[Figure]:
    """Every figure of the contract that one run can show."""
    figures = [
        _figure(rounds, "saturation", "direct", "client + upstream alone", "req/s", 12_000, _rps),
        _figure(
            rounds, "saturation", "governed", "governed throughput", "req/s", 5_500, _rps, 7_000
        ),
        _ratio(rounds, "governed / always allow", "allow", 0.80, None),
        _ratio(rounds, "governed / ferrogw with limits", "ferrogw", 1.0, 1.3),
        _ratio(rounds, "governed on Redis / governed", "governed", 0.60, None, "governed_redis"),
        _added(rounds, "open_350", "added at 350/s, p50", 0.6, 0.4, lambda s: _of(s).p50_ms),
        _added(rounds, "open_350", "added at 350/s, p99", 2.0, 1.0, lambda s: _of(s).p99_ms),
    ]
    figures += [_buffering(rounds, kind) for kind in ("body_200kb", "body_2mb")]
    figures += [
        _added(rounds, "streams", "time to first token added, p50", 0.6, None, _p50),
        _added(rounds, "streams", "time to first token added, p99", 2.0, None, _p99),
        # Timers of the upstream count whole milliseconds: less than one is no gap at all.
        _added(rounds, "streams", "gap between chunks added, p50", 1.0, None, _gap_p50),
    ]
    at_ten, at_thousand = decision_us.get(10), decision_us.get(1000)
    figures.append(Figure("decision with 10 rules, p50", at_ten, "us", 40, 20))
    growth = at_thousand / at_ten if at_ten and at_thousand else None
    figures.append(Figure("decision, 1,000 rules / 10 rules", growth, "x", 2))
    return figures


def figure_table(figures: Sequence[Figure]) -> str:
    """A Markdown table."""
    lines = [
        "| figure | measured | target | stretch | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        # Failed requests are fast ones: a number beside INVALID would be believed.
        shown = figure.value is not None and figure.verdict != "INVALID"
        value = f"{figure.value:,.2f} {figure.unit}" if shown else "-"
        stretch = "" if figure.stretch is None else f"{sign} {figure.stretch:g}"
        lines.append(
            f"| {figure.name} | {value} | {sign} {figure.target:g} | {stretch} | {figure.verdict} |"
        )
    return "\n".join(lines)


def variant_table(rounds: Rounds, kind: str) -> str:
    """Medians of every variant in one kind of load, as a Markdown table."""
    lines = [
        f"| {kind} | req/s | p50 ms | p90 ms | p99 ms | Envoy us/req | Python (or peer) us/req "
        "| noise, cores | failed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (slice_kind, variant), slices in rounds.items():
        if slice_kind != kind:
            continue
        cells = (
            f"{median(s.rps for s in slices):,.0f}",
            *(
                f"{median(getattr(_of(s), name) for s in slices if s.latency):.3f}"
                if any(s.latency for s in slices)
                else "-"
                for name in ("p50_ms", "p90_ms", "p99_ms")
            ),
            f"{median(s.envoy_us for s in slices):.1f}",
            f"{median(s.python_us for s in slices):.1f}",
            f"{max(s.noise.cores for s in slices):.2f}",
            str(sum(s.refused + s.broken for s in slices)),
        )
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _of(item: Slice) -> Percentiles:
    assert item.latency is not None
    return item.latency


def _rps(item: Slice) -> float:
    return item.rps


def _p50(item: Slice) -> float:
    return _of(item).p50_ms


def _p99(item: Slice) -> float:
    return _of(item).p99_ms


def _gap_p50(item: Slice) -> float:
    assert item.gap is not None
    return item.gap.p50_ms


def _figure(
    rounds: Rounds,
    kind: str,
    variant: str,
    name: str,
    unit: str,
    target: float,
    read: Callable[[Slice], float],
    stretch: float | None = None,
) -> Figure:
    slices = tuple(rounds.get((kind, variant), ()))
    value = median(map(read, slices)) if slices else None
    return Figure(name, value, unit, target, stretch, True, slices)


def _pairs(rounds: Rounds, kind: str, one: str, other: str) -> list[tuple[Slice, Slice]]:
    """The slices of two variants, round by round: neighbours in time, so noise hits both alike."""
    pairs = zip(rounds.get((kind, one), ()), rounds.get((kind, other), ()), strict=False)
    return [(a, b) for a, b in pairs if a.latency and b.latency]


def _ratio(
    rounds: Rounds,
    name: str,
    other: str,
    target: float,
    stretch: float | None,
    one: str = "governed",
) -> Figure:
    pairs = _pairs(rounds, "saturation", one, other)
    value = median(a.rps / b.rps for a, b in pairs) if pairs else None
    return Figure(name, value, "x", target, stretch, True, _flat(pairs))


def _added(
    rounds: Rounds,
    kind: str,
    name: str,
    target: float,
    stretch: float | None,
    read: Callable[[Slice], float],
) -> Figure:
    pairs = _pairs(rounds, kind, "governed", "envoy")
    value = median(read(a) - read(b) for a, b in pairs) if pairs else None
    return Figure(f"{name} (over Envoy)", value, "ms", target, stretch, False, _flat(pairs))


def _buffering(rounds: Rounds, kind: str) -> Figure:
    """Added latency in units of what Envoy's own buffer filter takes, from first to last byte."""
    added = _pairs(rounds, kind, "governed", "envoy")
    buffer = _pairs(rounds, kind, "envoy_buffer", "direct")
    both = list(zip(added, buffer, strict=False))
    values = [(_p50(a) - _p50(b)) / max(1e-6, _p50(c) - _p50(d)) for (a, b), (c, d) in both]
    name = f"{kind}: added p50 / Envoy's time to buffer it"
    value = median(values) if values else None
    return Figure(name, value, "x", 3, None, False, (*_flat(added), *_flat(buffer)))


def _flat(pairs: Sequence[tuple[Slice, Slice]]) -> tuple[Slice, ...]:
    return tuple(item for pair in pairs for item in pair)
