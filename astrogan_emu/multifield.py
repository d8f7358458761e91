"""Training sets from the maps and grids of the CAMELS Multifield Dataset.

Its files hold fields that are ready made, without the initial conditions of their
simulations: the base of each is drawn at the same parameters, with other phases, and
the training set is not paired. Files are read memory-mapped, one simulation at a time.
Formats: Villaescusa-Navarro et al. (2022, ApJS 259, 61).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray
from tqdm import tqdm

from ._files import sha256_of
from .bases import base_fields
from .dataset import RunSamples, TrainingSet, write_training_set
from .errors import DatasetError
from .initial_conditions import linear_field
from .parameter_files import camels_parameters
from .parameters import COSMOLOGICAL
from .preparation import PreparationConfig
from .preparation_plan import draw_splits, range_of_suite
from .run_parts import Part, check_part, read_part, write_part
from .torch_threads import one_thread
from .training_data import Description

__all__ = ["is_multifield", "prepare_multifield", "slab_means"]

BOX_SIZE = 25.0
"""Of every simulation [Mpc/h]."""

_FILE = re.compile(
    r"(?P<kind>Maps|Grids)_(?P<prefix>[A-Za-z]+)_(?P<suite>\w+?)_(?P<set>LH|CV|EX)"
    r"(_(?P<cells>\d+))?_z=(?P<redshift>\d+(\.\d+)?)\.npy"
)
# Our name, and the unit in grids and in maps.
_FIELDS = {
    "Mtot": ("matter", "", ""),
    "Mgas": ("gas_density", "littleh2 solMass / Mpc3", "littleh solMass / Mpc2"),
    "Mstar": ("stellar_density", "littleh2 solMass / Mpc3", "littleh solMass / Mpc2"),
    "T": ("gas_temperature", "K", "K"),
}


@dataclass(frozen=True)
class _File:
    """One file of the data set: one field of all simulations of a set."""

    path: Path
    prefix: str
    kind: str
    suite: str
    set_name: str
    redshift: float

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> _File:
        path = Path(path)
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise DatasetError(
                f"{path.name} is not named like a file of the Multifield Dataset, "
                "such as Maps_Mtot_IllustrisTNG_LH_z=0.00.npy"
            )
        if match["prefix"] not in _FIELDS:
            raise DatasetError(
                f"{path.name} holds {match['prefix']}; the fields known here are "
                f"{', '.join(_FIELDS)}"
            )
        return cls(
            path,
            match["prefix"],
            match["kind"],
            match["suite"],
            match["set"],
            float(match["redshift"]),
        )

    @property
    def n_dim(self) -> int:
        return 2 if self.kind == "Maps" else 3

    def open(self) -> NDArray[np.float32]:
        """The array on disk, memory-mapped; nothing is unpickled."""
        try:
            values = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DatasetError(
                f"{self.path} is not a complete NumPy file: {error}"
            ) from error
        side = values.shape[1:]
        if values.dtype.kind != "f" or len(side) != self.n_dim or len(set(side)) != 1:
            raise DatasetError(
                f"{self.path} holds {values.dtype} of shape {values.shape}; "
                f"{self.kind} are floats of shape (number, n{', n' * (self.n_dim - 1)})"
            )
        return values


def is_multifield(path: str | os.PathLike[str]) -> bool:
    """Whether a file is NumPy's, as those of the Multifield Dataset are."""
    return Path(path).suffix == ".npy"


def slab_means(cube: NDArray[Any], n_slabs: int) -> NDArray[Any]:
    """Mean of each of several slabs along each axis; they cover the cube.

    Parameters
    ----------
    cube
        Shape ``(n, n, n)``.
    n_slabs
        Slabs along one axis; their faces may lie inside of cells.

    Returns
    -------
    ndarray
        Shape ``(3 n_slabs, n, n)``, those across the first axis first.
    """
    n = cube.shape[0]
    # Overlap of slab and cell along the line of sight, in cells.
    edges = np.arange(n_slabs + 1) * n / n_slabs
    cells = np.arange(n)
    upper = np.minimum(edges[1:, None], cells + 1)
    lower = np.maximum(edges[:-1, None], cells)
    weights = np.clip(upper - lower, 0, None) * n_slabs / n
    return np.concatenate(
        [np.tensordot(weights, np.moveaxis(cube, axis, 0), 1) for axis in range(3)]
    )


