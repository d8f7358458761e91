"""From snapshots to a training set.

For each run of a suite, the linear field of its initial conditions becomes the base,
and each snapshot the target fields of the same phases. Runs are finished one by one,
so an interrupted preparation goes on where it stopped. Reading snapshots, depositing
and evolving are others' work; what a field is made of stands in `TARGETS`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from tqdm import tqdm

from ._files import atomic_path
from .dataset import FORMAT, VERSION, TrainingSet
from .errors import DatasetError, UnknownFieldError
from .grids import GridSpec, deposit
from .halos import OccupationModel, expected_galaxies, friends_of_friends
from .initial_conditions import linear_field_from_velocities
from .parameters import Parameter, ParameterSpace
from .particle_mesh import matter_density
from .simulations import (
    KEEP_MEMORY,
    LCDM_SPACE,
    end_with_parent,
    environment,
)
from .snapshots import Snapshot, read_snapshot
from .suites import read_suite, suite_parameters

__all__ = ["TARGETS", "PreparationConfig", "prepare"]

Array = NDArray[np.float64]

_HDF5_SETTINGS = {"track_times": False}


@dataclass(frozen=True)
class PreparationConfig:
    """What a training set is made of.

    Parameters
    ----------
    fields
        Names in `TARGETS`.
    n_cells
        Cells along one side of each box.
    base_steps
        Particle-mesh steps of the base.
    base_mesh_factor
        Cells of its force mesh per cell, along one side.
    base_start_redshift
        Of its second-order Lagrangian start.
    occupation
        Halo occupation of the galaxies.
    linking_length, min_members
        Of the friends-of-friends halos.

    Raises
    ------
    UnknownFieldError
        If a field has no recipe.
    DatasetError
        If a number is not possible.
    """

    fields: tuple[str, ...] = ("matter", "galaxies")
    n_cells: int = 64
    base_steps: int = 5
    base_mesh_factor: int = 1
    base_start_redshift: float = 9.0
    occupation: OccupationModel = field(default_factory=OccupationModel)
    linking_length: float = 0.2
    min_members: int = 20

    def __post_init__(self) -> None:
        for name in self.fields:
            if name not in TARGETS:
                raise UnknownFieldError(
                    f"there is no recipe for {name!r}; choose from {', '.join(TARGETS)}"
                )
        if not self.fields or len(set(self.fields)) < len(self.fields):
            raise DatasetError(f"fields must be distinct names, got {self.fields}")
        if self.n_cells < 4 or self.base_steps < 1 or self.base_mesh_factor < 1:
            raise DatasetError(
                "n_cells must be at least 4 and base_steps and base_mesh_factor at "
                f"least 1, got {self.n_cells}, {self.base_steps}, "
                f"{self.base_mesh_factor}"
            )

    def settings(self) -> dict[str, Any]:
        """The configuration as JSON-able values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def _total_matter(snapshot: Snapshot, grid: GridSpec, _: PreparationConfig) -> Array:
    """Mass of all kinds of particles, as a ratio to the mean."""
    total = np.zeros(grid.shape)
    for kind in snapshot.kinds:
        total += deposit(snapshot.positions(kind), snapshot.masses(kind), grid=grid)
    return total / total.mean()


def _galaxies(snapshot: Snapshot, grid: GridSpec, config: PreparationConfig) -> Array:
    """Expected galaxies of halos in the dark matter [(h/Mpc)^3]."""
    positions = snapshot.positions("dark_matter")
    halos = friends_of_friends(
        positions,
        box_size=snapshot.box_size,
        linking_length=config.linking_length,
        min_members=config.min_members,
    )
    # In a hydrodynamical run each dark-matter particle stands for its gas too.
    mass = snapshot.total_mass() / len(positions)
    return expected_galaxies(
        positions, halos, config.occupation, particle_mass=mass, grid=grid
    )


def _gas(snapshot: Snapshot, grid: GridSpec, weights: Array) -> Array:
    reach = np.minimum(snapshot.smoothing_lengths(), grid.box_size / 2)
    return deposit(
        snapshot.positions("gas"),
        weights,
        grid=grid,
        scheme="sph",
        smoothing_lengths=reach,
    )


def _gas_density(snapshot: Snapshot, grid: GridSpec, _: PreparationConfig) -> Array:
    """Comoving gas density [(Msun/h) / (Mpc/h)^3]."""
    return _gas(snapshot, grid, snapshot.masses("gas")) / grid.cell_volume


