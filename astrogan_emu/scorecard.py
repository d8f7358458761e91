"""The scorecard: how far fields that were made are from those of simulations.

`compare` reduces a made and a true field to the statistics that users rely on, so that
no fields need be kept; `score` turns those of many simulations into the numbers of the
scorecard, each with its bar. Which fields are compared is the business of `validation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bispectrum import bispectrum
from .distributions import log_distance, one_point_pdf
from .morphology import peak_counts, void_counts
from .statistics import correlation_coefficient, power_spectrum

__all__ = [
    "Comparison",
    "PDF_EDGES",
    "Results",
    "Score",
    "compare",
    "response",
    "scatter",
    "score",
]

Array = NDArray[np.float64]

TAIL = 0.999
"""Share of cells below the tail of the one-point distribution."""

PEAKS, PEAK_SMOOTHING = (2.0, 4.0, 8.0), 1.0
VOIDS, VOID_SMOOTHING = (0.1, 0.2, 0.4), 2.0
"""Thresholds of smoothed density over its mean, and smoothing [Mpc/h]."""

# Means over few peaks or voids are noise, not errors.
_FEWEST = 30


@dataclass(frozen=True)
class Comparison:
    """Statistics of one made field and of the simulation it stands in for.

    Parameters
    ----------
    run, redshift
        Which snapshot.
    method, field
        What made it, and what it is.
    parameters
        Of the simulation.
    edge
        Whether a parameter lies in the outer tenth of its range.
    k
        Wavenumbers of the shells [h/Mpc], shape ``(n_shells,)``.
    values, truth
        By name: ``power`` and ``r`` (shells), ``pdf`` (bins), ``tail``, ``distance``,
        ``equilateral`` and ``squeezed`` (triangles), ``peaks`` and ``voids``
        (thresholds), ``mean``, and ``cross`` (shells; with matter).
    sides
        Wavenumber of each triangle's shell [h/Mpc], by name.
    """

    run: str
    redshift: float
    method: str
    field: str
    parameters: Mapping[str, float]
    edge: bool
    k: Array
    values: Mapping[str, Array]
    truth: Mapping[str, Array]
    sides: Mapping[str, Array]

    def ratio(self, name: str) -> Array:
        """Made over true; not a number where the truth is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.values[name] / self.truth[name])


