"""The shapes in a field: peaks, voids and the topology of its level sets.

All of it is measured on one field smoothed with a Gaussian, as single cells are mostly
shot noise. Fields are accepted and returned as in `statistics`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .errors import GridError
from .periodic import Field, PeriodicField, Values

__all__ = [
    "MinkowskiFunctionals",
    "gaussian_smooth",
    "minkowski_functionals",
    "peak_counts",
    "void_counts",
]


class MinkowskiFunctionals(NamedTuple):
    """Minkowski functionals of the sets above thresholds, per volume.

    Parameters
    ----------
    thresholds
        Shape ``(n_thresholds,)`` [unit of the field].
    values
        Shape ``(..., n_thresholds, n_dim + 1)``; the last axis is the functional, in
        units of (h/Mpc)^0, ^1, ... In three dimensions: share of the volume, a sixth of
        the surface, integrated mean curvature over 3 pi, Euler characteristic. In two:
        share of the area, a quarter of the boundary, Euler characteristic.
    """

    thresholds: Values
    values: Values


def gaussian_smooth(
    field: Field,
    scale: float,
    *,
    box_size: float | None = None,
    n_dim: int | None = None,
) -> Values:
    """Smooth a periodic field with a Gaussian, keeping its mean.

    The Gaussian is sampled in real space, so that a density stays above zero however
    little it is smoothed.

    Parameters
    ----------
    field
        Shape ``(..., n, n)`` or ``(..., n, n, n)``.
    scale
        Standard deviation of the Gaussian [Mpc/h]; 0 leaves the field as it is.
    box_size
        Comoving side length [Mpc/h]; not needed for a field with its own grid.
    n_dim
        Two or three, needed only for a stack of n maps of n x n cells.

    Returns
    -------
    ndarray or Tensor
        Same shape; differentiable.

    Raises
    ------
    GridError
        If the field is no periodic square or cube, or the scale is negative.
    """
    opened = PeriodicField.of(field, box_size, n_dim)
    return opened.result(_smoothed(opened, scale))


def peak_counts(
    field: Field,
    thresholds: ArrayLike,
    *,
    smoothing: float = 0.0,
    box_size: float | None = None,
    n_dim: int | None = None,
) -> Values:
    """Number of peaks at or above each threshold.

    A peak is a cell above all the 26 cells around it, in two dimensions 8, across the
    faces of the box too. A plateau has none.

    Parameters
    ----------
    field
        Shape ``(..., n, n)`` or ``(..., n, n, n)``.
    thresholds
        Values of the smoothed field, shape ``(n_thresholds,)``.
    smoothing
        Standard deviation of a Gaussian that is applied first [Mpc/h].
    box_size
        Comoving side length [Mpc/h]; not needed for a field with its own grid.
    n_dim
        Two or three, needed only for a stack of n maps of n x n cells.

    Returns
    -------
    ndarray or Tensor
        Counts in the box, shape ``(..., n_thresholds)``, integer.

    Raises
    ------
    GridError
        If the field is no periodic square or cube, the smoothing is negative, or the
        thresholds are no list of numbers.
    """
    opened = PeriodicField.of(field, box_size, n_dim)
    return opened.result(_count_peaks(opened, _levels(thresholds), smoothing, 1))


def void_counts(
    field: Field,
    thresholds: ArrayLike,
    *,
    smoothing: float = 0.0,
    box_size: float | None = None,
    n_dim: int | None = None,
) -> Values:
    """Number of minima at or below each threshold.

    Parameters
    ----------
    field, thresholds, smoothing, box_size, n_dim
        As in `peak_counts`. Cells of an unsmoothed field that are equally empty are a
        plateau, which has no minimum.

    Returns
    -------
    ndarray or Tensor
        Counts in the box, shape ``(..., n_thresholds)``, integer.

    Raises
    ------
    GridError
        As `peak_counts`.
    """
    opened = PeriodicField.of(field, box_size, n_dim)
    return opened.result(_count_peaks(opened, _levels(thresholds), smoothing, -1))


def minkowski_functionals(
    field: Field,
    thresholds: ArrayLike,
    *,
    smoothing: float = 0.0,
    box_size: float | None = None,
    n_dim: int | None = None,
) -> MinkowskiFunctionals:
    """Minkowski functionals of the regions above thresholds, by Crofton's formula.

    Cells, faces, edges and corners are counted (Schmalzing & Buchert 1997, eqs 8-11)
    in two ways, with diagonal neighbours joined and apart, and the mean is taken:
    either way alone is biased, to opposite sides. Good to a percent or two of the
    curves' height for fields that are smooth over two cells. For a Gaussian field they
    are known (Tomita 1986).

    Parameters
    ----------
    field
        Shape ``(..., n, n)`` or ``(..., n, n, n)``.
    thresholds
        Values of the smoothed field, shape ``(n_thresholds,)``.
    smoothing
        Standard deviation of a Gaussian that is applied first [Mpc/h].
    box_size
        Comoving side length [Mpc/h]; not needed for a field with its own grid.
    n_dim
        Two or three, needed only for a stack of n maps of n x n cells.

    Returns
    -------
    MinkowskiFunctionals
        `thresholds`, `values`.

    Raises
    ------
    GridError
        As `peak_counts`.
    """
    opened = PeriodicField.of(field, box_size, n_dim)
    levels = _levels(thresholds)
    values = _smoothed(opened, smoothing)
    # A corner of the lattice of cell centres is above where its cell is; an edge, face
    # or cube of it where all of its corners are (apart), or any (joined).
    apart = _lattice_counts(values, levels, opened.axes, torch.minimum)
    joined = _lattice_counts(values, levels, opened.axes, torch.maximum)
    if opened.n_dim == 3:
        functionals = [
            apart[0],
            2 / 9 * (3 * apart[0] - apart[1]),
            1 / 9 * (3 * apart[0] - 2 * apart[1] + apart[2])
            + 1 / 9 * (3 * joined[0] - 2 * joined[1] + joined[2]),
            0.5 * (apart[0] - apart[1] + apart[2] - apart[3])
            - 0.5 * (joined[0] - joined[1] + joined[2] - joined[3]),
        ]
    else:
        functionals = [
            apart[0],
            np.pi / 8 * (2 * apart[0] - apart[1]),
            0.5 * (apart[0] - apart[1] + apart[2])
            + 0.5 * (joined[0] - joined[1] + joined[2]),
        ]
    cell_size = opened.box_size / opened.n_cells
    per_length = torch.stack(
        [value / cell_size**order for order, value in enumerate(functionals)], dim=-1
    )
    return MinkowskiFunctionals(
        opened.result(torch.as_tensor(levels)), opened.result(per_length)
    )


def _levels(thresholds: ArrayLike) -> Tensor:
    levels = np.asarray(thresholds, dtype=np.float64)
    if levels.ndim != 1 or not len(levels) or not np.isfinite(levels).all():
        raise GridError(
            f"thresholds must be a list of finite numbers, got {thresholds!r}"
        )
    return torch.from_numpy(levels.copy())


def _smoothed(opened: PeriodicField, scale: float) -> Tensor:
    """The field convolved with a sampled Gaussian and its periodic images."""
    if not (np.isfinite(scale) and scale >= 0):
        raise GridError(f"a smoothing scale must be zero or more [Mpc/h], got {scale}")
    if scale == 0:
        return opened.values
    n, box_size = opened.n_cells, opened.box_size
    images = int(np.ceil(8 * scale / box_size)) + 1
    distance = np.arange(-images * n, (images + 1) * n) * (box_size / n)
    kernel = np.exp(-0.5 * (distance / scale) ** 2).reshape(-1, n).sum(axis=0)
    response = np.fft.fft(kernel / kernel.sum()).real
    modes = torch.fft.rfftn(opened.values, dim=opened.axes)
    for axis in opened.axes:
        along = torch.from_numpy(response[: modes.shape[axis]].copy())
        shape = [-1 if other == axis else 1 for other in opened.axes]
        modes = modes * along.to(opened.values).reshape(shape)
    smooth: Tensor = torch.fft.irfftn(modes, s=(n,) * opened.n_dim, dim=opened.axes)
    return smooth


def _count_peaks(
    opened: PeriodicField, levels: Tensor, smoothing: float, sign: int
) -> Tensor:
    """Maxima of `sign` times the field that reach `sign` times each level."""
    values = sign * _smoothed(opened, smoothing).detach()
    # The largest neighbour, axis by axis, never the cell itself.
    around = torch.full_like(values, -torch.inf)
    block = values
    for axis in opened.axes:
        beside = torch.maximum(block.roll(1, axis), block.roll(-1, axis))
        around = torch.maximum(around, beside)
        block = torch.maximum(block, beside)
    # The block so far holds the cell too; its sides along an axis do not.
    is_peak = values > around
    counts = [
        (is_peak & (values >= sign * level)).sum(opened.axes)
        for level in levels.tolist()
    ]
    return torch.stack(counts, dim=-1)


def _lattice_counts(
    values: Tensor,
    levels: Tensor,
    axes: tuple[int, ...],
    combine: Callable[[Tensor, Tensor], Tensor],
) -> list[Tensor]:
    """Corners, edges, faces, ... of the lattice above each level, per corner.

    Returns
    -------
    list of Tensor
        Shape ``(..., n_levels)`` each, float64.
    """
    elements: list[list[tuple[int, Tensor]]] = [[(-len(axes) - 1, values.detach())]]
    for _ in axes:
        # Axes in rising order, so that each face and cube is made once.
        elements.append(
            [
                (axis, combine(value, value.roll(-1, axis)))
                for last, value in elements[-1]
                for axis in axes
                if axis > last
            ]
        )
    return [
        torch.stack(
            [
                torch.stack([(v > level).double().mean(axes) for _, v in group]).sum(0)
                for level in levels.tolist()
            ],
            dim=-1,
        )
        for group in elements
    ]
