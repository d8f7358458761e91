"""A field in words: everything of a `GalaxyField` but its arrays, as JSON.

Every file format keeps this text beside the arrays, so that reading gives back an
equal field. Nothing here knows a file format.
"""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from astropy import units as u
from astropy.nddata import (
    InverseVariance,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from numpy.typing import NDArray

from .errors import FieldFileError
from .field_arithmetic import same
from .field_specs import FieldSpec, as_unit
from .fields import GalaxyField
from .geometry import CellAxis
from .grids import GridSpec

__all__ = ["arrays_of", "describe", "restore"]

_VERSION = 1
_UNCERTAINTIES = {
    "std": StdDevUncertainty,
    "var": VarianceUncertainty,
    "ivar": InverseVariance,
    "unknown": UnknownUncertainty,
}


def describe(field: GalaxyField) -> dict[str, Any]:
    """Describe a field in plain types that JSON can hold.

    Returns
    -------
    description
        What `restore` takes.

    Raises
    ------
    FieldFileError
        The meta data, a unit or the uncertainty cannot be written as text.
    """
    uncertainty = field.uncertainty
    if uncertainty is not None and uncertainty.uncertainty_type not in _UNCERTAINTIES:
        raise FieldFileError(
            f"an uncertainty of type {uncertainty.uncertainty_type!r} cannot be "
            f"written; use one of {', '.join(_UNCERTAINTIES)}"
        )
    return {
        "version": _VERSION,
        "spec": {**asdict(field.spec), "unit": _unit_text(field.spec.unit)},
        "unit": _unit_text(field.unit),
        "grid": asdict(field.grid),
        "axes": [asdict(axis) for axis in field.axes],
        "collapsed": [asdict(axis) for axis in field.collapsed],
        "meta": _plain(field.meta),
        "uncertainty": None
        if uncertainty is None
        else {
            "type": uncertainty.uncertainty_type,
            "unit": uncertainty.unit and _unit_text(uncertainty.unit),
        },
    }


def arrays_of(field: GalaxyField) -> dict[str, NDArray[Any]]:
    """The arrays beside the values: ``uncert`` and ``mask``, where there are any."""
    arrays = {}
    if field.uncertainty is not None:
        arrays["uncert"] = np.asarray(field.uncertainty.array)
    if field.mask is not None:
        arrays["mask"] = np.broadcast_to(field.mask, field.shape).astype(np.uint8)
    return arrays


def restore(
    description: Any, values: NDArray[Any], arrays: dict[str, NDArray[Any]]
) -> GalaxyField:
    """Undo `describe` and `arrays_of`.

    Parameters
    ----------
    description
        What `describe` gave.
    values
        The values; axes of one cell that the field does not have are dropped.
    arrays
        What `arrays_of` gave.

    Raises
    ------
    FieldFileError
        The description is of a newer version.
    AstroganError, KeyError, TypeError, ValueError
        It is no description, or does not fit the values.
    """
    if description["version"] > _VERSION:
        raise FieldFileError(
            f"version {description['version']} of the format is newer than the "
            f"{_VERSION} known here; update astrogan_emu"
        )
    meta = description["meta"]
    axes = tuple(CellAxis(**axis) for axis in description["axes"])
    spec = description["spec"]
    names = tuple(spec["yt_name"])
    uncertainty = description["uncertainty"]
    if uncertainty is not None:
        unit = uncertainty["unit"]
        uncertainty = _UNCERTAINTIES[uncertainty["type"]](
            arrays["uncert"], unit=None if unit is None else as_unit(unit)
        )
    return GalaxyField(
        values.reshape([axis.n_cells for axis in axes]),
        name=FieldSpec(**{**spec, "yt_name": names, "unit": as_unit(spec["unit"])}),
        grid=GridSpec(**description["grid"]),
        parameters=meta["parameters"],
        redshift=meta["redshift"],
        seed=meta["seed"],
        model=meta["model"],
        meta=meta,
        unit=as_unit(description["unit"]),
        axes=axes,
        collapsed=tuple(CellAxis(**axis) for axis in description["collapsed"]),
        uncertainty=uncertainty,
        mask=arrays["mask"].astype(bool) if "mask" in arrays else None,
    )


def _unit_text(unit: u.UnitBase) -> str:
    text = str(unit)
    try:
        same_unit = as_unit(text) == unit
    except ValueError:
        same_unit = False
    if not same_unit:
        raise FieldFileError(
            f"the unit {text!r} cannot be read back from its text; convert the field "
            "to a simpler one with field.to(...)"
        )
    return text


def _plain(meta: Any) -> Any:
    """The meta data as they come back from JSON, or a refusal."""
    for key, value in meta.items():
        try:
            back = json.loads(json.dumps({key: value}, default=_as_plain))
        except (TypeError, ValueError) as error:
            raise FieldFileError(
                f"meta[{key!r}] cannot be written to a file: {error}; use numbers, "
                "strings, lists and dicts"
            ) from error
        if not same(back, {key: value}):
            raise FieldFileError(
                f"meta[{key!r}] would not come back from a file as it is; use "
                "numbers, strings, lists, and dicts with strings as keys"
            )
    return json.loads(json.dumps(meta, default=_as_plain))


def _as_plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no plain value")
