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
from torch.nn.functional import embedding_bag, pad

from .errors import GridError

__all__ = [
    "BLOCK",
    "Canvas",
    "SCHEMES",
    "Stencil",
    "Touched",
    "beyond",
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


def _reach(scheme: str) -> int:
    """Cells that a particle touches beyond its first one, along each axis."""
    _, weights = SCHEMES[scheme](torch.zeros(1))
    return len(weights) - 1


@dataclass(frozen=True)
class Touched:
    """Cells that a block of m particles touches, and their weights along each axis.

    Beyond its far faces the grid is thought to go on, as far as particles reach. So
    only a particle's first cell has to be wrapped, and the others are always the same
    steps of a flat index away from it.

    Parameters
    ----------
    first
        Flat index of each particle's first cell, shape ``(m,)``.
    weights
        By axis, one of shape ``(m,)`` for each cell.
    side
        Cells along each axis of the grid that goes on.
    """

    first: Tensor
    weights: list[list[Tensor]]
    side: int

    @classmethod
    def by(cls, u: Tensor, n_cells: int, scheme: str) -> Touched:
        """`u` counts cells from the centre of cell 0, shape ``(3, m)``."""
        first, weights = SCHEMES[scheme](u)
        side = n_cells + len(weights) - 1
        cell = _wrapped(first.detach(), n_cells)
        if side**3 >= 2**31:
            cell = cell.long()
        x, y, z = cell
        return cls(
            torch.add(z, y, alpha=side).add_(x, alpha=side**2),
            [[weight[axis] for weight in weights] for axis in range(3)],
            side,
        )

    def lines(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Steps to each line of cells along z, and its weights along x and y."""
        x, y, _ = self.weights
        for (i, one), (j, other) in product(enumerate(x), enumerate(y)):
            yield (i * self.side + j) * self.side, one, other

    def readout(self, fields: Sequence[Tensor]) -> Tensor:
        """See `Stencil.readout`; of flat fields that go on beyond their far faces."""
        values = [torch.zeros_like(self.weights[0][0])] * len(fields)
        for steps, one, other in self.lines():
            line = one * other
            for k, weight in enumerate(self.weights[2]):
                cell, share = self.first + (steps + k), line * weight
                values = [
                    torch.addcmul(value, field.index_select(0, cell), share)
                    for value, field in zip(values, fields, strict=True)
                ]
        return torch.stack(values)

    def look_up(self, table: Tensor) -> Tensor:
        """See `Stencil.look_up`."""
        x, y, z = self.weights
        n_fields = table.shape[1] // len(z)
        # For each line along z that a particle touches, the row of its first cell.
        rows = self.first.new_empty((len(self.first), len(x) * len(y)))
        shares = table.new_empty(rows.shape)
        for line, (steps, one, other) in enumerate(self.lines()):
            torch.add(self.first, steps, out=rows[:, line])
            torch.mul(one, other, out=shares[:, line])
        sums = embedding_bag(rows, table, per_sample_weights=shares, mode="sum")
        values = table.new_empty((n_fields, len(rows)))
        for (k, weight), i in product(enumerate(z), range(n_fields)):
            part = sums[:, k * n_fields + i]
            if k == 0:
                torch.mul(part, weight, out=values[i])
            else:
                values[i].addcmul_(part, weight)
        return values


class Canvas:
    """A periodic grid that particles are painted onto, block by block.

    Two cells that follow each other along z are one complex number, as a particle adds
    to both of them: that takes little more time than to add to one.

    Parameters
    ----------
    n_cells
        Cells per side.
    like
        What has the type and the device of the weights.
    scheme
        A name in `SCHEMES`.
    """

    def __init__(self, n_cells: int, like: Tensor, scheme: str = "cic") -> None:
        self.n_cells, self.side = n_cells, n_cells + _reach(scheme)
        self._total = torch.zeros(
            self.side**3, dtype=like.dtype.to_complex(), device=like.device
        )
        # Elsewhere PyTorch does not add complex numbers at places.
        self._at_once = like.device.type == "cpu"

    def paint(self, touched: Touched, weights: Tensor | None = None) -> None:
        """Add particles, one each or with weights of shape ``(m,)``."""
        first, z = touched.first.long(), touched.weights[2]
        for steps, one, other in touched.lines():
            line = one * other if weights is None else one * other * weights
            for k in range(0, len(z), 2):
                lower = line * z[k]
                more = k + 1 < len(z)
                upper = line * z[k + 1] if more else torch.zeros_like(lower)
                self._add(first + (steps + k), lower, upper)

    def _add(self, cells: Tensor, lower: Tensor, upper: Tensor) -> None:
        """Add to cells, and to the next ones along z."""
        # In two thirds of index_add_'s time, if for long integers alone.
        if self._at_once:
            self._total.scatter_add_(0, cells, torch.complex(lower, upper))
        else:
            self._total.real.scatter_add_(0, cells, lower)
            self._total.imag.scatter_add_(0, cells, upper)

    def field(self) -> Tensor:
        """Sum of the weights in each cell, shape ``(n, n, n)``; differentiable."""
        n, side = self.n_cells, self.side
        total = self._total.view((side,) * 3)
        field = total.real.clone()
        field[..., 1:] += total.imag[..., :-1]
        for axis in range(3):
            for i in range(n, side):
                field.select(axis, i % n).add_(field.select(axis, i))
            field = field.narrow(axis, 0, n)
        return field.contiguous()


def beyond(field: Tensor, after: int, before: int = 0) -> Tensor:
    """A periodic field that goes on beyond its far faces, and its near ones.

    Parameters
    ----------
    field
        Shape ``(..., n, n, n)``.
    after, before
        Cells beyond the far and the near faces.
    """
    if max(after, before) <= field.shape[-1]:
        several = field.reshape(1, -1, *field.shape[-3:])
        wider = pad(several, (before, after) * 3, mode="circular")
        return wider.view(*field.shape[:-3], *wider.shape[-3:])
    # PyTorch pads by no more than once around.
    for axis in (-3, -2, -1):
        n = field.shape[axis]
        cells = torch.arange(-before, n + after, device=field.device) % n
        field = field.index_select(axis, cells)
    return field


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

    def paint(self, canvas: Canvas, weights: Tensor | None = None) -> None:
        """Add every particle's weight, one if not given, to the cells of a canvas."""
        shares: Sequence[Tensor | None] = [None] * len(self.blocks)
        if weights is not None:
            shares = weights.split([len(block.first) for block in self.blocks])
        for block, own in zip(self.blocks, shares, strict=True):
            canvas.paint(block, own)

    def readout(self, field: Tensor) -> Tensor:
        """Values of a field at the particles; see `grids.readout`.

        Of several fields, in an array with more axes before the three, each's own. They
        may go on beyond their far faces already, see `beyond`. A `GridError` is raised
        for fields of another grid.
        """
        n, side = self.n_cells, self.blocks[0].side
        if field.shape[-3:] == (n,) * 3:
            wider = beyond(field, side - n)
        elif field.shape[-3:] == (side,) * 3:
            wider = field
        else:
            raise GridError(
                f"a field of shape {tuple(field.shape)} cannot be read on a grid of "
                f"{n} cells per side; give the particles a stencil of its own grid"
            )
        flat = wider.reshape(-1, side**3).unbind()
        parts = [block.readout(flat) for block in self.blocks]
        return torch.cat(parts, 1).view(*field.shape[:-3], -1)

    def look_up(self, table: Tensor) -> Tensor:
        """Values of several fields at the particles, shape ``(fields, particles)``.

        In half the time of `readout`, but without gradients.

        Parameters
        ----------
        table
            As `fill_table` makes it, flat; shape ``(side^3, order * fields)``.
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
        Changed. Shape ``(..., side, order * fields)``, where the order is that of the
        scheme, 2 for ``"cic"``. Rows that no particle's line starts at stay as they
        are.
    fields
        Each of shape ``(..., side)``: whole fields that go on beyond their far faces,
        see `beyond`, or planes of them.
    """
    order = table.shape[-1] // len(fields)
    n = table.shape[-2] - order + 1
    for i in range(table.shape[-1]):
        shift, field = i // len(fields), fields[i % len(fields)]
        table[..., :n, i] = field[..., shift : shift + n]
