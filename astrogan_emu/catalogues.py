"""Galaxy catalogues drawn from an emulated galaxy density.

`sample_galaxies` turns the expected number density of a periodic box into galaxies
with positions, peculiar velocities and redshift-space positions. Stacking boxes over
redshift is the work of `lightcones`. Nothing here runs a network.

Lengths are comoving and, as in any file or table of ours, in Mpc without h.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from astropy import units as u
from astropy.table import QTable
from numpy.typing import ArrayLike, NDArray

from .errors import GridError, MissingParameterError, ParameterError
from .fields import GalaxyField
from .geometry import as_box_length, axis_number
from .grids import Stencil
from .linear_theory import hubble
from .noise import whole_seed

__all__ = [
    "draw_cells",
    "expected_counts",
    "provenance",
    "random_generator",
    "sample_galaxies",
    "velocities_at",
    "velocity_values",
]

# Keeps these random numbers from those that a user draws from the same seed.
_STREAM = 0x6A1A

# By the first letters of the columns.
_DESCRIPTIONS = {
    "": "comoving position along ",
    "v_": "peculiar velocity along ",
    "s_": "comoving position in redshift space along ",
}


def sample_galaxies(
    field: GalaxyField,
    *,
    seed: int,
    velocities: ArrayLike | u.Quantity | None = None,
    line_of_sight: str | int | None = None,
    observer: Any = None,
) -> QTable:
    """Galaxies drawn from their expected number density.

    The number in each cell is Poisson distributed around the density times the cell's
    volume, independently of the other cells; positions are uniform within the cell.
    Counts on the same grid hence have the power spectrum of the field plus the shot
    noise of one over the number density.

    Parameters
    ----------
    field
        A number density in the whole periodic box, such as the field ``"galaxies"``.
    seed
        Fixes the galaxies. The number may be that of the field: the two are drawn from
        different streams.
    velocities
        Peculiar velocity on the cells of the field, shape ``(3, n, n, n)``, a quantity
        or in km/s, such as from `Emulator.velocities`. Galaxies get that of the matter
        around them, cloud-in-cell, without motions inside a cell.
    line_of_sight
        For redshift space seen from far away: ``"x"``, ``"y"`` or ``"z"`` (the
        default), or the number of the axis. Positions stay in the periodic box.
    observer
        For redshift space seen from inside instead: the observer's place, three
        lengths, as a quantity or in Mpc/h. Positions may leave the box.

    Returns
    -------
    QTable
        A row per galaxy: ``x, y, z`` [comoving Mpc]; with velocities also ``v_x, v_y,
        v_z`` [km/s] and ``s_x, s_y, s_z``, the place in redshift space [comoving Mpc].
        ``meta`` holds the parameters by name, ``redshift``, ``box_size`` [comoving
        Mpc], ``n_cells``, ``field``, ``seed`` (of the field), ``cat_seed`` (of the
        galaxies), ``model``, ``model_id`` (its SHA-256), and ``los`` or ``obs_x, obs_y,
        obs_z`` [Mpc]: plain values under short names, so that FITS keeps them all.

    Raises
    ------
    GridError
        If the field is no number density or covers only part of the box, its values or
        the velocities do not fit, or there is no such line of sight.
    ParameterError
        If the seed is not a whole number, or a line of sight lacks velocities.
    MissingParameterError
        If redshift space is asked for and the field does not know omega_m.

    Notes
    -----
    A galaxy appears at s = x + (v . n) n / (a H), with n along the line of sight
    (Kaiser 1987).
    """
    counts = expected_counts(field)
    h = field.parameters["h"]
    box = field.grid.box_size / h
    generator = random_generator(seed)
    cells, within = draw_cells(counts, generator)
    positions = _below((cells + within) * (box / field.grid.n_cells), box)
    meta = provenance(field) | {"cat_seed": int(seed)}
    columns = _columns("", positions * u.Mpc)
    if velocities is not None:
        flow = velocity_values(velocities, field)
        moving = velocities_at(flow, positions, box)
        shifts = moving * _megaparsecs_per_velocity(field)
        apparent, seen = _redshift_space(
            field, positions, shifts, line_of_sight, observer
        )
        columns |= _columns("v_", moving * u.km / u.s)
        columns |= _columns("s_", apparent * u.Mpc)
        meta |= seen
    elif line_of_sight is not None or observer is not None:
        raise ParameterError(
            "redshift space needs peculiar velocities; pass velocities= (see "
            "Emulator.velocities), or leave out line_of_sight and observer"
        )
    table = QTable(columns, meta=meta)
    for name in columns:
        table[name].info.description = _DESCRIPTIONS[name[:-1]] + name[-1]
    return table


def expected_counts(field: GalaxyField) -> NDArray[np.float64]:
    """Expected number of galaxies in each cell, checked.

    Parameters
    ----------
    field
        As for `sample_galaxies`.

    Returns
    -------
    ndarray
        Shape ``(n, n, n)``.

    Raises
    ------
    GridError
        If the field is no number density in the whole box, or a value is negative or
        not finite.
    """
    if not (field.ndim == 3 and all(field.periodic)):
        raise GridError(
            "galaxies are drawn in the whole periodic box, and this field has "
            f"{field.shape} of its {field.grid.n_cells} cells per side; draw them "
            "first and select afterwards"
        )
    try:
        density = np.asarray(field.to(u.Mpc**-3), dtype=np.float64)
    except u.UnitConversionError as error:
        raise GridError(
            f"galaxies are drawn from a number density, and {field.name!r} is in "
            f"{str(field.unit) or 'no unit'}; use the field 'galaxies'"
        ) from error
    wrong = np.count_nonzero(~(np.isfinite(density) & (density >= 0)))
    if wrong:
        raise GridError(
            f"{wrong} of {density.size} densities are negative or not finite; a "
            "number density must be neither"
        )
    side = field.grid.cell_size / field.parameters["h"]
    return density * side**3


def random_generator(seed: int, *place: int) -> np.random.Generator:
    """Random numbers of a catalogue, or of one numbered part of it.

    Parameters
    ----------
    seed
        Any whole number.
    *place
        Whole numbers of any sign that say which part it is.

    Raises
    ------
    ParameterError
        If `seed` is not a whole number.
    """
    # Two words for each, so that different places never make the same sequence.
    key = [value % 2**64 for value in (_STREAM, whole_seed(seed), *place)]
    words = [word for value in key for word in (value % 2**32, value >> 32)]
    return np.random.default_rng(words)


def draw_cells(
    counts: NDArray[np.float64], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw independent Poisson numbers of galaxies, and places within their cells.

    Parameters
    ----------
    counts
        Expected number in each cell, shape ``(n, n, n)``.
    generator
        Where the random numbers come from.

    Returns
    -------
    cells, within
        Cell of each galaxy, and its place in it, from 0 to 1; shape ``(m, 3)`` each.
        The galaxies are in random order.
    """
    # A Poisson total, shared out at random, is the same as Poisson cells, and takes no
    # time for empty ones.
    upto = np.cumsum(counts.ravel())
    number = generator.poisson(upto[-1])
    flat = np.searchsorted(upto, generator.random(number) * upto[-1], side="right")
    # Rounding up to the very end would leave the box.
    flat = np.minimum(flat, np.searchsorted(upto, upto[-1]))
    cells = np.stack(np.unravel_index(flat, counts.shape), axis=-1)
    return cells, generator.random((number, 3))


