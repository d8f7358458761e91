"""The fields of a snapshot: what its particles say each of them is.

`TARGETS` is the one place that says how a field is made from particles, and in which
unit. Everything is comoving and in units of h here, as everywhere inside the package.
Training sets are put together in `preparation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import DatasetError, UnknownFieldError
from .grids import GridSpec, deposit
from .halos import GalaxyRecipe, expected_galaxies, friends_of_friends
from .initial_conditions import linear_field_from_velocities
from .snapshots import Snapshot

__all__ = [
    "TARGETS",
    "Target",
    "check_targets",
    "linear_field_of",
    "snapshot_fields",
]

Array = NDArray[np.float64]

# Particles of several masses would need a friends-of-friends length each.
_EQUAL_MASSES = 1e-3


class _Fields:
    """The fields of one snapshot, sharing what several of them need."""

    def __init__(
        self, snapshot: Snapshot, grid: GridSpec, galaxies: GalaxyRecipe, heated: bool
    ) -> None:
        self.snapshot, self.grid, self.recipe = snapshot, grid, galaxies
        self.heated = heated

    def matter(self) -> Array:
        """Mass of all kinds of particles, as a ratio to the mean."""
        total = np.zeros(self.grid.shape)
        for kind in self.snapshot.kinds:
            total += self._mass(kind)
        return total / total.mean()

    def galaxies(self) -> Array:
        """Expected galaxies of the halos in the dark matter [(h/Mpc)^3]."""
        masses = self.snapshot.masses("dark_matter")
        if np.ptp(masses) > _EQUAL_MASSES * masses[0]:
            raise DatasetError(
                f"the dark matter of {self.snapshot.path} has particles of several "
                "masses, in which halos cannot be found; leave out the field galaxies"
            )
        positions = self.snapshot.positions("dark_matter")
        halos = friends_of_friends(
            positions,
            box_size=self.snapshot.box_size,
            linking_length=self.recipe.linking_length,
            min_members=self.recipe.min_members,
        )
        # In a hydrodynamical run each dark-matter particle stands for its gas too.
        particle_mass = self.snapshot.total_mass() / len(positions)
        return expected_galaxies(
            positions,
            halos,
            self.recipe.occupation,
            particle_mass=particle_mass,
            grid=self.grid,
        )

    def gas_density(self) -> Array:
        """Comoving gas density [(Msun/h) / (Mpc/h)^3]."""
        return self._gas[0] / self.grid.cell_volume

    def gas_temperature(self) -> Array:
        """Mass-weighted mean gas temperature [K]."""
        amount, heat = self._gas
        if empty := int(np.count_nonzero(amount <= 0)):
            raise DatasetError(
                f"{empty} of {amount.size} cells of {self.snapshot.path} hold no gas, "
                "and so no temperature; choose a smaller n_cells"
            )
        return heat / amount

    def stellar_density(self) -> Array:
        """Comoving stellar density [(Msun/h) / (Mpc/h)^3]; 0 before the first star."""
        if self.snapshot.count("stars") == 0:
            return np.zeros(self.grid.shape)
        return self._mass("stars") / self.grid.cell_volume

    def _mass(self, kind: str) -> Array:
        positions, masses = self.snapshot.positions(kind), self.snapshot.masses(kind)
        return deposit(positions, masses, grid=self.grid)

    @cached_property
    def _gas(self) -> Array:
        """Gas mass in each cell, and where asked for mass times temperature."""
        masses = self.snapshot.masses("gas")
        columns = [masses]
        if self.heated:
            columns.append(masses * self.snapshot.temperature())
        return deposit(
            self.snapshot.positions("gas"),
            np.stack(columns, 1),
            grid=self.grid,
            scheme="sph",
            smoothing_lengths=self.snapshot.smoothing_lengths(),
        )


@dataclass(frozen=True)
class Target:
    """How a field is made, and its unit.

    Parameters
    ----------
    unit
        As a string; empty for a ratio.
    make
        Gives the field of a snapshot.
    """

    unit: str
    make: Callable[[_Fields], Array]


_MASS_DENSITY = "littleh2 solMass / Mpc3"

TARGETS: Mapping[str, Target] = {
    "matter": Target("", _Fields.matter),
    "galaxies": Target("littleh3 / Mpc3", _Fields.galaxies),
    "gas_density": Target(_MASS_DENSITY, _Fields.gas_density),
    "gas_temperature": Target("K", _Fields.gas_temperature),
    "stellar_density": Target(_MASS_DENSITY, _Fields.stellar_density),
}
"""The fields that can be made from snapshots."""


def check_targets(names: Sequence[str]) -> None:
    """Refuse names that are no field of a snapshot, or come twice.

    Raises
    ------
    UnknownFieldError
        A field is not in `TARGETS`.
    DatasetError
        There are no names, or one comes twice.
    """
    for name in names:
        if name not in TARGETS:
            raise UnknownFieldError(
                f"no field {name!r} is made from snapshots; choose from "
                f"{', '.join(TARGETS)}"
            )
    if not names or len(set(names)) < len(names):
        raise DatasetError(
            f"fields must be one or several different names, got {tuple(names)}"
        )


def snapshot_fields(
    snapshot: Snapshot, grid: GridSpec, names: Sequence[str], galaxies: GalaxyRecipe
) -> NDArray[np.float32]:
    """Make fields from the particles of a snapshot.

    Parameters
    ----------
    snapshot
        The snapshot.
    grid
        Of the whole box.
    names
        Fields in `TARGETS`.
    galaxies
        How galaxies are put in.

    Returns
    -------
    fields
        In the units of `TARGETS`, shape ``(n_names, n, n, n)``.

    Raises
    ------
    UnknownFieldError
        A field is not in `TARGETS`.
    SnapshotError
        The snapshot lacks what a field is made of.
    DatasetError
        Cells have no temperature, or the dark matter no equal particles.
    """
    check_targets(names)
    made = _Fields(snapshot, grid, galaxies, heated="gas_temperature" in names)
    fields = [TARGETS[name].make(made) for name in names]
    return np.stack(fields).astype(np.float32)


def linear_field_of(start: Snapshot, omega_m: float, n_cells: int) -> torch.Tensor:
    """Linear field that a snapshot of initial conditions started from.

    Parameters
    ----------
    start
        Its particles of all kinds.
    omega_m
        Of the simulation.
    n_cells
        Cells along one side of the result.

    Returns
    -------
    Tensor
        Overdensity at redshift 0, float32, shape ``(n_cells, n_cells, n_cells)``.

    Raises
    ------
    GridError
        As `linear_field_from_velocities`.
    """
    positions, velocities, masses = (
        np.concatenate([read(kind) for kind in start.kinds])
        for read in (start.positions, start.velocities, start.masses)
    )
    return linear_field_from_velocities(
        torch.from_numpy(positions).float(),
        torch.from_numpy(velocities).float(),
        torch.from_numpy(masses / masses.mean()).float(),
        redshift=start.redshift,
        omega_m=omega_m,
        n_cells=n_cells,
        box_size=start.box_size,
    )
