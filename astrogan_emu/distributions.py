"""One-point statistics: how the values in the cells of a field are distributed.

Fields are accepted as in `statistics`; results are always arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import GridError
from .periodic import Field, PeriodicField

__all__ = ["OnePointPDF", "log_distance", "one_point_pdf"]


class OnePointPDF(NamedTuple):
    """Distribution of the values in the cells of a field.

    Parameters
    ----------
    edges
        Edges of the bins of value, shape ``(n_bins + 1,)`` [unit of the field].
    density
        Share of the cells per unit of value, shape ``(..., n_bins)``; its integral is
        one less `below` and `above`.
    below, above
        Shares of the cells outside the edges, shape ``(...)``.
    levels
        Cumulative shares at which `quantiles` are given, shape ``(n_levels,)``.
    quantiles
        Values below which these shares of the cells lie, shape ``(..., n_levels)``.
    """

    edges: NDArray[np.float64]
    density: NDArray[np.float64]
    below: NDArray[np.float64]
    above: NDArray[np.float64]
    levels: NDArray[np.float64]
    quantiles: NDArray[np.float64]


def one_point_pdf(
    field: Field,
    bins: int | ArrayLike | None = None,
    *,
    levels: ArrayLike = (0.5, 0.9, 0.99, 0.999, 0.9999),
    n_dim: int | None = None,
) -> OnePointPDF:
    """One-point distribution of the values of a field, with its tail.

    Parameters
    ----------
    field
        Shape ``(..., n, n)`` or ``(..., n, n, n)``.
    bins
        Number of equal bins from the smallest to the largest value, or the edges [unit
        of the field]. If not given, ten per decade from 0.01 to 1000, for densities
        relative to the mean.
    levels
        Cumulative shares of the cells, between 0 and 1, whose values are reported.
    n_dim
        Two or three, needed only for a stack of n maps of n x n cells.

    Returns
    -------
    OnePointPDF
        Always as arrays.

    Raises
    ------
    GridError
        If the field is no periodic square or cube, the edges do not rise, or a level
        is not between 0 and 1.
    """
    values = _cells(field, n_dim)
    if bins is None:
        bins = np.geomspace(0.01, 1000, 51)
    if isinstance(bins, int):
        edges = np.linspace(values.min(), values.max(), bins + 1)
    else:
        edges = np.asarray(bins, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise GridError("the edges of bins must be a rising list of at least two")
    shares = np.asarray(levels, dtype=np.float64)
    if shares.ndim != 1 or not np.all((shares >= 0) & (shares <= 1)):
        raise GridError(f"levels must be a list of shares from 0 to 1, got {levels!r}")
    n_cells = values.shape[-1]
    rows = values.reshape(-1, n_cells)
    count = np.stack([np.histogram(row, edges)[0] for row in rows])
    leading = values.shape[:-1]
    return OnePointPDF(
        edges,
        (count / (n_cells * np.diff(edges))).reshape(*leading, -1),
        np.mean(values < edges[0], axis=-1),
        np.mean(values > edges[-1], axis=-1),
        shares,
        np.moveaxis(np.quantile(values, shares, axis=-1), 0, -1),
    )


def log_distance(
    field: Field, reference: Field, *, floor: float = 0.01, n_dim: int | None = None
) -> NDArray[np.float64]:
    """Wasserstein distance between the distributions of the log of two fields.

    The mean distance that the sorted values of ``ln max(field, floor)`` must move: 0.1
    means that densities of the same rank differ by about 10 %.

    Parameters
    ----------
    field, reference
        Shapes ``(..., n, n[, n])``; leading axes broadcast.
    floor
        Smaller values count as this, so that empty cells have a logarithm [unit of the
        fields].
    n_dim
        Two or three, needed only for a stack of n maps of n x n cells.

    Returns
    -------
    ndarray
        Shape of the leading axes.

    Raises
    ------
    GridError
        If a field is no periodic square or cube, they differ in their number of cells,
        or the floor is not positive.
    """
    if not floor > 0:
        raise GridError(f"floor must be positive, got {floor}")
    one, other = (
        np.sort(np.log(np.maximum(_cells(each, n_dim), floor)), axis=-1)
        for each in (field, reference)
    )
    if one.shape[-1] != other.shape[-1]:
        raise GridError(
            f"the fields have {one.shape[-1]} and {other.shape[-1]} cells; compare "
            "fields on the same grid"
        )
    return np.asarray(np.mean(np.abs(one - other), axis=-1))


def _cells(field: Field, n_dim: int | None) -> NDArray[np.float64]:
    """Values of each field in a row, shape ``(..., n_cells)``."""
    # The size of the box does not matter to the values.
    opened = PeriodicField.of(field, None if hasattr(field, "grid") else 1.0, n_dim)
    values = opened.values.detach().cpu().flatten(-opened.n_dim)
    return values.numpy().astype(np.float64)
