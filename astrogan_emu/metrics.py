"""The numbers of the scorecard: what is measured, how, and what it should reach.

Departures are relative: 0.02 is 2 %. Means are over simulations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .scorecard import TRIANGLES, Comparison, Score

__all__ = ["score"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Measure = Callable[[Sequence[Comparison]], float]

# Means over few peaks or voids are noise, not errors.
_FEWEST = 30

# Runs of which each can be left out, and the others tell something.
_FEWEST_RUNS = 3


@dataclass(frozen=True)
class _Metric:
    """How a number of the scorecard is made.

    Parameters
    ----------
    name
        Its number and name.
    value
        Of comparisons of the same method, field and redshift.
    bar
        As in `Score`.
    region
        ``"interior"`` or ``"edge"`` if only the runs there count.
    least
        The bar is the least that passes, not the most.
    sampled
        Whether other runs would change it by a sampling error that these tell.
    """

    name: str
    value: Measure
    bar: float | None
    region: str | None = None
    least: bool = False
    sampled: bool = True


def _metrics(first: Comparison) -> list[_Metric]:
    """All of them, for comparisons like this one; bars for galaxies are wider."""
    k, half = first.k, first.nyquist / 2
    matter = first.field == "matter"
    slack = 1.0 if matter else 2.0
    low = k <= half

    def mean_ratio(name: str, inside: Mask) -> Measure:
        return lambda of: _worst(np.nanmean([c.ratio(name) for c in of], 0)[inside])

    def summed(name: str, of: Sequence[Comparison]) -> tuple[Array, Array]:
        made = np.sum([c.values[name] for c in of], 0)
        return made, np.sum([c.truth[name] for c in of], 0)

    def triangles(name: str) -> Measure:
        # The longest triangles of a box are too few to have a mean.
        inside = (first.sides[name] <= half) & (first.sides[name] > 3 * k[0])

        def value(of: Sequence[Comparison]) -> float:
            made, true = summed(name, of)
            with np.errstate(divide="ignore", invalid="ignore"):
                return _worst((made / true)[inside])

        return value

    def counts(name: str) -> Measure:
        def value(of: Sequence[Comparison]) -> float:
            made, true = summed(name, of)
            enough = true >= _FEWEST
            return _worst(made[enough] / true[enough])

        return value

    def correlation(inside: Mask) -> Measure:
        return lambda of: float(
            np.nanmean([c.values["r"] for c in of], 0)[inside].min()
        )

    def tail(of: Sequence[Comparison]) -> float:
        return abs(float(np.nanmean([float(c.ratio("tail")) for c in of])) - 1)

    def distance(of: Sequence[Comparison]) -> float:
        return float(np.mean([c.values["distance"] for c in of]))

    def worst_mean(of: Sequence[Comparison]) -> float:
        return max(abs(float(c.ratio("mean")) - 1) for c in of)

    power = mean_ratio("power", low)
    up_to_three_quarters = mean_ratio("power", k <= 1.5 * half)
    result = [
        _Metric("M1 mean power, interior", power, 0.02 * slack, "interior"),
        _Metric("M1 mean power, edge", power, 0.04 * slack, "edge"),
        _Metric("M1 mean power, k < 3/4 Nyquist", up_to_three_quarters, 0.05 * slack),
        _Metric("M4 99.9 % tail", tail, 0.10),
        _Metric("M4 Wasserstein distance of log", distance, None),
        *(_Metric(f"M5 bispectrum, {n}", triangles(n), 0.10) for n in TRIANGLES),
        *(_Metric(f"M6 {name}", counts(name), 0.05) for name in ("peaks", "voids")),
        _Metric(
            "M7 r up to k = 1", correlation(k <= 1.0), 1 - 0.01 * slack, least=True
        ),
        _Metric(
            "M7 r up to half Nyquist", correlation(low), 1 - 0.05 * slack, least=True
        ),
        _Metric("mean", worst_mean, 1e-5 if matter else None, sampled=False),
    ]
    if not matter:
        cross = mean_ratio("cross", low)
        result.append(_Metric("M14 cross-power with matter", cross, 0.05))
    return result


def score(comparisons: Sequence[Comparison]) -> list[Score]:
    """Numbers of the scorecard of one method, field and redshift.

    Parameters
    ----------
    comparisons
        One for each simulation, of the same method, field and redshift.

    Returns
    -------
    list of Score
        Departures are relative: 0.02 is 2 %. Means are over simulations, and errors
        their jackknife (Tukey 1958) where there are at least three. The bars for
        galaxies are twice those for matter in power and correlation.
    """
    first = comparisons[0]
    key = (first.method, first.field, first.redshift)
    result = []
    for metric in _metrics(first):
        of = [c for c in comparisons if metric.region in (None, c.region)]
        if not of:
            continue
        # Too few peaks, say, leave no number to judge.
        judged = Score.judged(
            metric.name, key, metric.value(of), metric.bar, len(of), least=metric.least
        )
        if metric.sampled and len(of) >= _FEWEST_RUNS:
            judged = replace(judged, error=_jackknife(metric.value, of))
        result.append(judged)
    return result


def _jackknife(value: Measure, of: Sequence[Comparison]) -> float:
    """Sampling error of a number, from what it is without each of the runs."""
    n = len(of)
    others = [value([*of[:i], *of[i + 1 :]]) for i in range(n)]
    return float(np.std(others) * np.sqrt(n - 1))


def _worst(values: Array) -> float:
    """Largest departure from one; not a number if there is none."""
    known = values[np.isfinite(values)]
    return float(np.abs(known - 1).max()) if len(known) else float("nan")
