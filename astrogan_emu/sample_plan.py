"""What each sample of a batch is: its parameters, redshift, seed, and its making.

A plan is checked as a whole before anything is emulated, and is small: it names the
model's file and fingerprint, and never carries weights. How samples are spread over
workers is not known here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable, Row, Table
from numpy.typing import NDArray

from ._model_input import (
    checked_fields,
    checked_redshift,
    choose_model,
    parameter_names,
)
from .checkpoints import ModelCard, model_path
from .emulator import Emulator
from .errors import (
    AstroganError,
    GridError,
    ParameterError,
)
from .field_specs import FIELDS
from .grids import GridSpec
from .parameters import COSMOLOGICAL, ParameterSpace, as_parameter_table
from .same_model import same_model
from .snapshots import Snapshot

__all__ = ["SamplePlan", "SampleRecipe", "plan_samples", "sample_seed"]


def sample_seed(seed: int, number: int) -> int:
    """Seed of one sample of a batch.

    Parameters
    ----------
    seed
        Of the batch.
    number
        Of the sample; see `plan_samples` for the order.

    Returns
    -------
    int
        63 bits, independent of those of other numbers (`numpy.random.SeedSequence`).
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(number,))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


@dataclass(frozen=True)
class SampleRecipe:
    """All that the samples of a batch have in common; small, and safe to send.

    Parameters
    ----------
    model
        Name, or absolute path, of the model.
    sha256
        Of the model's file.
    fields
        Names of the fields, in order.
    names
        Names of the parameters, in order.
    grid
        Cells and box.
    fixed
        Whether the amplitudes of the initial conditions are fixed.
    snapshot
        Path of the initial conditions, if they are read for each sample.
    device
        On which each process emulates.
    """

    model: str
    sha256: str
    fields: tuple[str, ...]
    names: tuple[str, ...]
    grid: GridSpec
    fixed: bool = False
    snapshot: str | None = None
    device: str = "cpu"

    def emulator(self) -> Emulator:
        """Load the model, once per process, and make sure that it is the same one.

        Raises
        ------
        CheckpointError
            If its file is missing here, or is another.
        BatchError
            If there is no such device here.
        """
        return Emulator(same_model(self.model, self.sha256, self.device))

    def emulate(
        self, row: Any, initial_conditions: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Make one sample.

        Parameters
        ----------
        row
            Of `SamplePlan.rows`.
        initial_conditions
            Linear overdensity at redshift 0 of the grid, if it is not drawn.

        Returns
        -------
        ndarray
            Shape ``(n_fields, n, n, n)``, or ``(n_fields, n, n)`` for maps, in the
            units of `SamplePlan.units`.
        """
        given = self.snapshot if initial_conditions is None else initial_conditions
        made = self.emulator().realisation(
            dict(zip(self.names, map(float, row["parameters"]), strict=True)),
            float(row["redshift"]),
            self.fields,
            self.grid,
            int(row["seed"]),
            given,
            fixed=self.fixed,
            paired=bool(row["flipped"]),
        )
        return np.stack([made[name].data for name in self.fields])


@dataclass(frozen=True)
class SamplePlan:
    """The samples of a batch, before any of them is made.

    Parameters
    ----------
    recipe
        What they have in common.
    rows
        What they differ in, shape ``(n_samples,)``, with the fields ``parameters``,
        ``redshift``, ``seed`` and ``flipped``.
    table
        The same for people.
    units
        Of each field.
    n_dim
        Three, or two for a model of maps.
    settings
        What decides the samples, in types that JSON can hold.
    card
        Of the model.
    initial_conditions
        Linear overdensity at redshift 0 that all samples share, shape ``(n, n, n)``.
    """

    recipe: SampleRecipe
    rows: NDArray[Any]
    table: QTable
    units: Mapping[str, u.UnitBase]
    n_dim: int
    settings: Mapping[str, Any]
    card: ModelCard
    initial_conditions: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: fields, then cells."""
        return (len(self.recipe.fields), *[self.recipe.grid.n_cells] * self.n_dim)


def plan_samples(
    parameters: Any,
    *,
    fields: Sequence[str] | None,
    n_realizations: int,
    seed: int,
    redshift: Any,
    n_cells: int,
    initial_conditions: Any,
    model: str | os.PathLike[str] | None,
    extrapolate: bool,
    fixed: bool,
    paired: bool,
    same_phases: bool,
    names: Sequence[str] | None,
    device: str = "cpu",
) -> SamplePlan:
    """Check everything about a batch, and write down what each sample is.

    Samples are in the order realisation, set of parameters, member of the pair, the
    last running fastest. More realisations, or more sets where there is one
    realisation, therefore come behind the samples that were there before.

    Parameters
    ----------
    parameters, fields, n_realizations, seed, redshift, n_cells
        As for `emulate_batch`.
    initial_conditions, model, extrapolate, fixed, paired, same_phases, names, device
        As for `emulate_batch`.

    Returns
    -------
    SamplePlan
        Nothing has been emulated.

    Raises
    ------
    ParameterError, GridError, UnknownFieldError, UnknownModelError, CheckpointError
        As `emulate_batch`.
    """
    if device not in ("cpu", "cuda"):
        raise ParameterError(f"device must be 'cpu' or 'cuda', got {device!r}")
    n_realizations = _whole("n_realizations", n_realizations, 1)
    seed = _whole("seed", seed, 0)
    n_cells = _whole("n_cells", n_cells, 1)
    model = choose_model(model, fields, names or _meant(parameters))
    path = model_path(model)
    emulator = Emulator.load(model)
    card = emulator.card
    wanted = checked_fields(card, emulator.fields, fields)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ParameterError(
            f"fields must name each field once, got {', '.join(wanted) or 'none'}; "
            f"the model makes {', '.join(emulator.offers)}"
        )
    grid = emulator.grid(n_cells)

    own_names = tuple(dict.fromkeys((*COSMOLOGICAL, *card.space.names)))
    parameters, column = _split_redshift(parameters, names)
    sets = as_parameter_table(parameters, names=own_names, defaults=card.space.defaults)
    if len(sets) == 0:
        raise ParameterError("there is no set of parameters to emulate; give one")
    card.allowed.check(
        np.column_stack([sets[name] for name in card.space.names]),
        extrapolate=extrapolate,
    )
    redshifts = _redshifts(emulator, redshift, column, len(sets), extrapolate)
    values = np.column_stack([sets[name] for name in own_names])

    if initial_conditions is not None and (fixed or paired):
        raise ParameterError(
            "fixed and paired are about drawn initial conditions, and "
            "initial_conditions are given; leave one of the two out"
        )
    given, snapshot = _given_start(
        emulator, initial_conditions, own_names, values, grid
    )

    members = 2 if paired else 1
    n_sets = len(sets)
    draw = np.arange(n_realizations * n_sets)
    realization, chosen = np.divmod(draw, n_sets)
    keys = realization if same_phases else draw
    seeds = {int(key): sample_seed(seed, int(key)) for key in np.unique(keys)}
    rows: NDArray[Any] = np.zeros(
        (len(draw), members),
        dtype=[
            ("parameters", "<f8", (len(own_names),)),
            ("redshift", "<f8"),
            ("seed", "<i8"),
            ("flipped", "?"),
        ],
    )
    rows["parameters"] = values[chosen][:, None]
    rows["redshift"] = redshifts[chosen][:, None]
    rows["seed"] = np.array([seeds[int(key)] for key in keys])[:, None]
    rows["flipped"] = np.arange(members, dtype=bool)
    rows = rows.reshape(-1)

    # A name means the same on every worker; a relative path does not.
    is_file = Path(model).suffix == ".safetensors" or Path(model).is_file()
    named = str(path.absolute()) if is_file else str(model)
    recipe = SampleRecipe(
        model=named,
        sha256=emulator.identity["sha256"],
        fields=wanted,
        names=own_names,
        grid=grid,
        fixed=bool(fixed),
        snapshot=snapshot,
        device=device,
    )
    n_dim = 3 if card.base.depth is None else 2
    table = QTable(
        {name: rows["parameters"][:, i] for i, name in enumerate(own_names)}
        | {"redshift": rows["redshift"], "seed": rows["seed"]}
        | {"realization": np.repeat(realization, members)}
        | ({"flipped": rows["flipped"]} if paired else {})
    )
    table.meta = {"model": emulator.identity, "seed": seed}
    return SamplePlan(
        recipe=recipe,
        rows=rows,
        table=table,
        units={name: _unit(name, n_dim) for name in wanted},
        n_dim=n_dim,
        settings={
            "model": card.name,
            "sha256": recipe.sha256,
            "fields": list(wanted),
            "n_cells": n_cells,
            "cell_size": card.cell_size,
            "seed": seed,
            "n_realizations": n_realizations,
            "fixed": bool(fixed),
            "paired": bool(paired),
            "same_phases": bool(same_phases),
            "parameters": list(own_names),
            "initial_conditions": snapshot if given is None else _fingerprint(given),
            "design": _fingerprint(values, redshifts),
        },
        card=card,
        initial_conditions=given,
    )


def _meant(parameters: Any) -> set[str]:
    """Names of parameters that are given on purpose, by which a model is found."""
    sets = parameters if isinstance(parameters, list | tuple) else [parameters]
    return {n for one in sets for n in parameter_names(one, {})} - {"redshift"}


def _unit(name: str, n_dim: int) -> u.UnitBase:
    spec = FIELDS[name]
    return spec.unit * u.Mpc if n_dim == 2 and spec.integrates else spec.unit


def _fingerprint(*arrays: NDArray[Any]) -> str:
    """Fingerprint of some arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _whole(name: str, value: Any, least: int) -> int:
    """A whole number that is not too small."""
    fits = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not fits or value < least:
        raise ParameterError(
            f"{name} must be a whole number of at least {least}, got {value!r}"
        )
    return int(value)


def _split_redshift(parameters: Any, names: Sequence[str] | None) -> tuple[Any, Any]:
    """The parameters alone, and what they say of the redshift, if anything."""
    if isinstance(parameters, ParameterSpace):
        raise ParameterError(
            "a ParameterSpace is no set of parameters; give a draw of it, such as "
            "space.sobol(64, seed=1)"
        )
    if names is not None:
        if isinstance(parameters, Mapping | Table | Row):
            raise ParameterError(
                f"a {type(parameters).__name__} has names of its own; leave names out"
            )
        array = np.asarray(parameters)
        if array.ndim != 2 or array.shape[1] != len(names):
            raise ParameterError(
                f"an array of parameters must have the shape (n, {len(names)}) for "
                f"the names {', '.join(names)}, got {array.shape}"
            )
        parameters = dict(zip(names, array.T, strict=True))
    if isinstance(parameters, Mapping):
        rest = dict(parameters)
        return rest, rest.pop("redshift", None)
    if isinstance(parameters, Table | Row):
        known = "redshift" in parameters.colnames
        return parameters, parameters["redshift"] if known else None
    if fields_of_array := getattr(getattr(parameters, "dtype", None), "names", None):
        known = "redshift" in fields_of_array
        return parameters, parameters["redshift"] if known else None
    if isinstance(parameters, Iterable) and not hasattr(parameters, "shape"):
        split = [_split_one(one) for one in parameters]
        found = [z for _, z in split if z is not None]
        if found and len(found) < len(split):
            raise ParameterError(
                f"{len(found)} of {len(split)} sets of parameters have a redshift; "
                "give it in all of them or in none"
            )
        return [one for one, _ in split], found or None
    return parameters, None


def _split_one(one: Any) -> tuple[Any, Any]:
    if isinstance(one, Mapping | Row):
        return _split_redshift(one, None)
    return one, None


def _redshifts(
    emulator: Emulator, given: Any, column: Any, n_sets: int, extrapolate: bool
) -> NDArray[np.float64]:
    """One redshift per set of parameters, within the trained range."""
    if given is not None and column is not None:
        raise ParameterError(
            f"redshift is given twice, with the parameters and as {given!r}; give it "
            "once"
        )
    chosen = column if column is not None else 0.0 if given is None else given
    try:
        values = u.Quantity(chosen).to_value(u.dimensionless_unscaled).astype(float)
        values = np.broadcast_to(values, (n_sets,)).copy()
    except (TypeError, ValueError, u.UnitsError) as error:
        raise ParameterError(
            f"redshift must be one number, or one for each of the {n_sets} sets of "
            f"parameters, got {chosen!r}"
        ) from error
    if not np.isfinite(values).all():
        raise ParameterError("redshift must be finite, got a value that is not")
    for z in sorted({values.min(), values.max()}):
        checked_redshift(emulator.card, float(z), extrapolate)
    return values


def _given_start(
    emulator: Emulator,
    given: Any,
    names: Sequence[str],
    values: NDArray[np.float64],
    grid: GridSpec,
) -> tuple[NDArray[np.float32] | None, str | None]:
    """The linear field that all samples share, or the snapshot each makes its from."""
    if given is None:
        return None, None
    first = dict(zip(names, map(float, values[0]), strict=True))
    try:
        delta = emulator.linear_field(given, first, grid, seed=0)
    except (TypeError, ValueError) as error:
        if isinstance(error, AstroganError):
            raise
        raise GridError(
            f"initial_conditions must be an array of shape (m, m, m) or a snapshot of "
            f"initial conditions, got {type(given).__name__}: {error}"
        ) from error
    # Velocities become displacements by a growth rate, which depends on omega_m.
    depends = np.ptp(values[:, list(names).index("omega_m")]) > 0
    if isinstance(given, Snapshot) and depends:
        return None, str(Path(given.path).absolute())
    if isinstance(given, str | os.PathLike) and depends:
        return None, str(Path(given).absolute())
    return delta.cpu().numpy(), None
