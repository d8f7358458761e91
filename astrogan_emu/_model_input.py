"""What a call asks of a model, checked: which model, which fields, at which point."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from astropy import units as u

from ._parameter_input import unknown_parameter
from .checkpoints import ModelCard, load_model, model_names
from .derived_fields import offered
from .errors import (
    ExtrapolationWarning,
    ParameterError,
    ParameterRangeError,
    UnknownFieldError,
    UnknownModelError,
)
from .expected_errors import warn_in_corner
from .parameters import ALIASES, COSMOLOGICAL, ParameterInput, as_parameters

__all__ = [
    "DEFAULT_MODEL",
    "checked_fields",
    "checked_parameters",
    "checked_redshift",
    "choose_model",
    "offered_by",
    "parameter_names",
]

DEFAULT_MODEL = "nbody"


def choose_model(
    model: str | os.PathLike[str] | None,
    fields: str | Sequence[str] | None,
    parameters: Iterable[str] = (),
) -> str | os.PathLike[str]:
    """The model to use: the one that is named, or the one that can do what is asked.

    Parameters
    ----------
    model
        Name or file; always the answer, if given.
    fields
        Names of the fields that are asked for; None for whatever there is.
    parameters
        Names of the parameters that are given.

    Returns
    -------
    str or path
        The default model if it makes all these fields and knows all these
        parameters, else the one that does.

    Raises
    ------
    UnknownFieldError
        If no model makes the fields.
    UnknownParameterError
        If a parameter is known to none of the models that make them.
    UnknownModelError
        If several models other than the default one would do.
    """
    if model is not None:
        return model
    asked = () if fields is None else (fields,) if isinstance(fields, str) else fields
    able: dict[str, tuple[str, ...]] = {}
    for name in sorted(model_names(), key=lambda name: (name != DEFAULT_MODEL, name)):
        model_of = load_model(name)
        made = model_of.generator.config.fields
        if set(asked) <= set(offered(made)):
            able[name] = (*COSMOLOGICAL, *model_of.card.space.names)
    if not able:
        raise UnknownFieldError(
            f"no model makes {' and '.join(map(repr, asked))}; " + _all_fields()
        )
    given = {ALIASES.get(name, name) for name in parameters}
    fit = [name for name, known in able.items() if given <= set(known)]
    if not fit:
        known = tuple(dict.fromkeys(n for names in able.values() for n in names))
        for name in given:
            if name not in known:
                raise unknown_parameter(name, known)
        # The model that knows most of them says best what it does not know.
        return max(able, key=lambda name: len(given & set(able[name])))
    if len(fit) > 1 and DEFAULT_MODEL not in fit:
        raise UnknownModelError(
            f"several models make {' and '.join(asked)}: {', '.join(fit)}; choose one "
            "with model="
        )
    return fit[0]


def _all_fields() -> str:
    return "; ".join(
        f"{name} makes {', '.join(offered(load_model(name).generator.config.fields))}"
        for name in model_names()
    )


def parameter_names(
    params: ParameterInput | None, keywords: Mapping[str, Any]
) -> set[str]:
    """Names of the parameters that are given on purpose.

    Parameters
    ----------
    params
        Columns of a table row, of which there are often more than are meant, and what
        a cosmology holds, do not count.
    keywords
        Parameters by name.

    Returns
    -------
    set of str
        As they are spelt.
    """
    own = set(params) if isinstance(params, Mapping) else set()
    return own | {name for name, value in keywords.items() if value is not None}


def checked_parameters(
    card: ModelCard,
    params: ParameterInput | None,
    keywords: Mapping[str, Any],
    extrapolate: bool,
) -> dict[str, float]:
    """All parameters of a model, within the ranges in which it may be used."""
    space = card.space
    names = tuple(dict.fromkeys((*COSMOLOGICAL, *space.names)))
    values = as_parameters(params, names=names, defaults=space.defaults, **keywords)
    given = [values[name] for name in space.names]
    card.allowed.check(given, extrapolate=extrapolate)
    if card.errors:
        warn_in_corner(space, values)
    return {name: values[name] for name in names}


def checked_redshift(card: ModelCard, redshift: Any, extrapolate: bool) -> float:
    """A redshift within the trained range."""
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
        warnings.warn(said, ExtrapolationWarning, stacklevel=4)
    return z


def offered_by(card: ModelCard, made: Sequence[str]) -> tuple[str, ...]:
    """Names of the fields to be had of a model that makes some."""
    # In maps a product of means is not the mean of the product.
    return offered(made) if card.base.depth is None else tuple(made)


def checked_fields(
    card: ModelCard, made: Sequence[str], fields: Sequence[str] | None
) -> tuple[str, ...]:
    """Names of fields that a model offers; those that it makes if none are named."""
    names = tuple(made) if fields is None else tuple(fields)
    if isinstance(fields, str):
        names = (fields,)
    known = offered_by(card, made)
    for name in names:
        if name not in known:
            raise UnknownFieldError(
                f"model {card.name} does not make {name!r}; it makes {', '.join(known)}"
            )
    return names
