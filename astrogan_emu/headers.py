"""What a Gadget-layout HDF5 snapshot says about itself, checked before it is used.

`read_header` finds the files of one output, gathers the cosmology, the units and
the particle counts from whichever group the code that wrote them chose, and refuses
what is missing, contradictory or absurd. It knows the habits of Gadget-2, Gadget-4,
Arepo, Gizmo, MP-Gadget, EAGLE and SWIFT. Particles are read by `snapshots`; nothing
here needs yt.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .errors import SnapshotError, SnapshotUnitsError
from .snapshot_files import numbered_files, open_hdf5, snapshot_file, subgroup

__all__ = ["Header", "read_header"]

# Groups in which one code or another keeps its numbers. yt lets the second override
# the first, so two different values of one name are an error, not a choice.
_GROUPS = ("Header", "Parameters", "Cosmology", "Units")

_CM_PER_MPC = 3.0856775814913673e24
_GRAMS_PER_MSUN = 1.988409870698051e33
_CM_PER_KM = 1e5
# Codes round the parsec and the solar mass differently, to a few parts in 1e4.
_UNIT_ROUNDING = 1e-3
_FLATNESS = 1e-3

# Kernel radius over the smoothing length that SWIFT stores (Dehnen & Aly 2012,
# table 1); all other codes store the radius itself.
_SWIFT_KERNEL_RADIUS = {
    "Cubic spline (M4)": 1.825742,
    "Quartic spline (M5)": 2.018932,
    "Quintic spline (M6)": 2.195775,
    "Wendland C2": 1.936492,
    "Wendland C4": 2.207940,
    "Wendland C6": 2.449490,
}


@dataclass(frozen=True)
class Header:
    """One output of a simulation: its files, particle counts, cosmology and units.

    Parameters
    ----------
    files
        The files that hold the output, in order.
    counts
        Particles of each Gadget type in each file, shape ``(n_files, n_types)``.
    redshift
        Redshift of the output.
    box_size
        Side of the periodic box in code lengths.
    omega_m
        Density of all matter today, in critical densities; the cosmology is flat.
    omega_b
        Density of baryons today; None where the file does not say.
    h
        Hubble constant in 100 km/s/Mpc.
    mass_table
        Mass of each particle type in code masses, 0 where particles carry their own.
    length_unit
        Comoving Mpc/h in one code length; None where the file does not say.
    mass_unit
        Msun/h in one code mass; None where the file does not say.
    speed_unit
        km/s in one code speed, without the power of the scale factor that a
        velocity carries; None where the file does not say.
    swift
        Whether names and powers of the scale factor are SWIFT's, not Gadget's.
    kernel_radius
        Kernel radius over the stored smoothing length; None where unknown.
    """

    files: tuple[Path, ...]
    counts: tuple[tuple[int, ...], ...]
    redshift: float
    box_size: float
    omega_m: float
    omega_b: float | None
    h: float
    mass_table: tuple[float, ...]
    length_unit: float | None
    mass_unit: float | None
    speed_unit: float | None
    swift: bool
    kernel_radius: float | None

    @property
    def path(self) -> Path:
        """The first file, by which messages name the output."""
        return self.files[0]

    @property
    def scale_factor(self) -> float:
        """Scale factor of the output; 1 today."""
        return 1 / (1 + self.redshift)

    @property
    def totals(self) -> tuple[int, ...]:
        """Particles of each Gadget type in all files together."""
        return tuple(sum(column) for column in zip(*self.counts, strict=True))


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a Gadget-layout HDF5 snapshot.

    Parameters
    ----------
    path
        A snapshot, any one file of a snapshot in several files, or their folder.

    Returns
    -------
    header
        What all files of the output say together.

    Raises
    ------
    SnapshotError
        A file is missing or damaged, or an entry is missing, contradicts another one
        or makes no sense.
    SnapshotUnitsError
        Two statements about the units disagree.
    """
    given = snapshot_file(path)
    facts = _Facts.of(given)
    files = _all_files(facts)
    facts_of = {file: facts if file == given else _Facts.of(file) for file in files}
    headers = [_single_header(facts_of[file]) for file in files]
    for other in headers[1:]:
        _check_same_output(headers[0], other)
    header = replace(
        headers[0], files=files, counts=tuple(each.counts[0] for each in headers)
    )
    total = facts.totals()
    if total is not None and total != header.totals:
        raise SnapshotError(
            f"{given} announces {total} particles of each type in all, but the counts "
            f"of its {len(files)} file(s) add up to {header.totals}"
        )
    return header


