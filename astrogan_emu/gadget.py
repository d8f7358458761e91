"""Gadget-format HDF5 snapshots out: one file per output, readable by yt.

`write_gadget` writes dark-matter particles in the layout that Gadget-2 and its
descendants share, so a run of `simulate` is read like anyone's simulation.
Reading is the task of `snapshots`; nothing here needs yt.
"""

import os
from collections.abc import Mapping

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._files import atomic_path
from .errors import SnapshotError

__all__ = ["write_gadget"]

# Gadget's default units, as every public suite writes them.
_UNIT_LENGTH_IN_CM = 3.085678e21  # 1 kpc
_UNIT_MASS_IN_G = 1.989e43  # 1e10 solar masses
_UNIT_VELOCITY_IN_CM_PER_S = 1e5  # 1 km/s

_KPC_PER_MPC = 1000.0
_DARK_MATTER = 1  # the particle type that Gadget calls "halo"
_ROWS_AT_ONCE = 1 << 20  # bounds the memory of conversions to about 50 MB


def write_gadget(
    path: str | os.PathLike[str],
    *,
    positions: ArrayLike,
    velocities: ArrayLike,
    particle_mass: float,
    box_size: float,
    redshift: float,
    omega_m: float,
    omega_b: float,
    h: float,
    attributes: Mapping[str, str | int | float] | None = None,
) -> None:
    """Write dark-matter particles as one Gadget-format HDF5 snapshot.

    The file appears complete or not at all, and the same input gives the same
    bytes. Numbers are stored uncompressed in single precision: lengths in
    comoving kpc/h, masses in 1e10 Msun/h, and velocities in Gadget's convention
    (Springel 2005, users' guide of Gadget-2, table 3), which is the peculiar
    velocity divided by the square root of the scale factor.

    Parameters
    ----------
    path
        File to write; an existing one is replaced.
    positions
        Comoving positions in Mpc/h, shape ``(n, 3)``; wrapped into the box.
    velocities
        Peculiar velocities in km/s, shape ``(n, 3)``.
    particle_mass
        Mass of every particle in Msun/h.
    box_size
        Comoving side of the periodic box in Mpc/h.
    redshift
        Redshift of the particles.
    omega_m, omega_b
        Density of all matter and of baryons today, in critical densities; the
        cosmology is flat.
    h
        Hubble constant in 100 km/s/Mpc.
    attributes
        Further values worth keeping (seed, sigma_8, ...), stored as attributes
        of the group ``Parameters``, where yt finds them as ``ds.parameters``.

    Raises
    ------
    SnapshotError
        If the arrays do not match, hold values that are not finite, or a number
        is not one that a snapshot can have.
    """
    name = os.fspath(path)
    positions, velocities = np.asarray(positions), np.asarray(velocities)
    _check_arrays(name, positions, velocities)
    _check_numbers(name, particle_mass, box_size, redshift, omega_m, omega_b, h)
    scale_factor = 1 / (1 + redshift)
    header = _header(
        count=len(positions),
        mass=particle_mass / 1e10,
        box_size=box_size * _KPC_PER_MPC,
        redshift=redshift,
        omega_m=omega_m,
        omega_b=omega_b,
        h=h,
    )
    extra = dict(attributes or {})
    # yt lets /Parameters override the header, so a shared name would lie.
    if clash := sorted(set(extra) & set(header)):
        raise SnapshotError(
            f"attributes {clash} for {name} are header fields; give them by their "
            "own arguments"
        )
    with atomic_path(path) as partial, h5py.File(partial, "w") as file:
        file.create_group("Header").attrs.update(header)
        file.create_group("Parameters").attrs.update(extra)
        group = file.create_group(f"PartType{_DARK_MATTER}")
        _write_positions(group, positions, box_size, name)
        _write_velocities(group, velocities, 1 / np.sqrt(scale_factor), name)
        _write_ids(group, len(positions))


def _check_arrays(
    name: str, positions: NDArray[np.floating], velocities: NDArray[np.floating]
) -> None:
    if positions.ndim != 2 or positions.shape[1] != 3 or len(positions) == 0:
        raise SnapshotError(
            f"positions for {name} must have the shape (n, 3) with n at least 1, "
            f"got {positions.shape}"
        )
    if velocities.shape != positions.shape:
        raise SnapshotError(
            f"velocities for {name} must have the shape of the positions "
            f"{positions.shape}, got {velocities.shape}"
        )


