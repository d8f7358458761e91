"""Parameters: their names, order, allowed ranges, and how they are spread.

`ParameterSpace` says which there are, in which order and range; "the parameter vector"
comes from there. `as_parameters` is the one door by which parameters enter.

Spellings understood beside the canonical names:

========= =========================================== =============================
name      also understood                             meaning
========= =========================================== =============================
omega_m   Om0, Omega_m                                matter density today / critical
omega_b   Ob0, Omega_b                                baryon density today / critical
h         H0 (a Quantity, or a number in km/s/Mpc)    H0 / (100 km/s/Mpc)
n_s       ns, n                                       scalar spectral index
sigma_8   sigma8                                      linear rms in 8 Mpc/h spheres
========= =========================================== =============================
"""

import keyword
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import scipy
from astropy.table import QTable, Table
from numpy.typing import ArrayLike, NDArray

from ._parameter_input import (
    ALIASES,
    COSMOLOGICAL,
    FloatArray,
    ParameterInput,
    as_parameter_table,
    as_parameters,
    canonical_name,
    gather,
    matrix,
    to_cosmology,
    unknown_parameter,
)
from .errors import ExtrapolationWarning, ParameterError, ParameterRangeError

__all__ = [
    "ALIASES",
    "COSMOLOGICAL",
    "Parameter",
    "ParameterInput",
    "ParameterSpace",
    "as_parameter_table",
    "as_parameters",
    "to_cosmology",
]

# Numbers that were stored as float32 may lie this far, relatively, outside.
_EDGE = 1e-6


@dataclass(frozen=True)
class Parameter:
    """One parameter and its allowed range.

    Parameters
    ----------
    name
        A canonical name; ``omega_m``, not ``Om0``.
    low, high
        The allowed range, edges included. Equal for one that a suite holds fixed.
    log
        Whether it is spread evenly in its logarithm.
    default
        The value when none is given; None if one must be.

    Raises
    ------
    ParameterError
        The name is no plain identifier or an alias, the range is empty or not
        finite, or the default lies outside it.
    """

    name: str
    low: float
    high: float
    log: bool = False
    default: float | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or keyword.iskeyword(self.name):
            raise ParameterError(
                f"a parameter's name must be a plain identifier, got {self.name!r}"
            )
        if self.name in ALIASES:
            raise ParameterError(
                f"{self.name} is an alias; call the parameter {ALIASES[self.name]}"
            )
        if not (np.isfinite(self.low) and np.isfinite(self.high)):
            raise ParameterError(
                f"the range of {self.name} must be finite, "
                f"got [{self.low:g}, {self.high:g}]"
            )
        if self.low > self.high:
            raise ParameterError(
                f"the range of {self.name} is empty: low = {self.low:g} is above "
                f"high = {self.high:g}"
            )
        if self.log not in (True, False):
            raise ParameterError(
                f"log of {self.name} must be true or false, got {self.log!r}"
            )
        if self.log and self.low <= 0:
            raise ParameterError(
                f"{self.name} cannot be spread in its logarithm from "
                f"low = {self.low:g}; low must be positive"
            )
        if self.default is not None and not self.low <= self.default <= self.high:
            raise ParameterError(
                f"the default of {self.name}, {self.default:g}, is outside its range "
                f"[{self.low:g}, {self.high:g}]"
            )


