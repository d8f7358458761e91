"""The noise that the generator hears, for any part of a grid.

Its numbers depend on the seed and on their place alone, so that tiles of any size, on
any machine, are told the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .noise import cell_noise

__all__ = ["window_noise"]

# First stream of the generator's noise, which must not be that of the phases.
_STREAM = 100


def window_noise(
    seed: int,
    levels: Sequence[int],
    n_cells: int,
    start: Sequence[int],
    shape: Sequence[int],
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Noise maps for a window of a grid.

    Parameters
    ----------
    seed
        Of the noise.
    levels
        Of the network that have noise: how often their cells have been doubled.
    n_cells
        Cells per side of the grid.
    start, shape
        First cell of the window and its cells along each axis, in whole coarsest cells.
    device
        Where to make it.

    Returns
    -------
    list of Tensor
        One for each level, shape ``(1, 1, ...)``.
    """
    return [
        cell_noise(
            seed,
            _STREAM + i,
            n_cells >> level,
            n_dim=len(shape),
            start=[first >> level for first in start],
            shape=[size >> level for size in shape],
            device=device,
        )[None, None]
        for i, level in enumerate(levels)
    ]
