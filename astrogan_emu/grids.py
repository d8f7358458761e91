"""Periodic cubic grids, and particles deposited on them.

Cell i of a grid covers [i, i + 1) cell sizes and its centre lies at i + 1/2. Every
scheme here conserves the deposited total and is periodic in all three axes. `paint`
and `readout` are the differentiable torch pair, of the stencils that the particle-mesh
code runs on; `deposit` is the checked front door for arrays. Nothing here knows what is
deposited.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
import torch
from astropy import units as u
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .errors import GridError
from .geometry import as_box_length
from .sph import NARROWEST_KERNEL, kernel_shares
from .stencils import BLOCK, SCHEMES, Canvas, Stencil, Touched, block_size

__all__ = ["GridSpec", "SCHEMES", "Stencil", "deposit", "paint", "readout"]


@dataclass(frozen=True)
class GridSpec:
    """A periodic cubic grid.

    Parameters
    ----------
    n_cells
        Cells along one side, at least 2.
    box_size
        Comoving side length [Mpc/h]; a quantity in ``Mpc/littleh`` becomes a number.

    Raises
    ------
    GridError
        If `n_cells` is below 2, or `box_size` is not positive and finite, or in Mpc,
        as a grid has no h.
    """

    n_cells: int
    box_size: float

    def __post_init__(self) -> None:
        try:
            whole = operator.index(self.n_cells)
        except TypeError:
            whole = 0
        if whole < 2:
            raise GridError(
                f"n_cells must be a whole number of at least 2, got {self.n_cells!r}"
            )
        if isinstance(self.box_size, u.Quantity):
            object.__setattr__(self, "box_size", as_box_length(self.box_size, None))
        if not (np.isfinite(self.box_size) and self.box_size > 0):
            raise GridError(
                f"box_size must be positive and finite [Mpc/h], got {self.box_size}"
            )

    @property
    def cell_size(self) -> float:
        """Comoving side of one cell [Mpc/h]."""
        return self.box_size / self.n_cells

    @property
    def cell_volume(self) -> float:
        """Comoving volume of one cell [(Mpc/h)^3]."""
        return self.cell_size**3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells along x, y, z."""
        return (self.n_cells,) * 3

    @property
    def nyquist(self) -> float:
        """Nyquist wavenumber [h/Mpc]."""
        return float(np.pi / self.cell_size)


def paint(
    positions: Tensor,
    n_cells: int,
    box_size: float,
    weights: Tensor | None = None,
    scheme: str = "cic",
) -> Tensor:
    """Sum of particle weights assigned to each cell; differentiable.

    Parameters
    ----------
    positions
        Shape ``(n, 3)`` [Mpc/h]; any real value, wrapped into the box.
    n_cells, box_size
        The grid; box_size in [Mpc/h].
    weights
        Shape ``(n,)``; one each if not given.
    scheme
        A name in `SCHEMES`.

    Returns
    -------
    Tensor
        Shape ``(n_cells, n_cells, n_cells)``, dtype and device of `positions`. Its sum
        is that of `weights`.
    """
    canvas = Canvas(n_cells, positions, scheme)
    size = block_size(positions)
    blocks = positions.split(size)
    shares = [None] * len(blocks) if weights is None else weights.split(size)
    for block, own in zip(blocks, shares, strict=True):
        # The stencil of all particles would be larger than they are themselves.
        Stencil.of(block, n_cells, box_size, scheme).paint(canvas, own)
    return canvas.field()


def readout(
    field: Tensor, positions: Tensor, box_size: float, scheme: str = "cic"
) -> Tensor:
    """Values of a gridded field at particle positions, by the transpose of `paint`.

    Parameters
    ----------
    field
        Shape ``(n_cells, n_cells, n_cells)``.
    positions
        Shape ``(n, 3)`` [Mpc/h].
    box_size
        [Mpc/h]
    scheme
        A name in `SCHEMES`.

    Returns
    -------
    Tensor
        Shape ``(n,)``.
    """
    return Stencil.of(positions, field.shape[0], box_size, scheme).readout(field)


