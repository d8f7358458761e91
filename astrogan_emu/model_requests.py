"""What a model can be asked for: its parameters, redshifts and fields.

Each function gives the checked value, or an error that says what is allowed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy import units as u

from .checkpoints import ModelCard
from .errors import (
    ExtrapolationWarning,
    ParameterError,
    ParameterRangeError,
    UnknownFieldError,
)
from .parameters import COSMOLOGICAL, ParameterInput, as_parameters

__all__ = ["fields_of", "parameters_of", "redshift_of"]


def parameters_of(
    card: ModelCard,
    params: ParameterInput | None,
    keywords: Mapping[str, Any],
    *,
    extrapolate: bool,
) -> dict[str, float]:
    """One value of each parameter, within the trained range.

    Parameters
    ----------
    card
        Of the model.
    params, keywords
        As for `Emulator.emulate`.
    extrapolate
        Go beyond the range with a warning.

    Returns
    -------
    dict
        The five cosmological parameters first, then the model's own.

    Raises
    ------
    ParameterError
        If one is missing, unknown or outside the range.
    """
    space = card.space
    names = tuple(dict.fromkeys((*COSMOLOGICAL, *space.names)))
    values = as_parameters(params, names=names, defaults=space.defaults, **keywords)
    space.check([values[name] for name in space.names], extrapolate=extrapolate)
    return {name: values[name] for name in names}


def redshift_of(card: ModelCard, redshift: Any, *, extrapolate: bool) -> float:
    """A redshift within the trained range.

    Raises
    ------
    ParameterError
        If it is no number above -1, or outside the range.
    """
    z = float(u.Quantity(redshift).to_value(u.dimensionless_unscaled))
    low, high = card.redshifts
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


def fields_of(
    card: ModelCard, known: Sequence[str], fields: Sequence[str] | str | None
) -> tuple[str, ...]:
    """Names of fields that the model makes; all of `known` if none are given.

    Raises
    ------
    UnknownFieldError
        If the model does not make one.
    """
    if isinstance(fields, str):
        fields = (fields,)
    names = tuple(known) if fields is None else tuple(fields)
    for name in names:
        if name not in known:
            raise UnknownFieldError(
                f"model {card.name} does not make {name!r}; it makes {', '.join(known)}"
            )
    return names
