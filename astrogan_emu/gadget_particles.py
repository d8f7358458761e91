"""Particles of Gadget-layout HDF5 snapshots, straight from the file.

`GadgetParticles` reads one array at a time with h5py, in file order and to the last
bit, and puts it into comoving Mpc/h, Msun/h and km/s. That leaves no index files
beside the data, which yt's own particle reader does. It decides what the units are,
but not whether the values make physical sense: `snapshots` looks at that.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ._optional import require
from .errors import SnapshotError, SnapshotUnitsError
from .headers import Header
from .snapshot_files import open_hdf5, subgroup

__all__ = ["GadgetParticles", "GadgetUnits", "open_gadget"]

_TYPE_OF_KIND = {"dark_matter": 1, "gas": 0, "stars": 4, "black_holes": 5}

# Names of one quantity in Gadget and its descendants, EAGLE and SWIFT.
_COORDINATES = ("Coordinates",)
_VELOCITIES = ("Velocities", "Velocity")
_MASSES = ("Masses", "Mass", "DynamicalMasses")
_GAS = {
    "density": ("Density", "Densities"),
    "smoothing_length": ("SmoothingLength", "SmoothingLengths"),
    "temperature": ("Temperature", "Temperatures"),
    "internal_energy": ("InternalEnergy", "InternalEnergies"),
    "electron_abundance": ("ElectronAbundance",),
}
# The power of the scale factor that makes a stored value physical, where a dataset
# carries it: Gadget-4 and Arepo, EAGLE, SWIFT.
_SCALE_POWER = ("a_scaling", "aexp-scale-exponent", "a-scale exponent")

_CRITICAL_DENSITY = (
    2.77536627e11  # (Msun/h) / (Mpc/h)^3, with G and the Msun of the IAU
)
# Factors of h or 1000 are well outside; ungridded neutrinos or missing baryons inside.
_DENSITY_RANGE = (0.8, 1.25)
_KPC, _MPC = 1e-3, 1.0
_SAMPLE = 1 << 18


@dataclass(frozen=True)
class GadgetUnits:
    """What one code unit is.

    Parameters
    ----------
    length
        Comoving Mpc/h.
    mass
        Msun/h.
    speed
        km/s, without the power of the scale factor that a velocity carries.
    """

    length: float
    mass: float
    speed: float


@dataclass(frozen=True)
class GadgetParticles:
    """The particles of one output.

    Parameters
    ----------
    header
        What the files say about themselves.
    units
        The units of the arrays.
    """

    header: Header
    units: GadgetUnits

    @property
    def path(self) -> Path:
        """The first file, by which messages name the snapshot."""
        return self.header.path

    @property
    def redshift(self) -> float:
        """Redshift of the output."""
        return self.header.redshift

    @property
    def box_size(self) -> float:
        """Side of the periodic box [comoving Mpc/h]."""
        return self.header.box_size * self.units.length

    @property
    def cosmology(self) -> Mapping[str, float]:
        """The parameters that the header gives."""
        known = {"omega_m": self.header.omega_m, "h": self.header.h}
        # Runs of dark matter alone say 0, whatever their transfer function had.
        if self.header.omega_b:
            known["omega_b"] = self.header.omega_b
        return known

    def count(self, kind: str) -> int:
        """Return the number of particles of a kind, which may be 0."""
        number = _TYPE_OF_KIND[kind]
        totals = self.header.totals
        return totals[number] if number < len(totals) else 0

    def positions(self, kind: str) -> NDArray[np.float64]:
        """Return positions as stored [comoving Mpc/h], shape ``(n, 3)``."""
        values = self._required(_TYPE_OF_KIND[kind], _COORDINATES)
        values *= self.units.length
        return values

    def velocities(self, kind: str) -> NDArray[np.float64]:
        """Return peculiar velocities [km/s], shape ``(n, 3)``."""
        number = _TYPE_OF_KIND[kind]
        values = self._required(number, _VELOCITIES)
        # Gadget stores sqrt(a) dx/dt, SWIFT a dx/dt.
        usual = 0.0 if self.header.swift else 0.5
        values *= self.units.speed * self._scale(number, _VELOCITIES, usual)
        return values

    def masses(self, kind: str) -> NDArray[np.float64]:
        """Return masses [Msun/h], shape ``(n,)``."""
        number = _TYPE_OF_KIND[kind]
        fixed = self.header.mass_table[number]
        values = self._optional(number, _MASSES)
        if values is None and fixed == 0:
            raise SnapshotError(_no_masses(self.path, number))
        if values is None:
            values = np.full(self.count(kind), fixed)
        elif fixed > 0 and not np.allclose(values, fixed, rtol=1e-3):
            raise SnapshotError(
                f"{self.path} contradicts itself: its MassTable gives every particle "
                f"of type {number} the mass {fixed:g}, its masses differ from that"
            )
        values *= self.units.mass
        return values

    def gas(self, quantity: str) -> NDArray[np.float64] | None:
        """Return a quantity of the gas, shape ``(n,)``, or None if it is not stored.

        Comoving ``density`` [(Msun/h) / (Mpc/h)^3] and ``smoothing_length`` (the
        kernel's radius) [Mpc/h], ``temperature`` [K], ``internal_energy`` [(km/s)^2],
        ``electron_abundance`` per hydrogen nucleus.
        """
        if quantity == "smoothing_length" and self.header.kernel_radius is None:
            raise SnapshotError(
                f"{self.path} does not name an SPH kernel known here, so its "
                "smoothing lengths mean nothing"
            )
        values = self._optional(0, _GAS[quantity])
        if values is None:
            return None
        if quantity == "density":
            values *= self.units.mass / self.units.length**3
        elif quantity == "smoothing_length":
            values *= self.units.length * (self.header.kernel_radius or 1.0)
        elif quantity == "internal_energy":
            values *= self.units.speed**2 * self._scale(0, _GAS[quantity], 0.0)
        return values

    def _required(self, number: int, names: tuple[str, ...]) -> NDArray[np.float64]:
        values = self._optional(number, names)
        if values is None:
            raise SnapshotError(
                f"{self.path} has no {names[0]} for its particles of type {number}"
            )
        return values

    def _optional(
        self, number: int, names: tuple[str, ...]
    ) -> NDArray[np.float64] | None:
        """Read a dataset of all files, in code units, if the first file has it."""
        total, start, values = self.header.totals[number], 0, None
        for path, counts in zip(self.header.files, self.header.counts, strict=True):
            if counts[number] == 0:
                continue
            with open_hdf5(path) as file:
                dataset = _dataset(file, number, names)
                if dataset is None:
                    if values is None:
                        return None
                    raise SnapshotError(f"{path} has no {names[0]}, unlike {self.path}")
                _check_dataset(path, dataset, counts[number])
                if values is None:
                    values = np.empty((total, *dataset.shape[1:]))
                stop = start + counts[number]
                dataset.read_direct(values[start:stop])
                start = stop
        return values

    def _scale(self, number: int, names: tuple[str, ...], usual: float) -> float:
        """Return the power of the scale factor that makes a dataset physical."""
        power = usual
        for path, counts in zip(self.header.files, self.header.counts, strict=True):
            if counts[number] == 0:
                continue
            with open_hdf5(path) as file:
                dataset = _dataset(file, number, names)
                for name in _SCALE_POWER:
                    if dataset is not None and name in dataset.attrs:
                        power = float(np.ravel(dataset.attrs[name])[0])
            break
        return float(self.header.scale_factor**power)


def open_gadget(header: Header, units: GadgetUnits | None = None) -> GadgetParticles:
    """Check that the particles are there and find out their units.

    Units that the header states must agree with the mean density that it states. A
    header that says nothing of lengths may mean kpc/h or Mpc/h: the one that gives
    the mean density is taken. Masses not stated are 1e10 Msun/h, speeds km/s.

    Parameters
    ----------
    header
        The header of the output.
    units
        Units to believe without looking further.

    Returns
    -------
    particles
        The particles, none of which has been read.

    Raises
    ------
    SnapshotError
        A group or dataset is missing or of another size than the header says, or
        there are particles of a type that is not gas, dark matter, stars or black
        holes.
    SnapshotUnitsError
        No reading of the units agrees with the mean density.
    """
    for path, counts in zip(header.files, header.counts, strict=True):
        with open_hdf5(path) as file:
            for number, count in enumerate(counts):
                _check_type(path, file, number, count)
    return GadgetParticles(header, units or _find_units(header))


def _check_type(path: Path, file: h5py.File, number: int, count: int) -> None:
    """Check that a particle type is there if it is announced."""
    dataset = _dataset(file, number, _COORDINATES)
    if count == 0:
        return
    if number not in _TYPE_OF_KIND.values():
        # Tracers have no positions and no mass, so they are no loss.
        if dataset is None:
            return
        raise SnapshotError(
            f"{path} holds {count} particles of type {number}; only dark matter (1), "
            "gas (0), stars (4) and black holes (5) of whole boxes can be read, not "
            "the types of zoom runs or neutrinos"
        )
    if dataset is None:
        raise SnapshotError(
            f"{path} announces {count} particles of type {number}, but has no "
            f"PartType{number}/Coordinates"
        )
    _check_dataset(path, dataset, count)
    if dataset.shape != (count, 3):
        raise SnapshotError(
            f"{dataset.name} in {path} has the shape {dataset.shape}, not ({count}, 3)"
        )


def _dataset(
    file: h5py.File, number: int, names: tuple[str, ...]
) -> h5py.Dataset | None:
    group = subgroup(file, f"PartType{number}")
    if group is not None:
        for name in names:
            if isinstance(dataset := group.get(name), h5py.Dataset):
                return dataset
    return None


def _check_dataset(path: Path, dataset: h5py.Dataset, count: int) -> None:
    """Refuse a dataset that does not hold what the header promises."""
    if dataset.shape not in ((count,), (count, 3)) or dataset.dtype.kind not in "fiu":
        raise SnapshotError(
            f"{dataset.name} in {path} has the shape {dataset.shape} and the type "
            f"{dataset.dtype}, not numbers for the {count} particles that its header "
            "announces"
        )
    stored = dataset.id.get_storage_size()
    # No compression is that good: the values were never written.
    if not dataset.is_virtual and dataset.nbytes > 1e5 * stored:
        raise SnapshotError(
            f"{dataset.name} in {path} claims {dataset.nbytes} bytes but stores only "
            f"{stored}"
        )
    filters = dataset.id.get_create_plist()
    for index in range(filters.get_nfilters()):
        code = filters.get_filter(index)[0]
        if not h5py.h5z.filter_avail(code):
            # Importing it teaches HDF5 the filters of CAMELS and Quijote.
            require("hdf5plugin", "camels")
        if not h5py.h5z.filter_avail(code):
            raise SnapshotError(
                f"{dataset.name} in {path} is compressed with the HDF5 filter {code}, "
                "which nothing installed here can undo"
            )


def _find_units(header: Header) -> GadgetUnits:
    mass = 1e10 if header.mass_unit is None else header.mass_unit
    speed = 1.0 if header.speed_unit is None else header.speed_unit
    stated = header.length_unit
    expected = header.omega_m * _CRITICAL_DENSITY
    total = mass * _code_mass(header)
    candidates = (_KPC, _MPC) if stated is None else (stated,)
    ratios = {
        length: total / (header.box_size * length) ** 3 / expected
        for length in candidates
    }
    for length, ratio in ratios.items():
        if _DENSITY_RANGE[0] < ratio < _DENSITY_RANGE[1]:
            return GadgetUnits(length, mass, speed)
    guesses = " or ".join(
        f"{ratio:.3g} times with lengths in {length:g} Mpc/h"
        for length, ratio in ratios.items()
    )
    source = "the units of its header" if stated else "Gadget's usual units"
    raise SnapshotUnitsError(
        f"the particles of {header.path} do not add up to the mean density of "
        f"omega_m = {header.omega_m:g}: {guesses}; either {source} are not those of "
        "its particles, or it is not a whole box; if you know the units, open it with "
        "yt.load(..., unit_base=...) and read that dataset"
    )


def _code_mass(header: Header) -> float:
    """Estimate the mass of all particles in code masses, reading little."""
    total = 0.0
    for number in _TYPE_OF_KIND.values():
        if number >= len(header.totals) or header.totals[number] == 0:
            continue
        if header.mass_table[number] > 0:
            total += header.totals[number] * header.mass_table[number]
        else:
            total += header.totals[number] * _typical_mass(header, number)
    if not (math.isfinite(total) and total > 0):
        raise SnapshotError(f"the masses in {header.path} add up to {total:g}")
    return total


def _typical_mass(header: Header, number: int) -> float:
    """Return the mean of the first masses of a type, in code masses."""
    for path, counts in zip(header.files, header.counts, strict=True):
        if counts[number] == 0:
            continue
        with open_hdf5(path) as file:
            dataset = _dataset(file, number, _MASSES)
            if dataset is None:
                raise SnapshotError(_no_masses(path, number))
            _check_dataset(path, dataset, counts[number])
            return float(np.mean(dataset[:_SAMPLE], dtype=np.float64))
    raise AssertionError("called for a type without particles")


def _no_masses(path: Path, number: int) -> str:
    return (
        f"{path} gives no masses for its particles of type {number}: neither in "
        "MassTable nor as a dataset"
    )
