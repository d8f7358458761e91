"""Arithmetic, comparison and slicing of a field that keeps its place and origin.

astropy's mixins compute values, units and uncertainties; left alone they drop the
meta data, compute dask arrays, and know nothing of a box. `GridArithmetic` mends that
for `GalaxyField`, which brings the values.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from astropy import units as u
from astropy.cosmology import units as cu
from astropy.nddata import NDArithmeticMixin, NDData, NDDataRef, NDSlicingMixin
from astropy.utils.decorators import sharedmethod
from astropy.utils.masked import Masked

from .errors import GridError
from .field_specs import FieldSpec, spec_of_result
from .geometry import CellAxis, full_index, in_words

__all__ = ["GridArithmetic", "as_float32", "is_dask", "same"]


class GridArithmetic(NDArithmeticMixin, NDSlicingMixin):  # type: ignore[misc]
    """Operators and slices that keep the place in the box and all meta data.

    Both sides of an operation must cover the same cells, or one of them be a number,
    an array or a Quantity that fits.
    """

    # Above Quantity's, so that `2 * u.K * field` asks the field, not numpy.
    __array_priority__ = 1_000_000

    if TYPE_CHECKING:
        data: Any
        unit: u.UnitBase
        meta: dict[str, Any]
        mask: Any
        uncertainty: Any

        @property
        def shape(self) -> tuple[int, ...]: ...  # noqa: D102
        @property
        def spec(self) -> FieldSpec: ...  # noqa: D102
        @property
        def axes(self) -> tuple[CellAxis, ...]: ...  # noqa: D102
        @property
        def collapsed(self) -> tuple[CellAxis, ...]: ...  # noqa: D102
        def _keywords(self) -> dict[str, Any]: ...
        def _replaced(self, data: Any, **changes: Any) -> Self: ...

    def __add__(self, other: Any) -> Self:
        return cast(Self, self.add(other))

    def __radd__(self, other: Any) -> Self:
        return cast(Self, self.add(other))

    def __sub__(self, other: Any) -> Self:
        return cast(Self, self.subtract(other))

    def __rsub__(self, other: Any) -> Self:
        return cast(Self, self.subtract(other).multiply(-1))

    def __mul__(self, other: Any) -> Self:
        return cast(Self, self.multiply(other))

    def __rmul__(self, other: Any) -> Self:
        return cast(Self, self.multiply(other))

    def __truediv__(self, other: Any) -> Self:
        return cast(Self, self.divide(other))

    def __rtruediv__(self, other: Any) -> Self:
        value = u.Quantity(other)
        one = FieldSpec("one", "1", value.unit, ("stream", "one"), "1")
        full = np.broadcast_to(value.value, self.shape)
        return cast(Self, self._replaced(full, name=one, unit=one.unit).divide(self))

    def __neg__(self) -> Self:
        return cast(Self, self.multiply(-1))

    @sharedmethod  # type: ignore[untyped-decorator]
    def _convert_operand_class_with_suitable_dtype(
        self_or_cls, target_cls: type, operand: Any, ref: Any = None
    ) -> NDData:
        """Wrap a number, array, Quantity or unit, which has no place in a box."""
        if isinstance(operand, GridArithmetic):
            return operand
        if isinstance(operand, u.UnitBase):
            operand = u.Quantity(1, operand, dtype=np.float32)
        if is_dask(operand) or isinstance(operand, u.Quantity | NDData):
            return NDDataRef(operand)
        return NDDataRef(np.asanyarray(operand, dtype=np.float32))

    def _arithmetic(
        self, operation: Any, operand: Any, **keywords: Any
    ) -> tuple[Any, dict[str, Any]]:
        if isinstance(operand, GridArithmetic) and operand.axes != self.axes:
            raise GridError(
                f"{self.spec.name!r} covers {in_words(self.axes)}, "
                f"{operand.spec.name!r} {in_words(operand.axes)}; arithmetic needs "
                "the same cells"
            )
        if operation in (np.add, np.subtract):
            operand = _in_unit_of(self, operand)
        if is_dask(self.data) or is_dask(operand.data):
            result, unit = _lazy_arithmetic(operation, self, operand)
            given = {}
        else:
            result, given = super()._arithmetic(operation, operand, **keywords)
            result, unit = result.value, result.unit
        if result.shape != self.shape:
            raise GridError(
                f"an operand of shape {operand.data.shape} does not fit a field of "
                f"shape {self.shape}"
            )
        kept = {key: given[key] for key in ("uncertainty", "mask") if key in given}
        other = operand.spec if isinstance(operand, GridArithmetic) else None
        spec = spec_of_result(operation, self.spec, other, operand.data, unit)
        return result, self._keywords() | {"name": spec, "unit": unit} | kept

    # Sums over cells, which the mixin would give a place in the box.

    def mean(self, **keywords: Any) -> u.Quantity:
        """Mean over the cells, summed in double precision."""
        return self._reduced("mean", **{**keywords, "dtype": np.float64})

    def sum(self, **keywords: Any) -> u.Quantity:
        """Sum over the cells, in double precision."""
        return self._reduced("sum", **{**keywords, "dtype": np.float64})

    def min(self, **keywords: Any) -> u.Quantity:
        """Smallest value."""
        return self._reduced("min", **keywords)

    def max(self, **keywords: Any) -> u.Quantity:
        """Largest value."""
        return self._reduced("max", **keywords)

    def _reduced(self, how: str, **keywords: Any) -> u.Quantity:
        values = self.data
        if self.mask is not None:
            values = np.ma.masked_array(np.asarray(self), self.mask)
        result = getattr(values, how)(**keywords)
        # Only a single number, so that a lazy field is computed at once.
        number = float(result) if np.ndim(result) == 0 else np.asarray(result)
        return u.Quantity(number, self.unit)

    def __eq__(self, other: object) -> bool:
        """Whether everything is equal: values, unit, place, meta, uncertainty."""
        if not isinstance(other, GridArithmetic):
            return NotImplemented
        return (
            all(
                getattr(self, one) == getattr(other, one)
                for one in ("spec", "grid", "axes", "collapsed", "unit")
            )
            and same(self.meta, other.meta)
            and np.array_equal(np.asarray(self), np.asarray(other), equal_nan=True)
            and same(self.mask, other.mask)
            and type(self.uncertainty) is type(other.uncertainty)
            and same(
                getattr(self.uncertainty, "array", None),
                getattr(other.uncertainty, "array", None),
            )
        )

    __hash__ = None  # type: ignore[assignment]

    # Slicing: NDSlicingMixin calls this, and the constructor with its answer.

    def _slice(self, item: Any) -> dict[str, Any]:
        items = full_index(item, len(self.axes))
        parts = [axis.part(one) for axis, one in zip(self.axes, items, strict=True)]
        kept = [isinstance(one, slice) for one in items]
        axes = tuple(part for part, keep in zip(parts, kept, strict=True) if keep)
        gone = tuple(part for part, keep in zip(parts, kept, strict=True) if not keep)
        return self._keywords() | {
            "data": self.data[items],
            "uncertainty": self._slice_uncertainty(items),
            "mask": self._slice_mask(items),
            "axes": axes,
            "collapsed": self.collapsed + gone,
        }


def _in_unit_of(field: GridArithmetic, operand: Any) -> Any:
    """The second of two summands without ``littleh``, if only that sets them apart."""
    unit = operand.unit
    if unit is None or unit.is_equivalent(field.unit):
        return operand
    own_h = cu.with_H0(field.hubble_constant)
    if not unit.is_equivalent(field.unit, own_h):
        return operand  # astropy refuses it
    if isinstance(operand, GridArithmetic):
        return operand.to(field.unit)
    if operand.uncertainty is not None or operand.mask is not None:
        return operand
    return NDDataRef(
        operand.data * unit.to(field.unit, equivalencies=own_h), unit=field.unit
    )


def is_dask(values: Any) -> bool:
    """Whether it is a dask array, without importing dask."""
    return type(values).__module__.startswith("dask.")


def _lazy_arithmetic(
    operation: Any, field: NDData, operand: NDData
) -> tuple[Any, u.UnitBase]:
    """The operation on dask arrays, which a Quantity would compute."""
    for one in (field, operand):
        if one.uncertainty is not None or one.mask is not None:
            raise TypeError(
                "uncertainties and masks do not follow through lazy arithmetic; "
                "compute the dask arrays first"
            )
    values, unit = operand.data, operand.unit or u.dimensionless_unscaled
    if operation in (np.add, np.subtract):
        values, unit = values * np.float32(unit.to(field.unit)), field.unit
    return operation(field.data, values), operation(1 * field.unit, 1 * unit).unit


def same(one: Any, other: Any) -> bool:
    """Equality that understands arrays inside mappings."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(
            same(one[key], other[key]) for key in one
        )
    return bool(np.array_equal(one, other))


