"""One field by one call: the shortest way from parameters to a `GalaxyField`."""

from __future__ import annotations

import inspect
import os
from typing import Any

from ._model_input import choose_model, parameter_names
from .emulator import Emulator
from .fields import GalaxyField
from .parameters import ParameterInput

__all__ = ["emulate_galaxy_field"]


def emulate_galaxy_field(
    params: ParameterInput | None = None,
    *,
    redshift: float = 0.0,
    field: str = "galaxies",
    n_cells: int = 64,
    seed: int | None = None,
    model: str | os.PathLike[str] | None = None,
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
        A field of a model, such as ``"galaxies"`` or ``"gas_temperature"``.
    n_cells
        Cells per side.
    seed
        Fixes everything random; drawn and recorded if not given.
    model
        Name or file of the model. If not given, the model of the package that makes
        the field and knows the parameters that are named, ``nbody`` before others.
    **keywords
        As for `Emulator.emulate`.

    Returns
    -------
    GalaxyField
        Float32, shape ``(n_cells, n_cells, n_cells)``, in the unit of the field.
    """
    options = set(inspect.signature(Emulator.emulate).parameters)
    given = parameter_names(params, keywords) - options
    made = Emulator.load(choose_model(model, field, given)).emulate(
        params,
        redshift=redshift,
        fields=[field],
        n_cells=n_cells,
        seed=seed,
        **keywords,
    )
    return made[field]
