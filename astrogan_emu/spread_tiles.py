"""The tiles of one box, made by the workers of a dask cluster.

The base is one piece of work and stays in the process that wants the box; the network
is local, and each of its tiles is a task. Tiles are cut when there is a worker for
them, so that few are on the way at any time; dask gives one that is lost with its
worker to another.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import dask
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._optional import require
from .checkpoints import Model
from .errors import AstroganError, BatchError
from .generator_noise import window_noise
from .kept_memory import kept_memory
from .machine_memory import available_memory
from .same_model import same_model
from .tiling import Tiling, Window, bytes_per_cell, window_of
from .torch_threads import shared_cores

__all__ = ["spread_corrections", "workers_of"]

# Seconds without a tile after which it is asked whether anybody is at work.
_PATIENCE = 60.0
_WARNING = "distributed.admin.large-graph-warning-threshold"

Floats = NDArray[np.float32]


def workers_of(client: Any) -> tuple[int, float]:
    """Tiles that a cluster can work on at once, and the memory for one [bytes].

    Parameters
    ----------
    client
        A `distributed.Client`.

    Raises
    ------
    BatchError
        If it has no workers.
    """
    threads = client.nthreads()
    if not threads:
        raise BatchError("the cluster of this client has no workers; start some")
    # Tasks, as nothing else on a worker is told of its limit. One that is gone by then
    # is not waited for.
    asked = [
        client.submit(
            available_memory, workers=[address], allow_other_workers=True, pure=False
        )
        for address in threads
    ]
    return sum(threads.values()), min(client.gather(asked))


def spread_corrections(
    model: Model,
    base: Tensor,
    told: Tensor,
    seed: int | None,
    tiling: Tiling,
    client: Any,
) -> Tensor:
    """What `tiling.corrections` gives, made by the workers of a cluster.

    Parameters
    ----------
    model
        The model; every worker needs its file at the same path.
    base
        Density ratio, shape ``(1, in_channels, n, ...)``.
    told
        Conditions, shape ``(1, n_conditions)``.
    seed
        Of the noise; none for none.
    tiling
        How the grid is cut.
    client
        A `distributed.Client`.

    Returns
    -------
    Tensor
        Shape ``(1, n_fields, n, ...)``.

    Raises
    ------
    BatchError
        If the cluster is lost, or a tile kills worker after worker.
    CheckpointError
        If a worker lacks the model, or has another.
    """
    distributed = require("distributed", "distributed")
    n_fields = len(model.generator.config.heads)
    result = base.new_empty((1, n_fields, *base.shape[2:]))
    conditions = told.cpu().numpy()

    def submit(window: Window) -> Any:
        part = window_of(base, window).cpu().numpy()
        # In the task itself, so that another worker can have it if one is lost.
        with dask.config.set({_WARNING: "1 TB"}):
            return client.submit(
                _make_tile,
                *(str(model.path), model.sha256, base.device.type),
                *(part, conditions, seed, base.shape[-1], window),
                pure=False,
            )

    waiting = tiling.windows()
    n_ahead = 1 + sum(client.nthreads().values())
    try:
        running = {submit(window): window for window in islice(waiting, n_ahead)}
        while running:
            try:
                done, _ = distributed.wait(
                    list(running), timeout=_PATIENCE, return_when="FIRST_COMPLETED"
                )
            except TimeoutError:
                client.wait_for_workers(1, timeout=_PATIENCE)
                continue
            for future in done:
                place: tuple[Any, ...] = (..., *running.pop(future).place)
                result[place] = torch.from_numpy(future.result()).to(result)
                running |= {submit(window): window for window in islice(waiting, 1)}
            # Forgotten, or dask would make them again if it lost their worker.
            done.clear()
    except AstroganError:
        raise
    except Exception as error:
        raise BatchError(
            f"the workers failed with {type(error).__name__}: {error}; a worker that "
            "is killed often ran out of memory: give it more, or start fewer"
        ) from error
    return result


def _make_tile(
    path: str,
    sha256: str,
    device: str,
    part: Floats,
    told: Floats,
    seed: int | None,
    n_cells: int,
    window: Window,
) -> Floats:
    """The body of a worker's task: the network over one window, without its margin."""
    with shared_cores(), torch.no_grad():
        generator = same_model(path, sha256, device).generator
        noise = None
        if seed is not None:
            levels, place = generator.network.noise_levels, (window.start, window.shape)
            noise = window_noise(seed, levels, n_cells, *place, device)
        base, conditions = (torch.tensor(x, device=device) for x in (part, told))
        need = math.prod(window.shape) * bytes_per_cell(generator.config.network)
        with kept_memory(need, available_memory(device)):
            made = generator.correction(base, conditions, noise)
        inner: tuple[Any, ...] = (..., *window.inner)
        return made[inner].cpu().numpy().copy()