def velocity_values(
    velocities: ArrayLike | u.Quantity, field: GalaxyField
) -> NDArray[np.float64]:
    """Velocities on the cells of a field as plain numbers, checked.

    Returns
    -------
    ndarray
        Shape ``(3, n, n, n)`` [km/s].

    Raises
    ------
    GridError
        If they have another shape or unit, or are not finite.
    """
    try:
        values = u.Quantity(velocities, u.km / u.s, dtype=np.float64).value
    except u.UnitConversionError as error:
        raise GridError(
            "velocities must be in km/s or another unit of velocity, got "
            f"{u.Quantity(velocities).unit}"
        ) from error
    if values.shape != (3, *field.grid.shape):
        raise GridError(
            f"velocities must have the shape {(3, *field.grid.shape)}, got "
            f"{values.shape}"
        )
    if not np.isfinite(values).all():
        raise GridError("velocities hold values that are not finite")
    return values


def velocities_at(
    flow: NDArray[np.float64], positions: NDArray[np.float64], box: float
) -> NDArray[np.float64]:
    """Read gridded velocities out at positions, cloud-in-cell.

    Parameters
    ----------
    flow
        Shape ``(3, n, n, n)``.
    positions
        Shape ``(m, 3)``, in the unit of `box`.
    box
        Side of the box.

    Returns
    -------
    ndarray
        Shape ``(m, 3)``, in the unit of `flow`.
    """
    if not len(positions):
        return np.zeros((0, 3))
    stencil = Stencil.of(torch.from_numpy(positions), flow.shape[-1], box)
    parts = [stencil.readout(torch.from_numpy(one)) for one in flow]
    return torch.stack(parts, -1).numpy()