def as_float32(
    data: Any, unit: u.UnitBase, h: float
) -> tuple[Any, u.UnitBase, Any, Any]:
    """The values as float32, in `unit` if they carry one, and what comes with them.

    Parameters
    ----------
    data
        Numbers, or numbers with a unit, mask or uncertainty: a Quantity, a masked
        array, an NDData.
    unit
        Unit that is wanted, and that of numbers without one.
    h
        What ``littleh`` means in the unit that they carry.

    Returns
    -------
    values, unit, mask, uncertainty
        None for what does not come with the values.

    Raises
    ------
    GridError
        If they are not real numbers, or carry a unit of another package than astropy.
    """
    mask = uncertainty = None
    own_h = cu.with_H0(h * 100 * u.km / u.s / u.Mpc)
    if isinstance(data, NDData):
        mask, uncertainty, own = data.mask, data.uncertainty, data.unit
        data = data.data
        if own is not None and is_dask(data):
            data = data * own.to(unit, equivalencies=own_h)
        elif own is not None:
            data = u.Quantity(data, own)
    elif isinstance(data, np.ma.MaskedArray):
        mask = None if data.mask is np.ma.nomask else data.mask
        data = data.data
    elif isinstance(data, Masked):
        mask, data = data.mask, data.unmasked
    elif str(getattr(data, "units", "dimensionless")) != "dimensionless":
        # A plain array made of it would have lost them.
        raise GridError(
            f"the values carry the unit {data.units} of {type(data).__name__}; give an "
            "astropy Quantity, with comoving lengths, or let GalaxyField.from_yt read "
            "them from the dataset"
        )
    if isinstance(data, u.Quantity):
        data = data.to_value(unit, equivalencies=own_h)
    if is_dask(data):
        return data.astype(np.float32), unit, mask, uncertainty
    values = np.asarray(data)
    if values.dtype.kind not in "fiub":
        raise GridError(
            f"the values of a field must be real numbers, got {values.dtype}"
        )
    return values.astype(np.float32, copy=False), unit, mask, uncertainty
