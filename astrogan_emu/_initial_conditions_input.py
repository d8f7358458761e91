"""The linear field of initial conditions that the user brings.

An array, a snapshot, or the path of one, brought onto the grid of the emulated fields.
Drawing a field from a seed is `initial_conditions`' work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import GridError
from .grids import GridSpec
from .initial_conditions import resample
from .snapshots import Snapshot, read_snapshot
from .targets import linear_field_of

__all__ = ["given_linear_field"]


def given_linear_field(
    given: Any, parameters: Mapping[str, float], grid: GridSpec
) -> Tensor:
    """Linear overdensity at redshift 0 from what the user gave.

    Parameters
    ----------
    given
        Linear overdensity of shape ``(m, m, m)`` on the same box; or a snapshot of
        initial conditions, or its path.
    parameters
        At least ``omega_m``.
    grid
        Of the result.

    Returns
    -------
    Tensor
        Float32, shape ``(n_cells, n_cells, n_cells)``.

    Raises
    ------
    GridError
        If the array is no cube or holds values that are not finite, or the snapshot
        fills another box.
    SnapshotError
        If the snapshot cannot be read.
    """
    if isinstance(given, str | os.PathLike):
        given = read_snapshot(given)
    if isinstance(given, Snapshot):
        return _from_snapshot(given, parameters, grid)
    delta = torch.as_tensor(np.asarray(given, dtype=np.float32))
    if delta.ndim != 3 or len(set(delta.shape)) != 1:
        raise GridError(
            "initial_conditions must have the shape (m, m, m), got "
            f"{tuple(delta.shape)}"
        )
    if not bool(torch.isfinite(delta).all()):
        raise GridError("initial_conditions hold values that are not finite")
    return resample(delta, grid.n_cells)


def _from_snapshot(
    snapshot: Snapshot, parameters: Mapping[str, float], grid: GridSpec
) -> Tensor:
    if abs(snapshot.box_size / grid.box_size - 1) > 1e-4:
        cell = grid.cell_size
        raise GridError(
            f"the initial conditions fill a box of {snapshot.box_size:g} Mpc/h, but "
            f"{grid.n_cells} cells of {cell:g} Mpc/h make {grid.box_size:g}; give "
            f"n_cells = {snapshot.box_size / cell:.6g}"
        )
    return linear_field_of(snapshot, parameters["omega_m"], grid.n_cells)
