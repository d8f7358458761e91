"""Fields as yt datasets, in memory, and the box that yt is told about.

`to_yt` adds the cosmology that yt's own in-memory loaders leave out. The way back is
in `yt_import`. yt itself is imported only when needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from astropy import units as u
from astropy.cosmology import FlatLambdaCDM
from numpy.typing import NDArray

from .errors import GridError, MissingParameterError
from .field_arithmetic import is_dask
from .field_specs import yt_unit
from .fields import GalaxyField
from .geometry import CellAxis
from .grids import GridSpec

__all__ = ["CODE_UNITS", "YtDomain", "domain_of", "to_yt"]

CODE_UNITS = {
    "length_unit": "Mpccm",
    "mass_unit": "Msun",
    "time_unit": "Gyr",
    "velocity_unit": "km/s",
    "magnetic_unit": "gauss",
}
"""Code units of our datasets in memory and on disk. All five are needed: without a
velocity unit, yt cannot save such a dataset."""


@dataclass(frozen=True)
class YtDomain:
    """The box of a yt dataset, always with three axes.

    Parameters
    ----------
    shape
        Cells along x, y, z; one along an axis that the fields no longer have.
    left, right
        Edges, shape ``(3,)`` each [comoving Mpc, without h].
    periodic
        Whether each axis is the whole box.
    redshift, omega_m, h
        The cosmology that yt knows: flat, matter and a cosmological constant.
    parameters
        What else to keep with the dataset.
    """

    shape: tuple[int, int, int]
    left: tuple[float, ...]
    right: tuple[float, ...]
    periodic: tuple[bool, ...]
    redshift: float
    omega_m: float
    h: float
    parameters: dict[str, Any]

    @property
    def dimensionality(self) -> int:
        """2 for a map in x and y, as yt counts, otherwise 3."""
        return 2 if self.shape[2] == 1 else 3

    @property
    def age(self) -> float:
        """Age of the universe at the redshift [Gyr]."""
        cosmology = FlatLambdaCDM(H0=100 * self.h, Om0=self.omega_m, Tcmb0=0)
        return float(cosmology.age(self.redshift).to_value(u.Gyr))


def domain_of(fields: Sequence[GalaxyField]) -> YtDomain:
    """The box that fields share.

    Raises
    ------
    GridError
        If the fields differ in cells, redshift or cosmology, two have the same name
        in yt, or they have fewer than two axes.
    MissingParameterError
        If they do not know omega_m, without which yt has no cosmology.
    """
    if not fields:
        raise GridError("there is no field; give at least one")
    first = fields[0]
    names = [field.spec.yt_name[1] for field in fields]
    if len(set(names)) < len(names):
        raise GridError(
            f"two fields have the same name, of {', '.join(names)}; one dataset holds "
            "each name once"
        )
    for field in fields[1:]:
        for what in ("axes", "collapsed", "redshift", "parameters"):
            one, other = getattr(first, what), getattr(field, what)
            if one != other:
                raise GridError(
                    f"fields of one dataset must agree in their {what}, "
                    f"{first.name} and {field.name} do not: {one} and {other}"
                )
    if first.ndim not in (2, 3):
        raise GridError(
            f"a yt dataset needs a field with 2 or 3 axes, got {first.ndim}"
        )
    if "omega_m" not in first.parameters:
        raise MissingParameterError(
            "yt needs omega_m for its cosmology, and the field knows only "
            f"{', '.join(first.parameters)}"
        )
    axes = [_axis_of(first, name) for name in "xyz"]
    h = first.parameters["h"]
    extra: dict[str, Any] = {**first.parameters, "box_size": first.grid.box_size}
    if first.seed is not None:
        extra["seed"] = first.seed
    if first.model is not None:
        extra |= {f"model_{key}": str(value) for key, value in first.model.items()}
    nx, ny, nz = (axis.n_cells for axis in axes)
    return YtDomain(
        shape=(nx, ny, nz),
        left=tuple(axis.start / h for axis in axes),
        right=tuple((axis.start + axis.length) / h for axis in axes),
        periodic=tuple(_is_whole(axis, first.grid) for axis in axes),
        redshift=first.redshift,
        omega_m=first.parameters["omega_m"],
        h=h,
        parameters=extra,
    )


def to_yt(fields: GalaxyField | Sequence[GalaxyField]) -> Any:
    """A yt dataset of one or many fields, in memory.

    It has the redshift, the cosmology and units such as ``Mpccm/h``; the fields are
    found as ``("stream", name)``, and gas also as ``("gas", "density")`` and
    ``("gas", "temperature")``. A field with two axes is one cell thick, as deep as the
    slice or projection it came from, or one cell of the grid. A dask array is not
    computed: each of its blocks becomes a grid of the dataset, read when yt wants it.

    Parameters
    ----------
    fields
        A field, or several on the same cells.

    Returns
    -------
    ds
        A `yt` dataset.

    Raises
    ------
    GridError, MissingParameterError
        As `domain_of`.
    """
    import yt
    from yt.frontends.stream.data_structures import StreamDataset

    fields = [fields] if isinstance(fields, GalaxyField) else list(fields)
    domain = domain_of(fields)
    plain = yt.load_amr_grids(
        [_grid_of(fields, domain, *span) for span in _spans(fields, domain)],
        domain.shape,
        bbox=np.array([domain.left, domain.right]).T,
        periodicity=domain.periodic,
        parameters={
            **domain.parameters,
            # What yt would otherwise fill in for z and h.
            "CosmologyCurrentRedshift": domain.redshift,
            "CosmologyHubbleConstantNow": domain.h,
        },
        dataset_name="_".join(field.name for field in fields),
    )
    # yt's loaders make no cosmological dataset, but their handler can describe one.
    handler = plain.stream_handler
    handler.cosmology_simulation = 1
    handler.current_redshift = domain.redshift
    handler.omega_matter = domain.omega_m
    handler.omega_lambda = 1 - domain.omega_m
    handler.hubble_constant = domain.h
    handler.simulation_time = domain.age
    handler.code_units = tuple(CODE_UNITS.values())
    handler.field_units = {
        ("stream", field.spec.yt_name[1]): yt_unit(field.unit) for field in fields
    }
    return StreamDataset(handler, geometry="cartesian")


def _axis_of(field: GalaxyField, name: str) -> CellAxis:
    """The axis of that name, a cell thick if the field no longer has it."""
    for axis in field.axes:
        if axis.name == name:
            return axis
    for axis in field.collapsed:
        if axis.name == name:
            return CellAxis(name, axis.start, axis.length, 1)
    return CellAxis(name, 0.0, field.grid.cell_size, 1)


def _is_whole(axis: CellAxis, grid: GridSpec) -> bool:
    return bool(np.isclose(axis.length, grid.box_size, rtol=1e-9))


def _spans(
    fields: Sequence[GalaxyField], domain: YtDomain
) -> list[tuple[tuple[int, int], ...]]:
    """First and last-plus-one cell of each grid: the blocks of a dask array, or all."""
    lazy = [field for field in fields if is_dask(field.data)]
    if not lazy:
        return [tuple((0, n) for n in domain.shape)]
    # The first lazy field decides; another one with other blocks still works.
    blocks = iter(lazy[0].data.chunks)
    names = [axis.name for axis in lazy[0].axes]
    edges = [np.cumsum((0, *(next(blocks) if one in names else (1,)))) for one in "xyz"]
    pairs = [list(zip(e[:-1].tolist(), e[1:].tolist(), strict=True)) for e in edges]
    return list(product(*pairs))


def _grid_of(
    fields: Sequence[GalaxyField], domain: YtDomain, *span: tuple[int, int]
) -> dict[str, Any]:
    """One grid as `yt.load_amr_grids` takes it."""
    first, last = np.array(span).T
    left = np.array(domain.left)
    cell = (np.array(domain.right) - left) / domain.shape
    names = [axis.name for axis in fields[0].axes]
    where = tuple(
        slice(*one) for name, one in zip("xyz", span, strict=True) if name in names
    )
    shape = tuple((last - first).tolist())
    grid: dict[str, Any] = {
        "left_edge": left + first * cell,
        "right_edge": left + last * cell,
        "level": 0,
        "dimensions": shape,
    }
    for field in fields:
        part = field.data[where]
        # Given the number of axes it has, yt would take a map for particles.
        values = (
            _reader(part, shape) if is_dask(part) else np.asarray(part).reshape(shape)
        )
        grid[field.spec.yt_name[1]] = (values, "dimensionless")
    return grid


def _reader(part: Any, shape: tuple[int, ...]) -> Callable[[Any, Any], NDArray[Any]]:
    """What yt calls for the values of a grid."""

    def read(grid: Any, field: Any) -> NDArray[Any]:
        return np.asarray(part).reshape(shape)

    return read
