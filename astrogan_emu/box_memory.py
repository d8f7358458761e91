"""How much memory a box needs, how much there is, and how the two are made to meet.

The need is counted from the arrays that are alive at once, before anything is made. The
base has to fit as a whole; the network works in tiles as large as there is room for.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import NotEnoughMemoryError, ParameterError
from .networks import NetworkConfig
from .tiling import Tiling, bytes_per_cell, choose_tiling, least_memory
from .torch_threads import concurrent_tasks

__all__ = ["MemoryPlan", "available_memory", "memory_limit", "plan_memory"]

_LOG = logging.getLogger(__name__)

# Arrays of one number per cell, float32. Measured at 96^3 to 192^3: see docs/dask.md.
_BASE = 22  # two vectors of every particle and, at the end, two more and their parts
_FORCE = 14  # two vectors of every particle, and
_MESH = 10  # of the mesh: its potential, and a table of three slopes in two cells each
_HALOS = 29  # positions, matter, and at most 25 to find out which hang together
_WHOLE = 12  # smoothing of a conserved field on the whole grid

# Of what is free, the share that is used: others want some, too.
_SHARE = 0.9
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
    mesh = _MESH * mesh_factor**3
    base = 4 * cells * max(_BASE, _FORCE + mesh, _HALOS * halos)
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


def available_memory(device: torch.device | str = "cpu") -> int:
    """Memory that one task may use here [bytes].

    The least of what the machine has free, what the process's control group leaves, and
    what the limit of a dask worker leaves; shared among the tasks that run at once.

    Parameters
    ----------
    device
        Of the emulator.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(_SHARE * (free + kept))
    limits = [_free(), *_group_leaves(), *_worker_leaves()]
    return int(_SHARE * max(0, min(limits)) / concurrent_tasks())


def memory_limit(gigabytes: float | None, device: torch.device | str) -> float:
    """What a user allows, or what there is [bytes].

    Parameters
    ----------
    gigabytes
        What is allowed [GB], if anything is said.
    device
        Of the emulator.

    Raises
    ------
    ParameterError
        If `gigabytes` is not positive.
    """
    if gigabytes is None:
        return available_memory(device)
    if not gigabytes > 0:
        raise ParameterError(f"max_memory must be positive [GB], got {gigabytes}")
    return gigabytes * 1e9


def _free() -> int:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        # Where the system does not say what is free, half of all may be.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return sys.maxsize


def _group_leaves() -> list[int]:
    """What the limit of a container leaves, if it has one."""
    leaves = []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            folder = Path("/sys/fs/cgroup")
            most = int((folder / limit).read_text())
            leaves.append(most - int((folder / used).read_text()))
    return leaves


def _worker_leaves() -> list[int]:
    """What the limit of a dask worker leaves, if this is one and it has one."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return []
    with suppress(ValueError, AttributeError):
        worker = distributed.get_worker()
        limit = worker.memory_manager.memory_limit
        if limit:
            return [int(limit - worker.monitor.get_process_memory())]
    return []
