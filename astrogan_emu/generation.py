"""Many samples to disk, by one process or a cluster, to go on with after a kill.

`generate` is `emulate_batch` for sets that do not fit into memory or an afternoon: each
sample is written when it is made, with the record that it is complete behind it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from itertools import islice
from pathlib import Path
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ._optional import require
from .distributions import one_point_pdf
from .errors import AstroganError, BatchError, FieldFileError, ParameterError
from .sample_plan import SamplePlan, SampleRecipe, plan_samples
from .sample_store import SampleStore
from .statistics import power_spectrum
from .torch_threads import shared_cores
from .worker_processes import GUARD, refuse_while_importing

__all__ = ["STATISTICS", "generate"]

STATISTICS: tuple[str, ...] = ("pdf", "power")
"""Statistics that `generate` can measure on the way."""

Arrays = dict[str, NDArray[Any]]

# How long a scheduler that does not answer is waited for, and workers, the first or
# those that come back [s].
_PATIENCE = 10
_RETURN = 60
# Dask's profiler keeps what it saw of each second of the last hour: 0.3 MB a second.
_WORKERS = {"distributed.worker.profile.enabled": False}


def generate(
    parameters: Any,
    output: str | os.PathLike[str],
    *,
    seed: int,
    fields: Sequence[str] | None = None,
    n_realizations: int = 1,
    redshift: Any = None,
    n_cells: int = 64,
    initial_conditions: Any = None,
    model: str | os.PathLike[str] | None = None,
    extrapolate: bool = False,
    fixed: bool = False,
    paired: bool = False,
    same_phases: bool = False,
    names: Sequence[str] | None = None,
    statistics: Sequence[str] = (),
    keep_fields: bool = True,
    workers: int | None = None,
    scheduler: str | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Path:
    """Emulate many samples into a zarr group or an HDF5 file; go on if it was begun.

    The samples are those of `emulate_batch` with the same arguments. A process holds
    one sample at a time, however many there are. Called again after an interruption, it
    makes only what is missing or damaged; finished samples are read once and checked.

    Parameters
    ----------
    parameters
        As for `emulate_batch`.
    output
        A name that ends in ``.zarr``, or in ``.h5`` for a single process.
    seed, fields, n_realizations, redshift, n_cells, initial_conditions, model
        As for `emulate_batch`.
    extrapolate, fixed, paired, same_phases, names
        As for `emulate_batch`.
    statistics
        Any of ``"power"`` (`power_spectrum`, linear bins) and ``"pdf"``
        (`one_point_pdf` relative to the mean), of each field of each sample.
    keep_fields
        Whether the fields are written too.
    workers
        Processes on this machine; one, this one, if not given. A script that asks for
        more must be guarded by ``if __name__ == "__main__":``.
    scheduler
        Address of a running dask scheduler instead, such as ``tcp://host:8786``. Its
        workers must see `output` under the same path.
    device
        ``"cpu"``, or ``"cuda"``: each process uses the first device that it sees.
        With `workers`, dask-cuda starts one process for each device.
    progress
        Show a bar with the time left.

    Returns
    -------
    Path
        `output`; `FieldBatch.from_zarr` opens a zarr group.

    Raises
    ------
    ParameterError, GridError, UnknownFieldError, UnknownModelError, CheckpointError
        As `emulate_batch`, before anything is made.
    FieldFileError
        If `output` was begun with other settings, is something else, or cannot be
        written.
    BatchError
        If the scheduler or the workers cannot be reached or are lost.
    NotEnoughMemoryError
        If a box does not fit into the memory of a process.
    MissingDependencyError
        If zarr, distributed or dask-cuda is needed and not installed.
    """
    refuse_while_importing()
    path = SampleStore.check_name(output)
    _check_ways(path, statistics, keep_fields, workers, scheduler)
    plan = plan_samples(
        parameters,
        fields=fields,
        n_realizations=n_realizations,
        seed=seed,
        redshift=redshift,
        n_cells=n_cells,
        initial_conditions=initial_conditions,
        model=model,
        extrapolate=extrapolate,
        fixed=fixed,
        paired=paired,
        same_phases=same_phases,
        names=names,
        device=device,
    )
    measured = tuple(sorted(set(statistics)))
    _begin(path, plan, measured, keep_fields)
    with SampleStore.open(path) as store:
        missing = np.flatnonzero(~store.finished())
    with tqdm(
        desc="generate",
        total=len(plan),
        initial=len(plan) - len(missing),
        unit="sample",
        disable=not progress,
    ) as bar:
        if scheduler is None and workers in (None, 1):
            with SampleStore.open(path, write=True) as store, shared_cores():
                for number in missing:
                    _make(int(number), plan.rows[number], plan.recipe, store)
                    bar.update()
        elif len(missing):
            with _client(workers, scheduler, device) as client:
                _spread(client, missing, plan, path, bar)
    _check_all_there(path)
    return path


def _check_ways(
    path: Path,
    statistics: Sequence[str],
    keep_fields: bool,
    workers: int | None,
    scheduler: str | None,
) -> None:
    """Refuse what cannot be combined."""
    for name in [statistics] if isinstance(statistics, str) else statistics:
        if name not in STATISTICS:
            raise ParameterError(
                f"there is no statistic {name!r}; choose from {', '.join(STATISTICS)}"
            )
    if isinstance(statistics, str):
        raise ParameterError(f"statistics must be a list, such as [{statistics!r}]")
    if not statistics and not keep_fields:
        raise ParameterError("without fields there is nothing to keep; give statistics")
    if workers is not None and workers < 1:
        raise ParameterError(f"workers must be at least 1, got {workers}")
    if workers is not None and scheduler is not None:
        raise ParameterError(
            f"workers = {workers} are started here, and scheduler = {scheduler} has "
            "its own; give one of the two"
        )
    several = scheduler is not None or workers not in (None, 1)
    if several and path.suffix != ".zarr":
        raise FieldFileError(
            f"only one process can write HDF5; for several give a .zarr, not {path}"
        )
    if several:
        require("distributed", "distributed")


def _begin(
    path: Path, plan: SamplePlan, statistics: Sequence[str], keep_fields: bool
) -> None:
    """Make the store, or make sure that one that is there was begun for the same."""
    settings = {
        **plan.settings,
        "statistics": list(statistics),
        "keep_fields": bool(keep_fields),
    }
    if path.exists():
        with SampleStore.open(path) as store:
            known = store.description.get("settings", {})
        for name in dict.fromkeys((*settings, *known)):
            if known.get(name) != settings.get(name):
                raise FieldFileError(
                    f"{path} was begun with {name} = {known.get(name)}, not "
                    f"{settings.get(name)}; give another output, or remove it to start "
                    "again"
                )
        return
    grid = plan.recipe.grid
    constants: Arrays = {}
    per_sample = {"fields": plan.sample_shape} if keep_fields else {}
    if statistics:
        # Measured once on nothing, to know the bins.
        shapes = _measure(np.ones(plan.sample_shape, "f4"), plan.recipe, statistics)
        per_sample |= {name: values.shape for name, values in shapes.items()}
        constants |= _bins(plan, statistics)
    if plan.initial_conditions is not None:
        constants["initial_conditions"] = plan.initial_conditions
    _check_space(path, len(plan), per_sample)
    SampleStore.create(
        path,
        {
            "fields": list(plan.recipe.fields),
            "units": {name: str(unit) for name, unit in plan.units.items()},
            "n_cells": grid.n_cells,
            "box_size": grid.box_size,
            "model": {"name": plan.settings["model"], "sha256": plan.recipe.sha256},
            "parameters": list(plan.recipe.names),
            "columns": list(plan.table.colnames),
            "arrays": list(per_sample),
            "settings": settings,
        },
        plan.table,
        per_sample,
        constants,
    )


def _check_space(
    path: Path, n_samples: int, per_sample: dict[str, tuple[int, ...]]
) -> None:
    """Refuse what the disk has no room for."""
    size = sum(
        int(np.prod(shape)) * (4 if name == "fields" else 8)
        for name, shape in per_sample.items()
    )
    free = shutil.disk_usage(path.absolute().parent).free
    if n_samples * size > free:
        raise FieldFileError(
            f"{n_samples} samples need {n_samples * size / 1e9:.3g} GB, and the disk "
            f"of {path} has {free / 1e9:.3g} GB free; make room, or keep statistics "
            "without fields"
        )


def _measure(
    values: NDArray[np.float32], recipe: SampleRecipe, statistics: Sequence[str]
) -> Arrays:
    """Statistics of one sample, each of shape ``(n_fields, n_bins)``."""
    n_dim = values.ndim - 1
    measured: Arrays = {}
    if "power" in statistics:
        spectrum = power_spectrum(values, box_size=recipe.grid.box_size, n_dim=n_dim)
        measured["power"] = np.asarray(spectrum.power)
    if "pdf" in statistics:
        cells = tuple(range(1, values.ndim))
        mean = values.mean(axis=cells, keepdims=True, dtype=np.float64)
        measured["pdf"] = one_point_pdf(values / mean, n_dim=n_dim).density
    return measured


def _bins(plan: SamplePlan, statistics: Sequence[str]) -> Arrays:
    """What the bins of the statistics are."""
    nothing = np.ones(plan.sample_shape[1:])
    bins: Arrays = {}
    if "power" in statistics:
        spectrum = power_spectrum(nothing, box_size=plan.recipe.grid.box_size)
        bins["power_k"] = np.asarray(spectrum.k)
        bins["power_n_modes"] = np.asarray(spectrum.n_modes)
    if "pdf" in statistics:
        bins["pdf_edges"] = one_point_pdf(nothing).edges
    return bins


def _make(number: int, row: Any, recipe: SampleRecipe, store: SampleStore) -> None:
    """Emulate one sample, measure it, and keep it."""
    given = None
    if "initial_conditions" in store:
        given = np.asarray(store["initial_conditions"][...])
    values = recipe.emulate(row, given)
    names = store.description["arrays"]
    arrays = _measure(values, recipe, names)
    if "fields" in names:
        arrays["fields"] = values
    store.keep(number, arrays)


def _make_remotely(number: int, row: Any, recipe: SampleRecipe, path: str) -> None:
    """The same on a worker, which opens the store itself."""
    with shared_cores(), SampleStore.open(path, write=True) as store:
        # A worker that was lost may have been done with it.
        if not store.has(number):
            _make(number, row, recipe, store)


@contextlib.contextmanager
def _client(workers: int | None, scheduler: str | None, device: str) -> Iterator[Any]:
    """A client of the running scheduler, or of workers that live as long as it."""
    distributed = require("distributed", "distributed")
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            if device == "cuda":
                # One process per device, which sees no other.
                start = require("dask_cuda", "cuda").LocalCUDACluster
            else:
                start = distributed.LocalCluster
            stack.enter_context(dask.config.set(_WORKERS))
            try:
                cluster = start(
                    n_workers=workers, threads_per_worker=1, dashboard_address=":0"
                )
            except RuntimeError as error:
                raise BatchError(
                    f"no worker could be started ({error}); {GUARD}"
                ) from error
            stack.enter_context(cluster)
            yield stack.enter_context(distributed.Client(cluster))
            return
        try:
            client = stack.enter_context(
                distributed.Client(scheduler, timeout=_PATIENCE)
            )
            client.wait_for_workers(1, timeout=_RETURN)
        except (OSError, TimeoutError, ValueError) as error:
            raise BatchError(
                f"no dask scheduler with a worker answers at {scheduler} ({error}); "
                "start one with: dask scheduler, and workers with: dask worker ADDRESS"
            ) from error
        yield client


def _spread(
    client: Any, missing: NDArray[np.intp], plan: SamplePlan, path: Path, bar: Any
) -> None:
    """Make the missing samples on workers, a few ahead of those that are made."""
    distributed = require("distributed", "distributed")

    def submit(number: Any) -> Any:
        return client.submit(
            _make_remotely,
            int(number),
            plan.rows[number],
            plan.recipe,
            str(path.absolute()),
            pure=False,
            # A full network disk, say, may be better a moment later.
            retries=1,
        )

    waiting = iter(missing)
    n_ahead = 2 * max(1, sum(client.nthreads().values()))
    running = {submit(number) for number in islice(waiting, n_ahead)}
    try:
        while running:
            try:
                done, running = distributed.wait(
                    running, timeout=_PATIENCE, return_when="FIRST_COMPLETED"
                )
            except TimeoutError:
                _check_workers(client, path)
                continue
            for error in filter(None, [future.exception() for future in done]):
                raise error
            bar.update(len(done))
            running |= {submit(number) for number in islice(waiting, len(done))}
            # Forgotten, or dask would make them again if it lost their worker.
            done.clear()
    except AstroganError:
        raise
    except CancelledError as error:
        raise _gone("scheduler", path) from error
    except Exception as error:
        raise BatchError(
            f"the workers failed with {type(error).__name__}: {error}; finished "
            f"samples are kept in {path}; put this right (a worker that is killed "
            "often ran out of memory: give it more, or start fewer) and start again "
            "to go on"
        ) from error


def _check_workers(client: Any, path: Path) -> None:
    """Make sure that somebody is at work, where nothing has come back for a while."""
    if client.status != "running":
        raise _gone("scheduler", path)
    try:
        client.wait_for_workers(1, timeout=_RETURN)
    except TimeoutError as error:
        raise _gone("last worker", path) from error


def _gone(what: str, path: Path) -> BatchError:
    return BatchError(
        f"the {what} is gone; finished samples are kept in {path}; start the dask "
        "scheduler and its workers again, and this again to go on"
    )


def _check_all_there(path: Path) -> None:
    """Make sure that what was reported finished is here."""
    with SampleStore.open(path) as store:
        lacking = np.flatnonzero(store.marks() == 0)
    if len(lacking):
        raise BatchError(
            f"{len(lacking)} samples were made but are not in {path}, the first is "
            f"{lacking[0]}; workers must see the same file system under this path"
        )
