"""Particles of any snapshot that yt opens, and yt's second opinion on ours.

`open_with_yt` and `YtParticles` serve every particle format that `headers` does not
know, and datasets that the user has opened. `compare_with_yt` checks a Gadget-layout
header against what yt makes of the same file. yt is imported on first use, kept
silent, and never given a chance to leave index files beside the user's data.
"""

import contextlib
import logging
import math
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import SnapshotError, SnapshotUnitsError
from .gadget_particles import GadgetParticles, GadgetUnits, open_gadget
from .headers import read_header

__all__ = [
    "YtParticles",
    "compare_with_yt",
    "open_dataset",
    "open_with_yt",
    "refuse_misread",
]

_logger = logging.getLogger(__name__)

# What frontends call the kinds of particles; the first that is there counts.
_NAMES = {
    "dark_matter": ("PartType1", "Halo", "DarkMatter", "DM", "dark_matter", "io"),
    "gas": ("PartType0", "Gas", "gas"),
    "stars": ("PartType4", "Stars", "Star", "star", "stars"),
    "black_holes": ("PartType5", "BlackHole", "black_holes"),
}
_AGREEMENT = 1e-3  # yt and simulation codes round constants to a few parts in 1e4


class YtParticles:
    """The particles of a yt dataset.

    Parameters
    ----------
    dataset
        A periodic, cubic particle dataset with a cosmology. Datasets made in memory
        carry none of their own: give them
        ``parameters={"omega_matter": ..., "hubble_constant": ...,
        "current_redshift": ...}``; their lengths and densities are then physical.
    path
        The file, if the dataset was opened by another name.
    folder
        A temporary folder for yt's files, to be removed together with this object.

    Raises
    ------
    SnapshotError
        It is not such a dataset, or holds particles of an unknown type.
    """

    def __init__(
        self, dataset: Any, path: Path | None = None, folder: Path | None = None
    ) -> None:
        self._dataset = dataset
        self.path = path or Path(str(dataset.parameter_filename))
        folder = folder or Path(tempfile.mkdtemp(prefix="astrogan_emu-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        # yt puts these beside the data unless it is told another place.
        for name in ("index_filename", "kdtree_filename"):
            if getattr(dataset, name, "") is None:
                setattr(dataset, name, str(folder / name))
        self._check_particles()
        self.redshift, self.cosmology = self._cosmology()
        with _quiet_yt():
            edges = dataset.domain_left_edge, dataset.domain_right_edge
            left, right = (self._comoving(edge) for edge in edges)
            counts = dict(dataset.particle_type_counts)
        if not np.allclose(right - left, right[0] - left[0], rtol=1e-6):
            raise SnapshotError(f"the box of {self.path} is not a cube")
        self.box_size = float(right[0] - left[0])
        self._corner = left
        self._types = self._known_types(counts)
        self._counts = {kind: int(counts[name]) for kind, name in self._types.items()}

    def count(self, kind: str) -> int:
        """Return the number of particles of a kind, which may be 0."""
        return self._counts.get(kind, 0)

    def positions(self, kind: str) -> NDArray[np.float64]:
        """Return positions from the box corner [comoving Mpc/h], shape ``(n, 3)``."""
        with _quiet_yt():
            values = self._comoving(self._read(self._types[kind], "particle_position"))
        return values - self._corner

    def velocities(self, kind: str) -> NDArray[np.float64]:
        """Return peculiar velocities [km/s], shape ``(n, 3)``."""
        return self._values(self._types[kind], "particle_velocity", "km/s")

    def masses(self, kind: str) -> NDArray[np.float64]:
        """Return masses [Msun/h], shape ``(n,)``."""
        h = self.cosmology["h"]
        return self._values(self._types[kind], "particle_mass", "Msun") * h

    def gas(self, quantity: str) -> NDArray[np.float64] | None:
        """Return a quantity of the gas, shape ``(n,)``, or None if yt has none.

        Comoving ``density`` [(Msun/h) / (Mpc/h)^3] and ``smoothing_length`` [Mpc/h],
        ``temperature`` [K]; other quantities are left to yt.
        """
        field = (self._types["gas"], quantity)
        known = ("density", "smoothing_length", "temperature")
        with _quiet_yt():
            if quantity not in known or field not in self._dataset.derived_field_list:
                return None
            if quantity == "smoothing_length":
                return self._comoving(self._read(*field))
        if quantity == "temperature":
            return self._values(*field, "K")
        physical = self._values(*field, "Msun/Mpc**3")
        return physical / (1 + self.redshift) ** 3 / self.cosmology["h"] ** 2

    def _read(self, ptype: str, field: str) -> Any:
        return self._dataset.all_data()[ptype, field]

    def _values(self, ptype: str, field: str, unit: str) -> NDArray[np.float64]:
        with _quiet_yt():
            return np.asarray(self._read(ptype, field).to_value(unit), np.float64)

    def _comoving(self, lengths: Any) -> NDArray[np.float64]:
        """Return yt lengths in comoving Mpc/h."""
        physical = np.asarray(lengths.to_value("Mpc"), np.float64)
        return physical * ((1 + self.redshift) * self.cosmology["h"])

    def _check_particles(self) -> None:
        from yt.geometry.particle_geometry_handler import ParticleIndex

        with _quiet_yt():
            particles = isinstance(self._dataset.index, ParticleIndex)
        if not particles:
            raise SnapshotError(
                f"{self.path} is a {type(self._dataset).__name__}, which is not made "
                "of particles; only particle snapshots can be read"
            )
        if not all(self._dataset.periodicity):
            raise SnapshotError(f"the box of {self.path} is not periodic")

    def _cosmology(self) -> tuple[float, Mapping[str, float]]:
        dataset, names = self._dataset, ("omega_matter", "hubble_constant")
        if dataset.cosmological_simulation:
            values = {name: float(getattr(dataset, name)) for name in names}
            redshift = float(dataset.current_redshift)
        else:
            known = dataset.parameters
            needed = (*names, "current_redshift")
            if missing := [name for name in needed if name not in known]:
                raise SnapshotError(
                    f"the yt dataset {self.path} has no cosmology; give it "
                    f"parameters with {', '.join(missing)}"
                )
            values = {name: float(known[name]) for name in names}
            redshift = float(known["current_redshift"])
        if not (min(values.values()) > 0 and redshift > -1e-6):
            raise SnapshotError(
                f"the cosmology of {self.path} makes no sense: {values}, "
                f"redshift = {redshift:g}"
            )
        cosmology = {"omega_m": values[names[0]], "h": values[names[1]]}
        return max(redshift, 0.0), cosmology

    def _known_types(self, counts: Mapping[str, int]) -> dict[str, str]:
        present = [name for name, count in counts.items() if count > 0]
        found = {
            kind: next(name for name in names if name in present)
            for kind, names in _NAMES.items()
            if set(names) & set(present)
        }
        if unknown := sorted(set(present) - set(found.values())):
            raise SnapshotError(
                f"{self.path} holds particles of types that are not known here: "
                f"{', '.join(unknown)}"
            )
        if not found:
            raise SnapshotError(f"{self.path} holds no particles")
        return found


def open_with_yt(path: Path) -> YtParticles:
    """Open a file of a format that only yt knows.

    yt sees it through links in a temporary folder, so that its index files land
    there.

    Parameters
    ----------
    path
        An existing file.

    Returns
    -------
    particles
        The particles, none of which has been read.

    Raises
    ------
    SnapshotError
        yt cannot open it, or it is no periodic, cosmological particle snapshot.
    """
    folder = Path(tempfile.mkdtemp(prefix="astrogan_emu-"))
    try:
        # A snapshot may need its neighbours: numbered files, parameter files.
        for entry in path.parent.resolve().iterdir():
            (folder / entry.name).symlink_to(entry)
        with _quiet_yt() as yt:
            # yt.load follows links to where they lead, the class it finds does not.
            frontend = type(yt.load(folder / path.name))
            dataset = frontend(str(folder / path.name))
            particles = YtParticles(dataset, path, folder)
    except SnapshotError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # Frontends fail on damaged files in every way there is.
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SnapshotError(
            f"{path} is neither a Gadget-layout HDF5 snapshot nor a format that yt "
            f"can read: {reason}"
        ) from error
    return particles


def open_dataset(dataset: Any) -> GadgetParticles | YtParticles:
    """Read from a dataset that the user has opened with yt, in its units.

    Parameters
    ----------
    dataset
        A yt dataset.

    Returns
    -------
    particles
        The particles, none of which has been read.

    Raises
    ------
    SnapshotError
        It is no periodic, cubic, cosmological particle dataset.
    SnapshotUnitsError
        As `refuse_misread`.
    """
    from yt.data_objects.static_output import Dataset
    from yt.frontends.gadget.data_structures import GadgetHDF5Dataset

    if not isinstance(dataset, Dataset):
        raise SnapshotError(
            f"a snapshot must be a path or a yt dataset, got {type(dataset).__name__}"
        )
    if not isinstance(dataset, GadgetHDF5Dataset):
        return YtParticles(dataset)
    if not dataset.cosmological_simulation:
        raise SnapshotUnitsError(
            f"yt takes {dataset.parameter_filename} for a run without cosmology, so "
            "its units are wrong; give the path instead of the dataset"
        )
    refuse_misread(dataset)
    units = GadgetUnits(
        length=float(dataset.length_unit.to_value("Mpccm/h")),
        mass=float(dataset.mass_unit.to_value("Msun/h")),
        # yt's unit holds the square root of the scale factor already.
        speed=float(dataset.velocity_unit.to_value("km/s"))
        * math.sqrt(1 + float(dataset.current_redshift)),
    )
    return open_gadget(read_header(str(dataset.parameter_filename)), units)


def refuse_misread(dataset: Any) -> None:
    """Refuse a Gadget dataset that yt by itself opened in wrong units.

    yt ignores the units that a Gadget header states and takes kpc/h; and a header
    without ``OmegaLambda`` for that of a run without cosmology, in physical kpc. Units
    that the user gave to ``yt.load`` as ``unit_base`` are believed.

    Parameters
    ----------
    dataset
        A yt dataset of any kind; others than Gadget's are not looked at.

    Raises
    ------
    SnapshotError
        The header makes no sense.
    SnapshotUnitsError
        Its units are not those of the header, or of the mean density where the header
        states none.
    """
    from yt.frontends.gadget.data_structures import GadgetHDF5Dataset

    if not isinstance(dataset, GadgetHDF5Dataset):
        return
    if not dataset.cosmological_simulation:
        # Runs without expansion, such as a single galaxy, say 0.
        if dataset.parameters.get("Omega0", 0) > 0:
            raise SnapshotUnitsError(
                f"yt takes {dataset.parameter_filename} for a run without cosmology, "
                "so its units are wrong; use read_snapshot with the path"
            )
        return
    # What yt fills in where the user gave nothing.
    if getattr(dataset, "_unit_base", None) != {"length": (1.0, "kpccm/h")}:
        return
    stated = open_gadget(read_header(str(dataset.parameter_filename))).units.length
    taken = float(dataset.length_unit.to_value("Mpccm/h"))
    if not math.isclose(stated, taken, rel_tol=_AGREEMENT):
        raise SnapshotUnitsError(
            f"yt reads {dataset.parameter_filename} with a length unit of {taken:g} "
            f"Mpc/h, and by its header it is {stated:g} Mpc/h; open it with "
            'yt.load(..., unit_base={"length": ..., "mass": ..., "velocity": ...})'
        )


def compare_with_yt(particles: GadgetParticles) -> None:
    """Check our reading of a header against yt's.

    yt ignores the units that a Gadget header states, so it is told ours; box,
    redshift, cosmology and units must then agree. Headers that yt cannot open, or
    takes for a run without cosmology (no ``OmegaLambda``), have no second opinion.

    Parameters
    ----------
    particles
        The particles of a Gadget-layout snapshot.

    Raises
    ------
    SnapshotUnitsError
        yt makes something else of the file.
    """
    with _linked(particles.path) as link, _quiet_yt() as yt:
        try:
            dataset = yt.load(link, **_yt_units(particles))
        except Exception as error:  # each frontend has its own
            _logger.info("yt cannot open %s: %s", particles.path, error)
            return
        if not dataset.cosmological_simulation:
            _logger.info("yt sees no cosmology in %s", particles.path)
            return
        pairs = {
            "1 + redshift": (1 + particles.redshift, 1 + dataset.current_redshift),
            "h": (particles.header.h, dataset.hubble_constant),
            "omega_m": (particles.header.omega_m, dataset.omega_matter),
            "box side [Mpc/h]": (
                particles.box_size,
                dataset.domain_width[0].to_value("Mpccm/h"),
            ),
            "length unit [Mpc/h]": (
                particles.units.length,
                dataset.length_unit.to_value("Mpccm/h"),
            ),
            "mass unit [Msun/h]": (
                particles.units.mass,
                dataset.mass_unit.to_value("Msun/h"),
            ),
        }
        if not particles.header.swift:
            pairs["velocity unit [km/s]"] = (
                particles.units.speed * math.sqrt(particles.header.scale_factor),
                dataset.velocity_unit.to_value("km/s"),
            )
    for label, (ours, theirs) in pairs.items():
        if not math.isclose(ours, float(theirs), rel_tol=_AGREEMENT):
            raise SnapshotUnitsError(
                f"yt reads {particles.path} differently: {label} is {float(theirs):g} "
                f"to yt, but {ours:g} by the header; open it with "
                "yt.load(..., unit_base=...) and read the dataset to decide"
            )


def _yt_units(particles: GadgetParticles) -> dict[str, Any]:
    """Return the keywords by which yt learns our units."""
    if particles.header.swift:
        return {}
    units = particles.units
    return {
        "unit_base": {
            "length": (units.length, "Mpccm/h"),
            "mass": (units.mass, "Msun/h"),
            "velocity": (units.speed, "km/s * sqrt(a)"),
        }
    }


@contextlib.contextmanager
def _linked(file: Path) -> Iterator[Path]:
    """Give yt a link of a plain name: it takes [, ], ?, ! and * for a pattern."""
    with tempfile.TemporaryDirectory(prefix="astrogan_emu-") as folder:
        link = Path(folder) / f"snapshot{file.suffix}"
        link.symlink_to(file.resolve())
        yield link


@contextlib.contextmanager
def _quiet_yt() -> Iterator[Any]:
    """Import yt and keep it, its bars and its warnings silent for a while."""
    import yt
    from yt.config import ytcfg
    from yt.utilities.logger import ytLogger

    level, bars = ytLogger.level, ytcfg["yt", "suppress_stream_logging"]
    ytLogger.setLevel(logging.CRITICAL)
    ytcfg["yt", "suppress_stream_logging"] = True
    try:
        # Frontends leave files open that are not theirs.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield yt
    finally:
        ytLogger.setLevel(level)
        ytcfg["yt", "suppress_stream_logging"] = bars
