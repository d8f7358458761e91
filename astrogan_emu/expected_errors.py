"""What a model's fields are expected to be off by, measured and kept in its card.

`validate` measures it on simulations that the model never saw, apart for the interior
of the parameter range and for its edges; here it is looked up for the field at hand.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .checkpoints import ModelCard
from .errors import CornerWarning
from .parameters import ParameterSpace

__all__ = [
    "at_edge",
    "expected_error",
    "expected_meta",
    "outer_parameters",
    "warn_in_corner",
]

_OUTER = 0.1
# Parameters at their edges from which on few simulations were checked.
_CORNER = 3


def outer_parameters(
    space: ParameterSpace, parameters: Mapping[str, float]
) -> tuple[str, ...]:
    """Parameters that lie in the outer tenth of their ranges, or beyond.

    Parameters
    ----------
    space
        The ranges.
    parameters
        Values by name, those of the space at least.

    Returns
    -------
    tuple of str
        Their names, in the order of the space.
    """
    unit = space.to_unit(np.array([parameters[name] for name in space.names]))
    outer = np.abs(unit - 0.5) > 0.5 - _OUTER
    return tuple(n for n, out in zip(space.names, outer, strict=True) if out)


def at_edge(space: ParameterSpace, parameters: Mapping[str, float]) -> bool:
    """Whether a parameter lies in the outer tenth of its range, or beyond.

    Parameters
    ----------
    space, parameters
        As for `outer_parameters`.
    """
    return bool(outer_parameters(space, parameters))


def expected_error(
    errors: Mapping[str, Any],
    space: ParameterSpace,
    field: str,
    parameters: Mapping[str, float],
    redshift: float,
) -> dict[str, Any] | None:
    """Measured error of one field near some parameters.

    Parameters
    ----------
    errors
        Of the model's card.
    space
        The model's parameters.
    field
        Name of the field.
    parameters
        Values by name.
    redshift
        Of the field; between measured redshifts errors are interpolated, beyond them
        those of the nearest are taken.

    Returns
    -------
    dict or None
        ``k`` [h/Mpc], the middles of bands; ``power``, the root mean square over
        simulations of P / P_simulation - 1 in each; ``power_bias``, its mean;
        ``correlation``, mean r(k) with the simulation of the same phases; ``region``,
        ``"interior"`` or ``"edge"``; ``runs``, how many simulations it was measured on.
        None where nothing was measured.
    """
    wanted = "edge" if at_edge(space, parameters) else "interior"
    by_region = errors.get("fields", {}).get(field, {})
    region = wanted if wanted in by_region else next(iter(by_region), None)
    if region is None:
        return None
    table = by_region[region]
    redshifts = np.asarray(table["redshifts"], float)
    order = np.argsort(redshifts)

    def at(name: str) -> list[float]:
        columns = np.asarray(table[name], float)[order].T
        return [float(np.interp(redshift, redshifts[order], each)) for each in columns]

    return {
        "k": list(errors["k"]),
        **{name: at(name) for name in ("power", "power_bias", "correlation")},
        "region": region,
        "runs": int(table["runs"]),
    }


def expected_meta(
    card: ModelCard, field: str, parameters: Mapping[str, float], redshift: float
) -> dict[str, Any]:
    """What a field's ``meta`` says of its error: empty where nothing was measured.

    Parameters
    ----------
    card
        Of the model.
    field, parameters, redshift
        As for `expected_error`.
    """
    error = expected_error(card.errors, card.space, field, parameters, redshift)
    return {} if error is None else {"expected_error": error}


def warn_in_corner(space: ParameterSpace, parameters: Mapping[str, float]) -> None:
    """Warn where so many parameters are at their edges that few simulations tell.

    Parameters
    ----------
    space, parameters
        As for `outer_parameters`.
    """
    outer = outer_parameters(space, parameters)
    if len(outer) >= _CORNER:
        warnings.warn(
            f"{', '.join(outer)} all lie in the outer tenth of their trained ranges, a "
            "corner where few simulations were checked; expect larger errors than at "
            "the edges",
            CornerWarning,
            stacklevel=4,
        )
