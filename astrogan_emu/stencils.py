"""Cells of a periodic grid that particles touch: painted onto, and read out.

All of the particle-mesh code's time that is not in Fourier transforms is spent here. On
a processor it is the time that memory takes: particles are handled in blocks that stay
in its cache, and what is quickly computed is computed again rather than kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

__all__ = [
    "BLOCK",
    "SCHEMES",
    "Stencil",
    "Touched",
    "block_size",
    "even_pieces",
    "fill_table",
]

BLOCK = 1 << 16
"""Particles handled at once: the index and weight arrays of a block stay in cache."""

_ACCELERATOR_BLOCK = 1 << 20
"""The same where the start of each operation takes longer than the operation."""


def block_size(like: Tensor) -> int:
    """Particles, or cells, that are best handled at once on the device of a tensor."""
    return BLOCK if like.device.type == "cpu" else _ACCELERATOR_BLOCK


def even_pieces(n: int, most: int) -> list[slice]:
    """Pieces of an axis of n cells: few, nearly even, and none longer than `most`."""
    count = -(-n // most)
    edges = [n * i // count for i in range(count + 1)]
    return [slice(*edge) for edge in pairwise(edges)]


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


def _wrapped(cell: Tensor, n_cells: int) -> Tensor:
    """Whole floating-point numbers modulo `n_cells`, as integers."""
    if n_cells & (n_cells - 1) == 0:
        return cell.int().bitwise_and_(n_cells - 1)
    # Half the time of torch.remainder. What is no number, or so far away that its own
    # cell is not known, stays on the grid.
    cell = cell - torch.floor(cell / n_cells) * n_cells
    return cell.int().clamp_(0, n_cells - 1)


@dataclass(frozen=True)
class Touched:
    """Cells that a block of m particles touches along each axis, and their weights.

    By axis, and then one of shape ``(m,)`` for each cell, which counts as many steps of
    a flat index as it takes. The cells of the grid are sums and products of these, made
    where they are used: that takes less time than to fetch them from memory.
    """

    cells: list[list[Tensor]]
    weights: list[list[Tensor]]

    @classmethod
    def by(cls, u: Tensor, n_cells: int, scheme: str) -> Touched:
        """`u` counts cells from the centre of cell 0, shape ``(3, m)``."""
        first, weights = SCHEMES[scheme](u)
        first = first.detach()
        cells = [_wrapped(first, n_cells)]
        cells += [_wrapped(first + i, n_cells) for i in range(1, len(weights))]
        if n_cells**3 >= 2**31:
            cells = [cell.long() for cell in cells]
        for cell in cells:
            cell[0].mul_(n_cells**2)
            cell[1].mul_(n_cells)
        return cls(
            [[cell[axis] for cell in cells] for axis in range(3)],
            [[weight[axis] for weight in weights] for axis in range(3)],
        )

    def points(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Flat index and weight of one cell of every particle after the other."""
        x, y, z = (
            list(zip(*axis, strict=True))
            for axis in zip(self.cells, self.weights, strict=True)
        )
        for (i, of_i), (j, of_j) in product(x, y):
            line, share = i + j, of_i * of_j
            for k, of_k in z:
                yield line + k, share * of_k

    def look_up(self, table: Tensor) -> Tensor:
        """See `Stencil.look_up`."""
        x, y, z = self.weights
        n_fields = table.shape[1] // len(z)
        # For each line along z that a particle touches, the row of its first cell.
        starts = [cell + self.cells[2][0] for cell in self.cells[0]]
        rows = starts[0].new_empty((len(starts[0]), len(x) * len(y)))
        shares = table.new_empty(rows.shape)
        for i, (start, cell) in enumerate(product(starts, self.cells[1])):
            torch.add(start, cell, out=rows[:, i])
        for i, (one, other) in enumerate(product(x, y)):
            torch.mul(one, other, out=shares[:, i])
        lines = embedding_bag(rows, table, per_sample_weights=shares, mode="sum")
        values = table.new_zeros((n_fields, len(rows)))
        for (k, weight), i in product(enumerate(z), range(n_fields)):
            values[i].addcmul_(lines[:, k * n_fields + i], weight)
        return values


