"""Particle-mesh gravity: the few-step base of the emulator, and full runs.

One integrator serves both. `evolve` moves particles from second-order Lagrangian
initial conditions to each requested redshift; with 20 steps on a coarse mesh it is the
base under the generator, with 40 on a fine one it is a simulation. All of it is torch:
float32 or float64, any device, differentiable in the parameters and the linear field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from .errors import SimulationError
from .initial_conditions import lpt_displacements, wavenumbers
from .linear_theory import growth_factor, growth_rate, hubble
from .stencils import Canvas, Stencil, beyond, block_size, even_pieces, fill_table

__all__ = [
    "Particles",
    "evolve",
    "lattice",
    "memory_to_evolve",
    "velocity_field",
]

# Arrays of one number per particle and per cell of the mesh. Measured at 96^3 to 192^3:
# see docs/dask.md.
_WHOLE = 22  # two vectors of every particle and, at the end, two more and their parts
_FORCE = 14  # two vectors of every particle, and
_MESH = 10  # of the mesh: its potential, and a table of three slopes in two cells each

# Particles whose stencils stay in a processor's cache, 28 bytes each.
_KEPT = 1 << 19

_REACH = 2  # cells that a difference reaches beyond a face of the box
_BEYOND = _REACH + 1  # and beyond a far face, where particles touch one more cell


@dataclass(frozen=True)
class Particles:
    """Equal-mass particles at one time.

    Parameters
    ----------
    positions
        Comoving, shape ``(n, 3)`` [Mpc/h], in [0, box_size).
    velocities
        Peculiar, shape ``(n, 3)`` [km/s].
    redshift
        The time.
    """

    positions: Tensor
    velocities: Tensor
    redshift: float


@dataclass(frozen=True)
class _Growth:
    """Growth at one scale factor, with D as the time variable."""

    first: Tensor  # D
    second: Tensor  # E, the second-order growth factor
    slope: Tensor  # dE/dD
    velocity: Tensor  # a dx/dt per dx/dD [100 km/s/Mpc]

    @classmethod
    def at(cls, a: float | Sequence[float], omega_m: float | Tensor) -> _Growth:
        scale_factor = torch.tensor(a, dtype=torch.float64)
        first = growth_factor(scale_factor, omega_m)
        rate = growth_rate(scale_factor, omega_m)
        fraction = omega_m / (scale_factor**3 * hubble(scale_factor, omega_m) ** 2)
        # Bouchet et al. (1995), and its own derivative: d ln Omega_m / d ln a is
        # -3 (1 - Omega_m).
        second = -3 / 7 * first**2 * fraction ** (-1 / 143)
        second_rate = 2 * rate + 3 / 143 * (1 - fraction)
        slope = second * second_rate / (first * rate)
        velocity = 100 * scale_factor * hubble(scale_factor, omega_m) * rate * first
        return cls(first, second, slope, velocity)

    def __iter__(self) -> Iterator[_Growth]:
        """That at each of several scale factors: to compute them together is faster."""
        values = (self.first, self.second, self.slope, self.velocity)
        return (_Growth(*each) for each in zip(*values, strict=True))


def lattice(n: int, box_size: float, like: Tensor) -> Tensor:
    """Lagrangian positions: the cell centres of an n^3 grid, shape ``(n^3, 3)``."""
    axis = _lattice_axis(n, box_size, like)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)


def _lattice_axis(n: int, box_size: float, like: Tensor) -> Tensor:
    return (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) * box_size / n


def _force_kernel(n_mesh: int, box_size: float, like: Tensor) -> Tensor:
    """Minus the inverse Laplacian, without the mesh windows, on an `rfftn` grid."""
    axes = wavenumbers(n_mesh, box_size, dtype=like.dtype, device=like.device)
    k_squared = axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2
    k_squared[0, 0, 0] = torch.inf
    # Undo assignment and interpolation (Hockney & Eastwood 1981, section 5-3).
    x, y, z = (torch.sinc(k * box_size / n_mesh / (2 * math.pi)) ** 4 for k in axes)
    return 1 / (k_squared * x * y * z)


def _potential(
    density: Tensor, kernel: Tensor, box_size: float, strength: Tensor
) -> Tensor:
    """Minus the inverse Laplacian of a density times `strength`, as `_slopes` needs it.

    In the unit of a difference of neighbours, with `_REACH` more cells at the near
    faces and `_BEYOND` at the far ones.
    """
    n = kernel.shape[0]
    factor = (strength * (2 * n / (3 * box_size))).to(kernel)
    modes = torch.fft.rfftn(density) * (kernel * factor)
    del density
    potential = torch.fft.irfftn(modes, s=(n,) * 3)
    del modes
    return beyond(potential, _BEYOND, _REACH)


def _slopes(potential: Tensor) -> list[Tensor]:
    """Gradient of a `_potential` or of some planes of it, by axis, with a cell beyond.

    Fourth-order differences: they taper the force near the mesh scale.
    """
    slopes = []
    for axis in range(3):
        line = potential
        for other in {0, 1, 2} - {axis}:
            line = line.narrow(other, _REACH, line.shape[other] - 2 * _REACH)
        n = line.shape[axis] - 2 * _REACH
        far, near, ahead, beyond = (line.narrow(axis, i, n) for i in (0, 1, 3, 4))
        slopes.append((ahead - near).sub_(beyond - far, alpha=1 / 8))
    return slopes


def _reader(potential: Tensor) -> Callable[[Stencil], Tensor]:
    """What gives the slopes of a `_potential` at the particles of a stencil."""
    if potential.requires_grad:
        slopes = torch.stack(_slopes(potential))
        return lambda stencil: stencil.readout(slopes)
    side = len(potential) - 2 * _REACH
    table = potential.new_empty((side, side, side, 6))
    # A few planes at a time stay in cache.
    planes = max(1, block_size(table) // side**2)
    for first in range(0, side, planes):
        part = table[first : first + planes]
        fill_table(part, _slopes(potential[first : first + len(part) + 2 * _REACH]))
    return lambda stencil: stencil.look_up(table.flatten(0, 2))


def _schedule(
    start: float, outputs: Sequence[float], n_steps: int
) -> list[tuple[float, bool]]:
    """Steps from `start` through each output: (scale factor reached, is it output?).

    Even in a^(3/4): measured to converge at high and low redshift alike, where even
    steps in a are too long at first and even steps in log a too long at last.
    """
    left, remaining = start**0.75, n_steps
    final = outputs[-1] ** 0.75
    steps: list[tuple[float, bool]] = []
    for index, output in enumerate(outputs):
        right = output**0.75
        share = round(remaining * (right - left) / (final - left))
        later = len(outputs) - 1 - index
        count = min(max(share, 1), remaining - later)
        inner = [left + (right - left) * i / count for i in range(1, count)]
        steps += [(x ** (4 / 3), False) for x in inner] + [(output, True)]
        left, remaining = right, remaining - count
    return steps


def evolve(
    delta: Tensor,
    parameters: Mapping[str, float | Tensor],
    *,
    box_size: float,
    redshifts: Sequence[float],
    n_steps: int,
    n_mesh: int | None = None,
    start_redshift: float = 9.0,
) -> Iterator[Particles]:
    """Particles at each redshift, moved by gravity from a linear field; differentiable.

    The integrator is a drift-kick-drift leapfrog in the growth factor, with weights
    that make every step exact to second Lagrangian order (BullFrog; Rampf, List &
    Hahn 2025): linear scales grow exactly whatever the number of steps.

    Parameters
    ----------
    delta
        Linear overdensity at redshift 0, shape ``(n, n, n)``; n^3 particles are used.
    parameters
        At least ``omega_m``.
    box_size
        [Mpc/h]
    redshifts
        Output times, decreasing, all below `start_redshift`.
    n_steps
        Steps from the start to the last output, spaced evenly in a^(3/4).
    n_mesh
        Cells per side of the force mesh; that of `delta` if not given.
    start_redshift
        Time of the second-order Lagrangian start. If it equals the first output, the
        initial conditions themselves are given.

    Yields
    ------
    Particles
        One for each redshift, in order.

    Raises
    ------
    SimulationError
        If the redshifts are not decreasing below the start, there are fewer steps than
        outputs, or particles get non-finite positions.
    """
    redshifts = [float(z) for z in redshifts]
    moving = [z for z in redshifts if z != start_redshift]
    ordered = all(x > y for x, y in pairwise(redshifts))
    if not redshifts or not ordered or not redshifts[0] <= start_redshift:
        raise SimulationError(
            f"redshifts must decrease from at most the start at {start_redshift:g}, "
            f"got {redshifts}"
        )
    if min(redshifts) <= -1 or n_steps < len(moving):
        raise SimulationError(
            f"n_steps must be at least the number of outputs, {len(moving)}, and every "
            f"redshift above -1; got n_steps = {n_steps}, redshifts = {redshifts}"
        )
    omega_m = parameters["omega_m"]
    n = delta.shape[0]
    n_mesh = n_mesh or n
    kernel = _force_kernel(n_mesh, box_size, delta)

    start = 1 / (1 + start_redshift)
    outputs = [1 / (1 + z) for z in moving]
    steps = _schedule(start, outputs, n_steps) if outputs else []
    growth, *later = _Growth.at([start, *(a for a, _ in steps)], omega_m)
    matter = _Matter.start(delta, box_size, growth)
    if len(moving) < len(redshifts):
        yield matter.particles(growth, redshifts[0])

    remaining = iter(moving)
    # Of the last step's second half: moved together with the next one's first.
    left: Tensor | float = 0.0
    for then, (_, output) in zip(later, steps, strict=True):
        half = (then.first - growth.first) / 2
        matter.drift(left + half)
        middle = growth.first + half
        # Second-order part of the force at the middle, in units of psi_2.
        force = (growth.second + growth.slope * half) / middle - middle
        keep = (then.slope - force) / (growth.slope - force)
        matter.kick(kernel, keep, (1 - keep) / middle)
        left, growth = half, then
        if output:
            matter.drift(left)
            left = 0.0
            yield matter.particles(growth, next(remaining))


def memory_to_evolve(n: int, n_mesh: int) -> int:
    """Most that `evolve` needs for n^3 particles in float32, without gradients [bytes].

    Parameters
    ----------
    n
        Particles per side.
    n_mesh
        Cells of the force mesh per side.
    """
    return 4 * max(_WHOLE * n**3, _FORCE * n**3 + _MESH * n_mesh**3)


def _sum(one: Tensor, factor: Tensor, two: Tensor, out: Tensor) -> Tensor:
    """``one + factor * two``; in the place of `out`, unless gradients need that."""
    factor = factor.to(two)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (one, factor, two)):
        return torch.addcmul(one, factor, two)
    return torch.addcmul(one, factor, two, out=out)


@dataclass(frozen=True)
class _Brick:
    """Part of the Lagrangian lattice whose particles are handled at once.

    It is nearly a cube, so that its particles stay near each other and what they touch
    of a mesh stays in the processor's cache.
    """

    x: slice
    y: slice
    z: slice

    @classmethod
    def of_lattice(cls, n: int, size: int) -> list[_Brick]:
        """Those of an n^3 lattice, of about `size` particles each."""
        side = max(1, round((size / 2) ** (1 / 3)))
        sides = (side, side, 2 * side) if n**3 > size else (n,) * 3
        cuts = (even_pieces(n, side) for side in sides)
        return [cls(*each) for each in product(*cuts)]

    def part(self, values: Tensor) -> Tensor:
        """A view of its part of something of shape ``(3, n, n, n)``."""
        return values[:, self.x, self.y, self.z]


@dataclass
class _Matter:
    """Particles on their way, in bricks that are changed one by one.

    Whole arrays would need room for the new beside the old at every operation.
    """

    n: int
    box_size: float
    bricks: list[_Brick]
    displacement: list[Tensor]  # of each brick, (3, x, y, z)
    velocity: list[Tensor]  # dx/dD

    @classmethod
    def start(cls, delta: Tensor, box_size: float, growth: _Growth) -> _Matter:
        """From second-order Lagrangian initial conditions."""
        n = len(delta)
        graph = torch.is_grad_enabled() and (
            delta.requires_grad or growth.first.requires_grad
        )
        # With a graph in one, as each brick would have a gradient for the whole mesh.
        bricks = _Brick.of_lattice(n, n**3 if graph else block_size(delta))
        psi = lpt_displacements(delta, box_size)
        first, second = ([brick.part(one) for brick in bricks] for one in psi)
        matter = cls(n, box_size, bricks, first, second)
        for i, (one, two) in enumerate(zip(first, second, strict=True)):
            displacement = growth.first.to(one) * one
            matter.displacement[i] = _sum(
                displacement, growth.second, two, displacement
            )
            matter.velocity[i] = _sum(one, growth.slope, two, out=two)
        return matter

    def drift(self, step: Tensor) -> None:
        """Move every particle by its velocity."""
        for i, velocity in enumerate(self.velocity):
            place = self.displacement[i]
            self.displacement[i] = _sum(place, step, velocity, out=place)

    def kick(self, kernel: Tensor, keep: Tensor, strength: Tensor) -> None:
        """Replace a part of every velocity by the force of all particles."""
        n_mesh, n_particles = kernel.shape[0], self.n**3
        canvas = Canvas(n_mesh, kernel)
        # Made twice where they are too many to stay in cache, as that takes less time
        # than to fetch them from memory; but not where a graph keeps them all the same.
        graph = torch.is_grad_enabled() and self.displacement[0].requires_grad
        kept: list[Stencil] = []
        for i in range(len(self.velocity)):
            stencil = self._stencil(i, n_mesh)
            stencil.paint(canvas)
            if graph or n_particles <= _KEPT:
                kept.append(stencil)
        density = canvas.field()
        del canvas
        strength = strength * (n_mesh**3 / n_particles)
        potential = _potential(density, kernel, self.box_size, strength)
        del density
        read = _reader(potential)
        del potential
        for i, velocity in enumerate(self.velocity):
            stencil = kept[i] if kept else self._stencil(i, n_mesh)
            force = read(stencil).view(velocity.shape)
            self.velocity[i] = _sum(force, keep, velocity, out=force)

    def particles(self, growth: _Growth, redshift: float) -> Particles:
        """Positions wrapped into the box and velocities in km/s, checked."""
        positions = self._whole(
            self._wrapped(i, redshift) for i in range(len(self.bricks))
        )
        velocities = self._whole(growth.velocity * one for one in self.velocity)
        return Particles(positions, velocities, redshift)

    def _whole(self, parts: Iterable[Tensor]) -> Tensor:
        """What bricks have, for all particles in lattice order, shape ``(n^3, 3)``."""
        if len(self.bricks) == 1:
            (whole,) = parts
        else:
            whole = self.velocity[0].new_empty((3, *(self.n,) * 3))
            for brick, part in zip(self.bricks, parts, strict=True):
                brick.part(whole).copy_(part)
        return whole.flatten(1).T

    def _positions(self, i: int, unit: float = 1.0, origin: float = 0.0) -> Tensor:
        """Where the particles of a brick are, not wrapped, in a unit from an origin."""
        displacement, brick = self.displacement[i], self.bricks[i]
        axis = _lattice_axis(self.n, self.box_size / unit, displacement) - origin
        lattice = (axis[brick.x, None, None], axis[brick.y, None], axis[brick.z])
        moved = zip(lattice, displacement, strict=True)
        return torch.stack([torch.add(q, s, alpha=1 / unit) for q, s in moved])

    def _stencil(self, i: int, n_mesh: int) -> Stencil:
        u = self._positions(i, self.box_size / n_mesh, 0.5)
        return Stencil.in_cells([u.flatten(1)], n_mesh)

    def _wrapped(self, i: int, redshift: float) -> Tensor:
        positions = torch.remainder(self._positions(i), self.box_size)
        # A tiny negative number is rounded up to the far face.
        positions = torch.where(positions >= self.box_size, 0, positions)
        if not bool(torch.isfinite(positions).all()):
            raise SimulationError(
                f"particles have non-finite positions at redshift {redshift:g}; "
                "the linear field is not finite or far too large"
            )
        return positions


def velocity_field(
    delta: Tensor,
    parameters: Mapping[str, float | Tensor],
    *,
    box_size: float,
    redshift: float,
    n_steps: int = 20,
    n_mesh: int | None = None,
    start_redshift: float = 9.0,
) -> Tensor:
    """Few-step matter velocity at one redshift: that of the matter of a base.

    Parameters
    ----------
    delta
        Linear overdensity at redshift 0, shape ``(n, n, n)``.
    parameters
        At least ``omega_m``.
    box_size
        [Mpc/h]
    redshift
        The time.
    n_steps, n_mesh, start_redshift
        As for `evolve`.

    Returns
    -------
    Tensor
        Peculiar velocity along x, y, z, shape ``(3, n, n, n)`` [km/s]: the momentum of
        each cell over its mass, both cloud-in-cell. Cells without any mass, deep in
        voids, have the velocity of linear theory, a H f D psi_1 (Peebles 1980, section
        14), at their place. Times the matter density it is the momentum.
    """
    (particles,) = evolve(
        delta,
        parameters,
        box_size=box_size,
        redshifts=[redshift],
        n_steps=n_steps,
        n_mesh=n_mesh,
        start_redshift=start_redshift,
    )
    n = delta.shape[0]
    canvases = [Canvas(n, delta) for _ in range(4)]
    size = block_size(delta)
    blocks = (one.split(size) for one in (particles.positions, particles.velocities))
    for positions, velocities in zip(*blocks, strict=True):
        stencil = Stencil.of(positions, n, box_size)
        for canvas, weights in zip(canvases, (None, *velocities.T), strict=True):
            stencil.paint(canvas, weights)
    del particles
    mass, *momenta = (canvas.field() for canvas in canvases)
    momentum = torch.stack(momenta)
    growth = _Growth.at(1 / (1 + redshift), parameters["omega_m"])
    # The growth is in double precision, and the velocity is like the field.
    linear = growth.velocity.to(delta) * lpt_displacements(delta, box_size)[0]
    return torch.where(mass > 0, momentum / torch.where(mass > 0, mass, 1), linear)