def _coarse(values: NDArray[Any], n_cells: int) -> NDArray[np.float64]:
    """Means over blocks, of all axes but the first."""
    factor = values.shape[1] // n_cells
    result = np.asarray(values, np.float64)
    for axis in range(1, values.ndim):
        shape = result.shape
        parts = (*shape[:axis], n_cells, factor, *shape[axis + 1 :])
        result = result.reshape(parts).mean(axis + 1)
    return result


def _checked(
    files: Sequence[str | os.PathLike[str]], n_runs: int, n_cells: int
) -> tuple[list[_File], int]:
    """The files, which must belong together, and the samples of each simulation."""
    opened = [_File.of(path) for path in files]
    first = opened[0]
    for each in opened[1:]:
        for name in ("kind", "suite", "set_name", "redshift"):
            if getattr(each, name) != getattr(first, name):
                raise DatasetError(
                    f"{each.path.name} and {first.path.name} do not belong together: "
                    f"their {name.removesuffix('_name')} differs"
                )
    if len({each.prefix for each in opened}) < len(opened):
        raise DatasetError("a field is given twice; give one file for each field")
    shapes = {each.open().shape for each in opened}
    if len(shapes) > 1:
        raise DatasetError(f"the files have different shapes: {sorted(shapes)}")
    count, side = shapes.pop()[:2]
    if count % n_runs or count == 0:
        raise DatasetError(
            f"{first.path} holds {count} samples, which {n_runs} simulations cannot "
            "share evenly; give the parameter file of the same set"
        )
    per_run = count // n_runs
    if first.n_dim == 2 and per_run % 3:
        raise DatasetError(
            f"{first.path} holds {per_run} maps of each simulation; the same number "
            "along each of three axes is expected, such as 15"
        )
    if first.n_dim == 3 and per_run != 1:
        raise DatasetError(
            f"{first.path} holds {per_run} grids of each simulation, not one"
        )
    if n_cells < 2 or side % n_cells:
        raise DatasetError(
            f"n_cells = {n_cells} does not divide the {side} cells of {first.path}"
        )
    return opened, per_run


