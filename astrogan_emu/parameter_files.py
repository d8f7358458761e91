"""Parameter files of the public CAMELS and Quijote simulations.

The order of columns differs between these files, one public copy of them carries a
wrong header, and some have none. Each function gives the parameters of every run
under the names of this package, or says why the file cannot be trusted. Which
snapshots exist is the business of `suites`.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import SuiteError
from .parameters import COSMOLOGICAL

__all__ = ["camels_parameters", "quijote_parameters"]

# The same in every CAMELS run of the LH, CV and EX sets (Villaescusa-Navarro et al.
# 2021, ApJ 915, 71, section 2); files of other sets have columns for them.
_CAMELS_FIXED = {"omega_b": 0.049, "h": 0.6711, "n_s": 0.9624}

_NAMES = {
    "Omega_m": "omega_m",
    "Omega0": "omega_m",
    "Omega_b": "omega_b",
    "OmegaBaryon": "omega_b",
    "h": "h",
    "HubbleParam": "h",
    "n_s": "n_s",
    "sigma_8": "sigma_8",
    "sigma8": "sigma_8",
    "A_SN1": "a_sn1",
    "A_SN2": "a_sn2",
    "A_AGN1": "a_agn1",
    "A_AGN2": "a_agn2",
    "seed": "seed",
}
# Newer files give the values of the code's own parameters; these are the values at
# which the multipliers A of the older ones are 1.
_FIDUCIAL = {
    "WindEnergyIn1e51erg": ("a_sn1", 3.6),
    "VariableWindVelFactor": ("a_sn2", 7.4),
    "RadioFeedbackFactor": ("a_agn1", 1.0),
    "RadioFeedbackReiorientationFactor": ("a_agn2", 20.0),
}
# The order of the Multifield Dataset's files without a header.
_MULTIFIELD = ("Omega_m", "sigma8", "A_SN1", "A_AGN1", "A_SN2", "A_AGN2")
_MULTIFIELD_FILE = re.compile(r"params_(LH|CV|EX)_\w+\.txt")
# The LH sets draw A_SN2 from this range, A_AGN1 from 0.25 to 4.
_SN2_RANGE = (0.5, 2.0)


def camels_parameters(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Read a CAMELS parameter file.

    Parameters
    ----------
    path
        A file with a header (``CosmoAstroSeed_*.txt``), whose columns may come in any
        order, or one of the Multifield Dataset without (``params_LH_*.txt``), whose
        rows are the runs ``LH_0``, ``LH_1``, ...

    Returns
    -------
    parameters
        For each run ``omega_m, omega_b, h, n_s, sigma_8``, the astrophysical
        multipliers ``a_sn1, a_sn2, a_agn1, a_agn2`` as far as they are there, and any
        other column under its own name.

    Raises
    ------
    SuiteError
        The file cannot be read, has no names of runs, lacks a parameter, or names
        its columns in an order that its values contradict.
    """
    file = Path(path)
    names, rows = _read(file)
    if names is None:
        match = _MULTIFIELD_FILE.fullmatch(file.name)
        if match is None or len(rows[0]) != len(_MULTIFIELD):
            raise SuiteError(
                f"{file} has no header, so the order of its columns is unknown; give "
                "CosmoAstroSeed_*.txt, or the six columns of a params_LH_<suite>.txt "
                "under that name"
            )
        names = ["Name", *_MULTIFIELD]
        rows = [[f"{match[1]}_{index}", *row] for index, row in enumerate(rows)]
    _check_order(file, names, rows)
    if "Name" not in names:
        raise SuiteError(
            f"{file} has no column Name, so its rows belong to no run; give the "
            "CosmoAstroSeed_*.txt of the set"
        )
    column = names.index("Name")
    runs = [row.pop(column) for row in rows]
    names = [name for name in names if name != "Name"]
    needed = [name for name in COSMOLOGICAL if name not in _CAMELS_FIXED]
    values = _numbers(file, names, rows, needed)
    if len(set(runs)) < len(runs):
        twice = next(run for run in runs if runs.count(run) > 1)
        raise SuiteError(f"{file} lists the run {twice} more than once")
    return {
        run: {**_CAMELS_FIXED, **row} for run, row in zip(runs, values, strict=True)
    }


