"""The one door by which parameters enter, whatever form a user holds them in.

A dict, keywords, an astropy cosmology, a table or a row of one all become plain
numbers under one set of names. `parameters` offers these functions to users; ranges
are its business, not known here.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import astropy.units as u
import numpy as np
from astropy.cosmology import FLRW, Cosmology, FlatLambdaCDM
from astropy.table import QTable, Row, Table
from numpy.typing import ArrayLike, NDArray

from .errors import MissingParameterError, ParameterError, UnknownParameterError

__all__ = [
    "ALIASES",
    "COSMOLOGICAL",
    "FloatArray",
    "ParameterInput",
    "as_parameter_table",
    "as_parameters",
    "canonical_name",
    "gather",
    "matrix",
    "to_cosmology",
    "unknown_parameter",
]

COSMOLOGICAL: tuple[str, ...] = ("omega_m", "omega_b", "h", "n_s", "sigma_8")

ALIASES: Mapping[str, str] = {
    "Om0": "omega_m",
    "Omega_m": "omega_m",
    "Ob0": "omega_b",
    "Omega_b": "omega_b",
    "H0": "h",
    "ns": "n_s",
    "n": "n_s",
    "sigma8": "sigma_8",
}

ParameterInput: TypeAlias = Mapping[str, Any] | Cosmology | Row | np.void

_ONE_SET = Mapping | Cosmology | Row | np.void

FloatArray: TypeAlias = NDArray[np.float64]

# The lightest sum the oscillation experiments allow, rounded up as in astropy's
# Planck cosmologies; what it does to the linear power is in `as_parameters`.
_LIGHT_NEUTRINOS = 0.06 * u.eV

# Omega_k of a cosmology written as Omega_m + Omega_Lambda = 1 that also has
# photons and light neutrinos reaches -0.0015; that is no curvature anyone meant.
_FLAT = 2e-3


def as_parameters(
    params: ParameterInput | None = None,
    *,
    names: Sequence[str] = COSMOLOGICAL,
    defaults: Mapping[str, float] | None = None,
    **keywords: Any,
) -> dict[str, float]:
    """One set of parameters, from any form a user may hold it in.

    Parameters
    ----------
    params
        A mapping; an astropy cosmology, with sigma_8 and n_s in its ``meta`` or
        among the keywords; or a row of an astropy table or of a structured array,
        whose other columns are ignored.
    names
        The parameters wanted, in order.
    defaults
        Values for names that are not given.
    **keywords
        Further parameters, by any spelling of the module's table. One that is
        None counts as not given.

    Returns
    -------
    parameters
        A number for each name, in the order of `names`.

    Raises
    ------
    MissingParameterError
        A name has neither a value nor a default; all such names are listed.
    UnknownParameterError
        A key of a mapping, or a keyword, is none of the names.
    ParameterError
        A value is not one finite number in a fitting unit, a parameter is given
        twice with different values, or the cosmology is not flat, has dark energy
        other than a cosmological constant, or massive neutrinos above 0.06 eV.

    Notes
    -----
    A cosmology's ``meta`` yields to a keyword; everything else that is given twice
    must agree. ``Ob0 = 0``, astropy's default, counts as not given.

    The models know no massive neutrinos. A sum of masses up to 0.06 eV, as in
    astropy's ``Planck18``, is taken as massless with omega_m = Om0, which in
    astropy leaves neutrinos out, and sigma_8 as given. Measured with CAMB 2.0.5 at
    the Planck 2018 values, z = 0 and 1, the linear power of all matter then errs
    by less than 0.1 % at k > 0.15 h/Mpc, 0.3 % at 0.05, 1 % at 0.015 and 2 % at
    0.005; adding the neutrinos to omega_m would be two to six times worse. Heavier
    neutrinos are refused.
    """
    if params is not None and not isinstance(params, _ONE_SET):
        raise ParameterError(
            "parameters must be a mapping, an astropy cosmology or a table row, got "
            f"{type(params).__name__}; many sets at once go through as_parameter_table"
        )
    columns = gather(params, names, defaults, keywords)
    for name, value in columns.items():
        if value.ndim:
            raise ParameterError(
                f"{name} must be one number, got an array of shape {value.shape}; "
                "many sets at once go through as_parameter_table"
            )
    return {name: float(value) for name, value in columns.items()}


def as_parameter_table(
    params: Table | ArrayLike | ParameterInput | Iterable[ParameterInput],
    *,
    names: Sequence[str] = COSMOLOGICAL,
    defaults: Mapping[str, float] | None = None,
) -> QTable:
    """Many sets of parameters, from any form a user may hold them in.

    Parameters
    ----------
    params
        An astropy table or structured array, whose other columns are ignored; a
        mapping of names to arrays and numbers; an array of shape
        ``(n, n_parameters)`` in the order of `names`; or any iterable of what
        `as_parameters` takes. One single set makes a table of one row.
    names
        The parameters wanted, in order.
    defaults
        Values for names that are not given.

    Returns
    -------
    table
        One float64 column per name, in the order of `names`, one row per set.

    Raises
    ------
    MissingParameterError, UnknownParameterError, ParameterError
        As for `as_parameters`; also when the shapes do not form a table.
    """
    columns = gather(params, names, defaults)
    try:
        shape = np.broadcast_shapes((1,), *(value.shape for value in columns.values()))
    except ValueError:
        shape = ()
    if len(shape) != 1:
        raise ParameterError(
            "the parameters do not form a table; each must be one number or have one "
            "value per row, got shapes "
            + ", ".join(f"{name} {value.shape}" for name, value in columns.items())
        )
    return QTable(
        {name: np.broadcast_to(value, shape) for name, value in columns.items()}
    )


def to_cosmology(params: Mapping[str, float]) -> FlatLambdaCDM:
    """The astropy cosmology of a set of parameters.

    Parameters
    ----------
    params
        At least the five cosmological parameters; others are ignored.

    Returns
    -------
    cosmology
        Flat, without radiation as in the simulations, with ``sigma8`` and ``n_s``
        in its ``meta``, so that `as_parameters` gives the parameters back.

    Raises
    ------
    ParameterError
        A cosmological parameter is missing or not a finite number.
    """
    values = as_parameters(
        {key: params[key] for key in params if canonical_name(key) in COSMOLOGICAL}
    )
    return FlatLambdaCDM(
        H0=100 * values["h"] * u.km / u.s / u.Mpc,
        Om0=values["omega_m"],
        Ob0=values["omega_b"],
        Tcmb0=0 * u.K,
        name="astrogan_emu",
        meta={"sigma8": values["sigma_8"], "n_s": values["n_s"]},
    )


def gather(
    params: Any,
    names: Sequence[str],
    defaults: Mapping[str, float] | None = None,
    keywords: Mapping[str, Any] | None = None,
) -> dict[str, FloatArray]:
    """Bring any form into one finite array per name, in the order of the names."""
    given = {key: value for key, value in (keywords or {}).items() if value is not None}
    items = _items(
        params, names, defaults, taken={canonical_name(key) for key in given}
    )
    columns: dict[str, FloatArray] = {}
    for key, value in [*items.items(), *given.items()]:
        name = canonical_name(key)
        if name not in names:
            raise unknown_parameter(key, names)
        numbers = _numbers(key, value)
        if name in columns and not _agree(columns[name], numbers):
            raise ParameterError(
                f"{name} is given twice with different values, {columns[name]} and "
                f"{numbers}; give it once"
            )
        columns[name] = numbers

    for name, default in (defaults or {}).items():
        columns.setdefault(name, np.asarray(default, float))
    missing = [name for name in names if name not in columns]
    if missing:
        hint = (
            "a cosmology brings omega_b as Ob0, and sigma_8 and n_s in its meta as "
            "sigma8 and n_s; give what it lacks as keywords"
            if isinstance(params, Cosmology)
            else f"needed are {', '.join(names)}"
        )
        raise MissingParameterError(f"missing {', '.join(missing)}; {hint}")
    return {name: columns[name] for name in names}


def _items(
    params: Any,
    names: Sequence[str],
    defaults: Mapping[str, float] | None,
    taken: set[str],
) -> dict[str, Any]:
    """Name and value of all that was given, whatever the form."""
    if params is None:
        return {}
    if isinstance(params, Mapping):
        return dict(params)
    if isinstance(params, Cosmology):
        items = _from_cosmology(params, taken)
    elif isinstance(params, Table | Row):
        items = {key: params[key] for key in params.colnames}
    elif getattr(getattr(params, "dtype", None), "names", None):
        items = {key: params[key] for key in params.dtype.names}
    else:
        return _from_sequence(params, names, defaults)
    # Tables and cosmologies hold more than parameters; mappings are taken at
    # their word, so that a misspelt key is noticed.
    return {key: items[key] for key in items if canonical_name(key) in names}


def _from_cosmology(cosmology: Cosmology, taken: set[str]) -> dict[str, Any]:
    """Take from an astropy cosmology what a flat LCDM model can follow."""
    if not isinstance(cosmology, FLRW):
        raise ParameterError(
            f"{type(cosmology).__name__} is no homogeneous, expanding universe; use "
            "astropy's FlatLambdaCDM"
        )
    label = cosmology.name or type(cosmology).__name__
    if abs(cosmology.Ok0) > _FLAT:
        raise ParameterError(
            f"{label} is curved, Ok0 = {cosmology.Ok0:g}, and the models are flat; "
            "use astropy's FlatLambdaCDM"
        )
    if not np.allclose(cosmology.w(np.array([0.0, 0.5, 1.0, 3.0])), -1, atol=1e-6):
        raise ParameterError(
            f"the dark energy of {label} has w = {cosmology.w(0.0):g} today and "
            f"{cosmology.w(1.0):g} at z = 1, and the models know only w = -1; use "
            "astropy's FlatLambdaCDM"
        )
    masses = cosmology.m_nu
    if masses is not None and masses.sum() > _LIGHT_NEUTRINOS * (1 + 1e-6):
        raise ParameterError(
            f"the neutrinos of {label} weigh {masses.sum():g} together, and the models "
            f"know none above {_LIGHT_NEUTRINOS:g}; "
            "give the cosmology m_nu = 0 eV to do without them"
        )
    items = {"Om0": cosmology.Om0, "h": cosmology.h}
    if cosmology.Ob0:
        items["Ob0"] = cosmology.Ob0
    for key, value in cosmology.meta.items():
        name = canonical_name(key)
        if name in ("sigma_8", "n_s") and name not in taken and value is not None:
            items[key] = value
    return items


def _from_sequence(
    params: Any, names: Sequence[str], defaults: Mapping[str, float] | None
) -> dict[str, Any]:
    """Split an array, or an iterable of sets, into one array per name."""
    if not isinstance(params, np.ndarray) and isinstance(params, Iterable):
        params = list(params)
        if params and isinstance(params[0], _ONE_SET):
            sets = []
            for index, one in enumerate(params):
                try:
                    sets.append(as_parameters(one, names=names, defaults=defaults))
                except ParameterError as error:
                    raise type(error)(f"set {index}: {error}") from error
            return {name: [one[name] for one in sets] for name in names}
    array = matrix(params, names)
    return {name: array[..., index] for index, name in enumerate(names)}


def matrix(values: Any, names: Sequence[str]) -> FloatArray:
    """Check an array whose last axis runs over the names."""
    array = _numbers("parameters", values)
    if array.ndim == 0 or array.shape[-1] != len(names):
        raise ParameterError(
            f"an array of parameters needs a last axis of {len(names)} "
            f"({', '.join(names)}), got shape {array.shape}"
        )
    return array


def _numbers(key: str, value: Any) -> FloatArray:
    """Turn a value into finite float64 numbers of the canonical unit."""
    if np.any(getattr(value, "mask", False)):
        raise ParameterError(f"{key} is masked; fill it in or leave it out")
    scale = u.km / u.s / u.Mpc if key == "H0" else u.dimensionless_unscaled
    try:
        if getattr(value, "unit", None) is not None:
            value = u.Quantity(value).to_value(scale)
        array = np.asarray(value)
    except u.UnitsError as error:
        raise ParameterError(
            f"{key} has the unit {value.unit}, it must be "
            + (f"in {scale}" if key == "H0" else "a plain number")
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(f"{key} must be a number, got {value!r}") from error
    if array.dtype.kind not in "iuf":
        raise ParameterError(f"{key} must be a number, got {value!r}")
    if not np.all(np.isfinite(array)):
        raise ParameterError(
            f"{key} must be finite, got {array[~np.isfinite(array)][0]}"
        )
    return array.astype(float) / (100 if key == "H0" else 1)


def _agree(first: FloatArray, second: FloatArray) -> bool:
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-9, atol=0)


def canonical_name(key: str) -> str:
    return ALIASES.get(key, key)


def unknown_parameter(key: str, names: Sequence[str]) -> UnknownParameterError:
    allowed = [*names, *(alias for alias in ALIASES if ALIASES[alias] in names)]
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f", perhaps {close[0]} was meant" if close else ""
    return UnknownParameterError(
        f"unknown parameter {key!r}{hint}; allowed are {', '.join(names)}"
    )