def _check_numbers(
    name: str,
    particle_mass: float,
    box_size: float,
    redshift: float,
    omega_m: float,
    omega_b: float,
    h: float,
) -> None:
    positive = {
        "particle_mass": particle_mass,
        "box_size": box_size,
        "1 + redshift": 1 + redshift,
        "omega_m": omega_m,
        "h": h,
    }
    for label, value in positive.items():
        if not (np.isfinite(value) and value > 0):
            raise SnapshotError(
                f"{label} for {name} must be positive and finite, got {value!r}"
            )
    if not 0 <= omega_b <= omega_m:
        raise SnapshotError(
            f"omega_b for {name} must lie between 0 and omega_m = {omega_m!r}, "
            f"got {omega_b!r}"
        )


def _header(
    *,
    count: int,
    mass: float,
    box_size: float,
    redshift: float,
    omega_m: float,
    omega_b: float,
    h: float,
) -> dict[str, object]:
    """Return the attributes that Gadget readers look for, in file units."""
    counts = np.zeros(6, np.uint64)
    counts[_DARK_MATTER] = count
    masses = np.zeros(6)
    masses[_DARK_MATTER] = mass
    return {
        "NumPart_ThisFile": counts.astype(np.uint32),
        "NumPart_Total": (counts & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        "NumPart_Total_HighWord": (counts >> np.uint64(32)).astype(np.uint32),
        "NumFilesPerSnapshot": np.int32(1),
        "MassTable": masses,
        "Time": 1 / (1 + float(redshift)),
        "Redshift": float(redshift),
        "BoxSize": float(box_size),
        "Omega0": float(omega_m),
        "OmegaLambda": 1 - float(omega_m),
        "OmegaBaryon": float(omega_b),
        "HubbleParam": float(h),
        "UnitLength_in_cm": _UNIT_LENGTH_IN_CM,
        "UnitMass_in_g": _UNIT_MASS_IN_G,
        "UnitVelocity_in_cm_per_s": _UNIT_VELOCITY_IN_CM_PER_S,
        "Flag_Sfr": np.int32(0),
        "Flag_Feedback": np.int32(0),
        "Flag_Cooling": np.int32(0),
        "Flag_StellarAge": np.int32(0),
        "Flag_Metals": np.int32(0),
        "Flag_Entropy_ICs": np.int32(0),
        "Flag_DoublePrecision": np.int32(0),
    }


def _write_positions(
    group: h5py.Group, positions: NDArray[np.floating], box_size: float, name: str
) -> None:
    dataset = group.create_dataset("Coordinates", positions.shape, np.float32)
    side = np.float32(box_size * _KPC_PER_MPC)
    for rows in _blocks(len(positions)):
        block = np.mod(_finite(positions[rows], "positions", name), box_size)
        block *= _KPC_PER_MPC
        single = block.astype(np.float32)
        # Single precision can round the last sliver of the box up to its far face.
        single[single >= side] = 0
        dataset[rows] = single


def _write_velocities(
    group: h5py.Group, velocities: NDArray[np.floating], factor: float, name: str
) -> None:
    dataset = group.create_dataset("Velocities", velocities.shape, np.float32)
    for rows in _blocks(len(velocities)):
        dataset[rows] = _finite(velocities[rows], "velocities", name) * factor


def _write_ids(group: h5py.Group, count: int) -> None:
    dtype = np.uint32 if count < 2**32 else np.uint64
    dataset = group.create_dataset("ParticleIDs", (count,), dtype)
    for rows in _blocks(count):
        dataset[rows] = np.arange(rows.start + 1, rows.stop + 1, dtype=dtype)


def _blocks(count: int) -> list[slice]:
    return [
        slice(start, min(start + _ROWS_AT_ONCE, count))
        for start in range(0, count, _ROWS_AT_ONCE)
    ]


def _finite(block: NDArray[np.floating], label: str, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = np.asarray(block, dtype=np.float64)
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        raise SnapshotError(
            f"{label} for {name} hold {bad} values that are not finite; nothing "
            "was written"
        )
    return values