@dataclass(frozen=True)
class ParameterSpace:
    """The parameters there are, in their order, each with its range.

    It behaves as a read-only mapping of names to `Parameter`. Wherever it takes
    `values`, these are an array whose last axis runs over the parameters, or
    anything `as_parameter_table` understands.

    Parameters
    ----------
    parameters
        The parameters, in order.

    Raises
    ------
    ParameterError
        There are none, or two of one name.
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(self.parameters))
        if not self.parameters:
            raise ParameterError("a parameter space needs at least one parameter")
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise ParameterError(
                f"a parameter space holds each name once, got {', '.join(twice)} twice"
            )

    def __len__(self) -> int:
        return len(self.parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Parameter:
        canonical = canonical_name(name)
        if canonical not in self.names:
            raise unknown_parameter(name, self.names)
        return self.parameters[self.names.index(canonical)]

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def low(self) -> FloatArray:
        """Lower edges, shape ``(n_parameters,)``."""
        return np.array([parameter.low for parameter in self.parameters], float)

    @property
    def high(self) -> FloatArray:
        """Upper edges, shape ``(n_parameters,)``."""
        return np.array([parameter.high for parameter in self.parameters], float)

    @property
    def defaults(self) -> dict[str, float]:
        """The default of each parameter that has one."""
        return {
            parameter.name: parameter.default
            for parameter in self.parameters
            if parameter.default is not None
        }

    def contains(self, values: Any) -> NDArray[np.bool_]:
        """Whether each set of values lies inside every range, edges included.

        Values that left an edge by a rounding to float32 are inside.

        Parameters
        ----------
        values
            Values, shape ``(..., n_parameters)``.

        Returns
        -------
        inside
            Shape ``(...)``.

        Raises
        ------
        ParameterError
            The values do not fit the parameters.
        """
        inside = self._inside(self._array(values))
        return np.asarray(inside.all(axis=-1))

    def check(self, values: Any, *, extrapolate: bool = False) -> None:
        """Refuse values outside the ranges, or warn where that is asked for.

        Parameters
        ----------
        values
            Values, shape ``(..., n_parameters)``.
        extrapolate
            Whether values outside are only warned about.

        Raises
        ------
        ParameterRangeError
            A value is outside its range and `extrapolate` is false.
        ParameterError
            The values do not fit the parameters.

        Warns
        -----
        ExtrapolationWarning
            A value is outside its range and `extrapolate` is true.
        """
        array = self._array(values).reshape(-1, len(self))
        inside = self._inside(array)
        if inside.all():
            return
        outside = []
        for parameter, column, good in zip(
            self.parameters, array.T, inside.T, strict=True
        ):
            bad = column[~good]
            if bad.size:
                others = f" (and {bad.size - 1} more)" if bad.size > 1 else ""
                outside.append(
                    f"{parameter.name} = {bad[0]:g}{others} is outside the trained "
                    f"range [{parameter.low:g}, {parameter.high:g}]"
                )
        message = ", ".join(outside)
        if not extrapolate:
            raise ParameterRangeError(
                f"{message}; pass extrapolate=True to emulate anyway"
            )
        warnings.warn(
            f"{message}; the result is an extrapolation of unknown accuracy",
            ExtrapolationWarning,
            stacklevel=2,
        )

    def to_unit(self, values: Any) -> FloatArray:
        """Scale values so that each range becomes [0, 1].

        Parameters
        ----------
        values
            Values, shape ``(..., n_parameters)``; outside the ranges is allowed,
            where a parameter is not logarithmic.

        Returns
        -------
        unit
            Same shape; 0 for a parameter of no width.

        Raises
        ------
        ParameterError
            The values do not fit the parameters.
        """
        array = self._array(values)
        log = self._log
        if np.any(array[..., log] <= 0):
            raise ParameterError(
                "a parameter spread in its logarithm must be positive: "
                + ", ".join(np.array(self.names)[log])
            )
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(array) - low) / np.where(high > low, high - low, 1.0)

    def from_unit(self, unit: ArrayLike) -> FloatArray:
        """Undo `to_unit`.

        Parameters
        ----------
        unit
            Shape ``(..., n_parameters)``.

        Returns
        -------
        values
            Same shape; never outside the ranges for points of the unit cube.

        Raises
        ------
        ParameterError
            The last axis does not run over the parameters, or a number is not
            finite.
        """
        array = matrix(unit, self.names)
        low, high = self._scaled(self.low), self._scaled(self.high)
        values = low * (1 - array) + high * array
        values = np.exp(values, out=values, where=self._log)
        # Rounding must not carry a point of the cube out of the ranges.
        in_cube = (array >= 0) & (array <= 1)
        return np.where(in_cube, np.clip(values, self.low, self.high), values)

    def sobol(self, n: int, seed: int) -> QTable:
        """Draw a scrambled Sobol design, which fills the ranges evenly.

        Parameters
        ----------
        n
            Number of sets. A longer design of the same seed begins with this one;
            powers of two are the most even.
        seed
            Seed of the scrambling.

        Returns
        -------
        design
            One column per parameter, `n` rows.

        Raises
        ------
        ParameterError
            `n` is not positive.
        """
        _check_size(n)
        sampler = scipy.stats.qmc.Sobol(len(self), seed=seed)
        # A whole power of two, as scipy warns about any other number.
        return self._table(sampler.random_base2((n - 1).bit_length())[:n])

    def latin_hypercube(self, n: int, seed: int) -> QTable:
        """Draw a Latin hypercube: one set in each of `n` slices of every range.

        Parameters
        ----------
        n
            Number of sets.
        seed
            Seed of the draw.

        Returns
        -------
        design
            One column per parameter, `n` rows.

        Raises
        ------
        ParameterError
            `n` is not positive.
        """
        _check_size(n)
        sampler = scipy.stats.qmc.LatinHypercube(len(self), seed=seed)
        return self._table(sampler.random(n))

    def vector(self, params: ParameterInput) -> FloatArray:
        """Arrange one set of parameters in this order, with defaults filled in.

        Parameters
        ----------
        params
            What `as_parameters` takes.

        Returns
        -------
        vector
            Shape ``(n_parameters,)``.

        Raises
        ------
        ParameterError
            As for `as_parameters`.
        """
        values = as_parameters(params, names=self.names, defaults=self.defaults)
        return np.array([values[name] for name in self.names])

    def to_table(self) -> QTable:
        """Describe the space, one row per parameter; a missing default is NaN.

        Returns
        -------
        table
            Columns name, low, high, log, default.
        """
        table = QTable([asdict(parameter) for parameter in self.parameters])
        table["default"] = [self.defaults.get(name, np.nan) for name in self.names]
        return table

    @classmethod
    def from_table(cls, table: Table) -> Self:
        """Undo `to_table`.

        Parameters
        ----------
        table
            At least the columns name, low and high.

        Returns
        -------
        space
            The space, in the order of the rows.

        Raises
        ------
        ParameterError
            A column is missing or unknown, or a row is no valid parameter.
        """
        rows = [dict(zip(table.colnames, row, strict=True)) for row in table.iterrows()]
        for row in rows:
            default = row.pop("default", np.nan)
            if np.all(np.isfinite(default)):
                row["default"] = default
        return cls.from_dict({"parameters": rows})

    def to_dict(self) -> dict[str, Any]:
        """Describe the space in plain types that JSON can hold.

        Returns
        -------
        description
            What `from_dict` takes.
        """
        return {"parameters": [asdict(parameter) for parameter in self.parameters]}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Self:
        """Undo `to_dict`.

        Parameters
        ----------
        description
            ``{"parameters": [{"name": ..., "low": ..., "high": ...}, ...]}``, each
            entry with ``log`` and ``default`` if they are not the usual.

        Returns
        -------
        space
            The space.

        Raises
        ------
        ParameterError
            The description is not of that form, or an entry is no valid parameter.
        """
        try:
            rows = [dict(row) for row in description["parameters"]]
            return cls(tuple(_parameter(row) for row in rows))
        except (AttributeError, KeyError, TypeError) as error:
            raise ParameterError(
                "a parameter space is described by a list under 'parameters' whose "
                f"entries have the keys {', '.join(_COLUMNS)}: {error}"
            ) from error

    @property
    def _log(self) -> NDArray[np.bool_]:
        return np.array([parameter.log for parameter in self.parameters])

    def _scaled(self, values: FloatArray) -> FloatArray:
        return np.log(values, out=values.copy(), where=self._log)

    def _inside(self, array: FloatArray) -> NDArray[np.bool_]:
        slack = _EDGE * np.maximum(np.abs(self.low), np.abs(self.high))
        return (array >= self.low - slack) & (array <= self.high + slack)

    def _array(self, values: Any) -> FloatArray:
        columns = gather(values, self.names, self.defaults)
        return np.stack(np.broadcast_arrays(*columns.values()), axis=-1)

    def _table(self, unit: FloatArray) -> QTable:
        return as_parameter_table(self.from_unit(unit), names=self.names)


_COLUMNS = tuple(field.name for field in fields(Parameter))


def _parameter(row: dict[str, Any]) -> Parameter:
    """Make a parameter of a row whose numbers may be NumPy's."""
    row = {
        key: getattr(value, "item", lambda v=value: v)() for key, value in row.items()
    }
    return Parameter(**row)


def _check_size(n: int) -> None:
    if n < 1:
        raise ParameterError(f"a design needs at least one set of parameters, got {n}")