@dataclass(frozen=True)
class _Facts:
    """The attributes of one file, by group, and the doors to read them by."""

    path: Path
    groups: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, path: Path) -> "_Facts":
        with open_hdf5(path) as file:
            if subgroup(file, "Header") is None:
                raise SnapshotError(
                    f"{path} has no group named Header, so it is not a Gadget-layout "
                    "snapshot"
                )
            names = [name for name in (*_GROUPS, "HydroScheme") if subgroup(file, name)]
            groups = {name: dict(file[name].attrs) for name in names}
            for name in file:
                particles = (
                    subgroup(file, name) if name.startswith("PartType") else None
                )
                if particles is not None and "Coordinates" in particles:
                    groups["Coordinates"] = dict(particles["Coordinates"].attrs)
        return cls(path, groups)

    def optional(self, *names: str) -> float | None:
        """Return the number stored under any of the names, in any group."""
        found = [
            (f"{name} = {value:g} in /{group}", value)
            for name in names
            for group in _GROUPS
            if (value := self._number(group, name)) is not None
        ]
        for text, value in found[1:]:
            if not math.isclose(value, found[0][1], rel_tol=1e-4, abs_tol=1e-10):
                raise SnapshotError(
                    f"{self.path} contradicts itself: {found[0][0]}, but {text}"
                )
        return found[0][1] if found else None

    def required(self, *names: str) -> float:
        value = self.optional(*names)
        if value is None:
            raise SnapshotError(
                f"{self.path} does not say its {names[0]}; add the attribute to "
                "its Header group"
            )
        return value

    def positive(self, *names: str) -> float:
        value = self.required(*names)
        if value <= 0:
            raise SnapshotError(f"{names[0]} in {self.path} is {value:g}, not positive")
        return value

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return the particle counts stored in the header under a name."""
        if name not in self.groups["Header"]:
            return None
        values = np.atleast_1d(np.asarray(self.groups["Header"][name]))
        sane = values.dtype.kind in "iuf" and values.ndim == 1 and 0 < len(values) < 32
        if not sane or np.any(values < 0) or np.any(values != np.floor(values)):
            raise SnapshotError(
                f"{name} in {self.path} is {values.tolist()}; particle counts must be "
                "whole numbers, not negative"
            )
        return tuple(int(value) for value in values)

    def totals(self) -> tuple[int, ...] | None:
        """Return the particles of each type in all files, as this file says."""
        low = self.integers("NumPart_Total")
        if low is None:
            return None
        high = self.integers("NumPart_Total_HighWord") or (0,) * len(low)
        return tuple(a + (b << 32) for a, b in zip(low, high, strict=False))

    def _number(self, group: str, name: str) -> float | None:
        if name not in self.groups.get(group, ()):
            return None
        values = np.asarray(self.groups[group][name])
        try:
            numbers = np.ravel(values).astype(float)
        except (TypeError, ValueError):
            numbers = np.empty(0)
        # Boxes may come as three sides; anything else with several values is odd.
        if len(numbers) not in (1, 3) or not np.all(np.isfinite(numbers)):
            raise SnapshotError(
                f"{name} in /{group} of {self.path} must be a finite number, "
                f"got {values.tolist()!r}"
            )
        if np.any(numbers != numbers[0]):
            raise SnapshotError(
                f"{name} in /{group} of {self.path} is {numbers.tolist()}; only "
                "cubic boxes can be read"
            )
        return float(numbers[0])


def _single_header(facts: _Facts) -> Header:
    """Read what one file says, as if it were the whole output."""
    h = facts.positive("HubbleParam", "h")
    counts = _counts(facts)
    swift = _text(facts.groups["Header"].get("Code")) == "SWIFT"
    length, mass, speed = _swift_units(facts, h) if swift else _gadget_units(facts, h)
    return Header(
        files=(facts.path,),
        counts=(counts,),
        redshift=_redshift(facts, swift),
        box_size=facts.positive("BoxSize"),
        omega_m=_omega_m(facts),
        omega_b=facts.optional("OmegaBaryon", "Omega_b"),
        h=h,
        mass_table=_mass_table(facts, len(counts)),
        length_unit=length,
        mass_unit=mass,
        speed_unit=speed,
        swift=swift,
        kernel_radius=_kernel_radius(facts) if swift else 1.0,
    )


def _counts(facts: _Facts) -> tuple[int, ...]:
    counts = facts.integers("NumPart_ThisFile")
    if counts is None and facts.optional("NumFilesPerSnapshot") in (None, 1):
        counts = facts.totals()
    if counts is None:
        raise SnapshotError(
            f"{facts.path} does not say how many particles it holds; its Header needs "
            "the attribute NumPart_ThisFile"
        )
    if not any(counts):
        raise SnapshotError(f"{facts.path} holds no particles")
    return counts


def _redshift(facts: _Facts, swift: bool) -> float:
    redshift = facts.required("Redshift")
    if not -1e-6 < redshift < 1e6:
        raise SnapshotError(
            f"the redshift of {facts.path} is {redshift:g}; it must not be negative"
        )
    # In SWIFT's header "Time" is an age.
    scale = facts.optional("Scale-factor" if swift else "Time")
    if scale is not None and not math.isclose(scale * (1 + redshift), 1, rel_tol=1e-3):
        raise SnapshotError(
            f"{facts.path} contradicts itself: the scale factor {scale:g} does not "
            f"belong to the redshift {redshift:g}; is it a cosmological run?"
        )
    # Rounding leaves a last output at, say, z = -2e-16.
    return max(redshift, 0.0)


def _omega_m(facts: _Facts) -> float:
    omega_m = facts.positive("Omega0", "Omega_m")
    omega_lambda = facts.optional("OmegaLambda", "Omega_lambda")
    if omega_lambda is not None and abs(omega_m + omega_lambda - 1) > _FLATNESS:
        raise SnapshotError(
            f"{facts.path} is not of a flat universe: Omega0 = {omega_m:g} and "
            f"OmegaLambda = {omega_lambda:g}; only flat ones can be read"
        )
    return omega_m


def _mass_table(facts: _Facts, n_types: int) -> tuple[float, ...]:
    # Where the table is missing, every particle must carry its own mass.
    values = np.ravel(np.asarray(facts.groups["Header"].get("MassTable", ())))
    sane = values.dtype.kind in "iuf" and len(values) < 32
    if not sane or not np.all(np.isfinite(values)) or np.any(values < 0):
        raise SnapshotError(
            f"MassTable in {facts.path} is {values.tolist()}; masses must be finite "
            "and not negative"
        )
    table = np.zeros(n_types)
    table[: len(values)] = values[:n_types]
    return tuple(table.tolist())


def _gadget_units(
    facts: _Facts, h: float
) -> tuple[float | None, float | None, float | None]:
    """Return code length, mass and speed in Mpc/h, Msun/h and km/s, where stated."""
    length = _nominal(facts, "UnitLength_in_cm", _CM_PER_MPC)
    mass = _nominal(facts, "UnitMass_in_g", _GRAMS_PER_MSUN)
    speed = _nominal(facts, "UnitVelocity_in_cm_per_s", _CM_PER_KM)
    # Gadget-4 and Arepo describe each dataset as well, with its powers of a and h.
    coordinates = facts.groups.get("Coordinates", {})
    own = float(np.ravel(coordinates.get("to_cgs", 0.0))[0])
    if own > 0:
        own = _round_unit(own / _CM_PER_MPC)
        if length is not None and not math.isclose(own, length, rel_tol=_UNIT_ROUNDING):
            raise SnapshotUnitsError(
                f"{facts.path} contradicts itself: its header has lengths of "
                f"{length:g} Mpc, its coordinates {own:g} Mpc"
            )
        length = own
    if float(np.ravel(coordinates.get("a_scaling", 1.0))[0]) != 1:
        raise SnapshotUnitsError(
            f"the coordinates of {facts.path} are not comoving; only comoving ones "
            "can be read"
        )
    if length is not None:
        # Lengths are in units per h unless the dataset says otherwise.
        length *= h ** (1 + float(np.ravel(coordinates.get("h_scaling", -1.0))[0]))
    return length, mass, speed


def _swift_units(facts: _Facts, h: float) -> tuple[float, float, float]:
    """Return the same three; SWIFT's units carry no h."""
    length = facts.positive("Unit length in cgs (U_L)")
    mass = facts.positive("Unit mass in cgs (U_M)")
    time = facts.positive("Unit time in cgs (U_t)")
    return (
        _round_unit(length / _CM_PER_MPC) * h,
        _round_unit(mass / _GRAMS_PER_MSUN) * h,
        _round_unit(length / time / _CM_PER_KM),
    )


