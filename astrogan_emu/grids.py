"""Periodic cubic grids, and particles deposited on them.

Cell i of a grid covers [i, i + 1) cell sizes and its centre lies at i + 1/2. Every
scheme here conserves the deposited total and is periodic in all three axes. `paint`
and `readout` are the differentiable torch pair that the particle-mesh code runs on;
`deposit` is the checked front door for arrays. Nothing here knows what is deposited.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .errors import GridError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SCHEMES", "GridSpec", "Stencil", "paint", "readout"]

# Particles handled at once: the index and weight arrays of a block stay in cache.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class GridSpec:
    """A periodic cubic grid.

    Parameters
    ----------
    n_cells
        Cells along one side, at least 2.
    box_size
        Comoving side length [Mpc/h].

    Raises
    ------
    GridError
        If `n_cells` is below 2 or `box_size` is not positive and finite.
    """

    n_cells: int
    box_size: float

    def __post_init__(self) -> None:
        if self.n_cells < 2 or self.n_cells != int(self.n_cells):
            raise GridError(
                f"n_cells must be a whole number of at least 2, got {self.n_cells}"
            )
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


def _ngp(u: Tensor) -> tuple[Tensor, list[Tensor]]:
    first = torch.floor(u + 0.5)
    return first, [torch.ones_like(u)]


def _cic(u: Tensor) -> tuple[Tensor, list[Tensor]]:
    first = torch.floor(u)
    upper = u - first
    return first, [1 - upper, upper]


def _tsc(u: Tensor) -> tuple[Tensor, list[Tensor]]:
    centre = torch.floor(u + 0.5)
    d = u - centre
    return centre - 1, [0.5 * (0.5 - d) ** 2, 0.75 - d**2, 0.5 * (0.5 + d) ** 2]


SCHEMES: dict[str, Callable[[Tensor], tuple[Tensor, list[Tensor]]]] = {
    "ngp": _ngp,
    "cic": _cic,
    "tsc": _tsc,
}
"""Assignment schemes of order 1, 2 and 3 (Hockney & Eastwood 1981, section 5-3)."""


@dataclass(frozen=True)
class Stencil:
    """Cells and weights that tie particles to a grid, for painting and reading out.

    Made once for a set of positions, it serves both directions. Parameters as for
    `paint`.
    """

    n_cells: int
    blocks: tuple[tuple[tuple[Tensor, Tensor], ...], ...]

    @classmethod
    def of(
        cls, positions: Tensor, n_cells: int, box_size: float, scheme: str = "cic"
    ) -> Stencil:
        """The stencil of positions of shape ``(n, 3)`` [Mpc/h]."""
        blocks = positions.split(_BLOCK)
        return cls(
            n_cells, tuple(_stencil(b, n_cells, box_size, scheme) for b in blocks)
        )

    def paint(self, weights: Tensor | None = None) -> Tensor:
        """Sum of particle weights in each cell; see `paint`."""
        like = self.blocks[0][0][1]
        total = torch.zeros(self.n_cells**3, dtype=like.dtype, device=like.device)
        shares = (
            [None] * len(self.blocks) if weights is None else weights.split(_BLOCK)
        )
        for block, own in zip(self.blocks, shares, strict=True):
            for cell, share in block:
                total = total.index_add_(
                    0, cell, share if own is None else share * own
                )
        return total.reshape((self.n_cells,) * 3)

    def readout(self, field: Tensor) -> Tensor:
        """Values of a field of shape ``(n, n, n)`` at the particles; see `readout`."""
        cells = field.reshape(-1)
        parts = []
        for block in self.blocks:
            value = torch.zeros_like(block[0][1])
            for cell, share in block:
                value = torch.addcmul(value, cells.index_select(0, cell), share)
            parts.append(value)
        return torch.cat(parts)


def _stencil(
    positions: Tensor, n_cells: int, box_size: float, scheme: str
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Flat cell index and weight of every particle, one pair per stencil point."""
    # Distance from the centre of cell 0, in cells; one contiguous row per axis.
    u = positions.T.contiguous() * (n_cells / box_size) - 0.5
    first, weights = SCHEMES[scheme](u)
    order = range(len(weights))
    cells = [torch.remainder(first.int() + offset, n_cells) for offset in order]
    pairs = []
    for i, j in product(order, order):
        row = (cells[i][0] * n_cells + cells[j][1]) * n_cells
        weight = weights[i][0] * weights[j][1]
        pairs += [(row + cells[k][2], weight * weights[k][2]) for k in order]
    return tuple(pairs)


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
    return Stencil.of(positions, n_cells, box_size, scheme).paint(weights)


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
