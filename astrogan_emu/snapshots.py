"""Simulation snapshots in: particles of each kind, in one set of units.

`read_snapshot` opens the output of any code that yt knows and gives a `Snapshot`,
whose arrays are read when asked for, one kind of particles at a time. Values that no
simulation has (not finite, far outside the box, without mass) are refused there and
then, by the name of the file. Writing snapshots is the task of `gadget`, putting
particles on grids that of `grids`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.constants import Boltzmann, proton_mass
from scipy.spatial import cKDTree

from .errors import SnapshotError, SnapshotUnitsError
from .gadget_particles import open_gadget
from .headers import read_header
from .snapshot_files import has_gadget_layout, snapshot_file
from .yt_particles import compare_with_yt, open_dataset, open_with_yt

__all__ = ["KINDS", "Snapshot", "read_snapshot"]

#: The kinds of particles, in the order in which a snapshot lists them.
KINDS = ("dark_matter", "gas", "stars", "black_holes")

_ADIABATIC_INDEX = 5 / 3
_HYDROGEN_FRACTION = 0.76
_IONISATION_TEMPERATURE = 1e4  # K
_NEIGHBOURS = 32
# yt's radius for the cells of moving-mesh codes, in radii of a sphere of their volume.
_CELL_RADII = 2.0
_PLURALS = {
    "density": "densities",
    "temperature": "temperatures",
    "internal_energy": "internal energies",
    "smoothing_length": "smoothing lengths",
}
# Codes wrap particles now and then, not at every step, so some lie slightly outside.
_SLACK = 0.01
_FILLING_COUNT = 1000


class _Particles(Protocol):
    """What every source of particles can do, in the units of `Snapshot`."""

    @property
    def path(self) -> Path: ...
    @property
    def redshift(self) -> float: ...
    @property
    def box_size(self) -> float: ...
    @property
    def cosmology(self) -> Mapping[str, float]: ...

    def count(self, kind: str) -> int: ...
    def positions(self, kind: str) -> NDArray[np.float64]: ...
    def velocities(self, kind: str) -> NDArray[np.float64]: ...
    def masses(self, kind: str) -> NDArray[np.float64]: ...
    def gas(self, quantity: str) -> NDArray[np.float64] | None: ...


@dataclass(frozen=True)
class Snapshot:
    """One output of a simulation; its arrays stay on disk until asked for.

    Every method reads the file again and returns an array of its own, in the order of
    the file, so the rows of all arrays of one kind belong together.

    Parameters
    ----------
    path
        The file, or the first of several.
    redshift
        Redshift of the output.
    box_size
        Comoving side of the periodic box in Mpc/h.
    cosmology
        What the header says of ``omega_m``, ``omega_b`` and ``h``. Snapshots never
        know ``sigma_8`` and ``n_s``.
    kinds
        The kinds of particles that are there, of `KINDS`.

    See Also
    --------
    read_snapshot : opens a snapshot.

    Notes
    -----
    Stars of Arepo (IllustrisTNG) include wind particles, as they do in the file.
    """

    path: Path
    redshift: float
    box_size: float
    cosmology: Mapping[str, float] = field(hash=False)
    kinds: tuple[str, ...]
    _particles: _Particles = field(repr=False, compare=False)

    def count(self, kind: str) -> int:
        """Count the particles of a kind, without reading them.

        Parameters
        ----------
        kind
            One of `KINDS`.

        Returns
        -------
        count
            The number of particles; 0 for a kind that is not there.

        Raises
        ------
        SnapshotError
            There is no such kind.
        """
        if kind not in KINDS:
            raise SnapshotError(
                f"there are no particles of kind {kind!r}; kinds are {', '.join(KINDS)}"
            )
        return self._particles.count(kind)

    def positions(self, kind: str) -> NDArray[np.float64]:
        """Read the positions of a kind.

        Parameters
        ----------
        kind
            One of `kinds`.

        Returns
        -------
        positions
            Comoving positions in Mpc/h, shape ``(n, 3)``, in ``[0, box_size)``:
            particles outside by up to 1 % of the side, which codes leave there
            between two wraps, are wrapped.

        Raises
        ------
        SnapshotError
            The kind is not there, or a position is not finite or farther outside.
        SnapshotUnitsError
            The dark matter fills only a corner of the box.
        """
        self._check_kind(kind)
        values = self._particles.positions(kind)
        label = f"positions of {kind}"
        _check_finite(values, label, self.path)
        low, high = float(values.min()), float(values.max())
        slack = _SLACK * self.box_size
        if low < -slack or high > self.box_size + slack:
            outside = (values < -slack) | (values > self.box_size + slack)
            raise SnapshotError(
                f"{int(outside.any(axis=1).sum())} {label} in {self.path} lie outside "
                f"the box of {self.box_size:g} Mpc/h; they reach from {low:g} to "
                f"{high:g}"
            )
        if kind == "dark_matter" and len(values) >= _FILLING_COUNT:
            _check_filling(high - low, self.box_size, self.path)
        if low < 0 or high >= self.box_size:
            np.mod(values, self.box_size, out=values)
            # A tiny negative number is rounded up to the far face.
            values[values >= self.box_size] = 0
        return values

    def velocities(self, kind: str) -> NDArray[np.float64]:
        """Read the peculiar velocities of a kind.

        Parameters
        ----------
        kind
            One of `kinds`.

        Returns
        -------
        velocities
            Peculiar velocities in km/s, shape ``(n, 3)``.

        Raises
        ------
        SnapshotError
            The kind is not there, has no velocities, or one is not finite.
        """
        self._check_kind(kind)
        values = self._particles.velocities(kind)
        _check_finite(values, f"velocities of {kind}", self.path)
        return values

    def masses(self, kind: str) -> NDArray[np.float64]:
        """Read the masses of a kind.

        Parameters
        ----------
        kind
            One of `kinds`.

        Returns
        -------
        masses
            Masses in Msun/h, shape ``(n,)``.

        Raises
        ------
        SnapshotError
            The kind is not there, or a mass is missing, not finite or not positive.
        """
        self._check_kind(kind)
        values = self._particles.masses(kind)
        _check_positive(values, f"masses of {kind}", self.path)
        return values

    def total_mass(self) -> float:
        """Add up the masses of all particles.

        Returns
        -------
        mass
            Mass of everything in the box in Msun/h.

        Raises
        ------
        SnapshotError
            As for `masses`.
        """
        return float(sum(self.masses(kind).sum() for kind in self.kinds))

    def gas_density(self) -> NDArray[np.float64]:
        """Read the comoving density of the gas particles.

        Returns
        -------
        density
            Density in (Msun/h) / (Mpc/h)^3, shape ``(n,)``.

        Raises
        ------
        SnapshotError
            There is no gas or no density, or one is not finite or not positive.
        """
        values = self._gas("density")
        if values is None:
            raise SnapshotError(
                f"{self.path} stores no density of its gas; initial conditions never do"
            )
        return values

    def temperature(self) -> NDArray[np.float64]:
        """Read the temperature of the gas particles, or derive it.

        Returns
        -------
        temperature
            Temperature in K, shape ``(n,)``.

        Raises
        ------
        SnapshotError
            There is no gas, neither temperature nor internal energy is stored, or a
            value is not finite or not positive.

        Notes
        -----
        Where the file has no temperature, it is
        ``(5/3 - 1) u mu m_p / k_B`` for the internal energy per mass u, with
        ``mu = 4 / (1 + 3 X + 4 X x_e)``, X = 0.76 and the stored number x_e of
        electrons per hydrogen nucleus, as in Gadget and its descendants. Without x_e
        the gas is neutral below 10^4 K, fully ionised above, and at 10^4 K where the
        energy is too much for the one and too little for the other.
        In star-forming gas this is the temperature of the effective equation of
        state, not of a phase of the gas.
        """
        stored = self._gas("temperature")
        if stored is not None:
            return stored
        energy = self._gas("internal_energy")
        if energy is None:
            raise SnapshotError(
                f"{self.path} stores neither temperature nor internal energy of its "
                "gas; initial conditions often do not"
            )
        electrons = self._particles.gas("electron_abundance")
        if electrons is None:
            neutral = energy * _kelvin(_molecular_weight(0.0))
            ionised = energy * _kelvin(4 / (3 + 5 * _HYDROGEN_FRACTION))
            between = np.minimum(neutral, _IONISATION_TEMPERATURE)
            return np.asarray(np.maximum(ionised, between))
        _check_finite(electrons, "electron abundances of gas", self.path)
        return np.asarray(energy * _kelvin(_molecular_weight(electrons)))

    def smoothing_lengths(self) -> NDArray[np.float64]:
        """Read the kernel radii of the gas particles, or derive them.

        Returns
        -------
        radii
            Comoving radius at which the kernel falls to zero, in Mpc/h, shape
            ``(n,)``.

        Raises
        ------
        SnapshotError
            There is no gas, or a value is not finite or not positive.

        Notes
        -----
        Where the file has none but a density, as moving-mesh codes do, this is twice
        the radius of a sphere of the cell's volume, which is yt's choice; without a
        density it is the distance that holds 32 particles, itself included.
        """
        stored = self._gas("smoothing_length")
        if stored is not None:
            return stored
        density = self._gas("density")
        if density is not None:
            volume = self.masses("gas") / density
            return np.asarray(_CELL_RADII * np.cbrt(3 * volume / (4 * np.pi)))
        positions = self.positions("gas")
        tree = cKDTree(positions, boxsize=self.box_size)
        nearest = min(_NEIGHBOURS, len(positions))
        return np.asarray(tree.query(positions, k=[nearest], workers=-1)[0][:, 0])

    def _gas(self, quantity: str) -> NDArray[np.float64] | None:
        self._check_kind("gas")
        values = self._particles.gas(quantity)
        if values is not None:
            _check_positive(values, f"{_PLURALS[quantity]} of gas", self.path)
        return values

    def _check_kind(self, kind: str) -> None:
        if self.count(kind) == 0:
            raise SnapshotError(
                f"{self.path} holds no {kind}; it holds {', '.join(self.kinds)}"
            )


def read_snapshot(source: str | os.PathLike[str] | Any) -> Snapshot:
    """Open a snapshot of any particle code that yt knows.

    Gadget-layout HDF5 (Gadget, Arepo, Gizmo, MP-Gadget, EAGLE, SWIFT; also in several
    files, and compressed as CAMELS and Quijote are) is identified with yt and read
    directly; other formats are read by yt. Nothing is written beside the data.

    Units come from the header and are checked: against the mean density that its
    ``omega_m`` implies, and against what yt makes of the same file. A header without
    units means 1e10 Msun/h, km/s, and whichever of kpc/h and Mpc/h gives that mean
    density. A missing ``OmegaLambda`` means a flat universe.

    Parameters
    ----------
    source
        A file, any one file of a snapshot in several, the folder of one output, or a
        dataset opened with ``yt.load``, whose units are then believed.

    Returns
    -------
    snapshot
        The snapshot, none of whose arrays has been read.

    Raises
    ------
    SnapshotError
        The file is missing, empty, truncated, of no known format, or its header is
        incomplete, contradicts itself or does not match its contents.
    SnapshotUnitsError
        The units contradict the mean density, themselves or yt.
    MissingDependencyError
        The file is compressed with a filter that the extra ``camels`` brings.
    """
    particles = _open(source)
    if not (np.isfinite(particles.box_size) and particles.box_size > 0):
        raise SnapshotError(
            f"the box of {particles.path} has the side {particles.box_size:g} Mpc/h"
        )
    return Snapshot(
        path=particles.path,
        redshift=particles.redshift,
        box_size=particles.box_size,
        cosmology=dict(particles.cosmology),
        kinds=tuple(kind for kind in KINDS if particles.count(kind) > 0),
        _particles=particles,
    )


def _open(source: str | os.PathLike[str] | Any) -> _Particles:
    if not isinstance(source, (str, os.PathLike)):
        return open_dataset(source)
    path = snapshot_file(source)
    if not has_gadget_layout(path):
        return open_with_yt(path)
    particles = open_gadget(read_header(path))
    compare_with_yt(particles)
    return particles


def _molecular_weight(electrons: Any) -> Any:
    """Return the mean mass of a gas particle in proton masses."""
    x = _HYDROGEN_FRACTION
    return 4 / (1 + 3 * x + 4 * x * electrons)


def _kelvin(molecular_weight: Any) -> Any:
    """Return the temperature in K of gas with an energy of 1 (km/s)^2 per mass."""
    per_energy = (_ADIABATIC_INDEX - 1) * proton_mass / Boltzmann * 1e6
    return molecular_weight * per_energy


def _check_finite(values: NDArray[np.float64], label: str, path: Path) -> None:
    # The extremes of an array with a NaN are NaN, so the good case needs no copy.
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise SnapshotError(
            f"{bad} of {values.size} {label} in {path} are not finite; the file is "
            "damaged"
        )


def _check_positive(values: NDArray[np.float64], label: str, path: Path) -> None:
    _check_finite(values, label, path)
    if values.min() <= 0:
        bad = int(np.count_nonzero(values <= 0))
        raise SnapshotError(
            f"{bad} of {values.size} {label} in {path} are not positive"
        )


def _check_filling(extent: float, box_size: float, path: Path) -> None:
    if extent < box_size / 2:
        raise SnapshotUnitsError(
            f"the dark matter of {path} spans {extent:g} Mpc/h of a box of "
            f"{box_size:g} Mpc/h; its positions and its box have different units"
        )
