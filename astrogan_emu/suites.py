"""Suites of simulations: one table row per snapshot, with its parameters.

A suite is an ECSV table, usually ``suite.ecsv``. `simulate` writes one for its own
runs; for folders of the public CAMELS and Quijote data, `camels_suite` and
`quijote_suite` make one. A table is checked when it is read: columns, values, files.
The snapshots themselves are read by `snapshots`.

==================  ==========================================================
column              meaning
==================  ==========================================================
run                 name of the run
redshift            redshift of the snapshot
file                the snapshot, relative to the folder of the table
initial_conditions  snapshot of the run's initial conditions, or empty
omega_m to sigma_8  the cosmological parameters of the run, all five
``a_...``           astrophysical parameters
others              kept as they are (seed, box_size, ...)
==================  ==========================================================
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from ._files import atomic_path
from .errors import SuiteError
from .headers import Header, read_header
from .parameter_files import camels_parameters, quijote_parameters
from .parameters import COSMOLOGICAL

__all__ = [
    "camels_suite",
    "quijote_suite",
    "read_suite",
    "suite_parameters",
    "write_suite",
]

_NUMBERS = ("redshift", *COSMOLOGICAL)
_PATHS = ("file", "initial_conditions")
_POSITIVE = ("omega_m", "omega_b", "h", "sigma_8")

# What public suites call their outputs: CAMELS now and before 2024, Quijote.
_OUTPUT = re.compile(r"(?:snapshot|snap)_(\d+)(?:\.0)?\.hdf5|snapdir_(\d+)")
_INITIAL_CONDITIONS = (
    "ICs/ics.hdf5",
    "ICs/ics.0.hdf5",
    "ics.hdf5",
    "ICs/ics",
    "ICs/ics.0",
)
_DARK_MATTER = 1
_HEADER_AGREEMENT = 1e-3
_REDSHIFT_DIGITS = 6  # headers hold 2.0000000300000003 for 2


def read_suite(path: str | os.PathLike[str]) -> Table:
    """Read a suite and check that it holds what it promises.

    Parameters
    ----------
    path
        The table, or the folder that holds it as ``suite.ecsv``.

    Returns
    -------
    suite
        The table with absolute paths; a run without initial conditions has an empty
        string for them.

    Raises
    ------
    SuiteError
        The table cannot be read, lacks a column, has a value that is missing or
        makes no sense, names a file that is not there, lists a snapshot twice, or
        gives one run two sets of parameters.
    """
    file = Path(path)
    file = file / "suite.ecsv" if file.is_dir() else file
    if not file.is_file():
        raise SuiteError(f"{file} does not exist; give a table of simulations")
    try:
        table = Table.read(file, format="ascii.ecsv")
    except Exception as error:  # astropy's readers raise whatever they meet
        reason = " ".join(str(error).split())
        raise SuiteError(f"cannot read {file} as an ECSV table: {reason}") from error
    return _checked(table, str(file), file.absolute().parent)


def write_suite(
    suite: Table, path: str | os.PathLike[str], *, overwrite: bool = True
) -> None:
    """Write a suite, with paths relative to its folder where they lie below it.

    Parameters
    ----------
    suite
        A table as `read_suite` returns it.
    path
        The file to write, usually ``suite.ecsv``.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    SuiteError
        The table is not a suite, by the checks of `read_suite`.
    FileError
        The file exists and `overwrite` is false, or cannot be written.
    """
    folder = Path(path).absolute().parent
    table = _checked(suite, os.fspath(path), folder)
    for name in _PATHS:
        table[name] = [_relative(text, folder) for text in table[name]]
    with atomic_path(path, overwrite) as partial:
        table.write(partial, format="ascii.ecsv")


def suite_parameters(suite: Table) -> tuple[str, ...]:
    """List the columns of a suite that are parameters.

    Parameters
    ----------
    suite
        The table.

    Returns
    -------
    names
        What ``suite.meta["parameters"]`` lists; without that, the cosmological
        parameters and then the columns whose names begin with ``a_``.
    """
    astrophysical = [name for name in suite.colnames if name.startswith("a_")]
    listed = suite.meta.get("parameters", [*COSMOLOGICAL, *astrophysical])
    return tuple(str(name) for name in listed)


def camels_suite(
    folder: str | os.PathLike[str],
    parameter_file: str | os.PathLike[str],
    *,
    redshifts: Sequence[float] | None = None,
) -> Table:
    """Make the table of a CAMELS folder.

    Parameters
    ----------
    folder
        The folder of one suite and set, with runs ``LH_0``, ``LH_1``, ... that hold
        ``snapshot_090.hdf5`` (or ``snap_033.hdf5``) and, for paired training,
        ``ICs/ics.hdf5`` (or ``ICs/ics.0.hdf5``). Runs that the parameter file does not
        list are left out.
    parameter_file
        The set's ``CosmoAstroSeed_*.txt``, or ``params_LH_*.txt`` of the Multifield
        Dataset.
    redshifts
        Take the snapshots nearest to these, instead of all.

    Returns
    -------
    suite
        The table, for `write_suite`. Astrophysical parameters are left out where the
        runs hold dark matter alone.

    Raises
    ------
    SuiteError
        The parameter file cannot be trusted, no run is there, a run lacks a
        redshift, or a snapshot's header contradicts the parameters of its run.
    SnapshotError
        The header of a snapshot cannot be read.
    """
    return _suite_of(
        folder, camels_parameters(parameter_file), parameter_file, redshifts
    )


def quijote_suite(
    folder: str | os.PathLike[str],
    parameter_file: str | os.PathLike[str],
    *,
    redshifts: Sequence[float] | None = None,
) -> Table:
    """Make the table of a Quijote folder.

    Parameters
    ----------
    folder
        The folder of one set, with runs ``0``, ``1``, ... that hold
        ``snapdir_004/snap_004.0.hdf5`` (or ``snapdir_004/snap_004.hdf5``) and, for
        paired training, ``ICs/ics.0.hdf5``.
    parameter_file
        The set's parameters, such as ``latin_hypercube_params.txt``.
    redshifts
        Take the snapshots nearest to these, instead of all.

    Returns
    -------
    suite
        The table, for `write_suite`.

    Raises
    ------
    SuiteError
        The parameter file cannot be trusted, no run is there, a run lacks a
        redshift, or a snapshot's header contradicts the parameters of its run.
    SnapshotError
        The header of a snapshot cannot be read.
    """
    return _suite_of(
        folder, quijote_parameters(parameter_file), parameter_file, redshifts
    )


def _suite_of(
    folder: str | os.PathLike[str],
    parameters: Mapping[str, Mapping[str, float]],
    parameter_file: str | os.PathLike[str],
    redshifts: Sequence[float] | None,
) -> Table:
    """Make the table of the runs that lie in a folder."""
    place = Path(folder).absolute()
    runs = {run: place / run for run in parameters if (place / run).is_dir()}
    if not runs:
        raise SuiteError(
            f"{place} holds none of the runs of {os.fspath(parameter_file)}, such as "
            f"{next(iter(parameters))}; give the folder that the runs lie in"
        )
    rows: list[dict[str, Any]] = []
    hydro = False
    for run, run_folder in runs.items():
        outputs = _outputs(run_folder)
        for redshift in _chosen(outputs, redshifts, run_folder):
            header = outputs[redshift]
            _check_header(header, run, parameters[run])
            hydro |= any(header.totals[:_DARK_MATTER])
            place_of = {"file": header.path, "initial_conditions": _ics(run_folder)}
            rows.append({"run": run, "redshift": redshift, **place_of})
    names = _varying(parameters, runs, hydro)
    columns = {key: [row[key] for row in rows] for key in ("run", "redshift")}
    columns |= {key: [str(row[key] or "") for row in rows] for key in _PATHS}
    for name in names:
        kind = int if name == "seed" else float
        columns[name] = [kind(parameters[row["run"]][name]) for row in rows]
    listed = [name for name in names if name != "seed"]
    return _checked(
        Table(columns, meta={"parameters": listed}), f"the table of {place}", place
    )


def _varying(
    parameters: Mapping[str, Mapping[str, float]], runs: Mapping[str, Path], hydro: bool
) -> list[str]:
    """Choose the columns: cosmology, astrophysics, seed, and others that vary."""
    every = list(next(iter(parameters.values())))
    astrophysical = [name for name in every if name.startswith("a_") and hydro]
    others = [
        name
        for name in every
        if not name.startswith("a_")
        and name not in COSMOLOGICAL
        and name != "seed"
        and hydro
        and len({parameters[run][name] for run in runs}) > 1
    ]
    seed = [name for name in every if name == "seed"]
    return [*COSMOLOGICAL, *astrophysical, *others, *seed]


def _outputs(folder: Path) -> dict[float, Header]:
    """Read the headers of all outputs of a run, by redshift, earliest first."""
    found: dict[float, Header] = {}
    for entry in sorted(folder.iterdir()):
        if _OUTPUT.fullmatch(entry.name):
            header = read_header(entry)
            redshift = round(header.redshift, _REDSHIFT_DIGITS)
            if redshift in found:
                raise SuiteError(
                    f"{header.path} and {found[redshift].path} are two snapshots of "
                    f"one run at redshift {redshift:g}; remove one of them"
                )
            found[redshift] = header
    if not found:
        raise SuiteError(
            f"{folder} holds no snapshot; they are named snapshot_090.hdf5, "
            "snap_033.hdf5 or snapdir_004"
        )
    return dict(sorted(found.items(), reverse=True))


def _chosen(
    outputs: Mapping[float, Header], redshifts: Sequence[float] | None, folder: Path
) -> list[float]:
    if redshifts is None:
        return list(outputs)
    chosen = []
    for redshift in redshifts:
        nearest = min(outputs, key=lambda output: abs(output - redshift))
        if abs(nearest - redshift) > 0.01 * (1 + redshift):
            raise SuiteError(
                f"{folder} has no snapshot at redshift {redshift:g}; it has "
                f"{', '.join(f'{output:g}' for output in outputs)}"
            )
        chosen.append(nearest)
    return list(dict.fromkeys(chosen))


def _check_header(header: Header, run: str, parameters: Mapping[str, float]) -> None:
    """Refuse parameters of another suite: the header knows some of them."""
    known = {"omega_m": header.omega_m, "h": header.h}
    # Runs of dark matter alone often say 0, or nothing.
    if header.omega_b:
        known["omega_b"] = header.omega_b
    for name, value in known.items():
        if not math.isclose(value, parameters[name], rel_tol=_HEADER_AGREEMENT):
            raise SuiteError(
                f"{name} of the run {run} is {parameters[name]:g} in the parameter "
                f"file but {value:g} in {header.path}; do the two belong together?"
            )


def _ics(folder: Path) -> Path | None:
    found = (folder / name for name in _INITIAL_CONDITIONS)
    return next((file for file in found if file.is_file()), None)


def _checked(suite: Table, name: str, folder: Path) -> Table:
    """Return a copy of a suite with absolute paths, after looking at all of it."""
    table = Table(suite, copy=True)
    numbers = tuple(dict.fromkeys((*_NUMBERS, *suite_parameters(table))))
    needed = ("run", *_PATHS, *numbers)
    if missing := [column for column in needed if column not in table.colnames]:
        raise SuiteError(
            f"{name} has no column {', '.join(missing)}; a suite needs "
            f"{', '.join(needed)}"
        )
    if len(table) == 0:
        raise SuiteError(f"{name} has no rows")
    for column in numbers:
        table[column] = _numbers(table, column, name)
    for column in ("run", *_PATHS):
        table[column] = _texts(table, column, name)
    for column in _PATHS:
        table[column] = _found_files(table, column, name, folder)
    _check_repeats(table, name)
    _check_runs(table, name)
    return table


def _numbers(table: Table, column: str, name: str) -> list[float]:
    values = []
    for number, value in enumerate(table[column], start=1):
        try:
            # A masked number becomes NaN.
            value = float(np.ma.filled(np.ma.asarray(value, float), np.nan))
        except (TypeError, ValueError):
            value = math.nan
        sane = math.isfinite(value)
        sane &= value > 0 or column not in _POSITIVE
        sane &= value >= 0 or column != "redshift"
        if not sane:
            raise SuiteError(
                f"{column} in row {number} of {name} is {table[column][number - 1]}; "
                "it must be a number, finite and in a physical range"
            )
        values.append(value)
    return values


def _texts(table: Table, column: str, name: str) -> list[str]:
    texts = [
        "" if np.ma.is_masked(value) else str(value).strip() for value in table[column]
    ]
    if column != "initial_conditions" and "" in texts:
        raise SuiteError(f"{column} in row {texts.index('') + 1} of {name} is empty")
    return texts


def _found_files(table: Table, column: str, name: str, folder: Path) -> list[str]:
    paths = [str(folder / text) if text else "" for text in table[column]]
    absent = [row for row, path in enumerate(paths) if path and not Path(path).exists()]
    if absent:
        raise SuiteError(
            f"{column} in row {absent[0] + 1} of {name} is not there: "
            f"{paths[absent[0]]} ({len(absent)} of {len(paths)} rows name such a file)"
        )
    return paths


def _check_repeats(table: Table, name: str) -> None:
    seen: dict[Any, int] = {}
    for number, row in enumerate(table, start=1):
        snapshot = (row["run"], round(row["redshift"], _REDSHIFT_DIGITS))
        for key in (snapshot, row["file"]):
            if key in seen:
                raise SuiteError(
                    f"rows {seen[key]} and {number} of {name} are the same snapshot: "
                    f"{key}"
                )
            seen[key] = number


def _check_runs(table: Table, name: str) -> None:
    """Check that the rows of one run agree on what belongs to the run."""
    first: dict[str, int] = {}
    for index, run in enumerate(table["run"]):
        start = first.setdefault(str(run), index)
        for column in (*suite_parameters(table), "initial_conditions"):
            if table[column][index] != table[column][start]:
                raise SuiteError(
                    f"rows {start + 1} and {index + 1} of {name} are of the run {run} "
                    f"but have different {column}: {table[column][start]} and "
                    f"{table[column][index]}"
                )


def _relative(text: str, folder: Path) -> str:
    path = Path(text)
    inside = text and path.is_relative_to(folder)
    return path.relative_to(folder).as_posix() if inside else text