@dataclass(frozen=True)
class Stencil:
    """Cells and weights that tie particles to a grid, for painting and reading out.

    Made once for a set of positions, it serves both directions. Parameters as for
    `grids.paint`; blocks of particles have no more than `block_size`.
    """

    n_cells: int
    blocks: tuple[Touched, ...]

    @classmethod
    def of(
        cls, positions: Tensor, n_cells: int, box_size: float, scheme: str = "cic"
    ) -> Stencil:
        """The stencil of positions of shape ``(n, 3)`` [Mpc/h]."""
        blocks = positions.split(block_size(positions))
        scale = n_cells / box_size
        return cls.in_cells(
            # Cells from the centre of cell 0; one contiguous row per axis.
            [block.T.contiguous() * scale - 0.5 for block in blocks],
            n_cells,
            scheme,
        )

    @classmethod
    def in_cells(
        cls, blocks: Iterable[Tensor], n_cells: int, scheme: str = "cic"
    ) -> Stencil:
        """That of blocks of shape ``(3, m)``, in cells from the centre of cell 0."""
        return cls(n_cells, tuple(Touched.by(u, n_cells, scheme) for u in blocks))

    def paint(
        self, weights: Tensor | None = None, onto: Tensor | None = None
    ) -> Tensor:
        """Sum of particle weights in each cell; see `grids.paint`.

        Given a field to paint onto, that is changed and returned: many particles are
        then painted in parts.
        """
        like = self.blocks[0].weights[0][0]
        if onto is None:
            onto = torch.zeros(
                (self.n_cells,) * 3, dtype=like.dtype, device=like.device
            )
        total = onto.view(-1)
        shares: Sequence[Tensor | None] = [None] * len(self.blocks)
        if weights is not None:
            shares = weights.split([len(block.weights[0][0]) for block in self.blocks])
        for block, own in zip(self.blocks, shares, strict=True):
            for cell, share in block.points():
                # In two thirds of index_add_'s time, if for long integers alone.
                share = share if own is None else share * own
                total.scatter_add_(0, cell.long(), share)
        return onto

    def readout(self, field: Tensor) -> Tensor:
        """Values of a field at the particles; see `grids.readout`.

        Of several fields, in an array with more axes before the three, each's own.
        """
        fields = field.reshape(-1, self.n_cells**3).unbind()
        parts = []
        for block in self.blocks:
            values = [torch.zeros_like(block.weights[0][0])] * len(fields)
            for cell, share in block.points():
                values = [
                    torch.addcmul(value, one.index_select(0, cell), share)
                    for value, one in zip(values, fields, strict=True)
                ]
            parts.append(torch.stack(values))
        return torch.cat(parts, 1).view(*field.shape[:-3], -1)

    def look_up(self, table: Tensor) -> Tensor:
        """Values of several fields at the particles, shape ``(fields, particles)``.

        In half the time of `readout`, but without gradients.

        Parameters
        ----------
        table
            As `fill_table` makes it; shape ``(n^3, order * fields)``.
        """
        parts = [block.look_up(table) for block in self.blocks]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def fill_table(table: Tensor, fields: Sequence[Tensor]) -> None:
    """Arrange fields as `Stencil.look_up` reads them fastest.

    What a particle reads together then lies together in memory: for each cell all
    fields, in the cell itself and in the next ones along z.

    Parameters
    ----------
    table
        Changed. Shape ``(..., n, order * fields)``, where the order is that of the
        scheme, 2 for ``"cic"``.
    fields
        Each of shape ``(..., n)``: whole fields, or planes of them.
    """
    n = table.shape[-2]
    for i in range(table.shape[-1]):
        shift, field = i // len(fields), fields[i % len(fields)]
        table[..., : n - shift, i] = field[..., shift:]
        if shift:
            table[..., n - shift :, i] = field[..., :shift]
