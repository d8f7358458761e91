"""The numbers of the scorecard: what is measured, how, and what it should reach.

Departures are relative: 0.02 is 2 %. Means are over simulations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .scorecard import TRIANGLES, Comparison, Score

__all__ = ["jackknife", "score"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
T = TypeVar("T")
Measure = Callable[[Sequence[Comparison]], float]

# Means over few peaks or voids are noise, not errors.
_FEWEST = 30

# Of which each can be left out, and the others tell something.
_FEWEST_SEEDS = 3


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
    power = partial(_mean_ratio, "power", k <= half)
    up_to_three_quarters = partial(_mean_ratio, "power", k <= 1.5 * half)
    large, small = (partial(_correlation, k <= limit) for limit in (1.0, half))
    result = [
        _Metric("M1 mean power, interior", power, 0.02 * slack, "interior"),
        _Metric("M1 mean power, edge", power, 0.04 * slack, "edge"),
        _Metric("M1 mean power, k < 3/4 Nyquist", up_to_three_quarters, 0.05 * slack),
        _Metric("M4 99.9 % tail", _tail, 0.10),
        _Metric("M4 Wasserstein distance of log", _distance, None),
        *(
            _Metric(f"M5 bispectrum, {name}", partial(_bispectrum, name), 0.10)
            for name in TRIANGLES
        ),
        _Metric("M6 peaks", partial(_counts, "peaks"), 0.05),
        _Metric("M6 voids", partial(_counts, "voids"), 0.05),
        _Metric("M7 r up to k = 1", large, 1 - 0.01 * slack, least=True),
        _Metric("M7 r up to half Nyquist", small, 1 - 0.05 * slack, least=True),
        _Metric("mean", _worst_mean, 1e-5 if matter else None, sampled=False),
    ]
    if not matter:
        cross = partial(_mean_ratio, "cross", k <= half)
        result.append(_Metric("M14 cross-power with matter", cross, 0.05))
    return result


def _mean_ratio(name: str, inside: Mask, of: Sequence[Comparison]) -> float:
    """Largest departure of the mean ratio from 1."""
    return _worst(_mean([c.ratio(name) for c in of])[inside])


def _summed(name: str, of: Sequence[Comparison]) -> tuple[Array, Array]:
    """Over the runs, made and true: what is small in one decides nothing."""
    made = np.sum([c.values[name] for c in of], 0)
    return made, np.sum([c.truth[name] for c in of], 0)


def _bispectrum(name: str, of: Sequence[Comparison]) -> float:
    k, half = of[0].sides[name], of[0].nyquist / 2
    made, true = _summed(name, of)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = made / true
    # The longest triangles of a box are too few to have a mean.
    return _worst(ratio[(k <= half) & (k > 3 * of[0].k[0])])


def _counts(name: str, of: Sequence[Comparison]) -> float:
    made, true = _summed(name, of)
    enough = true >= _FEWEST
    return _worst(made[enough] / true[enough])


def _correlation(inside: Mask, of: Sequence[Comparison]) -> float:
    return float(_mean([c.values["r"] for c in of])[inside].min())


def _tail(of: Sequence[Comparison]) -> float:
    return abs(float(_mean([c.ratio("tail") for c in of])) - 1)


def _distance(of: Sequence[Comparison]) -> float:
    return float(np.mean([c.values["distance"] for c in of]))


def _worst_mean(of: Sequence[Comparison]) -> float:
    return max(abs(float(c.ratio("mean")) - 1) for c in of)


def _mean(values: Sequence[Array]) -> Array:
    """Over the runs that have a number; not a number where none has."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        total = np.where(known, values, 0).sum(0)
        return np.asarray(total / known.sum(0))


def score(
    comparisons: Sequence[Comparison], seeds: Mapping[str, Any] | None = None
) -> list[Score]:
    """Numbers of the scorecard of one method, field and redshift.

    Parameters
    ----------
    comparisons
        One for each simulation, of the same method, field and redshift.
    seeds
        Of the phases of each run, where they are known: runs of one seed share their
        chances.

    Returns
    -------
    list of Score
        Departures are relative: 0.02 is 2 %. Means are over simulations, and errors
        their jackknife (Tukey 1958) where there are at least three seeds. The bars for
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
        if metric.sampled:
            judged = replace(
                judged, error=jackknife(metric.value, of, _phases(of, seeds))
            )
        result.append(judged)
    return result


def _phases(of: Sequence[Comparison], seeds: Mapping[str, Any] | None) -> list[Any]:
    """What tells the phases of each run from others: its seed, or the run itself."""
    known = [(seeds or {}).get(each.run) for each in of]
    return [own.run if s is None else s for own, s in zip(of, known, strict=True)]


def jackknife(
    value: Callable[[Sequence[T]], float], of: Sequence[T], groups: Sequence[Any]
) -> float | None:
    """Sampling error of a number, from what it is without each group (Tukey 1958).

    Parameters
    ----------
    value
        The number of some of `of`.
    of
        What it is measured on.
    groups
        To which each of them belongs, such as the seed of its phases.

    Returns
    -------
    float or None
        Standard deviation; none if there are fewer than three groups.
    """
    n = len(set(groups))
    if n < _FEWEST_SEEDS:
        return None
    others = [
        value([c for c, own in zip(of, groups, strict=True) if own != left_out])
        for left_out in dict.fromkeys(groups)
    ]
    return float(np.std(others) * np.sqrt(n - 1))


def _worst(values: Array) -> float:
    """Largest departure from one; not a number if there is none."""
    known = values[np.isfinite(values)]
    return float(np.abs(known - 1).max()) if len(known) else float("nan")
