"""The object that carries a galaxy field.

`GalaxyField` is an astropy `~astropy.nddata.NDData` with a place in a periodic
box, the parameters that made it, and ways out to yt, FITS, HDF5 and pictures. Files,
yt and pictures are made elsewhere; nothing here reads a snapshot or runs a network.

Lengths are comoving throughout. Units are free of h (`Mpc`, not `Mpc/h`), with the
field's own Hubble constant used wherever the two meet.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Self, cast

import numpy as np
from astropy import units as u
from astropy.cosmology import FlatLambdaCDM
from astropy.cosmology import units as cu
from astropy.io import registry
from astropy.nddata import NDData, NDIOMixin
from astropy.nddata.mixins.ndio import NDDataRead, NDDataWrite
from astropy.table import QTable
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .errors import GridError, MissingParameterError
from .field_arithmetic import GridArithmetic, as_float32, is_dask
from .field_specs import (
    FIELDS,
    FieldRegistry,
    FieldSpec,
    as_unit,
    column_spec,
)
from .geometry import (
    CellAxis,
    as_box_length,
    axis_number,
    box_axes,
    in_words,
    linear_wcs,
)
from .grids import GridSpec
from .parameters import COSMOLOGICAL, to_cosmology

__all__ = [
    "CellAxis",
    "FIELDS",
    "FieldRegistry",
    "FieldSpec",
    "GalaxyField",
    "as_box_length",
    "as_unit",
]


class _FieldRead(NDDataRead):  # type: ignore[misc]
    """Read a field from a file, by astropy's unified I/O.

    ``GalaxyField.read(path)`` finds the format by content; ``name=`` chooses one of
    several fields in an HDF5 file. A file that is no field is a FieldFileError.
    """

    def __init__(self, instance: Any, cls: type) -> None:
        from .field_files import register_formats

        register_formats()
        super().__init__(instance, cls)


class _FieldWrite(NDDataWrite):  # type: ignore[misc]
    """Write the field to a file, by astropy's unified I/O.

    ``field.write(path)`` finds the format by the suffix; ``overwrite=True`` replaces
    a file. Plain ``yt.load`` opens the HDF5 files.
    """

    def __init__(self, instance: Any, cls: type) -> None:
        from .field_files import register_formats

        register_formats()
        super().__init__(instance, cls)


class GalaxyField(GridArithmetic, NDIOMixin, NDData):  # type: ignore[misc]
    """A field on a periodic grid, with its unit, place, cosmology and origin.

    It is an `~astropy.nddata.NDData`: arithmetic keeps ``meta``, slicing keeps the
    place in the box, ``np.asarray(field)`` gives the values, and ``read`` and
    ``write`` go through astropy's registry.

    Parameters
    ----------
    data
        Values, axes (x, y, z) or the first of them; stored as float32. A dask array
        stays lazy. A `~astropy.units.Quantity`, a masked array or an
        `~astropy.nddata.NDData` brings its unit, mask and uncertainty along;
        ``littleh`` in the unit is the field's own h.
    name
        A name of `FIELDS`, or a `FieldSpec` of one's own.
    grid
        The periodic cube that the values come from.
    parameters
        Cosmological and any other parameters by name; ``h`` at least.
    redshift
        Redshift of the field.
    seed
        Seed that drew it, if it was drawn.
    model
        Identity of what made it, such as ``{"name": ..., "sha256": ...}``.
    meta
        Anything else to keep with the field. In files it must be valid JSON.
    uncertainty, mask
        As in `~astropy.nddata.NDData`.
    unit
        Unit of `data`; the field's own unit by default. Lengths in it are comoving.
    axes
        Where each axis of `data` lies in the box; by default it starts at 0 and
        covers the box.
    collapsed
        The axes that are no longer in `data`, with the depth that a slice or
        projection covers along each.

    Raises
    ------
    UnknownFieldError
        If no field has that name.
    MissingParameterError
        If `parameters` lacks ``h``.
    GridError
        If the shape of `data` does not fit the grid or the axes, or they carry a unit
        of another package than astropy.

    Notes
    -----
    ``meta`` holds the parameters, redshift, seed and model, and the cosmology as a
    mapping that ``Cosmology.from_format(..., move_to_meta=True)`` understands.
    """

    read = registry.UnifiedReadWriteMethod(_FieldRead)
    write = registry.UnifiedReadWriteMethod(_FieldWrite)

    def __init__(
        self,
        data: Any,
        *,
        name: str | FieldSpec,
        grid: GridSpec,
        parameters: Mapping[str, float],
        redshift: float,
        seed: int | None = None,
        model: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        uncertainty: Any = None,
        mask: Any = None,
        unit: u.UnitBase | str | None = None,
        axes: tuple[CellAxis, ...] | None = None,
        collapsed: tuple[CellAxis, ...] = (),
    ) -> None:
        spec = name if isinstance(name, FieldSpec) else FIELDS[name]
        numbers = {key: float(value) for key, value in parameters.items()}
        if "h" not in numbers:
            raise MissingParameterError(
                "a field needs the parameter h for its units and lengths; got "
                f"{', '.join(parameters) or 'none'}"
            )
        values, unit, masked, uncertain = as_float32(
            data, spec.unit if unit is None else as_unit(unit), numbers["h"]
        )
        if axes is None:
            axes = box_axes(values.ndim, grid.n_cells, grid.cell_size)
        shape = tuple(axis.n_cells for axis in axes)
        if values.shape != shape:
            raise GridError(
                f"data of shape {values.shape} do not fit a grid of shape {shape}"
            )
        known = {
            "parameters": numbers,
            "redshift": float(redshift),
            "seed": None if seed is None else int(seed),
            "model": None if model is None else dict(model),
            "cosmology": _cosmology_mapping(numbers),
        }
        super().__init__(
            values,
            uncertainty=uncertain if uncertainty is None else uncertainty,
            mask=masked if mask is None else mask,
            meta={**(meta or {}), **known},
            unit=unit,
            wcs=linear_wcs(axes, numbers["h"]),
        )
        self._spec = spec
        self._grid = grid
        self._axes = tuple(axes)
        self._collapsed = tuple(collapsed)

    def _replaced(self, data: Any, **changes: Any) -> Self:
        """The same field with other data, and with whatever else is given."""
        return type(self)(data, **(self._keywords() | changes))

    def _keywords(self) -> dict[str, Any]:
        """What the constructor needs beside data, uncertainty and mask."""
        return {
            "name": self._spec,
            "grid": self._grid,
            "parameters": self.parameters,
            "redshift": self.redshift,
            "seed": self.seed,
            "model": self.model,
            "meta": deepcopy(self.meta),
            "unit": self.unit,
            "axes": self._axes,
            "collapsed": self._collapsed,
        }

    # What it is and where it lies.

    @property
    def spec(self) -> FieldSpec:
        """Name, label and native unit of the field."""
        return self._spec

    @property
    def name(self) -> str:
        """Name of the field, a key of `FIELDS` unless it is one of one's own."""
        return self._spec.name

    @property
    def grid(self) -> GridSpec:
        """The periodic cube the field comes from, even when this is a part of it."""
        return self._grid

    @property
    def axes(self) -> tuple[CellAxis, ...]:
        """Where each axis of the data lies in the box."""
        return self._axes

    @property
    def collapsed(self) -> tuple[CellAxis, ...]:
        """The axes that slicing or projecting removed, with the depth covered."""
        return self._collapsed

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Whether each axis still runs through the whole box."""
        return tuple(axis.n_cells == self._grid.n_cells for axis in self._axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return cast(tuple[int, ...], self.data.shape)

    @property
    def ndim(self) -> int:
        """Number of axes of the data."""
        return len(self._axes)

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters by name, cosmological and others."""
        return cast(dict[str, float], self.meta["parameters"])

    @property
    def redshift(self) -> float:
        """Redshift of the field."""
        return cast(float, self.meta["redshift"])

    @property
    def seed(self) -> int | None:
        """Seed that drew the field, or None."""
        return cast("int | None", self.meta["seed"])

    @property
    def model(self) -> dict[str, Any] | None:
        """Identity of what made the field, or None."""
        return cast("dict[str, Any] | None", self.meta["model"])

    @property
    def hubble_constant(self) -> u.Quantity:
        """The field's own Hubble constant today [km/s/Mpc]."""
        return 100 * self.parameters["h"] * u.km / u.s / u.Mpc

    @property
    def cosmology(self) -> FlatLambdaCDM:
        """The cosmology, with sigma8 and n_s in its ``meta``.

        Raises
        ------
        MissingParameterError
            If the field does not know all of omega_m, omega_b, h, n_s, sigma_8.
        """
        return to_cosmology(self.parameters)

    # The values.

    @property
    def quantity(self) -> u.Quantity:
        """The values with their unit; computes a dask array."""
        return u.Quantity(np.asarray(self), self.unit, dtype=np.float32, copy=False)

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        """The values as a plain array; computes a dask array."""
        values = np.asarray(self.data, dtype=dtype)
        return values.copy() if copy and values is self.data else values

    def to(self, unit: u.UnitBase | str) -> Self:
        """The field in another unit, with ``littleh`` meaning the field's own h.

        Parameters
        ----------
        unit
            A unit or its string, such as ``"littleh3 / Mpc3"``.

        Raises
        ------
        astropy.units.UnitConversionError
            If the units measure different things.
        """
        new = as_unit(unit)
        factor = self.unit.to(new, equivalencies=cu.with_H0(self.hubble_constant))
        # A product, so that an uncertainty follows by astropy's own rules.
        converted = self.multiply(factor * (new / self.unit))
        converted._spec = self._spec
        return cast(Self, converted)

    def __repr__(self) -> str:
        words = [
            f"{self.name!r}",
            f"shape {self.shape}",
            f"unit {str(self.unit) or 'dimensionless'}",
            f"box {self._grid.box_size:g} Mpc/h",
            f"z = {self.redshift:g}",
        ]
        if self.seed is not None:
            words.append(f"seed {self.seed}")
        if self.model is not None:
            words.append(f"model {self.model.get('name', '?')!r}")
        if is_dask(self.data):
            words.append("lazy")
        else:
            words.append(f"mean {self.mean().value:.4g}")
        return f"<GalaxyField {', '.join(words)}>"

    __str__ = __repr__

    # What one does with a field.

    def project(
        self,
        axis: str | int = "z",
        *,
        depth: u.Quantity | float | None = None,
        weights: "GalaxyField | None" = None,
    ) -> "GalaxyField":
        """Project along an axis, from its first face.

        Parameters
        ----------
        axis
            ``"x"``, ``"y"``, ``"z"``, or the number of the axis.
        depth
            Comoving depth, as a length quantity or in Mpc/h; need not be whole cells.
            By default the whole axis.
        weights
            A field on the same cells, such as the gas density for a temperature.

        Returns
        -------
        map
            One axis less. A density with a unit gives the column: the integral along
            the axis, in `unit` times Mpc (comoving). A ratio to the mean gives the
            ratio of the column to the mean column, which is its mean; a temperature,
            and anything with `weights`, gives the (weighted) mean. An uncertainty is
            dropped, as cells are correlated.

        Raises
        ------
        GridError
            If there is no such axis, `depth` exceeds it, or `weights` lie elsewhere.
        """
        number = axis_number(self._axes, axis)
        along = self._axes[number]
        length = along.length
        if depth is not None:
            length = as_box_length(depth, self.parameters["h"])
        shares = along.shares(length)
        shares = shares.reshape([-1 if i == number else 1 for i in range(self.ndim)])
        if weights is not None:
            if weights.axes != self.axes:
                raise GridError(
                    f"the weights cover {in_words(weights.axes)}, the field "
                    f"{in_words(self.axes)}; they must cover the same cells"
                )
            shares = shares * weights.data
        total = (self.data * shares).sum(axis=number, dtype=np.float64)
        given: dict[str, Any] = {
            "axes": self._axes[:number] + self._axes[number + 1 :],
            "collapsed": (
                *self._collapsed,
                CellAxis(along.name, along.start, length, 1),
            ),
        }
        if self._spec.integrates and weights is None:
            unit = self.unit * u.Mpc
            given |= {"name": column_spec(self._spec, unit), "unit": unit}
            return self._replaced(
                total * (along.cell_size / self.parameters["h"]), **given
            )
        return self._replaced(total / shares.sum(axis=number), **given)

    def smooth(self, scale: u.Quantity | float) -> "GalaxyField":
        """Smooth with a Gaussian; the mean and the sign of the values stay.

        Parameters
        ----------
        scale
            Standard deviation of the Gaussian, as a length quantity or in Mpc/h.

        Returns
        -------
        smoothed
            Same cells, without uncertainty. A dask array is computed.

        Raises
        ------
        GridError
            If an axis is only part of the box, so that it is not periodic.
        """
        self._need_periodic("smoothing")
        sigma = as_box_length(scale, self.parameters["h"]) / self._grid.cell_size
        # In real space: truncating in Fourier space would make values below zero.
        values = gaussian_filter(
            np.asarray(self, dtype=np.float64), sigma, mode="wrap", truncate=6.0
        )
        return self._replaced(values)

    def power_spectrum(self, **keywords: Any) -> Any:
        """Power spectrum; see `statistics.power_spectrum`, which takes the keywords.

        Raises
        ------
        GridError
            If the field is only part of the box, so that it is not periodic.
        """
        from .statistics import power_spectrum

        self._need_periodic("a power spectrum")
        return power_spectrum(self, **keywords)

    def sample_galaxies(self, *, seed: int, **keywords: Any) -> QTable:
        """Draw galaxies; see `catalogues.sample_galaxies`, which takes the keywords."""
        from .catalogues import sample_galaxies

        return sample_galaxies(self, seed=seed, **keywords)

    def to_yt(self) -> Any:
        """A yt dataset with cosmology and comoving units; see `yt_bridge.to_yt`."""
        from .yt_bridge import to_yt

        return to_yt(self)

    @classmethod
    def from_yt(
        cls, ds: Any, field: tuple[str, str], n_cells: int, **keywords: Any
    ) -> "GalaxyField":
        """A field deposited from any yt dataset; see `yt_import.from_yt`."""
        from .yt_import import from_yt

        return from_yt(ds, field, n_cells, **keywords)

    def _need_periodic(self, purpose: str) -> None:
        if not (self._axes and all(self.periodic)):
            raise GridError(
                f"{purpose} needs the whole periodic box, and this field covers only "
                f"{in_words(self._axes)} of {self._grid.box_size:g} Mpc/h"
            )


def _cosmology_mapping(parameters: Mapping[str, float]) -> dict[str, Any] | None:
    """Describe the cosmology in plain JSON for `Cosmology.from_format`, if known."""
    if any(name not in parameters for name in COSMOLOGICAL):
        return None
    # What `to_cosmology` makes. On the way there astropy converts units by exceptions,
    # which keep all that is at work, arrays too, until the garbage collector comes by.
    return {
        "cosmology": "FlatLambdaCDM",
        "name": "astrogan_emu",
        "H0": 100 * parameters["h"],
        "Om0": parameters["omega_m"],
        "Ob0": parameters["omega_b"],
        "Tcmb0": 0.0,
        "sigma8": parameters["sigma_8"],
        "n_s": parameters["n_s"],
    }