def _gas_temperature(snapshot: Snapshot, grid: GridSpec, _: PreparationConfig) -> Array:
    """Mass-weighted gas temperature [K]; cells without gas take the smallest value."""
    mass = snapshot.masses("gas")
    weights = np.stack([mass, mass * snapshot.temperature()], 1)
    amount, heat = _gas(snapshot, grid, weights)
    filled = amount > 0
    temperature = np.zeros(grid.shape)
    temperature[filled] = heat[filled] / amount[filled]
    temperature[~filled] = temperature[filled].min()
    return temperature


def _stellar_density(snapshot: Snapshot, grid: GridSpec, _: PreparationConfig) -> Array:
    """Comoving stellar density [(Msun/h) / (Mpc/h)^3]."""
    if snapshot.count("stars") == 0:
        return np.zeros(grid.shape)
    mass = deposit(snapshot.positions("stars"), snapshot.masses("stars"), grid=grid)
    return mass / grid.cell_volume


TARGETS: Mapping[str, Callable[[Snapshot, GridSpec, PreparationConfig], Array]] = {
    "matter": _total_matter,
    "galaxies": _galaxies,
    "gas_density": _gas_density,
    "gas_temperature": _gas_temperature,
    "stellar_density": _stellar_density,
}
"""How each field is made from a snapshot."""

_UNITS = {
    "matter": "",
    "galaxies": "littleh3 / Mpc3",
    "gas_density": "littleh2 solMass / Mpc3",
    "gas_temperature": "K",
    "stellar_density": "littleh2 solMass / Mpc3",
}


def _joined(snapshot: Snapshot) -> tuple[Any, Any, Any]:
    """Positions, velocities and masses of all kinds of particles, as tensors."""
    import torch

    columns = [
        [read(kind) for kind in snapshot.kinds]
        for read in (snapshot.positions, snapshot.velocities, snapshot.masses)
    ]
    positions, velocities, masses = (np.concatenate(each) for each in columns)
    return (
        torch.from_numpy(positions).float(),
        torch.from_numpy(velocities).float(),
        torch.from_numpy(masses / masses.mean()).float(),
    )


def _prepare_run(
    rows: list[dict[str, Any]],
    names: Sequence[str],
    config: PreparationConfig,
    path: str,
    fingerprint: str,
) -> None:
    """Make one run's samples and store them; the body of a worker process."""
    import torch

    torch.set_num_threads(1)
    first = rows[0]
    parameters = {name: float(first[name]) for name in names}
    starts = read_snapshot(first["initial_conditions"])
    _check_header(starts, first, None)
    positions, velocities, masses = _joined(starts)
    with torch.no_grad():
        delta = linear_field_from_velocities(
            positions,
            velocities,
            masses,
            redshift=starts.redshift,
            omega_m=parameters["omega_m"],
            n_cells=config.n_cells,
            box_size=starts.box_size,
        )
    del positions, velocities, masses
    grid = GridSpec(config.n_cells, starts.box_size)
    bases, targets = [], []
    for row in rows:
        snapshot = read_snapshot(row["file"])
        _check_header(snapshot, row, float(row["redshift"]))
        with torch.no_grad():
            base = matter_density(
                delta,
                parameters,
                box_size=grid.box_size,
                redshift=float(row["redshift"]),
                n_steps=config.base_steps,
                n_mesh=config.base_mesh_factor * config.n_cells,
                start_redshift=config.base_start_redshift,
            )
        bases.append(base.numpy()[None])
        made = [TARGETS[name](snapshot, grid, config) for name in config.fields]
        targets.append(np.stack(made).astype(np.float32))
    with atomic_path(path) as partial, h5py.File(partial, "w") as file:
        file.attrs["fingerprint"] = fingerprint
        file.attrs["box_size"] = grid.box_size
        file.create_dataset("base", data=np.stack(bases), **_HDF5_SETTINGS)
        file.create_dataset("target", data=np.stack(targets), **_HDF5_SETTINGS)
        file.create_dataset("linear", data=delta.numpy(), **_HDF5_SETTINGS)