def quijote_parameters(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Read a Quijote parameter file.

    Parameters
    ----------
    path
        A file with a header of column names, such as ``latin_hypercube_params.txt``,
        whose rows are the runs ``0``, ``1``, ...

    Returns
    -------
    parameters
        For each run ``omega_m, omega_b, h, n_s, sigma_8`` and any other column under
        its own name.

    Raises
    ------
    SuiteError
        The file cannot be read, has no header or lacks a parameter.
    """
    file = Path(path)
    names, rows = _read(file)
    if names is None:
        raise SuiteError(
            f"{file} has no header, so the order of its columns is unknown; put it "
            "back as the first line: # Omega_m Omega_b h n_s sigma_8"
        )
    values = _numbers(file, names, rows, COSMOLOGICAL)
    return {str(index): row for index, row in enumerate(values)}


def _read(path: Path) -> tuple[list[str] | None, list[list[str]]]:
    """Split a file into its column names, if it has some, and its rows."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"cannot read the parameter file {path}: {error}") from error
    rows = [line.lstrip("#").split() for line in lines if line.strip(" \t#")]
    if not rows:
        raise SuiteError(f"the parameter file {path} is empty")
    # Names of runs are words, too, but no row consists of words alone.
    names = rows.pop(0) if not any(map(_is_number, rows[0])) else None
    if not rows:
        raise SuiteError(f"the parameter file {path} has a header but no rows")
    width = len(names or rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise SuiteError(
                f"row {number} of {path} has {len(row)} columns, not {width}"
            )
    return names, rows


def _check_order(path: Path, names: list[str], rows: list[list[str]]) -> None:
    """Refuse a file whose A_SN2 cannot be A_SN2.

    In a public copy of the LH parameters the header names the columns A_SN1 A_SN2
    A_AGN1 A_AGN2 while the values come in the order A_SN1 A_AGN1 A_SN2 A_AGN2.
    """
    if "A_SN2" not in names:
        return
    if "Name" in names:
        # The EX set is meant to be extreme.
        rows = [row for row in rows if row[names.index("Name")].startswith("LH_")]
    values = [row[names.index("A_SN2")] for row in rows]
    low, high = _SN2_RANGE
    outside = [v for v in values if _is_number(v) and not low <= float(v) <= high]
    if outside:
        raise SuiteError(
            f"the header of {path} names its columns {' '.join(names)}, but A_SN2 lies "
            f"between {low:g} and {high:g} in the LH sets and that column holds "
            f"{outside[0]}; it is A_AGN1 in a file with swapped names, so give the "
            "CosmoAstroSeed_*.txt of the same set"
        )


def _numbers(
    path: Path, names: list[str], rows: list[list[str]], needed: Sequence[str]
) -> list[dict[str, float]]:
    """Turn rows into parameters by the names of this package."""
    known = [_FIDUCIAL.get(name, (_NAMES.get(name, name), 1.0)) for name in names]
    ours = [name for name, _ in known]
    if len(set(ours)) < len(ours):
        raise SuiteError(f"{path} has two columns for one parameter: {' '.join(names)}")
    if missing := [name for name in needed if name not in ours]:
        raise SuiteError(
            f"{path} has no column for {', '.join(missing)}; its columns are "
            f"{' '.join(names)}"
        )
    table = []
    for number, row in enumerate(rows, start=1):
        if not all(map(_is_number, row)):
            bad = next(text for text in row if not _is_number(text))
            raise SuiteError(f"row {number} of {path} holds {bad!r}, not a number")
        pairs = zip(known, row, strict=True)
        table.append({name: float(text) / unit for (name, unit), text in pairs})
    return table


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
