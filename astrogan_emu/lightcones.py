"""Light cones: emulated boxes stacked along the line of sight, as a survey sees them.

Each shell of comoving distance is filled with copies of one periodic box, emulated at
the shell's own redshift. All boxes share one seed, and so the same structure, seen
earlier and earlier. Drawing galaxies in a box is the work of `catalogues`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from astropy import constants
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.cosmology import FlatLambdaCDM
from astropy.table import QTable
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from .catalogues import (
    draw_cells,
    expected_counts,
    provenance,
    random_generator,
    velocities_at,
    velocity_values,
)
from .emulator import Emulator
from .errors import GridError, ParameterError, ParameterRangeError
from .grids import GridSpec
from .parameters import COSMOLOGICAL, ParameterInput, as_parameters, to_cosmology

__all__ = ["lightcone"]

# More copies of a box than this are a mistake, or a job for a larger box.
_MOST_REPLICAS = 50_000

# The square's half-width must stay below a right angle, and well-formed.
_LARGEST_AREA = 4.0 * u.sr

_SPEED_OF_LIGHT = constants.c.to_value(u.km / u.s)


def lightcone(
    params: ParameterInput | None = None,
    *,
    z_max: float,
    area: float | u.Quantity,
    seed: int,
    n_cells: int = 64,
    n_snapshots: int = 8,
    tiling: Literal["random", "plain"] = "random",
    model: str | os.PathLike[str] | Emulator = "nbody",
    extrapolate: bool = False,
    **keywords: Any,
) -> QTable:
    """Galaxies on the past light cone of an observer, over a square of the sky.

    Parameters
    ----------
    params
        Mapping, astropy cosmology, or table row; see `as_parameters`.
    z_max
        Largest cosmological redshift; the cone starts at the observer.
    area
        Of the square, a quantity or in deg^2; at most 4 sr. Its centre is at (ra, dec)
        = (180, 0) deg; its sides are of constant ra and dec.
    seed
        Fixes everything random.
    n_cells
        Cells along a side of the boxes. Structure repeats beyond a box: make it as
        large as you can wait for.
    n_snapshots
        The number of shells, equally thick in comoving distance, and so of boxes to
        emulate. Within a shell nothing evolves: its box is that of the redshift which
        halves its volume.
    tiling
        ``"random"``: each copy of the box is turned, mirrored and shifted along the
        periodic axes at random, alike in all shells, so that nothing is seen twice
        from one side; structure ends at the faces of the copies. ``"plain"``: copies
        as they are, so that structure goes on across faces, and repeats.
    model
        Name or file of the model, or an `Emulator`.
    extrapolate
        Go beyond the trained range with a warning.
    **keywords
        Parameters by name.

    Returns
    -------
    QTable
        A row per galaxy: ``sky``, a `~astropy.coordinates.SkyCoord`; ``distance``,
        comoving [Mpc]; ``z_cosmological``; ``v_los``, the peculiar velocity away from
        the observer [km/s]; ``z_observed``, with 1 + z_observed = (1 + z_cosmological)
        (1 + v_los / c), to first order in v / c (Harrison 1974); ``shell``;
        ``replica``; and ``cell``, of the emulated box that it comes from, shape
        ``(3,)``. Galaxies are chosen by ``z_cosmological``. ``meta`` is as for
        `sample_galaxies`, with ``z_max``, ``area`` [deg2], ``tiling``, ``shell_z``, the
        redshift of each shell's box; ``shell_d``, the distances between which shells
        lie [Mpc]; and ``replicas``, a text for each: its place in the stack of boxes,
        where its axes x, y, z come from, and its shift [Mpc].

    Raises
    ------
    ParameterError
        If a parameter, `z_max`, `area`, `seed`, `n_snapshots` or `tiling` is not
        possible.
    ParameterRangeError
        If a parameter or `z_max` is outside the trained range.
    UnknownFieldError
        If the model makes no galaxies.
    GridError
        If `n_cells` does not fit the model, or the cone needs too many boxes.
    """
    emulator = model if isinstance(model, Emulator) else Emulator.load(model)
    space = emulator.card.space
    names = tuple(dict.fromkeys((*COSMOLOGICAL, *space.names)))
    values = as_parameters(params, names=names, defaults=space.defaults, **keywords)
    cone = _Cone.of(to_cosmology(values), z_max, area)
    _check_redshift(cone.z_max, emulator, extrapolate)
    whole = isinstance(n_snapshots, int | np.integer)
    if not whole or isinstance(n_snapshots, bool) or n_snapshots < 1:
        raise ParameterError(
            f"n_snapshots must be a whole number of at least 1, got {n_snapshots!r}"
        )
    if tiling not in ("random", "plain"):
        raise ParameterError(f"tiling must be 'random' or 'plain', got {tiling!r}")
    random_generator(seed)
    grid = GridSpec(int(n_cells), int(n_cells) * emulator.card.cell_size)
    box = grid.box_size / values["h"]
    cone.check_number_of_boxes(box)

    edges = np.linspace(0, cone.depth, int(n_snapshots) + 1)
    middles = cone.redshift(np.cbrt((edges[1:] ** 3 + edges[:-1] ** 3) / 2))
    replicas: dict[tuple[int, int, int], _Replica] = {}
    parts: list[dict[str, NDArray[Any]]] = []
    meta: dict[str, Any] = {}
    for shell, ((near, far), z) in enumerate(
        zip(pairwise(edges.tolist()), middles.tolist(), strict=True)
    ):
        given = {
            "redshift": z,
            "n_cells": n_cells,
            "seed": seed,
            "extrapolate": extrapolate,
        }
        field = emulator.emulate(values, fields=["galaxies"], **given)["galaxies"]
        flow = velocity_values(emulator.velocities(values, **given), field)
        counts = expected_counts(field)
        meta = meta or provenance(field)
        pieces = []
        for place in cone.boxes(near, far, box):
            replica = replicas.setdefault(
                place, _Replica.of(place, len(replicas), seed, box, tiling)
            )
            cells, within = draw_cells(counts, random_generator(seed, shell, *place))
            inside = (cells + within) * (box / grid.n_cells)
            positions = replica.positions(inside)
            chosen = cone.holds(positions, near, far)
            pieces.append(
                {
                    "position": positions[chosen],
                    "inside": inside[chosen],
                    "cell": cells[chosen],
                    "replica": np.full(np.count_nonzero(chosen), replica.number),
                }
            )
        part = _joined(pieces)
        part["velocity"] = velocities_at(flow, part.pop("inside"), box)
        part["shell"] = np.full(len(part["cell"]), shell)
        parts.append(part)
    del meta["redshift"]
    meta |= {
        "cat_seed": int(seed),
        "z_max": cone.z_max,
        "area": float(cone.area.to_value(u.deg**2)),
        "tiling": tiling,
        "shell_z": middles.tolist(),
        "shell_d": edges.tolist(),
        "replicas": [str(replica) for replica in replicas.values()],
    }
    galaxies = _joined(parts)
    copies = list(replicas.values())
    axes = np.array([one.axes for one in copies])[galaxies["replica"]]
    signs = np.array([one.signs for one in copies])[galaxies["replica"]]
    galaxies["velocity"] = np.take_along_axis(galaxies["velocity"], axes, 1) * signs
    return _table(galaxies, cone, meta)


@dataclass(frozen=True)
class _Cone:
    """The part of the universe that is seen: a square of the sky, along +x.

    Places are comoving Mpc from the observer.
    """

    cosmology: FlatLambdaCDM
    z_max: float
    area: u.Quantity
    depth: float
    distances: CubicSpline

    @classmethod
    def of(
        cls, cosmology: FlatLambdaCDM, z_max: float, area: float | u.Quantity
    ) -> _Cone:
        """Checked."""
        try:
            z = float(u.Quantity(z_max).to_value(u.dimensionless_unscaled))
        except (TypeError, ValueError, u.UnitConversionError):
            z = math.nan
        if not (math.isfinite(z) and z > 0):
            raise ParameterError(f"z_max must be a number above 0, got {z_max!r}")
        try:
            sky = area if isinstance(area, u.Quantity) else u.Quantity(area, u.deg**2)
            size = float(sky.to_value(u.sr))
        except (TypeError, ValueError, u.UnitConversionError):
            size = math.nan
        if not 0 < size <= _LARGEST_AREA.to_value(u.sr):
            raise ParameterError(
                "area must be above 0 and at most "
                f"{_LARGEST_AREA.to_value(u.deg**2):.0f} deg2 (4 sr), as a solid angle "
                f"or a number of deg2, got {area!r}"
            )
        # Enough points for relative errors of 1e-8.
        redshifts = np.linspace(0, z, 1024)
        distances = cosmology.comoving_distance(redshifts).to_value(u.Mpc)
        spline = CubicSpline(distances, redshifts)
        return cls(cosmology, z, size * u.sr, float(distances[-1]), spline)

    @property
    def half_width(self) -> float:
        """In ra [rad]."""
        return math.sqrt(self.area.value) / 2

    @property
    def half_height(self) -> float:
        """In dec [rad]; between ra's of width w, the area is 2 w sin(half height)."""
        return math.asin(self.half_width)

    def redshift(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cosmological redshift at comoving distances [Mpc]."""
        return np.asarray(self.distances(distance))

    def check_number_of_boxes(self, box: float) -> None:
        """Refuse what would take for ever."""
        number = self.area.value / 3 * self.depth**3 / box**3
        if number > _MOST_REPLICAS:
            raise GridError(
                f"the cone holds {number:.0f} boxes of {box:.3g} Mpc, more than "
                f"{_MOST_REPLICAS}; choose a larger n_cells or a smaller area or z_max"
            )

    def boxes(self, near: float, far: float, box: float) -> list[tuple[int, int, int]]:
        """Places in the stack of the boxes that a shell may meet.

        The observer is at the centre of the near face of box (0, 0, 0), so that a
        narrow cone stays in one row of boxes.
        """
        reach = (
            far * math.sin(self.half_width),
            far * math.sin(self.half_height),
        )
        first = [0, *(math.floor(-r / box + 0.5) for r in reach)]
        last = [math.floor(far / box), *(math.floor(r / box + 0.5) for r in reach)]
        axes = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        low = places * box - _observer(box)
        high = low + box
        # Distances from the observer to the nearest and the farthest point.
        nearest = np.maximum(np.maximum(low, -high), 0)
        farthest = np.maximum(np.abs(low), np.abs(high))
        meets = np.linalg.norm(nearest, axis=1) <= far
        meets &= np.linalg.norm(farthest, axis=1) >= near
        # The four planes of the cone, seen from the most favourable corner.
        meets &= nearest[:, 1] <= farthest[:, 0] * math.tan(self.half_width)
        across = np.hypot(farthest[:, 0], farthest[:, 1])
        meets &= nearest[:, 2] <= across * math.tan(self.half_height)
        return [(int(i), int(j), int(k)) for i, j, k in places[meets]]

    def holds(
        self, positions: NDArray[np.float64], near: float, far: float
    ) -> NDArray[np.bool_]:
        """Whether the cone between two distances holds places, shape ``(m, 3)``."""
        x, y, z = positions.T
        distance = np.linalg.norm(positions, axis=1)
        inside = (distance >= near) & (distance < far)
        inside &= np.abs(np.arctan2(y, x)) <= self.half_width
        return np.asarray(inside & (np.abs(z) <= distance * self.half_width))


@dataclass(frozen=True)
class _Replica:
    """One copy of the periodic box in the stack, turned and shifted.

    Parameters
    ----------
    place
        Boxes from the observer along each axis.
    number
        Counts the copies.
    box
        Side [Mpc].
    axes, signs
        Which axis of the box lies along x, y, z of the stack, and its direction.
    shift
        Of the box, after turning, along x, y, z [Mpc].
    """

    place: tuple[int, int, int]
    number: int
    box: float
    axes: NDArray[np.int64]
    signs: NDArray[np.int64]
    shift: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        place: tuple[int, int, int],
        number: int,
        seed: int,
        box: float,
        tiling: str,
    ) -> _Replica:
        """The copy at a place: the same in every shell."""
        if tiling == "plain":
            return cls(place, number, box, np.arange(3), np.ones(3, int), np.zeros(3))
        # One place number more than galaxies have, so that the streams differ.
        generator = random_generator(seed, -1, *place, 0)
        return cls(
            place,
            number,
            box,
            generator.permutation(3),
            generator.choice([-1, 1], size=3),
            generator.random(3) * box,
        )

    def positions(self, inside: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places as seen from the observer, of places in the box [Mpc]."""
        moved = np.mod(inside[:, self.axes] * self.signs + self.shift, self.box)
        return moved + np.array(self.place) * self.box - _observer(self.box)

    def __str__(self) -> str:
        """For example ``2,0,-1: +y-x+z 10.5,3.2,40.1``."""
        place = ",".join(map(str, self.place))
        turn = "".join(
            f"{'+' if sign > 0 else '-'}{'xyz'[axis]}"
            for axis, sign in zip(self.axes, self.signs, strict=True)
        )
        return f"{place}: {turn} {','.join(f'{one:.6g}' for one in self.shift)}"


def _observer(box: float) -> NDArray[np.float64]:
    """Where in box (0, 0, 0) the observer is, shape ``(3,)``."""
    return np.array([0, box / 2, box / 2])


def _check_redshift(z_max: float, emulator: Emulator, extrapolate: bool) -> None:
    low, high = emulator.card.redshifts
    if z_max > high and not extrapolate:
        raise ParameterRangeError(
            f"z_max = {z_max:g} is outside the trained range [{low:g}, {high:g}] of "
            "the redshift; choose less, or pass extrapolate=True to emulate anyway"
        )


def _joined(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Columns one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _table(
    galaxies: dict[str, NDArray[Any]], cone: _Cone, meta: dict[str, Any]
) -> QTable:
    """What is seen of galaxies at places with velocities."""
    position = galaxies["position"]
    distance = np.linalg.norm(position, axis=1)
    x, y, z = position.T
    sight = position / np.where(distance > 0, distance, 1)[:, None]
    speed = (galaxies["velocity"] * sight).sum(1)
    redshift = cone.redshift(distance)
    return QTable(
        {
            "sky": SkyCoord(
                ra=(np.arctan2(y, x) + np.pi) * u.rad,
                dec=np.arctan2(z, np.hypot(x, y)) * u.rad,
            ),
            "distance": distance * u.Mpc,
            "z_cosmological": redshift,
            "v_los": speed * u.km / u.s,
            "z_observed": (1 + redshift) * (1 + speed / _SPEED_OF_LIGHT) - 1,
            "shell": galaxies["shell"],
            "replica": galaxies["replica"],
            "cell": galaxies["cell"],
        },
        meta=meta,
    )
