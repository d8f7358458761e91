"""What only several simulations together can tell: scatter, response, expected errors.

Each number compares made fields with simulations of the same phases, so that most of
the sampling noise is in both and cancels.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import jackknife
from .scorecard import Comparison, Score

__all__ = [
    "REALISATIONS",
    "error_table",
    "response",
    "response_scores",
    "responses",
    "scatter",
    "scatter_scores",
    "scatters",
]

Array = NDArray[np.float64]
Key = tuple[str, str, float]

REALISATIONS = 8
"""Runs of one point from which on a scatter is a number."""

_BANDS: Array = np.array([0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0])


def scatter(comparisons: Sequence[Comparison]) -> dict[str, Array]:
    """Scatter of the power at one point, between realisations.

    Parameters
    ----------
    comparisons
        Of the same method, field, redshift and parameters, with different phases.

    Returns
    -------
    dict
        ``k``; ``relative_made`` and ``relative_true``, standard deviation over mean of
        the power; ``matrix_made`` and ``matrix_true``, correlation matrices of the
        power up to half the Nyquist frequency; ``error``, the sampling error of the
        ratio of the two standard deviations; ``matrix_error``, that of the correlation
        coefficients, (1 - rho^2) / sqrt(n - 1).
    """
    k = comparisons[0].k
    low = k <= comparisons[0].nyquist / 2
    made = np.array([c.values["power"][low] for c in comparisons])
    true = np.array([c.truth["power"][low] for c in comparisons])
    result = {"k": k[low]}
    for name, power in (("made", made), ("true", true)):
        result[f"relative_{name}"] = power.std(0, ddof=1) / power.mean(0)
        # What does not scatter has no correlations.
        with np.errstate(invalid="ignore"):
            result[f"matrix_{name}"] = np.corrcoef(power.T)
    # Made and true share their phases, so these are upper limits.
    result["error"] = np.asarray(np.sqrt(1 / (len(made) - 1)))
    result["matrix_error"] = (1 - result["matrix_true"] ** 2) / np.sqrt(len(made) - 1)
    return result


def scatters(groups: Mapping[Key, Sequence[Comparison]]) -> dict[Key, dict[str, Array]]:
    """Scatter at the point that has most realisations, where they are enough.

    Parameters
    ----------
    groups
        From `by_method`.

    Returns
    -------
    dict
        By (method, field, redshift), from `scatter`.
    """
    result: dict[Key, dict[str, Array]] = {}
    for key, group in groups.items():
        points = defaultdict(list)
        for each in group:
            points[tuple(each.parameters.values())].append(each)
        largest = max(points.values(), key=len)
        if len(largest) >= REALISATIONS:
            result[key] = scatter(largest)
    return result


def scatter_scores(key: Key, values: Mapping[str, Array], n_runs: int) -> list[Score]:
    """Scatter and correlation matrix as numbers of the scorecard.

    Parameters
    ----------
    key
        Method, field, redshift.
    values
        From `scatter`.
    n_runs
        Realisations.

    Returns
    -------
    list of Score
        Largest departure of the ratio of standard deviations from 1, and of a
        correlation coefficient beyond its sampling error, up to half the Nyquist
        frequency.
    """
    ratio = values["relative_made"] / values["relative_true"]
    worst, mean = np.abs(ratio - 1).max(), abs(ratio.mean() - 1)
    beyond = np.abs(values["matrix_made"] - values["matrix_true"])
    beyond = np.maximum(beyond - values["matrix_error"], 0).max()
    # With few realisations a mean over k says more than the worst of many shells.
    return [
        Score.judged("M2 scatter of power", key, worst, 0.10, n_runs),
        Score.judged("M2 scatter of power, mean", key, mean, None, n_runs),
        Score.judged("M3 correlation of power", key, beyond, 0.10, n_runs),
    ]


def response(low: Sequence[Comparison], high: Sequence[Comparison]) -> dict[str, Array]:
    """Change of ln P between simulations that differ in one parameter.

    Parameters
    ----------
    low, high
        Of the same method, field and redshift; one of each for every realisation of
        the phases, in the same order.

    Returns
    -------
    dict
        ``k``, and ``made`` and ``true``, the differences of ln P, of shape
        (realisations, k).
    """

    def change(name: str) -> Array:
        before, after = (
            np.array([getattr(each, name)["power"] for each in runs])
            for runs in (low, high)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log(after / before))

    return {"k": low[0].k, "made": change("values"), "true": change("truth")}


def responses(
    groups: Mapping[Key, Sequence[Comparison]], seeds: Mapping[str, Any]
) -> dict[tuple[str, str, float, str], dict[str, Array]]:
    """Response to each parameter in which two runs of one seed differ.

    Parameters
    ----------
    groups
        From `by_method`.
    seeds
        Of each run, or none.

    Returns
    -------
    dict
        By (method, field, redshift, parameter), from `response`: of the widest pair,
        and of the pairs between the same two points that have other seeds.
    """
    result: dict[tuple[str, str, float, str], dict[str, Array]] = {}
    for key, group in groups.items():
        of_seed = defaultdict(list)
        for each in group:
            if seeds[each.run] is not None:
                of_seed[seeds[each.run]].append(each)
        points = defaultdict(list)
        for runs in of_seed.values():
            for low, high in itertools.permutations(runs, 2):
                before, after = low.parameters, high.parameters
                changed = [n for n in before if before[n] != after[n]]
                if len(changed) == 1 and after[changed[0]] > before[changed[0]]:
                    between = (*before.values(), *after.values())
                    points[changed[0], between].append((low, high))
        # The narrow ones first, so that the widest stays.
        for (name, _), pairs in sorted(
            points.items(), key=lambda item: _width(item[0][0], *item[1][0])
        ):
            result[(*key, name)] = response(*zip(*pairs, strict=True))
    return result


def _width(name: str, low: Comparison, high: Comparison) -> float:
    return high.parameters[name] - low.parameters[name]


def response_scores(
    key: tuple[str, str, float, str], values: Mapping[str, Array], half: float
) -> Score:
    """Response to one parameter as a number of the scorecard.

    Parameters
    ----------
    key
        Method, field, redshift, parameter.
    values
        From `response`.
    half
        Half the Nyquist frequency [h/Mpc], up to which it is judged.

    Returns
    -------
    Score
        Largest error of the change of ln P, over the largest change: a response
        passes through zero, where no ratio means anything. Changes are means over
        the realisations, and the error is their jackknife where they are enough.
    """
    inside = values["k"] <= half
    made, true = values["made"][:, inside], values["true"][:, inside]

    def worst(own: Sequence[int]) -> float:
        off, largest = np.abs((made - true)[own].mean(0)), np.abs(true[own].mean(0))
        known = np.isfinite(off)
        if not known.any() or largest[known].max() == 0:
            return float("nan")
        return float(off[known].max() / largest[known].max())

    n = len(made)
    judged = Score.judged(
        f"M8 response to {key[3]}", key[:3], worst(range(n)), 0.05, 2 * n
    )
    return replace(judged, error=jackknife(worst, range(n), range(n)))


def error_table(comparisons: Sequence[Comparison], method: str) -> dict[str, Any]:
    """Errors by field, region of the parameters, redshift and scale, for a card.

    Parameters
    ----------
    comparisons
        Any.
    method
        Whose errors.

    Returns
    -------
    dict
        Plain types; read by `expected_error`.
    """
    bands = [
        (low, high)
        for low, high in itertools.pairwise(_BANDS)
        if any(((c.k > low) & (c.k <= high)).any() for c in comparisons)
    ]
    groups: dict[tuple[str, str], dict[float, list[Comparison]]] = {}
    for each in comparisons:
        if each.method == method:
            own = groups.setdefault((each.field, each.region), {})
            own.setdefault(each.redshift, []).append(each)
    fields: dict[str, Any] = {}
    for (field, region), by_redshift in groups.items():
        table: dict[str, Any] = {"redshifts": list(by_redshift)}
        table["runs"] = len({c.run for own in by_redshift.values() for c in own})
        for name in ("power", "power_bias", "correlation"):
            table[name] = []
        for of_redshift in by_redshift.values():
            rows = np.array([[_band(c, *band) for band in bands] for c in of_redshift])
            error, r = rows[..., 0] - 1, rows[..., 1]
            table["power"].append(_rounded(np.sqrt(np.nanmean(error**2, 0))))
            table["power_bias"].append(_rounded(np.nanmean(error, 0)))
            table["correlation"].append(_rounded(np.nanmean(r, 0)))
        fields.setdefault(field, {})[region] = table
    return {"k": [round((a * b) ** 0.5, 4) for a, b in bands], "fields": fields}


def _band(comparison: Comparison, low: float, high: float) -> tuple[float, float]:
    """Ratio of power and correlation in a band, weighted by power."""
    inside = (comparison.k > low) & (comparison.k <= high)
    weight = comparison.k[inside] ** 2
    made, true = (
        (of["power"][inside] * weight).sum()
        for of in (comparison.values, comparison.truth)
    )
    r = (comparison.values["r"][inside] * weight).sum() / weight.sum()
    return float(made / true if true > 0 else np.nan), float(r)


def _rounded(values: Array) -> list[float]:
    return [round(float(value), 5) for value in values]
