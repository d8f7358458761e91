"""The scorecard: how far fields that were made are from those of simulations.

`compare` reduces a made and a true field to the statistics that users rely on, so that
no fields need be kept, and `Score` is a number of the scorecard with its bar. How the
numbers are made is the task of `metrics`, which fields are compared that of
`validation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .bispectrum import bispectrum
from .distributions import log_distance, one_point_pdf
from .morphology import peak_counts, void_counts
from .statistics import correlation_coefficient, cross_power, power_spectrum

__all__ = [
    "Comparison",
    "PDF_EDGES",
    "Results",
    "Score",
    "TRIANGLES",
    "by_method",
    "compare",
]

Array = NDArray[np.float64]

TAIL = 0.999
"""Share of cells below the tail of the one-point distribution."""

PEAKS, PEAK_SMOOTHING = (2.0, 4.0, 8.0), 1.0
VOIDS, VOID_SMOOTHING = (0.1, 0.2, 0.4), 2.0
"""Thresholds of smoothed density over its mean, and smoothing [Mpc/h]."""

PDF_EDGES: Array = np.geomspace(0.01, 1000, 51)
"""Of the one-point distribution of density over its mean."""

TRIANGLES: tuple[Literal["equilateral", "squeezed"], ...] = ("equilateral", "squeezed")
"""Of the bispectrum."""


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
    nyquist
        Nyquist frequency of the cells [h/Mpc].
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
    nyquist: float
    k: Array
    values: Mapping[str, Array]
    truth: Mapping[str, Array]
    sides: Mapping[str, Array]

    @property
    def region(self) -> str:
        """``"edge"`` or ``"interior"``."""
        return "edge" if self.edge else "interior"

    def ratio(self, name: str) -> Array:
        """Made over true; not a number where the truth is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.values[name] / self.truth[name])


def _statistics(
    field: Array, matter: Array | None, box_size: float
) -> dict[str, Array]:
    """Statistics of one field; its cross-power is with `matter`, or with itself."""
    options: dict[str, Any] = {"box_size": box_size}
    mean = field.mean()
    power = np.asarray(power_spectrum(field, relative=False, **options).power)
    density = field / mean if mean > 0 else field
    distribution = one_point_pdf(density, PDF_EDGES, levels=(TAIL,))
    peaks = peak_counts(density, PEAKS, smoothing=PEAK_SMOOTHING, **options)
    voids = void_counts(density, VOIDS, smoothing=VOID_SMOOTHING, **options)
    cross = power
    if matter is not None:
        cross = np.asarray(cross_power(field, matter, relative=False, **options).power)
    return {
        "mean": np.asarray(mean),
        "power": power,
        "pdf": np.asarray(distribution.density),
        "tail": np.asarray(distribution.quantiles).reshape(()),
        "peaks": np.asarray(peaks, float),
        "voids": np.asarray(voids, float),
        **{
            shape: np.asarray(
                bispectrum(field, triangles=shape, relative=False, **options).value
            )
            for shape in TRIANGLES
        },
        "cross": cross,
    }


def compare(
    made: Mapping[str, Mapping[str, Array]],
    truth: Mapping[str, Array],
    *,
    box_size: float,
    run: str,
    redshift: float,
    parameters: Mapping[str, float],
    edge: bool = False,
) -> list[Comparison]:
    """Compare fields of one realisation with those of a simulation.

    Parameters
    ----------
    made
        For each method the fields that it made, by name: shape ``(n, n, n)``,
        ``matter`` among them.
    truth
        Those of the simulation.
    box_size
        Comoving side [Mpc/h].
    run, redshift, parameters, edge
        As in `Comparison`.

    Returns
    -------
    list of Comparison
        One for each method and field that it made. A true field that is empty is left
        out: no ratio to it is known.
    """
    results = []
    for name, wanted in _in_double(truth).items():
        if not wanted.any():
            continue
        options: dict[str, Any] = {"box_size": box_size}
        true_values = _statistics(wanted, _matter_beside(name, truth), box_size)
        k = np.asarray(power_spectrum(wanted, relative=False, **options).k)
        sides: dict[str, Array] = {
            shape: np.asarray(
                bispectrum(wanted, triangles=shape, relative=False, **options).sides
            )[..., 0]
            for shape in TRIANGLES
        }
        for method, fields in made.items():
            if name not in fields:
                continue
            field = np.asarray(fields[name], float)
            r = correlation_coefficient(field, wanted, **options).value
            distance = log_distance(
                field / max(float(field.mean()), 1e-30), wanted / wanted.mean()
            )
            values = _statistics(field, _matter_beside(name, fields), box_size)
            results.append(
                Comparison(
                    run=run,
                    redshift=redshift,
                    method=method,
                    field=name,
                    parameters=dict(parameters),
                    edge=edge,
                    nyquist=float(np.pi * len(wanted) / box_size),
                    k=k,
                    values={
                        **values,
                        "r": np.asarray(r),
                        "distance": np.asarray(distance),
                    },
                    truth=true_values,
                    sides=sides,
                )
            )
    return results


def _in_double(fields: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.asarray(field, float) for name, field in fields.items()}


def _matter_beside(name: str, fields: Mapping[str, Array]) -> Array | None:
    """The matter that a field is correlated with; none for matter itself."""
    return None if name == "matter" else np.asarray(fields["matter"], float)


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
    error
        Its sampling error, as other simulations would give another number; none where
        it is not known.
    """

    metric: str
    method: str
    field: str
    redshift: float
    value: float
    bar: float | None
    passed: bool | None
    n_runs: int
    error: float | None = None

    @classmethod
    def judged(
        cls,
        metric: str,
        key: tuple[str, str, float],
        value: float,
        bar: float | None,
        n_runs: int,
        *,
        least: bool = False,
    ) -> Score:
        """A number held against its bar; one that is no number is not judged.

        Parameters
        ----------
        metric, value, bar, n_runs
            As for the class.
        key
            Method, field and redshift.
        least
            The bar is the least that passes, not the most.
        """
        passed = None
        if bar is not None and np.isfinite(value):
            passed = bool(value >= bar if least else value <= bar)
        return cls(metric, *key, float(value), bar, passed, n_runs)

    def __str__(self) -> str:
        known = self.error is not None and np.isfinite(self.error)
        return f"{self.value:.3g}" + (f" ± {self.error:.1g}" if known else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain types that JSON can hold, which has no word for what is no number."""
        numbers = {"value": self.value, "error": self.error}
        return asdict(self) | {
            name: number if number is not None and np.isfinite(number) else None
            for name, number in numbers.items()
        }


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


def by_method(
    comparisons: Iterable[Comparison],
) -> dict[tuple[str, str, float], list[Comparison]]:
    """Comparisons of each method, field and redshift, in the order met.

    Parameters
    ----------
    comparisons
        Any.

    Returns
    -------
    dict
        By (method, field, redshift).
    """
    groups: dict[tuple[str, str, float], list[Comparison]] = {}
    for each in comparisons:
        groups.setdefault((each.method, each.field, each.redshift), []).append(each)
    return groups
