"""The emulator: parameters and a seed in, galaxy fields out.

`Emulator` holds one loaded model; `emulate_galaxy_field` is one call of it. A seed
fixes the initial phases and the generator's noise, each number by its place, so a field
does not depend on what else was made, nor on the device's number of threads.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from astropy import units as u
from torch import Tensor

from .checkpoints import Model, ModelCard, read_model
from .conditioning import conditions
from .errors import (
    ExtrapolationWarning,
    GridError,
    ParameterError,
    ParameterRangeError,
    UnknownFieldError,
    UnknownModelError,
)
from .fields import FIELDS, GalaxyField
from .grids import GridSpec
from .initial_conditions import (
    linear_field,
    linear_field_from_velocities,
    resample,
)
from .noise import cell_noise
from .parameters import COSMOLOGICAL, ParameterInput, as_parameters
from .particle_mesh import matter_density
from .snapshots import Snapshot, read_snapshot

__all__ = ["Emulator", "emulate_galaxy_field", "model_names"]

# The generator's noise must not be that of the initial conditions.
_NOISE_STREAM = 100

InitialConditions = Any


def model_names() -> tuple[str, ...]:
    """Names of the models inside the package, sorted."""
    folder = resources.files("astrogan_emu") / "models"
    if not folder.is_dir():
        return ()
    files = [entry.name for entry in folder.iterdir()]
    ending = ".safetensors"
    return tuple(sorted(f.removesuffix(ending) for f in files if f.endswith(ending)))


def _model_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Path of a model that is named or given as a file."""
    path = Path(name_or_path)
    if path.suffix == ".safetensors" or path.is_file():
        return path
    if str(name_or_path) not in model_names():
        raise UnknownModelError(
            f"there is no model {str(name_or_path)!r}; choose one of "
            f"{', '.join(model_names())}, or give the path of a .safetensors file"
        )
    inside = resources.files("astrogan_emu") / "models" / f"{name_or_path}.safetensors"
    return Path(str(inside))


@lru_cache(maxsize=4)
def _cached(path: Path, changed: int, device: str) -> Model:
    model = read_model(path)
    model.generator.to(device)
    return model


def _load(name_or_path: str | os.PathLike[str], device: str) -> Model:
    path = _model_path(name_or_path)
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _cached(path, changed, device)


class Emulator:
    """A trained model, ready to make fields.

    Use `Emulator.load`.

    Parameters
    ----------
    model
        From `read_model`.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    @classmethod
    def load(
        cls, name_or_path: str | os.PathLike[str] = "nbody", *, device: str = "cpu"
    ) -> Self:
        """Load a model.

        Parameters
        ----------
        name_or_path
            A model of the package (see `model_names`), or a file that `train` made.
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
        return cls(_load(name_or_path, device))

    @property
    def card(self) -> ModelCard:
        """What the model is: parameters, ranges, scores, origin."""
        return self._model.card

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields it makes."""
        return self._model.generator.config.fields

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
        initial_conditions: InitialConditions | None = None,
        stochastic: bool = True,
        extrapolate: bool = False,
        fixed: bool = False,
        paired: bool = False,
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
            Which fields; all if not given.
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
        """
        values = self._parameters(params, keywords, extrapolate)
        z = self._redshift(redshift, extrapolate)
        names = self._fields(fields)
        self._model.generator.check_size(int(n_cells))
        grid = GridSpec(int(n_cells), int(n_cells) * self.card.cell_size)
        seed = secrets.randbits(32) if seed is None else _whole(seed)
        return self._realisation(
            values,
            z,
            names,
            grid,
            seed,
            initial_conditions,
            stochastic=stochastic,
            fixed=fixed,
            paired=paired,
        )

    def _realisation(
        self,
        values: dict[str, float],
        z: float,
        names: Sequence[str],
        grid: GridSpec,
        seed: int,
        initial_conditions: InitialConditions | None,
        *,
        stochastic: bool = True,
        fixed: bool = False,
        paired: bool = False,
    ) -> dict[str, GalaxyField]:
        """What `emulate` does after its checks, so that a batch is checked once."""
        with torch.no_grad():
            delta = self._linear(
                initial_conditions, values, grid, seed, fixed=fixed, paired=paired
            )
            made = self._generate(delta, values, z, grid, seed, stochastic)
        result = {}
        for name in names:
            own = self.card.units[name]
            field = GalaxyField(
                made[self.fields.index(name)].cpu().numpy(),
                name=name,
                grid=grid,
                parameters=values,
                redshift=z,
                seed=seed,
                model=self.identity,
                unit=own or u.dimensionless_unscaled,
            )
            spec = FIELDS[name]
            # Maps of a density are per area.
            per_area = field.ndim == 2 and spec.integrates
            result[name] = field.to(spec.unit * u.Mpc if per_area else spec.unit)
        return result

    def base(
        self, delta: Tensor, params: ParameterInput, redshift: float, box_size: float
    ) -> Tensor:
        """Few-step matter density that the generator starts from.

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
            Ratio to the mean, shape ``(n, n, n)``; for models of maps its average over
            their depth, shape ``(n, n)``.
        """
        settings = self.card.base
        density = matter_density(
            delta,
            as_parameters(params, names=COSMOLOGICAL),
            box_size=box_size,
            redshift=redshift,
            n_steps=settings.n_steps,
            n_mesh=settings.mesh_factor * delta.shape[0],
            start_redshift=settings.start_redshift,
        )
        if settings.depth is None:
            return density
        cells = settings.depth / box_size * len(density)
        if cells > len(density):
            raise GridError(
                f"maps of this model are {settings.depth:g} Mpc/h deep, more than a "
                f"box of {box_size:g} Mpc/h; use a larger n_cells"
            )
        share = (cells - torch.arange(len(density))).clamp(0, 1).to(density)
        return torch.tensordot(density, share, 1) / cells

    def _generate(
        self,
        delta: Tensor,
        values: dict[str, float],
        redshift: float,
        grid: GridSpec,
        seed: int,
        stochastic: bool,
    ) -> Tensor:
        generator = self._model.generator
        base = self.base(
            delta, {k: values[k] for k in COSMOLOGICAL}, redshift, grid.box_size
        )
        vector = self.card.space.vector({n: values[n] for n in self.card.space.names})
        told = conditions(self.card.space, vector[None], redshift).to(base.device)
        noise = None
        if stochastic:
            noise = [
                cell_noise(
                    seed,
                    _NOISE_STREAM + i,
                    grid.n_cells >> level,
                    n_dim=base.ndim,
                    device=base.device,
                )[None, None]
                for i, level in enumerate(generator.network.noise_levels)
            ]
        fields: Tensor = generator(base[None, None], told, noise)[0]
        return fields

    def _linear(
        self,
        given: InitialConditions | None,
        values: dict[str, float],
        grid: GridSpec,
        seed: int,
        *,
        fixed: bool,
        paired: bool,
    ) -> Tensor:
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
        if isinstance(given, str | os.PathLike):
            given = read_snapshot(given)
        if isinstance(given, Snapshot):
            return _linear_from_snapshot(given, values, grid).to(device)
        delta = torch.as_tensor(np.asarray(given, dtype=np.float32))
        if delta.ndim != 3 or len(set(delta.shape)) != 1:
            raise GridError(
                "initial_conditions must have the shape (m, m, m), got "
                f"{tuple(delta.shape)}"
            )
        if not bool(torch.isfinite(delta).all()):
            raise GridError("initial_conditions hold values that are not finite")
        return resample(delta, grid.n_cells).to(device)

    def _parameters(
        self, params: ParameterInput | None, keywords: dict[str, Any], extrapolate: bool
    ) -> dict[str, float]:
        space = self.card.space
        names = tuple(dict.fromkeys((*COSMOLOGICAL, *space.names)))
        values = as_parameters(params, names=names, defaults=space.defaults, **keywords)
        space.check([values[name] for name in space.names], extrapolate=extrapolate)
        return {name: values[name] for name in names}

    def _redshift(self, redshift: Any, extrapolate: bool) -> float:
        z = float(u.Quantity(redshift).to_value(u.dimensionless_unscaled))
        low, high = self.card.redshifts
        if not np.isfinite(z) or z <= -1:
            raise ParameterError(f"redshift must be a number above -1, got {z}")
        if not low <= z <= high:
            said = f"redshift = {z:g} is outside the trained range [{low:g}, {high:g}]"
            if not extrapolate:
                raise ParameterRangeError(
                    f"{said}; pass extrapolate=True to emulate anyway"
                )
            warnings.warn(said, ExtrapolationWarning, stacklevel=3)
        return z

    def _fields(self, fields: Sequence[str] | None) -> tuple[str, ...]:
        names = self.fields if fields is None else tuple(fields)
        if isinstance(fields, str):
            names = (fields,)
        for name in names:
            if name not in self.fields:
                raise UnknownFieldError(
                    f"model {self.card.name} does not make {name!r}; it makes "
                    f"{', '.join(self.fields)}"
                )
        return names


