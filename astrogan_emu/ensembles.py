"""What only several simulations together can tell: scatter, response, expected errors.

Each number compares made fields with simulations of the same phases, so that most of
the sampling noise is in both and cancels.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def response(low: Comparison, high: Comparison) -> dict[str, Array]:
    """Change of ln P between two simulations that differ in one parameter.

    Parameters
    ----------
    low, high
        Of the same method, field, redshift and phases.

    Returns
    -------
    dict
        ``k``, and ``made`` and ``true``, the differences of ln P.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "k": low.k,
            "made": np.log(high.values["power"] / low.values["power"]),
            "true": np.log(high.truth["power"] / low.truth["power"]),
        }


def responses(
    groups: Mapping[Key, Sequence[Comparison]], seeds: Mapping[str, Any]
) -> dict[tuple[str, str, float, str], dict[str, Array]]:
    """Response to each parameter in which two runs of one seed differ, widest pair.

    Parameters
    ----------
    groups
        From `by_method`.
    seeds
        Of each run, or none.

    Returns
    -------
    dict
        By (method, field, redshift, parameter), from `response`.
    """
    result: dict[tuple[str, str, float, str], dict[str, Array]] = {}
    widths: dict[tuple[str, str, float, str], float] = {}
    for key, group in groups.items():
        for low in group:
            for high in group:
                if seeds[low.run] is None or seeds[low.run] != seeds[high.run]:
                    continue
                changes = {
                    name: high.parameters[name] - value
                    for name, value in low.parameters.items()
                    if high.parameters[name] != value
                }
                if len(changes) != 1:
                    continue
                ((name, change),) = changes.items()
                if change > widths.get((*key, name), 0.0):
                    widths[(*key, name)] = change
                    result[(*key, name)] = response(low, high)
    return result


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
        passes through zero, where no ratio means anything.
    """
    inside = values["k"] <= half
    made, true = values["made"][inside], values["true"][inside]
    known = np.isfinite(made) & np.isfinite(true)
    error = float("nan")
    if known.any() and (largest := np.abs(true[known]).max()) > 0:
        error = float(np.abs(made - true)[known].max() / largest)
    return Score.judged(f"M8 response to {key[3]}", key[:3], error, 0.05, 2)


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
