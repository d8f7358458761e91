"""Where an array of cells lies in its box, and lengths from outside.

A field that was sliced or projected still knows where it came from; that bookkeeping
is here, free of any values. Lengths are comoving Mpc/h.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy import units as u
from astropy.cosmology import units as cu
from astropy.wcs import WCS
from numpy.typing import NDArray

from .errors import GridError

__all__ = [
    "CellAxis",
    "as_box_length",
    "axis_number",
    "box_axes",
    "full_index",
    "in_words",
    "linear_wcs",
]

_AXIS_NAMES = ("x", "y", "z")
_MPC_H = u.Mpc / cu.littleh


def as_box_length(
    value: u.Quantity | float, h: float | None, *, above_zero: bool = True
) -> float:
    """Read a comoving length as a number of Mpc/h, the one door for lengths.

    Parameters
    ----------
    value
        A quantity in ``Mpc/littleh``, ``Mpc``, ``kpc``, ..., or a number of Mpc/h.
    h
        The Hubble constant of the box, in 100 km/s/Mpc; never a default one. None
        where none is known, and only lengths with ``littleh`` can be.
    above_zero
        Whether it must be; a position need not.

    Raises
    ------
    GridError
        If the value is no length, not one number, not finite, or (unless allowed) not
        above zero.
    """
    if isinstance(value, u.Quantity):
        own_h = [] if h is None else cu.with_H0(h * 100 * u.km / u.s / u.Mpc)
        try:
            length = value.to(_MPC_H, own_h).value
        except u.UnitConversionError as error:
            if h is None and value.unit.is_equivalent(u.Mpc):
                raise GridError(
                    f"no h is known here to turn {value} into Mpc/h; give a quantity "
                    "in Mpc/littleh, or a plain number of Mpc/h"
                ) from error
            raise GridError(
                f"{value} is not a length; give a quantity in Mpc/littleh or Mpc, or "
                "a plain number of Mpc/h"
            ) from error
    else:
        length = value
    try:
        number = float(length)
    except (TypeError, ValueError) as error:
        raise GridError(
            f"a length must be one number or Quantity, got {value!r}"
        ) from error
    if not np.isfinite(number):
        raise GridError(f"a length must be finite, got {value!r}")
    if above_zero and number <= 0:
        raise GridError(f"a length must be above zero, got {value!r}")
    return number


@dataclass(frozen=True)
class CellAxis:
    """One axis of an array of cells, and where it lies in the box.

    Parameters
    ----------
    name
        ``"x"``, ``"y"`` or ``"z"``.
    start
        Lower face of the first cell [comoving Mpc/h].
    cell_size
        Width of a cell [comoving Mpc/h].
    n_cells
        Number of cells.
    """

    name: str
    start: float
    cell_size: float
    n_cells: int

    @property
    def length(self) -> float:
        """From the first face to the last [comoving Mpc/h]."""
        return self.n_cells * self.cell_size

    @property
    def centres(self) -> NDArray[np.float64]:
        """Cell centres, shape ``(n_cells,)`` [comoving Mpc/h]."""
        cells = np.arange(self.n_cells, dtype=np.float64)
        return self.start + (cells + 0.5) * self.cell_size

    def shares(self, depth: float) -> NDArray[np.float64]:
        """How much of each cell lies within a depth [Mpc/h] of the first face.

        Returns
        -------
        shares
            From 0 to 1, shape ``(n_cells,)``.

        Raises
        ------
        GridError
            If the axis is not that long.
        """
        if depth > self.length * (1 + 1e-9):
            raise GridError(
                f"a depth of {depth:g} Mpc/h exceeds the {self.length:g} Mpc/h of "
                f"axis {self.name}; give at most that"
            )
        cells = np.arange(self.n_cells, dtype=np.float64)
        return np.clip(depth / self.cell_size - cells, 0, 1)

    def part(self, item: int | slice) -> "CellAxis":
        """Cut out the axis of ``array[item]``; for an integer, that of one cell.

        Raises
        ------
        IndexError
            If the integer is outside, or the slice skips cells or reverses.
        """
        if isinstance(item, slice):
            first, stop, step = item.indices(self.n_cells)
            if step != 1 or stop <= first:
                raise IndexError(
                    f"a slice of a GalaxyField keeps neighbouring cells in order, got "
                    f"{item} of {self.n_cells}; use field.data for anything else"
                )
            count = stop - first
        else:
            first, count = range(self.n_cells)[item], 1
        start = self.start + first * self.cell_size
        return replace(self, start=start, n_cells=count)


def box_axes(n_dim: int, n_cells: int, cell_size: float) -> tuple[CellAxis, ...]:
    """Axes x, y (and z) that cover the whole box.

    Raises
    ------
    GridError
        If `n_dim` is neither 2 nor 3.
    """
    if n_dim not in (2, 3):
        raise GridError(f"a field has 2 or 3 axes, got an array with {n_dim}")
    return tuple(
        CellAxis(name, 0.0, cell_size, n_cells) for name in _AXIS_NAMES[:n_dim]
    )


def linear_wcs(axes: tuple[CellAxis, ...], h: float) -> WCS | None:
    """Comoving Mpc at the cell centres; as in FITS, the last array axis comes first."""
    if not axes:
        return None
    wcs = WCS(naxis=len(axes))
    backwards = axes[::-1]
    wcs.wcs.ctype = ["LINEAR"] * len(axes)
    wcs.wcs.cname = [axis.name for axis in backwards]
    wcs.wcs.cunit = ["Mpc"] * len(axes)
    wcs.wcs.crpix = [1.0] * len(axes)
    wcs.wcs.crval = [(axis.start + axis.cell_size / 2) / h for axis in backwards]
    wcs.wcs.cdelt = [axis.cell_size / h for axis in backwards]
    wcs.wcs.set()
    wcs.array_shape = tuple(axis.n_cells for axis in axes)
    return wcs


def full_index(item: Any, n_dim: int) -> tuple[int | slice, ...]:
    """The index with one integer or slice per axis."""
    items = list(item) if isinstance(item, tuple) else [item]
    # By identity, as arrays do not compare to one truth.
    dots = [number for number, one in enumerate(items) if one is Ellipsis]
    if len(dots) == 1:
        where = dots[0]
        items[where : where + 1] = [slice(None)] * (n_dim - len(items) + 1)
    items += [slice(None)] * (n_dim - len(items))
    result: list[int | slice] = []
    for one in items:
        if isinstance(one, slice):
            result.append(one)
        elif isinstance(one, int | np.integer) and not isinstance(one, bool):
            result.append(int(one))
        else:
            raise IndexError(
                f"a GalaxyField is indexed by integers and slices, got {one!r}; use "
                "field.data for anything else"
            )
    if len(result) > n_dim:
        raise IndexError(f"{len(result)} indices for a field with {n_dim} axes")
    return tuple(result)


def axis_number(axes: tuple[CellAxis, ...], axis: str | int) -> int:
    """Number of an axis given by name or number.

    Raises
    ------
    GridError
        If there is no such axis.
    """
    names = [one.name for one in axes]
    if isinstance(axis, str) and axis in names:
        return names.index(axis)
    if isinstance(axis, int) and -len(axes) <= axis < len(axes):
        return axis % len(axes)
    raise GridError(
        f"there is no axis {axis!r}; the axes are {', '.join(names)}, "
        f"or 0 to {len(axes) - 1}"
    )


def in_words(axes: tuple[CellAxis, ...]) -> str:
    """Say where the axes lie, for messages [Mpc/h]."""
    return " x ".join(
        f"{axis.name} {axis.start:g} to {axis.start + axis.length:g}" for axis in axes
    )