def _whole(seed: Any) -> int:
    if isinstance(seed, bool) or int(seed) != seed:
        raise ParameterError(f"seed must be a whole number, got {seed!r}")
    return int(seed)


def _linear_from_snapshot(
    snapshot: Snapshot, values: dict[str, float], grid: GridSpec
) -> Tensor:
    if abs(snapshot.box_size / grid.box_size - 1) > 1e-4:
        cell = grid.cell_size
        raise GridError(
            f"the initial conditions fill a box of {snapshot.box_size:g} Mpc/h, but "
            f"{grid.n_cells} cells of {cell:g} Mpc/h make {grid.box_size:g}; give "
            f"n_cells = {snapshot.box_size / cell:.6g}"
        )
    columns = [
        np.concatenate([read(kind) for kind in snapshot.kinds])
        for read in (snapshot.positions, snapshot.velocities, snapshot.masses)
    ]
    positions, velocities, masses = (torch.from_numpy(c).float() for c in columns)
    return linear_field_from_velocities(
        positions,
        velocities,
        masses / masses.mean(),
        redshift=snapshot.redshift,
        omega_m=values["omega_m"],
        n_cells=grid.n_cells,
        box_size=grid.box_size,
    )


def emulate_galaxy_field(
    params: ParameterInput | None = None,
    *,
    redshift: float = 0.0,
    field: str = "galaxies",
    n_cells: int = 64,
    seed: int | None = None,
    model: str | os.PathLike[str] = "nbody",
    **keywords: Any,
) -> GalaxyField:
    """One galaxy field from cosmological parameters.

    A thin call of `Emulator.emulate`, which lists all keywords and errors.

    Parameters
    ----------
    params
        Mapping, astropy cosmology, or table row; or give parameters by keyword.
    redshift
        Of the field.
    field
        A field of the model, such as ``"galaxies"`` or ``"matter"``.
    n_cells
        Cells per side.
    seed
        Fixes everything random; drawn and recorded if not given.
    model
        Name or file of the model.
    **keywords
        As for `Emulator.emulate`.

    Returns
    -------
    GalaxyField
        Float32, shape ``(n_cells, n_cells, n_cells)``, in the unit of the field.
    """
    emulator = Emulator.load(model)
    made = emulator.emulate(
        params,
        redshift=redshift,
        fields=[field],
        n_cells=n_cells,
        seed=seed,
        **keywords,
    )
    return made[field]
