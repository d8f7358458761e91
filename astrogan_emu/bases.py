"""The base under the generator: few-step matter, and the galaxies of its halos.

One function makes it, for training sets and for emulation alike. Halos of few, softly
bound particles are smaller than those of a simulation, which a longer linking length
makes good for the most part; the rest is left to the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from .errors import CheckpointError
from .grids import GridSpec, paint
from .halos import (
    GalaxyRecipe,
    OccupationModel,
    expected_galaxies,
    friends_of_friends,
    particle_mass,
)
from .particle_mesh import evolve

__all__ = ["BaseSettings", "base_fields"]


@dataclass(frozen=True)
class BaseSettings:
    """How the base under the generator is made.

    Parameters
    ----------
    n_steps
        Particle-mesh steps from the start to the field's redshift.
    mesh_factor
        Cells of the force mesh for each cell of the field, along one side.
    start_redshift
        Of the second-order Lagrangian start.
    depth
        For maps, the slab over which the base is averaged [Mpc/h].
    galaxies
        How galaxies are put into the base's halos, which then are its second channel;
        without, it has matter alone.

    Raises
    ------
    CheckpointError
        If a value is not possible.
    """

    n_steps: int = 20
    mesh_factor: int = 1
    start_redshift: float = 9.0
    depth: float | None = None
    galaxies: GalaxyRecipe | None = None

    def __post_init__(self) -> None:
        positive = self.depth is None or 0 < self.depth < math.inf
        if (
            self.n_steps < 1
            or self.mesh_factor < 1
            or self.start_redshift <= 0
            or not positive
        ):
            raise CheckpointError(
                "n_steps and mesh_factor must be at least 1, start_redshift and depth "
                f"positive, got {self}"
            )
        if self.depth is not None and self.galaxies is not None:
            raise CheckpointError("the base of maps has no galaxies")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Undo `to_dict`."""
        values = dict(values)
        recipe = values.pop("galaxies", None)
        if recipe is not None:
            recipe = dict(recipe)
            occupation = OccupationModel(**recipe.pop("occupation"))
            recipe = GalaxyRecipe(occupation, **recipe)
        return cls(galaxies=recipe, **values)

    def to_dict(self) -> dict[str, Any]:
        """The settings as values that JSON can hold; what is not there is left out."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value is not None}

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the fields that the base has."""
        return ("matter",) if self.galaxies is None else ("matter", "galaxies")

    def integration(self, n_cells: int) -> dict[str, Any]:
        """How particles are moved, as keywords of `particle_mesh.evolve`."""
        return {
            "n_steps": self.n_steps,
            "n_mesh": self.mesh_factor * n_cells,
            "start_redshift": self.start_redshift,
        }


def base_fields(
    delta: Tensor,
    parameters: Mapping[str, float | Tensor],
    *,
    box_size: float,
    redshift: float,
    settings: BaseSettings,
) -> Tensor:
    """The base of a linear field: particles after a few steps, put on the grid.

    Parameters
    ----------
    delta
        Linear overdensity at redshift 0, shape ``(n, n, n)``.
    parameters
        At least ``omega_m``.
    box_size
        [Mpc/h]
    redshift
        Of the base.
    settings
        How it is made; for maps the box is not yet averaged over their depth.

    Returns
    -------
    Tensor
        Shape ``(channels, n, n, n)``: matter as a ratio to its mean, and where the
        settings ask for them the expected galaxies of the halos [(h/Mpc)^3], both
        cloud-in-cell. Matter can be differentiated. Galaxies cannot, as particles join
        halos one by one: they are taken as they are.
    """
    n = delta.shape[0]
    (particles,) = evolve(
        delta,
        parameters,
        box_size=box_size,
        redshifts=[redshift],
        **settings.integration(n),
    )
    positions = particles.positions
    del particles  # and so the velocities, before halos need the memory
    matter = paint(positions, n, box_size)
    if settings.galaxies is None:
        return matter[None]
    omega_m = float(torch.as_tensor(parameters["omega_m"]).detach())
    galaxies = _galaxies(
        positions.detach(), omega_m, GridSpec(n, box_size), settings.galaxies
    )
    return torch.stack([matter, galaxies.to(matter)])


def _galaxies(
    positions: Tensor, omega_m: float, grid: GridSpec, recipe: GalaxyRecipe
) -> Tensor:
    """Expected galaxies of the halos that particles form [(h/Mpc)^3]."""
    places = positions.cpu().numpy()
    halos = friends_of_friends(
        places,
        box_size=grid.box_size,
        linking_length=recipe.linking_length,
        min_members=recipe.min_members,
    )
    mass = particle_mass(omega_m, grid.box_size, len(places))
    return torch.from_numpy(
        expected_galaxies(
            places, halos, recipe.occupation, particle_mass=mass, grid=grid
        )
    )
