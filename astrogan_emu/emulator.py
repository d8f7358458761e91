"""The emulator: parameters and a seed in, galaxy fields out.

`Emulator` holds one loaded model. A seed fixes the initial phases and the generator's
noise, each number by its place, so a field does not depend on what else was made, nor
on the device's number of threads.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from astropy import units as u
from astropy.table import QTable
from torch import Tensor

from ._initial_conditions_input import given_linear_field
from ._model_input import (
    DEFAULT_MODEL,
    checked_fields,
    checked_parameters,
    checked_redshift,
    offered_by,
)
from .bases import base_fields
from .box_memory import MemoryPlan, plan_memory
from .checkpoints import Model, ModelCard, load_model
from .derived_fields import derive, ingredients
from .errors import GridError
from .expected_errors import expected_meta
from .fields import FIELDS, GalaxyField
from .generated_fields import generated_fields
from .grids import GridSpec
from .initial_conditions import linear_field
from .kept_memory import kept_memory
from .machine_memory import memory_limit
from .noise import whole_seed
from .parameters import COSMOLOGICAL, ParameterInput, as_parameters
from .particle_mesh import velocity_field
from .spread_tiles import workers_of

__all__ = ["Emulator"]

# Fields that are proportional to the baryon density, if all else is the same.
_BARYONS = ("gas_density", "stellar_density")


class Emulator:
    """A trained model, ready to make fields; see `Emulator.load`.

    Parameters
    ----------
    model
        From `read_model`.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        device: str = "cpu",
    ) -> Self:
        """Load a model.

        Parameters
        ----------
        name_or_path
            A model of the package, or a file that `train` made.
        device
            ``"cpu"`` or ``"cuda"``.

        Returns
        -------
        Emulator
            Models are read once and kept.

        Raises
        ------
        UnknownModelError
            If there is no model of that name.
        CheckpointError
            If the file is not a whole model.
        """
        return cls(load_model(name_or_path, device))

    @property
    def card(self) -> ModelCard:
        """What the model is: parameters, ranges, scores, origin."""
        return self._model.card

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields it makes."""
        return self._model.generator.config.fields

    @property
    def offers(self) -> tuple[str, ...]:
        """Names of the fields to be had: those, and what is derived from them."""
        return offered_by(self.card, self.fields)

    @property
    def identity(self) -> dict[str, str]:
        """Name of the model and SHA-256 of its file."""
        return {"name": self.card.name, "sha256": self._model.sha256}

    def __repr__(self) -> str:
        return (
            f"<Emulator {self.card.name}: {', '.join(self.fields)}; "
            f"cell {self.card.cell_size:g} Mpc/h>"
        )

    def emulate(
        self,
        params: ParameterInput | None = None,
        *,
        redshift: float = 0.0,
        fields: Sequence[str] | None = None,
        n_cells: int = 64,
        seed: int | None = None,
        initial_conditions: Any | None = None,
        stochastic: bool = True,
        extrapolate: bool = False,
        fixed: bool = False,
        paired: bool = False,
        max_memory: float | None = None,
        client: Any | None = None,
        **keywords: Any,
    ) -> dict[str, GalaxyField]:
        """Fields of one realisation.

        Parameters
        ----------
        params
            Mapping, astropy cosmology, or table row; see `as_parameters`.
        redshift
            Of the fields; a number or a dimensionless quantity.
        fields
            Which fields, derived ones included; all that the network makes if not
            given. See `offers`.
        n_cells
            Cells per side; the box is `n_cells` times the model's cell size.
        seed
            Fixes everything random. The same seed gives the same phases for any
            parameters. If not given, one is drawn and recorded in the fields.
        initial_conditions
            Linear overdensity at redshift 0 to start from instead of a drawn one: an
            array of shape ``(m, m, m)`` on the same box, resampled to `n_cells`; or a
            snapshot of initial conditions, or its path, of the same box.
        stochastic
            Add the generator's noise; without it the field is what the network makes
            of the base alone.
        extrapolate
            Go beyond the trained range with a warning.
        fixed, paired
            As for `linear_field`.
        max_memory
            Most memory to use [GB]; what is free if not given. The less there is, the
            more of the network's work is done twice.
        client
            A `distributed.Client` whose workers run the network, tile by tile, for a
            large box. The base is made here.
        **keywords
            Parameters by name, such as ``sigma_8=0.8``.

        Returns
        -------
        dict
            `GalaxyField` by name, in the order asked for.

        Raises
        ------
        ParameterError
            If a parameter is missing, unknown or outside the trained range.
        UnknownFieldError
            If the model does not make a field.
        GridError
            If `n_cells` or the initial conditions do not fit.
        NotEnoughMemoryError
            If the box does not fit into memory; see `memory_plan`.
        BatchError
            If the workers of `client` are lost.
        """
        values = checked_parameters(self.card, params, keywords, extrapolate)
        z = checked_redshift(self.card, redshift, extrapolate)
        names = checked_fields(self.card, self.fields, fields)
        grid = self.grid(n_cells)
        seed = secrets.randbits(32) if seed is None else whole_seed(seed)
        return self.realisation(
            values,
            z,
            names,
            grid,
            seed,
            initial_conditions,
            stochastic=stochastic,
            fixed=fixed,
            paired=paired,
            max_memory=max_memory,
            client=client,
        )

    def realisation(
        self,
        values: dict[str, float],
        z: float,
        names: Sequence[str],
        grid: GridSpec,
        seed: int,
        initial_conditions: Any | None,
        *,
        stochastic: bool = True,
        fixed: bool = False,
        paired: bool = False,
        max_memory: float | None = None,
        client: Any | None = None,
    ) -> dict[str, GalaxyField]:
        """What `emulate` does after its checks, so that a batch is checked once."""
        plan = self.memory_plan(grid.n_cells, max_memory, client)
        with torch.no_grad():
            with kept_memory(plan.base, plan.available):
                base = self.base(
                    self.linear_field(
                        initial_conditions,
                        values,
                        grid,
                        seed,
                        fixed=fixed,
                        paired=paired,
                    ),
                    {name: values[name] for name in COSMOLOGICAL},
                    z,
                    grid.box_size,
                )
            with kept_memory(plan.generator, plan.available):
                made = generated_fields(
                    *(self._model, base, values, z, seed, plan.tiling),
                    noisy=stochastic,
                    client=client,
                )
        result = {}
        for name in ingredients(names):
            field = GalaxyField(
                self._baryons(name, values) * made[self.fields.index(name)].cpu(),
                name=name,
                grid=grid,
                parameters=values,
                redshift=z,
                seed=seed,
                model=self.identity,
                meta=expected_meta(self.card, name, values, z),
                unit=self.card.units[name] or u.dimensionless_unscaled,
            )
            spec = FIELDS[name]
            # Maps of a density are per area.
            per_area = field.ndim == 2 and spec.integrates
            result[name] = field.to(spec.unit * u.Mpc if per_area else spec.unit)
        for name in names:
            if name not in result:
                result[name] = derive(name, result)
        return {name: result[name] for name in names}

    def _baryons(self, name: str, values: Mapping[str, float]) -> float:
        """What a baryon density that the suite held fixed makes of a field's amount."""
        fixed = self.card.fixed.get("omega_b")
        return values["omega_b"] / fixed if fixed and name in _BARYONS else 1.0

    def velocities(
        self,
        params: ParameterInput | None = None,
        *,
        seed: int,
        redshift: float = 0.0,
        n_cells: int = 64,
        initial_conditions: Any | None = None,
        extrapolate: bool = False,
        fixed: bool = False,
        paired: bool = False,
        **keywords: Any,
    ) -> u.Quantity:
        """Peculiar velocity of the matter of one realisation.

        That of the base: see `particle_mesh.velocity_field`. The generator does not
        change it.

        Parameters
        ----------
        params, redshift, n_cells, seed, initial_conditions, extrapolate, fixed, paired
            As for `emulate`, to which the same values give the fields of this matter.
        **keywords
            Parameters by name.

        Returns
        -------
        Quantity
            Components along x, y, z: float32, shape ``(3, n_cells, n_cells, n_cells)``
            [km/s].

        Raises
        ------
        ParameterError, GridError
            As for `emulate`.
        """
        values = checked_parameters(self.card, params, keywords, extrapolate)
        z = checked_redshift(self.card, redshift, extrapolate)
        grid, given = self.grid(n_cells), initial_conditions
        with torch.no_grad():
            delta = self.linear_field(
                given, values, grid, whole_seed(seed), fixed=fixed, paired=paired
            )
            flow = velocity_field(
                delta,
                values,
                box_size=grid.box_size,
                redshift=z,
                **self.card.base.integration(grid.n_cells),
            )
        return u.Quantity(flow.cpu().numpy(), u.km / u.s, dtype=np.float32)

    def sample_galaxies(
        self,
        params: ParameterInput | None = None,
        *,
        seed: int,
        redshift: float = 0.0,
        catalogue_seed: int | None = None,
        line_of_sight: str | int | None = None,
        observer: Any = None,
        **keywords: Any,
    ) -> QTable:
        """Catalogue of galaxies with peculiar velocities; see `sample_galaxies`.

        Parameters
        ----------
        params, redshift, seed
            As for `emulate`.
        catalogue_seed
            Fixes the galaxies of the realisation; `seed` if not given.
        line_of_sight, observer
            As for `catalogues.sample_galaxies`.
        **keywords
            As for `velocities`: ``n_cells`` and others, and parameters by name.

        Returns
        -------
        QTable
            As from `catalogues.sample_galaxies`.
        """
        from .catalogues import sample_galaxies

        given = {"redshift": redshift, "seed": seed, **keywords}
        return sample_galaxies(
            self.emulate(params, fields=["galaxies"], **given)["galaxies"],
            seed=seed if catalogue_seed is None else catalogue_seed,
            velocities=self.velocities(params, **given),
            line_of_sight=line_of_sight,
            observer=observer,
        )

    def base(
        self, delta: Tensor, params: ParameterInput, redshift: float, box_size: float
    ) -> Tensor:
        """What the generator starts from: few-step matter, and galaxies of its halos.

        Parameters
        ----------
        delta
            Linear overdensity at redshift 0, shape ``(n, n, n)``.
        params
            As for `emulate`.
        redshift
            Of the result.
        box_size
            [Mpc/h]

        Returns
        -------
        Tensor
            Shape ``(channels, n, n, n)``, the channels those of ``card.base``: see
            `bases.base_fields`. For models of maps the average over their depth, shape
            ``(channels, n, n)``.
        """
        depth, n = self.card.base.depth, len(delta)
        base = base_fields(
            delta,
            as_parameters(params, names=COSMOLOGICAL),
            box_size=box_size,
            redshift=redshift,
            settings=self.card.base,
        )
        if depth is None:
            return base
        cells = depth / box_size * n
        if cells > n:
            raise GridError(
                f"maps of this model are {depth:g} Mpc/h deep, more than a box of "
                f"{box_size:g} Mpc/h; use a larger n_cells"
            )
        share = (cells - torch.arange(n)).clamp(0, 1).to(base)
        return torch.tensordot(base, share, 1) / cells

    def memory_plan(
        self, n_cells: int, max_memory: float | None = None, client: Any | None = None
    ) -> MemoryPlan:
        """How much memory a box needs, before it is made.

        Parameters
        ----------
        n_cells, max_memory, client
            As for `emulate`.

        Returns
        -------
        MemoryPlan
            Printed, it says what is needed and what is available.

        Raises
        ------
        NotEnoughMemoryError
            If the box does not fit.
        """
        device = next(self._model.generator.parameters()).device
        return plan_memory(
            self.grid(n_cells).n_cells,
            self._model.generator.config.network,
            mesh_factor=self.card.base.mesh_factor,
            halos=self.card.base.galaxies is not None,
            available=memory_limit(max_memory, device),
            workers=None if client is None else workers_of(client),
        )

    def grid(self, n_cells: int) -> GridSpec:
        """The box of a number of cells per side.

        Raises
        ------
        GridError
            If the model cannot make it.
        """
        self._model.generator.check_size(int(n_cells))
        return GridSpec(int(n_cells), int(n_cells) * self.card.cell_size)

    def linear_field(
        self,
        given: Any | None,
        values: dict[str, float],
        grid: GridSpec,
        seed: int,
        *,
        fixed: bool = False,
        paired: bool = False,
    ) -> Tensor:
        """Linear overdensity at redshift 0, given in any form or drawn.

        Parameters
        ----------
        given
            As ``initial_conditions`` of `emulate`.
        values
            Of the parameters.
        grid
            From `grid`.
        seed, fixed, paired
            As for `initial_conditions.linear_field`.

        Returns
        -------
        Tensor
            Shape ``(n, n, n)``, on the model's device.
        """
        device = next(self._model.generator.parameters()).device
        if given is None:
            return linear_field(
                values,
                n_cells=grid.n_cells,
                box_size=grid.box_size,
                seed=seed,
                fixed=fixed,
                paired=paired,
                device=device,
            )
        return given_linear_field(given, values, grid).to(device)
