"""yt datasets as fields: any particles or cells on our periodic, conserving grid.

yt identifies, reads and converts; the deposition is `grids.deposit`, because yt's own
is not periodic and loses or gains gas. Units cross over as plain numbers with a unit
written on each side, since yt and astropy read some names differently (``h`` is an
hour to astropy).
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import NDArray

from .errors import GridError, MissingParameterError, ParameterError, UnknownFieldError
from .field_specs import FIELDS, FieldSpec
from .fields import GalaxyField
from .grids import GridSpec, deposit
from .yt_particles import refuse_misread

__all__ = ["from_yt"]

_Array = NDArray[np.float64]

# Physical dimension in yt -> the unit in which its numbers cross over, on both sides.
_UNITS: dict[str, tuple[str, u.UnitBase]] = {
    "mass": ("Msun", u.Msun),
    "density": ("Msun/Mpccm**3", u.Msun / u.Mpc**3),
    "number_density": ("Mpccm**-3", u.Mpc**-3),
    "temperature": ("K", u.K),
    "velocity": ("km/s", u.km / u.s),
    "dimensionless": ("dimensionless", u.dimensionless_unscaled),
}
_TOTALS = ("mass", "density", "number_density", "count")
_PER_VOLUME = u.Mpc**-3


def from_yt(
    ds: Any,
    field: tuple[str, str],
    n_cells: int,
    *,
    name: str | FieldSpec | None = None,
    parameters: Mapping[str, float] | None = None,
    scheme: str = "cic",
) -> GalaxyField:
    """Deposit a field of any yt dataset on a periodic grid, conserving its total.

    Masses and densities give the density, counts (``particle_ones``) and number
    densities the number density. Anything else gives the mean in each cell, weighted
    by mass for particles and by volume for cells, and 0 where nothing is.

    Parameters
    ----------
    ds
        The dataset; its domain must be a cube, and is taken as periodic.
    field
        Type and name as yt knows it, such as ``("gas", "density")`` or
        ``("PartType1", "particle_mass")``.
    n_cells
        Cells along one side. Where the dataset has cells, each must be a whole number
        of these wide, or the reverse.
    name
        What the field is, from `FIELDS` or a `FieldSpec`; under the name of a ratio,
        such as ``"matter"``, a density is divided by its mean. By default, fields
        under their `FieldSpec.yt_name` are recognised, and others keep yt's name.
    parameters
        Parameters that the dataset does not know, such as sigma_8. It knows
        omega_m and h if it is cosmological.
    scheme
        How particles without a kernel are deposited, as in `grids.deposit`. SPH gas is
        deposited with its own kernels.

    Raises
    ------
    GridError
        If the domain is no cube, or its cells do not fit `n_cells`.
    UnknownFieldError
        If there is no such field, or none of a kind that is understood.
    MissingParameterError
        If neither the dataset nor `parameters` know h.
    ParameterError
        If `parameters` contradict the dataset.
    SnapshotUnitsError
        If yt opened a Gadget snapshot in other units than its own.
    """
    known = _parameters_of(ds, parameters or {})
    source = _Source(ds, field, scheme)
    grid = GridSpec(n_cells, source.width * known["h"])
    density_like = source.kind in _TOTALS
    total, measure = np.zeros((2, *grid.shape))
    for positions, values, weights, how in source.pieces(grid, known["h"]):
        if density_like:
            total += deposit(positions, values, grid=grid, **how)
        else:
            both = np.stack([values * weights, weights], axis=-1)
            sums = deposit(positions, both, grid=grid, **how)
            total += sums[0]
            measure += sums[1]
    if density_like:
        total /= (grid.cell_size / known["h"]) ** 3
        unit = _PER_VOLUME if source.counts else u.Msun * _PER_VOLUME
    else:
        total = np.divide(total, measure, out=np.zeros_like(total), where=measure > 0)
        unit = _UNITS[source.kind][1]
    spec = _spec_for(field, name, unit)
    if spec.unit == u.dimensionless_unscaled and unit != spec.unit:
        total, unit = total / total.mean(), spec.unit
    if not unit.is_equivalent(spec.unit):
        raise UnknownFieldError(
            f"{field} gives values in {unit}, and {spec.name} is in {spec.unit}; "
            "choose another name"
        )
    return GalaxyField(
        u.Quantity(total, unit),
        name=spec,
        grid=grid,
        parameters=known,
        redshift=float(ds.current_redshift),
        meta={"yt": {"dataset": str(ds), "field": list(field)}},
    )


class _Source:
    """The values of one field, wherever yt has them: on particles or in cells.

    Parameters
    ----------
    ds, field, scheme
        As for `from_yt`.
    """

    def __init__(self, ds: Any, field: tuple[str, str], scheme: str) -> None:
        from yt.data_objects.static_output import ParticleDataset

        if not hasattr(ds, "domain_width"):
            raise UnknownFieldError(
                f"from_yt needs a yt dataset, got {type(ds).__name__}; open the file "
                "with yt.load first"
            )
        refuse_misread(ds)
        _ = ds.index  # reading it is what makes yt find the fields
        if field not in ds.field_info:
            raise UnknownFieldError(
                f"{ds} has no field {field}; ds.field_list and ds.derived_field_list "
                "show what it has"
            )
        self._ds = ds
        self._field = field
        self._scheme = scheme
        self._length = "Mpccm" if ds.cosmological_simulation else "Mpc"
        self._particles = field[0] if field[0] in ds.particle_types else None
        gas = getattr(ds, "_sph_ptypes", ()) if isinstance(ds, ParticleDataset) else ()
        if field[0] == "gas" and gas:
            self._particles = gas[0]
        self._is_gas = self._particles in gas
        width = ds.domain_width.to(self._length).value
        if not np.allclose(width, width[0], rtol=1e-6):
            raise GridError(
                f"the domain of {ds} is {width} Mpc wide; a field needs a cube"
            )
        self.width = float(width[0])
        self.kind = self._kind()

    @property
    def counts(self) -> bool:
        """Whether the values count things, rather than weigh them."""
        return self.kind in ("count", "number_density")

    def _kind(self) -> str:
        if self._particles and self._field[1] == "particle_ones":
            return "count"
        unit = self._ds.quan(1, self._ds.field_info[self._field].units or "1").units
        for kind, (known, _) in _UNITS.items():
            if unit.same_dimensions_as(self._ds.quan(1, self._as_here(known)).units):
                return kind
        raise UnknownFieldError(
            f"{self._field} is in {unit}; understood are {', '.join(_UNITS)}"
        )

    def _as_here(self, unit: str) -> str:
        """Drop the comoving mark where the dataset has no cosmology."""
        return unit.replace("Mpccm", self._length)

    def pieces(
        self, grid: GridSpec, h: float
    ) -> Iterator[tuple[_Array, _Array, _Array, dict[str, Any]]]:
        """Parts of the dataset that fit into memory.

        Yields
        ------
        positions
            Shape ``(n, 3)``, from the corner of the box [comoving Mpc/h].
        values
            Shape ``(n,)``; for masses, densities and counts the total that each
            particle or cell brings [Msun, or a number], else the field itself.
        weights
            Shape ``(n,)``, for means.
        how
            Keywords for `deposit`.
        """
        for chunk in self._ds.all_data().chunks([], "io"):
            if self._particles:
                yield self._of_particles(chunk, self._particles, h)
            else:
                yield from self._of_cells(chunk, grid, h)

    def _numbers(self, chunk: Any, field: tuple[str, str], unit: str) -> _Array:
        return np.asarray(chunk[field].to(self._as_here(unit)).value, dtype=np.float64)

    def _corner(self) -> _Array:
        return np.asarray(self._ds.domain_left_edge.to(self._length).value)

    def _of_particles(
        self, chunk: Any, kind: str, h: float
    ) -> tuple[_Array, _Array, _Array, dict[str, Any]]:
        place = self._numbers(chunk, (kind, "particle_position"), "Mpccm")
        mass = self._numbers(chunk, (kind, "particle_mass"), "Msun")
        if self.kind == "count":
            values = np.ones(len(mass))
        elif self.kind == "density":
            # The mass is what must be conserved; the kernel gives the density.
            values = mass
        else:
            values = self._numbers(chunk, self._field, _UNITS[self.kind][0])
        how: dict[str, Any] = {"scheme": self._scheme}
        if self._is_gas:
            reach = self._numbers(chunk, (kind, "smoothing_length"), "Mpccm")
            how = {"scheme": "sph", "smoothing_lengths": reach * h}
        return (place - self._corner()) * h, values, mass, how

    def _of_cells(
        self, chunk: Any, grid: GridSpec, h: float
    ) -> Iterator[tuple[_Array, _Array, _Array, dict[str, Any]]]:
        def read(name: str) -> _Array:
            return self._numbers(chunk, ("index", name), "Mpccm")

        place = np.stack([read(axis) for axis in "xyz"], axis=-1) - self._corner()
        width = read("dx")
        values = self._numbers(chunk, self._field, _UNITS[self.kind][0])
        volume = width**3
        if self.kind in ("density", "number_density"):
            values = values * volume
        for times in np.unique(self._times(width * h / grid.cell_size)):
            these = np.isclose(width * h, times * grid.cell_size, rtol=1e-3)
            split = max(round(float(times)), 1)
            share = split**-3 if self.kind in _TOTALS else 1.0
            for step in product(range(split), repeat=3):
                offset = ((np.array(step) + 0.5) / split - 0.5) * width[these, None]
                yield (
                    (place[these] + offset) * h,
                    values[these] * share,
                    volume[these] / split**3,
                    {"scheme": "ngp"},
                )

    def _times(self, ratios: _Array) -> _Array:
        """Widths of cells in cells of the grid, exact; refused if they do not fit."""
        many = np.round(np.maximum(ratios, 1))
        exact = many / np.round(np.maximum(1 / ratios, 1))
        if not np.allclose(exact, ratios, rtol=1e-4):
            bad = ratios[~np.isclose(exact, ratios, rtol=1e-4)][0]
            raise GridError(
                f"a cell of {self._ds} would be {bad:.4g} cells of the grid; choose "
                "n_cells so that one is a whole number of the other"
            )
        return np.asarray(np.round(exact, 12), dtype=np.float64)


def _parameters_of(ds: Any, given: Mapping[str, float]) -> dict[str, float]:
    """What the dataset knows, and what the user adds."""
    found: dict[str, float] = {}
    if getattr(ds, "cosmological_simulation", 0):
        found = {"omega_m": float(ds.omega_matter), "h": float(ds.hubble_constant)}
    for name, value in found.items():
        if name in given and not np.isclose(given[name], value, rtol=1e-3):
            raise ParameterError(
                f"{name} = {given[name]:g} contradicts the {value:g} of {ds}; leave "
                "it out"
            )
    known = {**given, **found}
    if "h" not in known:
        raise MissingParameterError(
            f"{ds} is not cosmological; give at least h, and omega_m, as parameters"
        )
    return known


def _spec_for(
    field: tuple[str, str], name: str | FieldSpec | None, unit: u.UnitBase
) -> FieldSpec:
    if isinstance(name, FieldSpec):
        return name
    if name is not None:
        return FIELDS[name]
    for spec in FIELDS.values():
        # In memory, on disk, or under yt's own name.
        kinds = ("stream", "gdf", spec.yt_name[0])
        if field in [(kind, spec.yt_name[1]) for kind in kinds]:
            return spec
    word = f"{field[0]}_{field[1]}"
    return FieldSpec(
        word,
        " ".join(field).replace("_", " "),
        unit,
        ("stream", word),
        rf"\mathrm{{{field[1]}}}".replace("_", r"\_"),
        positive=False,
        integrates=unit.is_equivalent(u.Msun * _PER_VOLUME)
        or unit.is_equivalent(_PER_VOLUME),
    )
