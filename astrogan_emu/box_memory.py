"""How much memory a box needs, and how that and what there is are made to meet.

The need is counted from the arrays that are alive at once, before anything is made. The
base has to fit as a whole; the network works in tiles as large as there is room for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from .errors import NotEnoughMemoryError
from .networks import NetworkConfig
from .particle_mesh import memory_to_evolve
from .tiling import Tiling, bytes_per_cell, choose_tiling, least_memory

__all__ = ["MemoryPlan", "plan_memory"]

_LOG = logging.getLogger(__name__)

# Arrays of one number per cell, float32. Measured at 96^3 to 192^3: see docs/dask.md.
_HALOS = 29  # positions, matter, and at most 25 to find out which hang together
_WHOLE = 12  # smoothing of a conserved field on the whole grid
# Smaller needs are not worth a line in the log.
_LARGE = 2e9


@dataclass(frozen=True)
class MemoryPlan:
    """What a box needs, and how it is made with what there is.

    Parameters
    ----------
    base
        Need of the initial conditions and the base [bytes].
    generator
        Need of the generator, with the base in memory [bytes].
    available
        What may be used [bytes].
    tiling
        How the network's work is cut.
    """

    base: int
    generator: int
    available: int
    tiling: Tiling

    @property
    def needed(self) -> int:
        """Largest need at any time [bytes]."""
        return max(self.base, self.generator)

    def __str__(self) -> str:
        tiles = self.tiling.n_tiles
        return (
            f"needs {self.needed / 1e9:.3g} GB, {self.available / 1e9:.3g} available"
            + (f"; the network works in {tiles} tiles" if tiles > 1 else "")
        )


def plan_memory(
    n_cells: int,
    network: NetworkConfig,
    *,
    mesh_factor: int = 1,
    halos: bool = False,
    available: float,
    workers: tuple[int, float] | None = None,
) -> MemoryPlan:
    """Need of one box, with the network in as few tiles as there is room for.

    Parameters
    ----------
    n_cells
        Cells per side.
    network
        Shapes of the network. The base of maps is three-dimensional all the same.
    mesh_factor
        Cells of the force mesh for each cell, along one side.
    halos
        Whether the base has galaxies, and so needs halos.
    available
        What may be used [bytes].
    workers
        If tiles are made elsewhere: how many at once, and the memory for each [bytes].

    Returns
    -------
    MemoryPlan
        It fits.

    Raises
    ------
    NotEnoughMemoryError
        If it does not fit, with the largest box that would.
    """
    cells = n_cells**3
    evolving = memory_to_evolve(n_cells, mesh_factor * n_cells)
    base = max(evolving, 4 * cells * _HALOS * halos)
    # Stays while the network works, and while the whole is put together.
    flat = n_cells**network.n_dim
    kept = 4 * flat * (network.in_channels + network.out_channels)
    whole = kept + 4 * flat * (_WHOLE + network.out_channels)
    at_once, room = (1, available - kept) if workers is None else workers
    tiling = choose_tiling(n_cells, network, room, at_once)
    if tiling is None or max(base, whole) > available:
        needed = max(base, whole, kept + least_memory(network))
        share = max(available, 0) / needed
        below = int(n_cells * share ** (1 / 3)) // network.multiple * network.multiple
        raise NotEnoughMemoryError(
            f"a box of n_cells = {n_cells} needs {needed / 1e9:.3g} GB, and "
            f"{max(available, 0) / 1e9:.3g} GB are available; choose about {below} "
            "cells, or free some memory"
        )
    # Of a tile that is made elsewhere, what is sent and what comes back.
    per_cell = 8 * (network.in_channels + network.out_channels)
    if workers is None:
        per_cell = bytes_per_cell(network)
    network_need = kept + tiling.window_cells * per_cell
    plan = MemoryPlan(base, max(whole, network_need), int(available), tiling)
    if plan.needed > _LARGE:
        _LOG.info("a box of %d^%d cells %s", n_cells, network.n_dim, plan)
    return plan