def provenance(field: GalaxyField) -> dict[str, Any]:
    """Where a field comes from, as plain values under names that FITS takes."""
    meta: dict[str, Any] = {
        **field.parameters,
        "redshift": field.redshift,
        "box_size": field.grid.box_size / field.parameters["h"],
        "n_cells": field.grid.n_cells,
        "field": field.name,
    }
    if field.seed is not None:
        meta["seed"] = field.seed
    if field.model is not None:
        names = {"name": "model", "sha256": "model_id"}
        meta |= {names.get(key, key): value for key, value in field.model.items()}
    return meta


def _megaparsecs_per_velocity(field: GalaxyField) -> float:
    """1 / (a H): comoving distance in redshift space per velocity [Mpc / (km/s)]."""
    if "omega_m" not in field.parameters:
        raise MissingParameterError(
            "redshift space needs omega_m, and the field knows only "
            f"{', '.join(field.parameters)}"
        )
    a = 1 / (1 + field.redshift)
    rate = float(hubble(a, field.parameters["omega_m"]))
    return 1 / (a * field.hubble_constant.value * rate)


def _redshift_space(
    field: GalaxyField,
    positions: NDArray[np.float64],
    shifts: NDArray[np.float64],
    line_of_sight: str | int | None,
    observer: Any,
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Places in redshift space, shape ``(m, 3)`` [Mpc], and what to record of it."""
    box = field.grid.box_size / field.parameters["h"]
    if observer is None:
        axis = axis_number(field.axes, "z" if line_of_sight is None else line_of_sight)
        apparent = positions.copy()
        moved = np.mod(positions[:, axis] + shifts[:, axis], box)
        apparent[:, axis] = _below(moved, box)
        return apparent, {"los": field.axes[axis].name}
    if line_of_sight is not None:
        raise ParameterError(
            "give either line_of_sight, for an observer far away, or observer, for one "
            "in the box, not both"
        )
    place = _place(observer, field.parameters["h"])
    sight = positions - place
    distance = np.linalg.norm(sight, axis=1, keepdims=True)
    # A galaxy exactly at the observer has no direction and stays.
    sight /= np.where(distance > 0, distance, 1)
    along = (shifts * sight).sum(1, keepdims=True)
    recorded = zip(("obs_x", "obs_y", "obs_z"), place.tolist(), strict=True)
    return positions + along * sight, dict(recorded)


def _place(observer: Any, h: float) -> NDArray[np.float64]:
    """A point from outside, shape ``(3,)`` [comoving Mpc]."""
    try:
        values = list(observer)
    except TypeError:
        values = []
    if len(values) != 3:
        raise GridError(
            f"observer must be three lengths, a quantity or in Mpc/h, got {observer!r}"
        )
    return np.array([as_box_length(one, h, above_zero=False) / h for one in values])


def _below(values: NDArray[np.float64], box: float) -> NDArray[np.float64]:
    """Keep what rounding put on the far face inside the box."""
    return np.minimum(values, np.nextafter(box, 0))


def _columns(prefix: str, values: u.Quantity) -> dict[str, u.Quantity]:
    """The components of vectors, shape ``(m, 3)``, by name."""
    return {f"{prefix}{axis}": values[:, i] for i, axis in enumerate("xyz")}