def _check_header(
    snapshot: Snapshot, row: Mapping[str, Any], redshift: float | None
) -> None:
    """Refuse a snapshot that is not the one that the suite says."""
    found: dict[str, tuple[float, float]] = {}
    if redshift is not None:
        found["redshift"] = (1 + snapshot.redshift, 1 + redshift)
    for name in ("omega_m", "omega_b", "h"):
        if name in snapshot.cosmology and name in row:
            found[name] = (snapshot.cosmology[name], float(row[name]))
    for name, (header, table) in found.items():
        if abs(header / table - 1) > 1e-3:
            raise DatasetError(
                f"{snapshot.path} has {name} = {header:g} in its header, but the suite "
                f"says {table:g} for run {row['run']} (redshifts are given as 1 + z)"
            )


def _space_of(suite: Table, names: Sequence[str]) -> ParameterSpace:
    """The default space if the suite lies in it, else the ranges that the suite covers."""
    if tuple(names) == LCDM_SPACE.names:
        values = np.stack([np.array(suite[name]) for name in names], -1)
        if LCDM_SPACE.contains(values).all():
            return LCDM_SPACE
    ranges = []
    for name in names:
        values = np.array(suite[name], dtype=float)
        low, high = float(values.min()), float(values.max())
        if high > low:
            ranges.append(Parameter(name, low, high))
    if not ranges:
        raise DatasetError("no parameter varies over the suite; give several runs")
    return ParameterSpace(tuple(ranges))