def _make_part(
    files: Sequence[_File],
    index: int,
    per_run: int,
    parameters: Mapping[str, float],
    config: PreparationConfig,
) -> Part:
    """The samples of one simulation, over bases of other phases."""
    own = slice(index * per_run, (index + 1) * per_run)
    targets = []
    for file in files:
        values = _coarse(file.open()[own], config.n_cells)
        if not np.isfinite(values).all():
            raise DatasetError(
                f"samples {own.start} to {own.stop - 1} of {file.path} hold values "
                "that are not finite"
            )
        # Slabs along an axis cover the box: their mean is that of the universe.
        targets.append(values / values.mean() if file.prefix == "Mtot" else values)
    cosmology = {name: parameters[name] for name in COSMOLOGICAL}
    with torch.no_grad():
        delta = linear_field(
            cosmology, n_cells=config.n_cells, box_size=BOX_SIZE, seed=index
        )
        (cube,) = base_fields(
            delta,
            cosmology,
            box_size=BOX_SIZE,
            redshift=files[0].redshift,
            settings=config.base,
        ).numpy()
    if files[0].n_dim == 3:
        base = cube[None]
    else:
        base = slab_means(cube, per_run // 3).astype(np.float32)
    return Part(
        BOX_SIZE,
        dict(parameters),
        np.full(per_run, files[0].redshift),
        np.stack(targets, 1).astype(np.float32),
        base[:, None],
    )


def prepare_multifield(
    files: Sequence[str | os.PathLike[str]],
    parameter_file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    n_cells: int = 64,
    base_steps: int = 20,
    split: Sequence[float] = (0.8, 0.1, 0.1),
    split_seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Make a training set from files of the CAMELS Multifield Dataset.

    Simulations that are done are kept beside the output until all are: started again
    after an interruption, it goes on and ends with the same bytes.

    Parameters
    ----------
    files
        One ``Maps_*.npy`` or ``Grids_*.npy`` for each field, of one suite, set and
        redshift.
    parameter_file
        The set's ``params_<set>_<suite>.txt`` or ``CosmoAstroSeed_*.txt``.
    output
        HDF5 file to write.
    n_cells
        Cells along one side; a divisor of those in the files, which are averaged.
    base_steps
        Particle-mesh steps of the bases, which have n_cells^3 particles.
    split
        Fractions of simulations for training, validation and test.
    split_seed
        Draws the simulations.
    overwrite
        Whether an existing output may be replaced.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        The output.

    Raises
    ------
    SuiteError
        If the parameter file cannot be trusted.
    DatasetError
        If the files are not of the data set, do not belong together, or hold values
        that are not finite; if the output exists.
    """
    output = Path(output)
    if not output.absolute().parent.is_dir():
        raise DatasetError(f"the folder of {output} does not exist; make it first")
    if output.exists() and not overwrite:
        raise DatasetError(f"{output} exists; pass overwrite=True to replace it")
    if not files:
        raise DatasetError("give at least one Maps_*.npy or Grids_*.npy")
    table = camels_parameters(parameter_file)
    chosen, per_run = _checked(files, len(table), n_cells)
    first = chosen[0]
    fields = tuple(_FIELDS[each.prefix][0] for each in chosen)
    config = PreparationConfig(fields, n_cells, base_steps, base_linking_length=0)
    names = [
        name
        for name in next(iter(table.values()))
        if name in COSMOLOGICAL
        or (name.startswith("a_") and not first.suite.startswith("Nbody"))
    ]
    columns = Table({name: [row[name] for row in table.values()] for name in names})
    splits = draw_splits({run: [{}] for run in table}, split, split_seed)
    settings = {
        "package": version("astrogan-emu"),
        "files": {each.path.name: sha256_of(each.path) for each in chosen},
        "n_cells": n_cells,
        "base_steps": base_steps,
    }
    parts = output.with_name(output.name + ".parts")
    parts.mkdir(exist_ok=True)
    for index, (run, row) in enumerate(
        tqdm(table.items(), desc="prepare", unit="run", disable=not progress)
    ):
        parameters = {name: row[name] for name in names}
        made_of = {**settings, "parameters": parameters}
        path = parts / f"{run}.h5"
        if path.is_file():
            check_part(path, made_of)
        else:
            with one_thread():
                part = _make_part(chosen, index, per_run, parameters, config)
            write_part(path, part, made_of)
    base_settings = config.base.to_dict()
    if first.n_dim == 2:
        base_settings["depth"] = BOX_SIZE * 3 / per_run
    description = Description(
        fields=fields,
        units={
            name: units[3 - first.n_dim]
            for name, *units in (_FIELDS[each.prefix] for each in chosen)
        },
        space=range_of_suite(columns, names),
        n_cells=n_cells,
        cell_size=BOX_SIZE / n_cells,
        base_settings=base_settings,
        provenance={"code": f"CAMELS {first.suite}", "settings": settings},
        n_dim=first.n_dim,
        paired=False,
    )

    def samples() -> Iterator[RunSamples]:
        for run in table:
            part = read_part(parts / f"{run}.h5")
            yield part.samples(run, splits[run], description.space.names)

    write_training_set(output, description, samples())
    shutil.rmtree(parts)
    with TrainingSet.open(output):
        return output