def _nominal(facts: _Facts, name: str, reference: float) -> float | None:
    if facts.optional(name) is None:
        return None
    return _round_unit(facts.positive(name) / reference)


def _round_unit(value: float) -> float:
    """Take a unit that is a power of ten but for rounded constants as exactly that."""
    power = 10.0 ** round(math.log10(value))
    return power if math.isclose(value, power, rel_tol=_UNIT_ROUNDING) else value


def _kernel_radius(facts: _Facts) -> float | None:
    kernel = _text(facts.groups.get("HydroScheme", {}).get("Kernel function"))
    return _SWIFT_KERNEL_RADIUS.get(kernel)


def _all_files(facts: _Facts) -> tuple[Path, ...]:
    """Return the files of the output that one of its files belongs to."""
    number = facts.optional("NumFilesPerSnapshot")
    if number is None:
        # Without the entry, one file that holds every particle is all there is.
        whole = facts.totals() in (None, _counts(facts))
        number = 1 if whole else 0
    if not (1 <= number < 1e6 and number == int(number)):
        raise SnapshotError(
            f"{facts.path} does not say in how many files its snapshot lies; its "
            "Header needs a sensible NumFilesPerSnapshot"
        )
    return numbered_files(facts.path, int(number))


def _check_same_output(first: Header, other: Header) -> None:
    same = (
        math.isclose(first.redshift, other.redshift, abs_tol=1e-6)
        and first.box_size == other.box_size
        and first.omega_m == other.omega_m
        and len(first.mass_table) == len(other.mass_table)
        and len(first.counts[0]) == len(other.counts[0])
    )
    if not same:
        raise SnapshotError(
            f"{first.path} and {other.path} are not files of one output: their "
            "headers disagree on redshift, box or cosmology"
        )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