def deposit(
    positions: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    grid: GridSpec,
    scheme: str = "cic",
    smoothing_lengths: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Sum of particle weights in each cell of a grid.

    Nothing is lost or made: the cells add up to the weights, to rounding.

    Parameters
    ----------
    positions
        Comoving, shape ``(n, 3)`` [Mpc/h]; any finite value, wrapped into the box.
    weights
        What each particle brings, shape ``(n,)``, or ``(n, c)`` for `c` fields at
        once; one each if not given.
    grid
        Where to.
    scheme
        ``"ngp"``, ``"cic"`` or ``"tsc"`` (nearest cell, cloud in cell, triangular
        cloud), or ``"sph"``: the cubic spline kernel of each particle at the cells'
        centres, normalised to add up to one over them. Kernels of a radius below 1.5
        cells are not resolved; their particles are deposited by ``"cic"``, which is
        as wide and as smooth as the narrowest kernel used.
    smoothing_lengths
        For ``"sph"`` alone: radius at which each kernel falls to zero, comoving, from
        0 to half the box, shape ``(n,)`` [Mpc/h].

    Returns
    -------
    cells
        Shape ``(n_cells, n_cells, n_cells)``, or ``(c, n_cells, n_cells, n_cells)``
        for weights of shape ``(n, c)``. Divided by ``grid.cell_volume`` it is a
        density.

    Raises
    ------
    GridError
        If the scheme is unknown, the arrays do not match, hold values that are not
        finite, or a smoothing length is missing, negative or above half the box.
    """
    if scheme not in (*SCHEMES, "sph"):
        raise GridError(
            f"there is no scheme {scheme!r}; choose {', '.join(SCHEMES)} or sph"
        )
    places = _finite_array(positions, "positions")
    if places.ndim != 2 or places.shape[1] != 3:
        raise GridError(f"positions must have the shape (n, 3), got {places.shape}")
    n = len(places)
    shares = np.ones(n) if weights is None else _finite_array(weights, "weights")
    if shares.ndim not in (1, 2) or len(shares) != n:
        raise GridError(
            f"weights of {n} particles must have the shape ({n},) or ({n}, fields), "
            f"got {shares.shape}"
        )
    by_field = shares if shares.ndim == 2 else shares[:, None]
    columns = torch.from_numpy(by_field.T.copy())
    cells = torch.zeros(len(columns), grid.n_cells**3, dtype=torch.float64)
    # Cells from the centre of cell 0; wrapped, so that no index overflows.
    u = torch.from_numpy(np.mod(places, grid.box_size)) / grid.cell_size - 0.5
    if scheme == "sph":
        radii = _radii(smoothing_lengths, n, grid)
        wide = radii >= NARROWEST_KERNEL
        _add_points(cells, u[~wide], columns[:, ~wide], grid.n_cells, "cic")
        _add_kernels(cells, u[wide], radii[wide], columns[:, wide], grid.n_cells)
    elif smoothing_lengths is not None:
        raise GridError(
            f"scheme {scheme!r} takes no smoothing_lengths; choose scheme='sph' or "
            "leave them out"
        )
    else:
        _add_points(cells, u, columns, grid.n_cells, scheme)
    field = cells.reshape(-1, *grid.shape).numpy()
    return field if shares.ndim == 2 else field[0]


def _add_points(
    cells: Tensor, u: Tensor, columns: Tensor, n_cells: int, scheme: str
) -> None:
    """Add particles by an assignment scheme; see `Canvas`."""
    # One after the other, as a canvas is larger than a field.
    for field, column in zip(cells, columns, strict=True):
        canvas = Canvas(n_cells, column, scheme)
        for block, own in zip(u.split(BLOCK), column.split(BLOCK), strict=True):
            canvas.paint(Touched.by(block.T.contiguous(), n_cells, scheme), own)
        field += canvas.field().view(-1)


def _add_kernels(
    cells: Tensor, u: Tensor, radii: Tensor, columns: Tensor, n_cells: int
) -> None:
    """Add particles by their own kernels."""
    for particles, index, share in kernel_shares(u, radii, n_cells):
        for field, column in zip(cells, columns, strict=True):
            own = share * column[particles, None]
            field.index_add_(0, index.flatten(), own.flatten())


def _radii(lengths: ArrayLike | None, n: int, grid: GridSpec) -> Tensor:
    """Checked kernel radii, shape ``(n,)`` [cells]."""
    if lengths is None:
        raise GridError(
            "scheme 'sph' needs smoothing_lengths, the radius at which the kernel of "
            "each particle falls to zero [Mpc/h]"
        )
    radii = _finite_array(lengths, "smoothing lengths")
    if radii.shape != (n,):
        raise GridError(
            f"smoothing lengths of {n} particles must have the shape ({n},), got "
            f"{radii.shape}"
        )
    if n and radii.min() < 0:
        raise GridError(
            f"{np.count_nonzero(radii < 0)} of {n} smoothing lengths are negative"
        )
    half = grid.box_size / 2
    if n and radii.max() > half:
        raise GridError(
            f"{np.count_nonzero(radii > half)} of {n} smoothing lengths exceed half "
            f"the box, {half:g} Mpc/h; are they in Mpc/h"
        )
    return torch.from_numpy(radii / grid.cell_size)


def _finite_array(values: ArrayLike, label: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GridError(f"{label} must be an array of real numbers: {error}") from error
    # The extremes of an array with a NaN are NaN, so the good case needs no copy.
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        bad = np.count_nonzero(~np.isfinite(array))
        raise GridError(f"{bad} of {array.size} {label} are not finite")
    return array
