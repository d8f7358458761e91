"""The network over large grids, tile by tile, with the result of the whole.

Each tile is read with a margin as wide as the network can see, so that its own cells do
not know that the grid was cut. Only the network is local: what keeps the large scales
works on the whole grid, in `generators`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from .generators import FieldGenerator
from .networks import NetworkConfig

__all__ = [
    "Tiling",
    "Window",
    "bytes_per_cell",
    "choose_tiling",
    "corrections",
    "least_memory",
    "margin",
    "window_of",
]

# Arrays of the widest level that are alive at once: the sum of skip and doubled field,
# the result, the doubled field or the skip, and parts of what a convolution puts aside.
_ALIVE = 3.5
# More tiles per axis than this are smaller than their own margins.
_MOST_TILES = 64

Noise = Callable[[Sequence[int], Sequence[int]], list[Tensor] | None]
"""Noise maps of a window, from its first cell and its size along each axis."""


@dataclass(frozen=True)
class Window:
    """One tile with its margin.

    Parameters
    ----------
    start
        First cell along each axis, margin included; may be negative.
    shape
        Cells along each axis.
    inner
        The tile in the window.
    place
        The tile in the grid.
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]
    inner: tuple[slice, ...]
    place: tuple[slice, ...]


@dataclass(frozen=True)
class Tiling:
    """How a periodic grid is cut.

    Parameters
    ----------
    n_cells
        Cells per side of the grid.
    tile
        Cells of a tile along each axis; the last ones may be smaller. An axis that is
        not cut has `n_cells`, and needs no margin.
    margin
        Cells on each side of a tile that are computed and thrown away.
    """

    n_cells: int
    tile: tuple[int, ...]
    margin: int

    @property
    def n_tiles(self) -> int:
        """How many tiles there are."""
        count = 1
        for size in self.tile:
            count *= -(-self.n_cells // size)
        return count

    @property
    def window_cells(self) -> int:
        """Cells of the largest tile, with its margin."""
        count = 1
        for size in self.tile:
            count *= self._with_margin(size)
        return count

    @property
    def computed_cells(self) -> int:
        """Cells of all tiles with their margins."""
        return sum(_product(window.shape) for window in self.windows())

    def windows(self) -> Iterator[Window]:
        """Every tile, in order."""
        n = self.n_cells
        axes = []
        for size in self.tile:
            pieces = []
            for first in range(0, n, size):
                last = min(first + size, n)
                wide = self._with_margin(size) - size
                before = wide // 2
                pieces.append((first - before, last - first + wide, before))
            axes.append(pieces)
        for chosen in product(*axes):
            inner, place = [], []
            for start, length, before in chosen:
                own = length - 2 * before
                inner.append(slice(before, before + own))
                place.append(slice(start + before, start + before + own))
            yield Window(
                tuple(start for start, _, _ in chosen),
                tuple(length for _, length, _ in chosen),
                tuple(inner),
                tuple(place),
            )

    def _with_margin(self, size: int) -> int:
        return size if size >= self.n_cells else size + 2 * self.margin


def margin(network: NetworkConfig) -> int:
    """Cells around a tile that its own cells depend on, in whole coarsest cells.

    Followed back from the output: a convolution of 3 cells sees one more on each side,
    and a change of resolution sees the whole coarse cells that a region touches.
    """
    last = len(network.widths) - 1
    needed = 0
    for level in range(last):
        # Back through the decoder: one convolution at the finest level, else two.
        needed += 1 if level == 0 else 2
        needed = -(-needed // 2)
    needed += 2
    for level in reversed(range(last)):
        needed = 2 * needed + (1 if level == 0 else 2)
    multiple = network.multiple
    return -(-needed // multiple) * multiple


def bytes_per_cell(network: NetworkConfig) -> int:
    """Memory that the network needs for each cell it works on at once, in bytes."""
    most, skips = 0.0, 0.0
    for level, width in enumerate(network.widths):
        share = 2.0 ** (-level * network.n_dim)
        most = max(most, skips + _ALIVE * width * share)
        skips += width * share
    return int(4 * (most + network.in_channels + len(network.widths)))


def choose_tiling(
    n_cells: int, network: NetworkConfig, memory: float, at_once: int = 1
) -> Tiling | None:
    """The tiling with the fewest computed cells, one after the other, that fits.

    Parameters
    ----------
    n_cells
        Cells per side.
    network
        The network.
    memory
        For the network alone, on one tile, in bytes.
    at_once
        Tiles that are worked on at the same time, each with that memory.

    Returns
    -------
    Tiling or None
        None if even the smallest tiles do not fit.
    """
    wide, multiple = margin(network), network.multiple
    sizes = []
    for count in range(1, min(_MOST_TILES, n_cells // multiple) + 1):
        size = -(-n_cells // (count * multiple)) * multiple
        if size >= n_cells or size + 2 * wide < n_cells:
            sizes.append(size)
    sizes = sorted(set(sizes), reverse=True)
    most = memory / bytes_per_cell(network)
    best: tuple[int, Tiling] | None = None
    # Which axis is cut does not matter, so the later are cut no more than the first.
    for tile in product(sizes, repeat=network.n_dim):
        if list(tile) != sorted(tile):
            continue
        tiling = Tiling(n_cells, tile, wide)
        if tiling.window_cells > most:
            continue
        cost = -(-tiling.n_tiles // at_once) * tiling.window_cells
        if best is None or cost < best[0]:
            best = cost, tiling
    return None if best is None else best[1]


def least_memory(network: NetworkConfig) -> int:
    """Memory for the smallest tile that there can be [bytes]."""
    window = network.multiple + 2 * margin(network)
    return window**network.n_dim * bytes_per_cell(network)


def corrections(
    generator: FieldGenerator,
    base: Tensor,
    conditions: Tensor,
    noise: Noise,
    tiling: Tiling,
) -> Tensor:
    """What `FieldGenerator.correction` gives for a base, made tile by tile.

    Parameters
    ----------
    generator
        The generator.
    base
        Density ratio, shape ``(batch, in_channels, n, ...)``.
    conditions
        Shape ``(batch, n_conditions)``.
    noise
        Makes the noise maps of a window, or none.
    tiling
        How the grid is cut.

    Returns
    -------
    Tensor
        Shape ``(batch, n_fields, n, ...)``.
    """
    n_fields = len(generator.config.heads)
    result = base.new_empty((base.shape[0], n_fields, *base.shape[2:]))
    for window in tiling.windows():
        part = window_of(base, window)
        made = generator.correction(part, conditions, noise(window.start, window.shape))
        place: tuple[Any, ...] = (..., *window.place)
        inner: tuple[Any, ...] = (..., *window.inner)
        result[place] = made[inner]
    return result


def window_of(values: Tensor, window: Window) -> Tensor:
    """A window of a periodic field, whose first two axes are no places."""
    edges = zip(window.start, window.shape, strict=True)
    for axis, (first, size) in enumerate(edges, start=2):
        n = values.shape[axis]
        if first == 0 and size == n:
            continue
        index = torch.arange(first, first + size, device=values.device) % n
        values = values.index_select(axis, index)
    return values


def _product(sizes: Sequence[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count
