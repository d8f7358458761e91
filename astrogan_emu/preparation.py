"""From a suite of snapshots to a training set.

For each run, the linear field of its initial conditions becomes the base at the
redshift of every snapshot, by the very calls that the emulator makes, and the snapshot
itself the target fields of the same phases. What a field is made of stands in
`targets`, the layout of the file in `dataset`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from astropy.table import Table
from tqdm import tqdm

from .bases import BaseSettings, base_fields
from .dataset import RunSamples, TrainingSet, write_training_set
from .errors import AstroganError, DatasetError
from .grids import GridSpec
from .halos import GalaxyRecipe, OccupationModel
from .initial_conditions import linear_field
from .parameters import COSMOLOGICAL, ParameterSpace
from .preparation_plan import Plan, Row, Split, plan_training_set
from .run_parts import (
    Part,
    check_part,
    file_prints,
    read_part,
    write_part,
)
from .snapshots import Snapshot, read_snapshot
from .targets import (
    TARGETS,
    check_targets,
    linear_field_of,
    snapshot_fields,
)
from .torch_threads import one_thread
from .training_data import Description
from .worker_processes import in_processes, refuse_while_importing

__all__ = ["PreparationConfig", "prepare"]

# Headers and tables round their numbers, boxes even less.
_AGREEMENT = 1e-3
_BOX_AGREEMENT = 1e-6


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
    base_linking_length, base_min_members
        Of the halos of the base, whose galaxies are its second channel if there are
        more fields than matter; with a linking length of 0 it has none. At 0.25 the
        base of 64^3 particles in 50 Mpc/h has nearest the galaxies of the simulations
        of 128^3.

    Raises
    ------
    UnknownFieldError
        A field is not made from snapshots.
    DatasetError
        A number is not possible.
    """

    fields: tuple[str, ...] = ("matter", "galaxies")
    n_cells: int = 64
    base_steps: int = 20
    base_mesh_factor: int = 1
    base_start_redshift: float = 9.0
    occupation: OccupationModel = field(default_factory=OccupationModel)
    linking_length: float = 0.2
    min_members: int = 20
    base_linking_length: float = 0.25
    base_min_members: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        check_targets(self.fields)
        least = {"n_cells": 4, "base_steps": 1, "base_mesh_factor": 1}
        least |= {"min_members": 1, "base_min_members": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value != int(value) or value < low:
                raise DatasetError(
                    f"{name} must be a whole number of at least {low}, got {value}"
                )
        length = self.base_linking_length
        if not 0 <= length < math.inf:
            raise DatasetError(
                "base_linking_length must be positive, in units of the mean separation "
                f"of particles, or 0 for a base without halos, got {length}"
            )

    def settings(self) -> dict[str, Any]:
        """The configuration as values that JSON can hold."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Undo `settings`; names that are not known are left out."""
        known = {name: settings[name] for name in vars(cls()) if name in settings}
        if "occupation" in known:
            known["occupation"] = OccupationModel(**known["occupation"])
        return cls(**known)

    @property
    def galaxies(self) -> GalaxyRecipe:
        """How galaxies are put into a snapshot."""
        return GalaxyRecipe(self.occupation, self.linking_length, self.min_members)

    @property
    def base(self) -> BaseSettings:
        """How the base is made."""
        recipe = None
        if set(self.fields) > {"matter"} and self.base_linking_length > 0:
            recipe = GalaxyRecipe(
                self.occupation, self.base_linking_length, self.base_min_members
            )
        return BaseSettings(
            n_steps=self.base_steps,
            mesh_factor=self.base_mesh_factor,
            start_redshift=self.base_start_redshift,
            galaxies=recipe,
        )


def _cosmology(parameters: Mapping[str, float]) -> dict[str, float]:
    """What a linear field is drawn from."""
    if missing := [name for name in COSMOLOGICAL if name not in parameters]:
        raise DatasetError(
            f"without initial conditions a base is drawn, which needs {missing[0]}; "
            "add that column to the suite"
        )
    return {name: parameters[name] for name in COSMOLOGICAL}


def _seed_of(run: str) -> int:
    """A seed for the phases of a run whose own are not known."""
    return int.from_bytes(hashlib.sha256(run.encode()).digest()[:7], "big")


def _make_part(
    rows: Sequence[Row], parameters: Mapping[str, float], config: PreparationConfig
) -> Part:
    """Make the samples of one run."""
    start_file = str(rows[0]["initial_conditions"])
    redshifts = [float(row["redshift"]) for row in rows]
    snapshots = [read_snapshot(row["file"]) for row in rows]
    box_size = snapshots[0].box_size
    for snapshot, redshift in zip(snapshots, redshifts, strict=True):
        _check_header(snapshot, parameters, redshift, box_size)
    with torch.no_grad():
        if start_file:
            start = read_snapshot(start_file)
            _check_header(start, parameters, None, box_size)
            delta = linear_field_of(start, parameters["omega_m"], config.n_cells)
        else:
            delta = linear_field(
                _cosmology(parameters),
                n_cells=config.n_cells,
                box_size=box_size,
                seed=_seed_of(str(rows[0]["run"])),
            )
        bases = [
            base_fields(
                delta,
                parameters,
                box_size=box_size,
                redshift=z,
                settings=config.base,
            ).numpy()
            for z in redshifts
        ]
    grid = GridSpec(config.n_cells, box_size)
    targets = [
        snapshot_fields(s, grid, config.fields, config.galaxies) for s in snapshots
    ]
    return Part(
        box_size,
        dict(parameters),
        np.array(redshifts),
        np.stack(targets),
        np.stack(bases),
    )


def _check_header(
    snapshot: Snapshot,
    parameters: Mapping[str, float],
    redshift: float | None,
    box_size: float,
) -> None:
    """Refuse a snapshot that is not the one that the suite says."""
    pairs = {
        name: (value, parameters[name])
        for name, value in snapshot.cosmology.items()
        # Runs of dark matter alone often say 0 for the baryons.
        if name in parameters and (value or name != "omega_b")
    }
    for name, (header, table) in pairs.items():
        if abs(header - table) > _AGREEMENT * abs(table):
            raise DatasetError(
                f"{snapshot.path} has {name} = {header:g} in its header, but the suite "
                f"says {table:g}; do the two belong together?"
            )
    if redshift is not None and (
        abs(snapshot.redshift - redshift) > _AGREEMENT * (1 + redshift)
    ):
        raise DatasetError(
            f"{snapshot.path} has redshift {snapshot.redshift:g} in its header, but "
            f"the suite says {redshift:g}; do the two belong together?"
        )
    if abs(snapshot.box_size / box_size - 1) > _BOX_AGREEMENT:
        raise DatasetError(
            f"{snapshot.path} has a box of {snapshot.box_size:g} Mpc/h, others of its "
            f"run one of {box_size:g}; do they belong together?"
        )


def _prepare_run(
    rows: Sequence[Row],
    parameters: Mapping[str, float],
    config: PreparationConfig,
    path: Path,
) -> None:
    """Make the part of one run, unless it is there; the body of a worker process."""
    try:
        files = [row["file"] for row in rows] + [rows[0]["initial_conditions"]]
        made_of = {
            **config.settings(),
            "package": version("astrogan-emu"),
            "parameters": dict(parameters),
            "redshifts": [float(row["redshift"]) for row in rows],
            "files": file_prints(file for file in files if file),
        }
        if path.is_file():
            check_part(path, made_of)
        else:
            with one_thread():
                part = _make_part(rows, parameters, config)
            write_part(path, part, made_of)
    except AstroganError as error:
        raise DatasetError(
            f"run {rows[0]['run']} cannot be prepared: {error}"
        ) from error


def prepare(
    suite: str | os.PathLike[str] | Table,
    output: str | os.PathLike[str],
    *,
    config: PreparationConfig | None = None,
    space: ParameterSpace | None = None,
    split: Split | None = None,
    split_seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> Path:
    """Make a training set from a suite of simulations.

    Finished runs are kept in a folder beside the output until all are done: started
    again after an interruption, it goes on and ends with the same bytes, whatever the
    number of workers.

    Parameters
    ----------
    suite
        ``suite.ecsv``, the folder that holds it, or such a table; see `read_suite`. If
        no run has initial conditions, the set is not paired: bases are drawn with the
        parameters of their runs, and with phases that the runs' names decide.
    output
        HDF5 file to write. One that is there and was made from the same suite in the
        same way is left as it is.
    config
        Fields, grid and base.
    space
        Parameters and ranges; by default that of the default suite if the runs lie in
        it and cover most of it, else the ranges that the runs cover, with a default
        for what all runs have in common.
    split
        What the sets of the suite are for, such as ``{"CV": "test"}`` (others are for
        training), or the fractions of runs for training, validation and test. By
        default sets named ``val`` and ``test`` are for that, and without them eight,
        one and one tenth of the runs are. Runs of one seed stay together.
    split_seed
        Draws the runs, where fractions are given.
    workers
        Runs at a time, each in a process of its own; as many as cores if not given.
    overwrite
        Whether an output that was made otherwise may be replaced.
    dry_run
        Check the suite and all headers, and do nothing.
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
    ParameterRangeError
        If a run lies outside the given space.
    DatasetError
        If a snapshot cannot be read or is not what the suite says, the runs do not fit
        one another, or another preparation is in the way.
    BatchError
        If a process is lost, or a script that calls this has no
        ``if __name__ == "__main__":``.
    """
    config = config or PreparationConfig()
    plan = plan_training_set(suite, space=space, split=split, split_seed=split_seed)
    output = Path(output)
    if not output.absolute().parent.is_dir():
        raise DatasetError(f"the folder of {output} does not exist; make it first")
    if dry_run:
        _check_suite(plan)
        return output
    parts = output.with_name(output.name + ".parts")
    if output.exists() and not overwrite:
        _check_same(output, plan, config)
        shutil.rmtree(parts, ignore_errors=True)
        return output
    parts.mkdir(exist_ok=True)
    paths = {run: parts / f"{run}.h5" for run in plan.rows}
    _make_parts(plan, config, paths, workers, progress)
    _assemble(output, plan, config, paths)
    shutil.rmtree(parts)
    return output


def _check_suite(plan: Plan) -> None:
    """Open every snapshot, and hold its header to the suite."""
    box_size = 0.0
    for run, rows in plan.rows.items():
        parameters = plan.parameters(run)
        snapshots = [(read_snapshot(r["file"]), float(r["redshift"])) for r in rows]
        own = snapshots[0][0].box_size
        box_size = box_size or own
        _check_box(run, own, box_size)
        for snapshot, redshift in snapshots:
            _check_header(snapshot, parameters, redshift, own)
        if plan.paired:
            start = read_snapshot(rows[0]["initial_conditions"])
            _check_header(start, parameters, None, own)


def _check_box(run: str, size: float, box_size: float) -> None:
    if abs(size / box_size - 1) > _BOX_AGREEMENT:
        raise DatasetError(
            f"run {run} has a box of {size:g} Mpc/h, and runs before it one of "
            f"{box_size:g}, so their cells differ; prepare them separately"
        )


def _provenance(plan: Plan, config: PreparationConfig) -> dict[str, Any]:
    return {
        "package": version("astrogan-emu"),
        **plan.provenance,
        "settings": config.settings(),
    }


def _check_same(output: Path, plan: Plan, config: PreparationConfig) -> None:
    """Refuse to pass off a training set for another one."""
    with TrainingSet.open(output) as known:
        splits = dict(zip(known.runs.tolist(), known.splits.tolist(), strict=True))
        found = {**known.provenance, "split": splits, "space": known.space}
    wanted = {**_provenance(plan, config), "split": plan.splits, "space": plan.space}
    for name, value in wanted.items():
        if found.get(name) != value:
            raise DatasetError(
                f"{output} exists and was prepared with other {name}; pass "
                "overwrite=True to replace it, or give another output"
            )


def _make_parts(
    plan: Plan,
    config: PreparationConfig,
    paths: Mapping[str, Path],
    workers: int | None,
    progress: bool,
) -> None:
    """Make the parts that are not there yet, and check the others."""
    refuse_while_importing()
    tasks = {
        run: (plan.rows[run], plan.parameters(run), config, paths[run])
        for run in plan.rows
    }
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    with tqdm(
        total=len(tasks), desc="prepare", unit="run", disable=not progress
    ) as bar:
        if workers == 1:
            for task in tasks.values():
                _prepare_run(*task)
                bar.update()
            return
        in_processes(_prepare_run, tasks.values(), workers, bar.update)


def _assemble(
    output: Path, plan: Plan, config: PreparationConfig, paths: Mapping[str, Path]
) -> None:
    """Join the parts of all runs into one file."""
    box_size = read_part(next(iter(paths.values()))).box_size
    description = Description(
        fields=config.fields,
        units={name: TARGETS[name].unit for name in config.fields},
        space=plan.space,
        n_cells=config.n_cells,
        cell_size=box_size / config.n_cells,
        base_settings=config.base.to_dict(),
        provenance=_provenance(plan, config),
        paired=plan.paired,
    )

    def samples() -> Iterator[RunSamples]:
        for run, path in paths.items():
            part = read_part(path)
            _check_box(run, part.box_size, box_size)
            yield part.samples(run, plan.splits[run], plan.space.names)

    write_training_set(output, description, samples())