def _statistics(
    field: Array, matter: Array, box_size: float, edges: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Statistics of one field, and the sides of its triangles."""
    options: dict[str, Any] = {"box_size": box_size}
    mean = field.mean()
    smooth = {"smoothing": PEAK_SMOOTHING, **options}
    result = {
        "mean": np.asarray(mean),
        "power": np.asarray(power_spectrum(field, relative=False, **options).power),
    }
    density = field / mean if mean > 0 else field
    distribution = one_point_pdf(density, edges, levels=(TAIL,))
    result["pdf"] = np.asarray(distribution.density)
    result["tail"] = np.asarray(distribution.quantiles).reshape(())
    result["peaks"] = np.asarray(peak_counts(density, PEAKS, **smooth), float)
    smooth["smoothing"] = VOID_SMOOTHING
    result["voids"] = np.asarray(void_counts(density, VOIDS, **smooth), float)
    sides = {}
    for shape in ("equilateral", "squeezed"):
        measured = bispectrum(field, triangles=shape, relative=False, **options)
        result[shape] = np.asarray(measured.value)
        sides[shape] = np.asarray(measured.sides)[..., 0]
    result["cross"] = result["power"]
    if field is not matter:
        r = correlation_coefficient(field, matter, **options).value
        own = power_spectrum(matter, relative=False, **options).power
        product = result["power"] * np.asarray(own)
        result["cross"] = np.asarray(r) * np.sqrt(product)
    return result, sides


PDF_EDGES: Array = np.geomspace(0.01, 1000, 51)
"""Of the one-point distribution of density over its mean."""


def compare(
    made: Mapping[str, Array],
    truth: Mapping[str, Array],
    *,
    box_size: float,
    run: str,
    redshift: float,
    method: str,
    parameters: Mapping[str, float],
    edge: bool = False,
) -> list[Comparison]:
    """Compare fields of one realisation with those of a simulation.

    Parameters
    ----------
    made, truth
        Fields by name, shape ``(n, n, n)``; ``matter`` among them. Fields that were
        not made are left out.
    box_size
        Comoving side [Mpc/h].
    run, redshift, method, parameters, edge
        As in `Comparison`.

    Returns
    -------
    list of Comparison
        One for each field that was made. A true field that is empty is left out: no
        ratio to it is known.
    """
    results = []
    for name, field in made.items():
        if not truth[name].any():
            continue
        pairs = [
            _statistics(
                np.asarray(fields[name], float),
                np.asarray(fields["matter"], float) if name != "matter" else field,
                box_size,
                PDF_EDGES,
            )
            for fields in ({**made, name: field}, truth)
        ]
        (values, sides), (true_values, _) = pairs
        spectrum = power_spectrum(truth[name], box_size=box_size, relative=False)
        r = correlation_coefficient(field, truth[name], box_size=box_size).value
        distance = log_distance(
            np.asarray(field, float) / max(float(np.mean(field)), 1e-30),
            np.asarray(truth[name], float) / float(np.mean(truth[name])),
        )
        results.append(
            Comparison(
                run=run,
                redshift=redshift,
                method=method,
                field=name,
                parameters=dict(parameters),
                edge=edge,
                k=np.asarray(spectrum.k),
                values={**values, "r": np.asarray(r), "distance": np.asarray(distance)},
                truth=true_values,
                sides=sides,
            )
        )
    return results


@dataclass(frozen=True)
class Score:
    """One number of the scorecard.

    Parameters
    ----------
    metric
        Its number and name.
    method, field, redshift
        Of what.
    value
        The number.
    bar
        What it should reach; none where there is no bar.
    passed
        Whether it does.
    n_runs
        Simulations that it was measured on.
    """

    metric: str
    method: str
    field: str
    redshift: float
    value: float
    bar: float | None
    passed: bool | None
    n_runs: int

    def to_dict(self) -> dict[str, Any]:
        """Plain types that JSON can hold, which has no word for what is no number."""
        return asdict(self) | {"value": self.value if np.isfinite(self.value) else None}


@dataclass(frozen=True)
class Results:
    """Everything that a report shows.

    Parameters
    ----------
    model
        Name and SHA-256 of the model.
    suite
        What it was held against, in words.
    comparisons
        All of them.
    scores
        All of them.
    scatters
        By (method, field, redshift), from `scatter`; empty without enough
        realisations of one point.
    responses
        By (method, field, redshift, parameter), from `response`; empty without pairs.
    slices
        By (run, redshift, field): for each method, and ``simulation``, a slice of the
        field.
    slice_side
        Side of the slices [Mpc/h].
    missing
        What could not be measured, and why.
    """

    model: Mapping[str, str]
    suite: str
    comparisons: Sequence[Comparison]
    scores: Sequence[Score]
    scatters: Mapping[tuple[str, str, float], Mapping[str, Array]]
    responses: Mapping[tuple[str, str, float, str], Mapping[str, Array]]
    slices: Mapping[tuple[str, float, str], Mapping[str, Array]]
    slice_side: float
    missing: Sequence[str]


def _worst(values: Array) -> float:
    """Largest departure from one; not a number if there is none."""
    known = values[np.isfinite(values)]
    return float(np.abs(known - 1).max()) if len(known) else float("nan")


def score(comparisons: Sequence[Comparison]) -> list[Score]:
    """Numbers of the scorecard of one method, field and redshift.

    Parameters
    ----------
    comparisons
        One for each simulation, of the same method, field and redshift.

    Returns
    -------
    list of Score
        Departures are relative: 0.02 is 2 %. Means are over simulations. The bars for
        galaxies are twice those for matter in power and correlation.
    """
    first = comparisons[0]
    k, half = first.k, _half_nyquist(first.k)
    low = k <= half
    slack = 1.0 if first.field == "matter" else 2.0
    result: list[Score] = []

    def add(
        metric: str, value: float, bar: float | None, *, least: bool = False
    ) -> None:
        passed = None
        # Too few peaks, say, leave no number to judge.
        if bar is not None and np.isfinite(value):
            passed = bool(value >= bar if least else value <= bar)
        result.append(
            Score(
                metric,
                first.method,
                first.field,
                first.redshift,
                value,
                bar,
                passed,
                len(comparisons),
            )
        )

    groups = {"interior": [c for c in comparisons if not c.edge]}
    groups["edge"] = [c for c in comparisons if c.edge]
    for (where, group), bar in zip(groups.items(), (0.02, 0.04), strict=True):
        if group:
            ratio = np.nanmean([c.ratio("power") for c in group], 0)
            add(f"M1 mean power, {where}", _worst(ratio[low]), bar * slack)
    ratio = np.nanmean([c.ratio("power") for c in comparisons], 0)
    add("M1 mean power, k < 3/4 Nyquist", _worst(ratio[k <= 1.5 * half]), 0.05 * slack)
    tail = np.nanmean([float(c.ratio("tail")) for c in comparisons])
    add("M4 99.9 % tail", abs(float(tail) - 1), 0.10)
    add(
        "M4 Wasserstein distance of log",
        float(np.mean([c.values["distance"] for c in comparisons])),
        None,
    )
    for name in ("equilateral", "squeezed"):
        made = np.sum([c.values[name] for c in comparisons], 0)
        true = np.sum([c.truth[name] for c in comparisons], 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = made / true
        # The longest triangles of a box are too few to have a mean.
        inside = (first.sides[name] <= half) & (first.sides[name] > 3 * k[0])
        add(f"M5 bispectrum, {name}", _worst(ratio[inside]), 0.10)
    for name in ("peaks", "voids"):
        made = np.sum([c.values[name] for c in comparisons], 0)
        true = np.sum([c.truth[name] for c in comparisons], 0)
        enough = true >= _FEWEST
        add(f"M6 {name}", _worst(made[enough] / true[enough]), 0.05)
    r = np.nanmean([c.values["r"] for c in comparisons], 0)
    add("M7 r up to k = 1", float(r[k <= 1.0].min()), 1 - 0.01 * slack, least=True)
    add("M7 r up to half Nyquist", float(r[low].min()), 1 - 0.05 * slack, least=True)
    means = [abs(float(c.values["mean"] / c.truth["mean"]) - 1) for c in comparisons]
    add("mean", float(np.max(means)), 1e-5 if first.field == "matter" else None)
    if first.field != "matter":
        ratio = np.nanmean([c.ratio("cross") for c in comparisons], 0)
        add("M14 cross-power with matter", _worst(ratio[low]), 0.05)
    return result


def _half_nyquist(k: Array) -> float:
    """Shells reach up to the Nyquist frequency, which ends the last one."""
    return float(np.ceil(k[-1] / k[0]) * k[0] / 2)


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
        ratio of the two standard deviations.
    """
    k = comparisons[0].k
    low = k <= _half_nyquist(k)
    made = np.array([c.values["power"][low] for c in comparisons])
    true = np.array([c.truth["power"][low] for c in comparisons])
    result = {"k": k[low]}
    for name, power in (("made", made), ("true", true)):
        result[f"relative_{name}"] = power.std(0, ddof=1) / power.mean(0)
        result[f"matrix_{name}"] = np.corrcoef(power.T)
    # Made and true share their phases, so this is an upper limit.
    result["error"] = np.asarray(np.sqrt(1 / (len(made) - 1)))
    return result


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
