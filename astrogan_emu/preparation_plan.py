"""What a training set is made of, decided before any snapshot is read.

A `Plan` says for each run of a suite which snapshots it has, which parameters and what
it is used for. `preparation` carries it out.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from .errors import DatasetError
from .parameters import Parameter, ParameterSpace
from .simulations import LCDM_SPACE
from .suites import read_suite, suite_parameters, write_suite
from .training_data import SPLITS

__all__ = [
    "Plan",
    "Row",
    "Split",
    "draw_splits",
    "plan_training_set",
    "range_of_suite",
]

Row = Mapping[str, Any]
Split = Mapping[str, str] | Sequence[float]
"""What each set is for, or the fractions for training, validation and test."""

_SPLIT_OF_SET = {"test": "test", "val": "validation", "validation": "validation"}
_FRACTIONS = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class Plan:
    """A suite as a training set: its runs, what is known of them and what for.

    Parameters
    ----------
    rows
        The rows of the suite's table, by run.
    names
        Columns that are parameters.
    splits
        What each run is used for.
    space
        Parameters of the training set, and their ranges.
    provenance
        The suite: what code made it, its name and the fingerprint of its table.
    paired
        Whether the runs have initial conditions.
    """

    rows: Mapping[str, Sequence[Row]]
    names: tuple[str, ...]
    splits: Mapping[str, str]
    space: ParameterSpace
    provenance: Mapping[str, Any]
    paired: bool

    def parameters(self, run: str) -> dict[str, float]:
        """All parameters of a run."""
        return {name: float(self.rows[run][0][name]) for name in self.names}


def plan_training_set(
    suite: str | os.PathLike[str] | Table,
    *,
    space: ParameterSpace | None = None,
    split: Split | None = None,
    split_seed: int = 0,
) -> Plan:
    """Decide what each run of a suite is used for.

    Parameters
    ----------
    suite, space, split, split_seed
        As for `prepare`.

    Returns
    -------
    plan
        The plan.

    Raises
    ------
    SuiteError
        If the suite is not usable.
    ParameterRangeError
        If a run lies outside the given space.
    DatasetError
        If some runs have initial conditions and others not, a run cannot be named in
        a file, or the space or the split does not fit the suite.
    """
    table = _table(suite)
    names = suite_parameters(table)
    rows: dict[str, list[Row]] = {}
    for row in table:
        values = {name: row[name] for name in table.colnames}
        rows.setdefault(str(row["run"]), []).append(values)
    for run in rows:
        if Path(run).name != run or run in ("", "..") or run.startswith("."):
            raise DatasetError(f"run {run!r} cannot be the name of a file; rename it")
    with_start = [run for run in rows if rows[run][0]["initial_conditions"]]
    if with_start and len(with_start) < len(rows):
        lacking = next(run for run in rows if run not in with_start)
        raise DatasetError(
            f"run {lacking} has no initial conditions, unlike {with_start[0]}; add "
            "them to the suite, or leave the run out"
        )
    space = space or range_of_suite(table, names)
    if missing := [name for name in space.names if name not in names]:
        raise DatasetError(
            f"the space has the parameter {missing[0]}, which the suite has not; it "
            f"has {', '.join(names)}"
        )
    space.check(np.stack([np.array(table[name], float) for name in space.names], -1))
    splits = _splits(rows, split, split_seed)
    provenance = {
        "code": str(table.meta.get("code", "")),
        "suite": "a table" if isinstance(suite, Table) else Path(suite).name,
        "suite_sha256": _suite_print(rows, names),
    }
    return Plan(rows, names, splits, space, provenance, bool(with_start))


def _table(suite: str | os.PathLike[str] | Table) -> Table:
    if not isinstance(suite, Table):
        return read_suite(suite)
    # One door for all suites: what is checked when one is read is checked here too.
    with tempfile.TemporaryDirectory() as folder:
        absolute = suite.copy()
        for name in {"file", "initial_conditions"} & set(suite.colnames):
            absolute[name] = [
                str(t) and str(Path(str(t)).absolute()) for t in suite[name]
            ]
        write_suite(absolute, Path(folder) / "suite.ecsv")
        return read_suite(folder)


def _suite_print(rows: Mapping[str, Sequence[Row]], names: Sequence[str]) -> str:
    """Fingerprint of a suite: its runs, redshifts and parameters, not its place."""
    facts = [
        [run, *(float(row[name]) for name in ("redshift", *names))]
        for run in rows
        for row in rows[run]
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def range_of_suite(table: Table, names: Sequence[str]) -> ParameterSpace:
    """The default space if the suite lies in it, else the ranges that it covers."""
    columns = {name: np.array(table[name], dtype=float) for name in names}
    if tuple(names) == LCDM_SPACE.names:
        values = np.stack(list(columns.values()), -1)
        # A few runs in its midst must not claim to cover it.
        spread = np.ptp(values, axis=0) > (LCDM_SPACE.high - LCDM_SPACE.low) / 2
        if spread.all() and LCDM_SPACE.contains(values).all():
            return LCDM_SPACE
    ranges = []
    for name, column in columns.items():
        low, high = float(column.min()), float(column.max())
        default = low if low == high else None
        # Factors on the strength of feedback, as CAMELS varies them.
        factor = name.startswith("a_") and 0 < low < high
        if factor and low <= 1 <= high:
            default = 1.0
        ranges.append(Parameter(name, low, high, log=factor, default=default))
    return ParameterSpace(tuple(ranges))


def _splits(
    rows: Mapping[str, Sequence[Row]], split: Split | None, seed: int
) -> dict[str, str]:
    """What each run is used for."""
    sets = {run: str(rows[run][0].get("set", "")) for run in rows}
    if isinstance(split, Mapping):
        if wrong := [value for value in split.values() if value not in SPLITS]:
            raise DatasetError(
                f"split sends a set to {wrong[0]!r}; choose from {', '.join(SPLITS)}"
            )
        if unknown := set(split) - set(sets.values()):
            raise DatasetError(
                f"split names the set {sorted(unknown)[0]!r}, which the suite has not; "
                f"it has {', '.join(sorted(set(sets.values())))}"
            )
        return {run: split.get(sets[run], "train") for run in rows}
    if split is None and set(sets.values()) & set(_SPLIT_OF_SET):
        return {run: _SPLIT_OF_SET.get(sets[run], "train") for run in rows}
    return draw_splits(rows, split or _FRACTIONS, seed)


def draw_splits(
    rows: Mapping[str, Sequence[Row]], fractions: Sequence[float], seed: int
) -> dict[str, str]:
    """Draw what runs are used for; runs of one seed share their phases and so stay."""
    shares = np.array(fractions, float)
    if shares.shape != (3,) or not (shares >= 0).all() or shares[0] <= 0:
        raise DatasetError(
            "split must be the fractions for training, validation and test, or say "
            f"for each set what it is for; got {fractions}"
        )
    groups: dict[Any, list[str]] = {}
    for run in rows:
        groups.setdefault(rows[run][0].get("seed", run), []).append(run)
    drawn = list(groups.values())
    order = np.random.default_rng(seed).permutation(len(drawn))
    shares = shares / shares.sum()
    held_out = [max(1, round(share * len(drawn))) if share else 0 for share in shares]
    if len(drawn) < 3:
        held_out = [len(drawn), 0, 0]
    n_validation, n_test = held_out[1:]
    result = {}
    for rank, index in enumerate(order):
        name = "test" if rank < n_test else "validation"
        name = name if rank < n_test + n_validation else "train"
        result.update(dict.fromkeys(drawn[index], name))
    return result
