"""Halos in a matter snapshot, and the galaxies expected in them.

`friends_of_friends` groups particles, `OccupationModel` says how many galaxies a halo
of some mass holds, and `expected_galaxies` puts their expected density on a grid. No
galaxy is drawn here: a field of expected density is drawn from later, with its own
seed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf

from .errors import GridError, ParameterError
from .grids import GridSpec, deposit
from .linking import link_particles

__all__ = [
    "GalaxyRecipe",
    "Halos",
    "OccupationModel",
    "expected_galaxies",
    "friends_of_friends",
    "particle_mass",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Critical density today over h^2 [Msun / Mpc^3].
_CRITICAL_DENSITY = 2.77536627e11

# Down to 1e-5 of a halo; only coincident particles would have them shrink for ever.
_SHRINKINGS = 40


@dataclass(frozen=True, eq=False)
class Halos:
    """Groups of particles, the largest first.

    Parameters
    ----------
    n_members
        Particles in each halo, shape ``(n_halos,)``.
    centres
        Densest point of each halo: the centre that spheres shrinking around the
        members inside them converge to (Power et al. 2003, section 2.5), in the box,
        shape ``(n_halos, 3)`` [Mpc/h].
    centres_of_mass
        Mean position of the members, across box faces where need be, in the box, shape
        ``(n_halos, 3)`` [Mpc/h].
    members
        Indices of all member particles, halo by halo, rising within each, shape
        ``(n_members.sum(),)``.
    """

    n_members: Ints
    centres: Floats
    centres_of_mass: Floats
    members: Ints

    def __len__(self) -> int:
        return len(self.n_members)

    @property
    def offsets(self) -> Ints:
        """Halo i has ``members[offsets[i]:offsets[i + 1]]``; shape (n_halos + 1,)."""
        return np.concatenate([[0], np.cumsum(self.n_members)])

    @property
    def halo_of_member(self) -> Ints:
        """Halo number of each entry of `members`."""
        return np.repeat(np.arange(len(self)), self.n_members)

    def masses(self, particle_mass: float) -> Floats:
        """Mass of each halo, in the unit of `particle_mass`, shape ``(n_halos,)``."""
        return np.asarray(self.n_members * float(particle_mass))

    def mean(self, values: ArrayLike) -> Floats:
        """Average a property of particles over each halo, such as its velocity.

        Parameters
        ----------
        values
            One row per particle of the snapshot, shape ``(n,)`` or ``(n, m)``.

        Returns
        -------
        ndarray
            Shape ``(n_halos,)`` or ``(n_halos, m)``.
        """
        rows = np.asarray(values, dtype=np.float64)[self.members]
        return _means(rows.T, self.n_members).T


@dataclass(frozen=True)
class OccupationModel:
    """Mean number of galaxies in a halo of given mass (Zheng et al. 2007, eqs 2-5).

    ``N_cen = [1 + erf((log10 M - log10 M_min) / sigma_log_m)] / 2`` and
    ``N_sat = N_cen ((M - M_0) / M_1)^alpha``, zero below M_0.

    Parameters
    ----------
    log10_m_min
        Mass at which half of the halos have a central galaxy [log10 Msun/h].
    sigma_log_m
        Width of the step in log10 mass.
    log10_m_0
        Mass below which there are no satellites [log10 Msun/h].
    log10_m_1
        Mass above M_0 at which a halo has one satellite [log10 Msun/h].
    alpha
        Slope of the number of satellites with mass.

    Raises
    ------
    ParameterError
        If a number is not finite, or the width or the slope is not positive.
    """

    log10_m_min: float = 12.0
    sigma_log_m: float = 0.3
    log10_m_0: float = 12.0
    log10_m_1: float = 13.2
    alpha: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not np.isfinite(value):
                raise ParameterError(f"{name} must be finite, got {value}")
        for name in ("sigma_log_m", "alpha"):
            if not getattr(self, name) > 0:
                raise ParameterError(
                    f"{name} must be positive, got {getattr(self, name):g}"
                )
        for name in ("log10_m_min", "log10_m_0", "log10_m_1"):
            if getattr(self, name) > 30:
                raise ParameterError(
                    f"{name} = {getattr(self, name):g} is no decimal logarithm of a "
                    "mass in Msun/h; give for example 12.0"
                )

    def centrals(self, masses: ArrayLike) -> Floats:
        """Expected central galaxies of halos of given mass [Msun/h], 0 to 1."""
        log_mass = np.log10(np.asarray(masses, dtype=np.float64))
        step: Floats = erf((log_mass - self.log10_m_min) / self.sigma_log_m)
        return 0.5 * (1 + step)

    def satellites(self, masses: ArrayLike) -> Floats:
        """Expected satellite galaxies of halos of given mass [Msun/h]."""
        above = np.asarray(masses, dtype=np.float64) - 10.0**self.log10_m_0
        shares = (np.maximum(above, 0) / 10.0**self.log10_m_1) ** self.alpha
        return self.centrals(masses) * shares


@dataclass(frozen=True)
class GalaxyRecipe:
    """How galaxies are put into the halos of some particles.

    Parameters
    ----------
    occupation
        Galaxies in a halo of given mass.
    linking_length, min_members
        Of the friends-of-friends halos; see `friends_of_friends`.
    """

    occupation: OccupationModel
    linking_length: float
    min_members: int


def particle_mass(omega_m: float, box_size: float, n_particles: int) -> float:
    """Mass of each of the particles that share the matter of a box [Msun/h].

    Parameters
    ----------
    omega_m
        Matter density today over the critical one.
    box_size
        Comoving side [Mpc/h].
    n_particles
        Particles in the box.
    """
    return _CRITICAL_DENSITY * omega_m * box_size**3 / n_particles


def friends_of_friends(
    positions: ArrayLike,
    *,
    box_size: float,
    linking_length: float = 0.2,
    min_members: int = 20,
) -> Halos:
    """Halos: groups of particles closer than the linking length (Davis et al. 1985).

    Exact: the groups are those of all pairs of particles compared in turn.

    Parameters
    ----------
    positions
        Shape ``(n, 3)`` [Mpc/h]; wrapped into the box.
    box_size
        Side of the periodic box [Mpc/h].
    linking_length
        In units of the mean separation of the particles, ``box_size / n^(1/3)``.
    min_members
        Groups with fewer particles are left out.

    Returns
    -------
    Halos
        Largest first; equal ones in the order of their first particle.

    Raises
    ------
    GridError
        If the positions are not finite or not of that shape, the box or the linking
        length is not positive, the latter is more than a seventh of the box, or
        `min_members` is below one.
    """
    points = _checked(positions)
    if not (np.isfinite(box_size) and box_size > 0):
        raise GridError(f"box_size must be positive and finite [Mpc/h], got {box_size}")
    if not (np.isfinite(linking_length) and linking_length > 0):
        raise GridError(
            f"linking_length must be positive and finite, got {linking_length}"
        )
    if min_members < 1:
        raise GridError(f"min_members must be at least 1, got {min_members}")
    if len(points) < min_members:
        return _empty()
    particles, labels = link_particles(
        points,
        box_size=box_size,
        length=linking_length * box_size / len(points) ** (1 / 3),
        min_members=min_members,
    )
    n_members, members = _sorted_groups(particles, labels, len(points), min_members)
    if not len(n_members):
        return _empty()
    own = np.stack([x[members].astype(np.float64) for x in points.T])
    centres, of_mass = _centres(own, n_members, box_size)
    return Halos(n_members, centres.T, of_mass.T, members)


def expected_galaxies(
    positions: ArrayLike,
    halos: Halos,
    occupation: OccupationModel,
    *,
    particle_mass: float,
    grid: GridSpec,
    scheme: str = "cic",
) -> Floats:
    """Expected comoving number density of galaxies on a grid.

    A central galaxy sits at the densest point of its halo; satellites are spread evenly
    over the halo's particles.

    Parameters
    ----------
    positions
        Those that the halos were found in, shape ``(n, 3)`` [Mpc/h].
    halos
        From `friends_of_friends`.
    occupation
        How many galaxies a halo holds.
    particle_mass
        Mass of one particle [Msun/h].
    grid
        Where to put them.
    scheme
        Assignment scheme, as in `deposit`.

    Returns
    -------
    ndarray
        Shape ``grid.shape`` [(h/Mpc)^3]. Its sum times the cell volume is the expected
        number of galaxies.

    Raises
    ------
    GridError
        If the positions are not finite, or too few for the halos' particle numbers.
    ParameterError
        If `particle_mass` is not positive.
    """
    if not (np.isfinite(particle_mass) and particle_mass > 0):
        raise ParameterError(
            f"particle_mass must be positive and finite [Msun/h], got {particle_mass}"
        )
    points = _checked(positions)
    if len(halos) == 0:
        return np.zeros(grid.shape)
    if halos.members.max() >= len(points):
        raise GridError(
            f"the halos have particle number {halos.members.max()}, and there are only "
            f"{len(points)} positions; give those that the halos were found in"
        )
    masses = halos.masses(particle_mass)
    per_member = occupation.satellites(masses) / halos.n_members
    # Particles of halos too small for satellites need no deposition.
    holders = np.repeat(per_member > 0, halos.n_members)
    places = np.concatenate([halos.centres, points[halos.members[holders]]])
    numbers = np.concatenate(
        [
            occupation.centrals(masses),
            np.repeat(per_member, halos.n_members)[holders],
        ]
    )
    return deposit(places, numbers, grid=grid, scheme=scheme) / grid.cell_volume


def _checked(positions: ArrayLike) -> NDArray[np.floating[Any]]:
    points = np.asarray(positions)
    if points.dtype not in (np.float32, np.float64):
        points = points.astype(np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise GridError(f"positions must have shape (n, 3), got {points.shape}")
    if not np.isfinite(points).all():
        bad = np.count_nonzero(~np.isfinite(points).all(axis=1))
        raise GridError(
            f"{bad} of {len(points)} positions are NaN or infinite; the snapshot is "
            "damaged"
        )
    return points


def _empty() -> Halos:
    no_points = np.zeros((0, 3))
    return Halos(np.zeros(0, np.int64), no_points, no_points, np.zeros(0, np.int64))


def _sorted_groups(
    particles: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    n_particles: int,
    min_members: int,
) -> tuple[Ints, Ints]:
    """Sizes of the groups that are large enough, largest first, and their members."""
    size = np.bincount(labels, minlength=1)
    first = np.full(len(size), n_particles)
    label_of = np.full(n_particles, -1)
    label_of[particles] = labels
    grouped = np.flatnonzero(label_of >= 0)
    labels = label_of[grouped]
    # The last assignment stands, so that this leaves each group's first particle.
    first[labels[::-1]] = grouped[::-1]
    by_size = np.lexsort((first, -size))
    by_size = by_size[: np.count_nonzero(size >= min_members)]
    rank = np.full(len(size), len(by_size))
    rank[by_size] = np.arange(len(by_size))
    of_member = rank[labels]
    kept = of_member < len(by_size)
    order = np.argsort(of_member[kept], kind="stable")
    return size[by_size], grouped[kept][order]


def _centres(points: Floats, n_members: Ints, box_size: float) -> tuple[Floats, Floats]:
    """Densest points and centres of mass of halos whose members come in order.

    All of one row for each axis, as gathering is much quicker than from triples.
    """
    # The direction of the mean phase is a safe origin for halos across box faces.
    mean_phase = _means(np.exp(2j * np.pi / box_size * points), n_members)
    origin = np.angle(mean_phase) * box_size / (2 * np.pi)
    apart = points - np.repeat(origin, n_members, axis=1)
    apart -= box_size * np.round(apart / box_size)
    of_mass = _means(apart, n_members)
    densest = _shrinking_spheres(apart, n_members, of_mass)
    return (origin + densest) % box_size, (origin + of_mass) % box_size


def _shrinking_spheres(apart: Floats, n_members: Ints, centre: Floats) -> Floats:
    """Centres of spheres that shrink until they hold fewer than ten particles."""
    centre = centre.copy()
    halo = np.arange(len(n_members))
    squared = _squared_distances(apart, n_members, centre)
    radius = np.sqrt(np.maximum.reduceat(squared, _starts(n_members)))
    for _ in range(_SHRINKINGS):
        radius *= 0.75
        inside = squared <= np.repeat(radius**2, n_members)
        n_inside = np.add.reduceat(inside, _starts(n_members), dtype=np.int64)
        full = n_inside >= 10
        if not full.any():
            break
        inside &= np.repeat(full, n_members)
        apart = np.compress(inside, apart, axis=1)
        halo, radius, n_members = halo[full], radius[full], n_inside[full]
        centre[:, halo] = _means(apart, n_members)
        squared = _squared_distances(apart, n_members, centre[:, halo])
    return centre


def _squared_distances(apart: Floats, n_members: Ints, centre: Floats) -> Floats:
    squared = np.zeros(apart.shape[1])
    for x, middle in zip(apart, centre, strict=True):
        squared += (x - np.repeat(middle, n_members)) ** 2
    return squared


def _means(values: NDArray[Any], n_members: Ints) -> NDArray[Any]:
    """Mean over each halo's members, the last axis."""
    sums: NDArray[Any] = np.add.reduceat(values, _starts(n_members), axis=-1)
    return sums / n_members


def _starts(n_members: Ints) -> Ints:
    """Where the members of each halo start."""
    return np.cumsum(n_members) - n_members