def _splits(suite: Table, runs: Sequence[str], seed: int) -> dict[str, str]:
    """Split of each run: by set where sets are named so, else a tenth each held out."""
    known = {"test": "test", "val": "validation", "validation": "validation"}
    if "set" in suite.colnames:
        sets = {str(row["run"]): str(row["set"]) for row in suite}
        if any(name in known for name in sets.values()):
            return {run: known.get(sets[run], "train") for run in runs}
    order = np.random.default_rng(seed).permutation(len(runs))
    held_out = max(1, len(runs) // 10) if len(runs) > 2 else 0
    result = dict.fromkeys(runs, "train")
    for rank, index in enumerate(order[: 2 * held_out]):
        result[runs[index]] = "test" if rank < held_out else "validation"
    return result


def prepare(
    suite: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    config: PreparationConfig | None = None,
    space: ParameterSpace | None = None,
    split_seed: int = 0,
    workers: int | None = None,
    dry_run: bool = False,
    progress: bool = True,
) -> Path:
    """Make a training set from a suite of simulations.

    Finished runs are kept in a folder beside the output until all are done: started
    again after an interruption, it goes on and ends with the same bytes.

    Parameters
    ----------
    suite
        ``suite.ecsv``, or the folder that holds it; see `read_suite`. Every run needs
        its initial conditions.
    output
        HDF5 file to write; replaced if it exists.
    config
        Fields, grid and base.
    space
        Parameters and ranges; that of the default suite if the runs lie in it, else
        the ranges that the runs cover.
    split_seed
        Draws the runs held out, if the suite names no sets ``test`` and ``val``.
    workers
        Runs at a time, each in a process of its own; as many as cores if not given.
    dry_run
        Check the suite and do nothing.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        The output.

    Raises
    ------
    SuiteError
        If the suite is not usable.
    SnapshotError
        If a snapshot is not.
    DatasetError
        If the runs do not fit one another, or parts of another preparation are in the
        way.
    """
    config = config or PreparationConfig()
    table = read_suite(suite)
    names = suite_parameters(table)
    runs = list(dict.fromkeys(str(run) for run in table["run"]))
    rows = {
        run: [
            {name: row[name] for name in table.colnames}
            for row in table
            if str(row["run"]) == run
        ]
        for run in runs
    }
    if lacking := [run for run in runs if not rows[run][0]["initial_conditions"]]:
        raise DatasetError(
            f"run {lacking[0]} has no initial conditions, so no base can be paired "
            "with it; add them to the suite, or leave the run out"
        )
    space = space or _space_of(table, names)
    output = Path(output)
    if dry_run:
        return output
    parts = output.with_name(output.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    prints = {run: _fingerprint(rows[run], names, config) for run in runs}
    todo = [run for run in runs if not _is_done(parts / f"{run}.h5", prints[run])]
    workers = min(workers or os.cpu_count() or 1, max(1, len(todo)))
    bar = tqdm(
        total=len(runs),
        initial=len(runs) - len(todo),
        desc="prepare",
        unit="run",
        disable=not progress,
    )
    with bar, environment(KEEP_MEMORY):
        with ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=end_with_parent
        ) as pool:
            jobs = [
                pool.submit(
                    _prepare_run,
                    rows[run],
                    names,
                    config,
                    os.fspath(parts / f"{run}.h5"),
                    prints[run],
                )
                for run in todo
            ]
            for job in as_completed(jobs):
                try:
                    job.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
                bar.update()
    splits = _splits(table, runs, split_seed)
    _assemble(output, parts, rows, runs, splits, config, space, prints)
    for run in runs:
        (parts / f"{run}.h5").unlink()
    if not any(parts.iterdir()):
        parts.rmdir()
    return output


def _fingerprint(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], config: PreparationConfig
) -> str:
    """Hash of what decides a run's samples: settings, parameters and files."""
    facts = {
        "config": config.settings(),
        "rows": [
            {
                **{name: float(row[name]) for name in (*names, "redshift")},
                "files": [
                    (Path(row[key]).name, Path(row[key]).stat().st_size)
                    for key in ("file", "initial_conditions")
                ],
            }
            for row in rows
        ],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _is_done(path: Path, fingerprint: str) -> bool:
    if not path.is_file():
        return False
    try:
        with h5py.File(path, "r") as file:
            known = file.attrs["fingerprint"]
    except (OSError, KeyError) as error:
        raise DatasetError(f"{path} is damaged ({error}); remove it") from error
    if known != fingerprint:
        raise DatasetError(
            f"{path} was begun with other settings or snapshots; remove the folder "
            f"{path.parent} or give another output"
        )
    return True


def _assemble(
    output: Path,
    parts: Path,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    runs: Sequence[str],
    splits: Mapping[str, str],
    config: PreparationConfig,
    space: ParameterSpace,
    prints: Mapping[str, str],
) -> None:
    """Join the parts of all runs into one file."""
    n = sum(len(rows[run]) for run in runs)
    side = (config.n_cells,) * 3
    sizes = {run: _box_size(parts / f"{run}.h5") for run in runs}
    box_size = sizes[runs[0]]
    for run, size in sizes.items():
        if abs(size / box_size - 1) > 1e-6:
            raise DatasetError(
                f"run {run} has a box of {size:g} Mpc/h and {runs[0]} one of "
                f"{box_size:g}; one training set has one box size"
            )
    content = hashlib.sha256()
    with atomic_path(output) as partial, h5py.File(partial, "w") as file:
        samples = file.create_group("samples")
        shapes = {"base": (n, 1, *side), "target": (n, len(config.fields), *side)}
        for name, shape in shapes.items():
            samples.create_dataset(
                name, shape, np.float32, chunks=(1, *shape[1:]), **_HDF5_SETTINGS
            )
        at = 0
        for run in runs:
            content.update(prints[run].encode())
            with h5py.File(parts / f"{run}.h5", "r") as part:
                for name in shapes:
                    values = part[name][()]
                    content.update(values.tobytes())
                    samples[name][at : at + len(values)] = values
            at += len(rows[run])
        flat = [row for run in runs for row in rows[run]]
        columns: dict[str, Any] = {
            "parameters": [[float(row[name]) for name in space.names] for row in flat],
            "redshift": [float(row["redshift"]) for row in flat],
            "run": np.char.encode([str(row["run"]) for row in flat], "utf-8"),
            "split": np.char.encode([splits[str(row["run"])] for row in flat], "utf-8"),
        }
        for name, values in columns.items():
            samples.create_dataset(name, data=values, **_HDF5_SETTINGS)
        file.attrs.update(
            {
                "format": FORMAT,
                "version": VERSION,
                "n_dim": 3,
                "n_cells": config.n_cells,
                "cell_size": box_size / config.n_cells,
                "fields": json.dumps(config.fields),
                "units": json.dumps({name: _UNITS[name] for name in config.fields}),
                "space": json.dumps(space.to_dict()),
                "base": json.dumps(
                    {
                        "n_steps": config.base_steps,
                        "mesh_factor": config.base_mesh_factor,
                        "start_redshift": config.base_start_redshift,
                    }
                ),
                "provenance": json.dumps(config.settings()),
                "sha256": content.hexdigest(),
            }
        )
    TrainingSet.open(output).close()


def _box_size(path: Path) -> float:
    with h5py.File(path, "r") as file:
        return float(file.attrs["box_size"])
