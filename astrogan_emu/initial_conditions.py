"""Linear density fields: drawn from a seed, or recovered from a snapshot; and 2LPT.

A linear field is the overdensity extrapolated to redshift 0 by linear growth. Power
spectra and growth come from `linear_theory`; moving matter is `particle_mesh`'s work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import GridError
from .grids import GridSpec, paint
from .linear_theory import (
    growth_factor,
    growth_rate,
    growth_rate_second_order,
    hubble,
    linear_power,
)
from .noise import white_noise_modes

__all__ = [
    "linear_field",
    "linear_field_from_velocities",
    "lpt_displacements",
    "resample",
    "wavenumbers",
]

# Initial conditions of more masses than this are taken for no lattices.
_MOST_LATTICES = 8


def wavenumbers(
    n_cells: int,
    box_size: float,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor, Tensor]:
    """Components of the wavevector on an `rfftn` grid, broadcastable [h/Mpc].

    The Nyquist components are positive; derivatives must null them (their sign is
    arbitrary, so a real field has no odd derivative there).
    """
    fundamental = 2 * math.pi / box_size
    full = torch.fft.fftfreq(n_cells, 1 / n_cells, dtype=dtype, device=device)
    if n_cells % 2 == 0:
        full[n_cells // 2] = n_cells // 2
    half = torch.arange(n_cells // 2 + 1, dtype=dtype, device=device)
    full, half = full * fundamental, half * fundamental
    return full[:, None, None], full[None, :, None], half[None, None, :]


def _inverse_laplacian_gradient(modes: Tensor, box_size: float) -> Tensor:
    """-grad of the inverse Laplacian of a field, shape ``(3, n, n, n)``."""
    n_cells = modes.shape[0]
    kx, ky, kz = wavenumbers(
        n_cells, box_size, dtype=modes.real.dtype, device=modes.device
    )
    k_squared = kx**2 + ky**2 + kz**2
    k_squared[0, 0, 0] = 1
    potential = modes / k_squared
    # Filled in place: a stack would need room for all components twice.
    result = modes.real.new_empty((3, *(n_cells,) * 3))
    for axis, k in enumerate((kx, ky, kz)):
        # An odd derivative of a Nyquist mode is not defined on the grid.
        k = torch.where(k > math.pi * n_cells / box_size * (1 - 1e-6), 0, k)
        result[axis] = torch.fft.irfftn(1j * k * potential, s=(n_cells,) * 3)
    return result


def linear_field(
    parameters: Mapping[str, float | Tensor],
    *,
    n_cells: int,
    box_size: float,
    seed: int,
    fixed: bool = False,
    paired: bool = False,
    power: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Gaussian random linear overdensity at redshift 0; differentiable.

    Parameters
    ----------
    parameters
        ``omega_m, omega_b, h, n_s, sigma_8``, floats or 0-d tensors.
    n_cells, box_size
        The grid; box_size in [Mpc/h].
    seed
        Fixes the phases: the same at any `n_cells` of one box, for any parameters.
    fixed
        Set the amplitude of each mode to its expectation (Angulo & Pontzen 2016).
    paired
        Flip the sign of the field, which inverts all phases.
    power
        Linear power at redshift 0 [(Mpc/h)^3] as a function of k [h/Mpc]; that of
        `parameters` if not given.
    dtype
        Of the field.
    device
        Where the field is made.

    Returns
    -------
    Tensor
        Shape ``(n_cells, n_cells, n_cells)``, mean 0.

    Raises
    ------
    GridError
        If there is no such grid or `power` returns a non-finite or negative value.
    """
    GridSpec(n_cells, box_size)
    grid_power = _power_of_modes(parameters, n_cells, box_size, power, dtype, device)
    modes = white_noise_modes(seed, n_cells, fixed=fixed, dtype=dtype, device=device)
    modes = modes * torch.sqrt(grid_power / box_size**3) * float(n_cells) ** 3
    modes = modes * _to_cell_centres(n_cells, dtype, device)
    field = torch.fft.irfftn(modes, s=(n_cells,) * 3)
    return -field if paired else field


def _to_cell_centres(
    n_cells: int, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Phases that move a field's samples from the cells' corners to their centres.

    Modes are defined from the corner of the box, so that they mean the same at any
    resolution; a grid samples them half a cell further on.
    """
    n = torch.fft.fftfreq(n_cells, 1 / n_cells, dtype=torch.float64, device=device)
    if n_cells % 2 == 0:
        # A shifted Nyquist mode would not be real: it stays.
        n[n_cells // 2] = 0
    phase = torch.polar(torch.ones_like(n), math.pi * n / n_cells)
    phase = phase.to(dtype.to_complex())
    half = phase[: n_cells // 2 + 1]
    return phase[:, None, None] * phase[None, :, None] * half[None, None, :]


def _power_of_modes(
    parameters: Mapping[str, float | Tensor],
    n_cells: int,
    box_size: float,
    power: Callable[[Tensor], Tensor] | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """Linear power of every mode of an `rfftn` grid [(Mpc/h)^3]."""
    half = n_cells // 2
    fundamental = 2 * math.pi / box_size
    # |k|^2 is a whole number of fundamentals squared: few values serve all modes.
    levels = torch.arange(1, 3 * half**2 + 1, dtype=torch.float64, device=device)
    k = fundamental * torch.sqrt(levels)
    values = linear_power(k, parameters) if power is None else power(k)
    values = torch.as_tensor(values, device=device)
    if values.shape != k.shape or not bool(torch.all(torch.isfinite(values))):
        raise GridError(
            "power must return one finite value for each k, "
            f"for k from {k[0]:.3g} to {k[-1]:.3g} h/Mpc"
        )
    if bool(torch.any(values < 0)):
        raise GridError("power must not be negative")
    values = torch.cat([values.new_zeros(1), values]).to(dtype)
    n = torch.fft.fftfreq(n_cells, 1 / n_cells, device=device).round().long()
    m = torch.arange(half + 1, device=device)
    level = n[:, None, None] ** 2 + n[None, :, None] ** 2 + m[None, None, :] ** 2
    return values[level]


def lpt_displacements(delta: Tensor, box_size: float) -> tuple[Tensor, Tensor]:
    """First- and second-order Lagrangian displacement fields of a linear field.

    A particle of Lagrangian position q is at q + D psi_1 + D_2 psi_2, with the growth
    factors of `linear_theory` (Bouchet et al. 1995).

    Parameters
    ----------
    delta
        Linear overdensity at redshift 0, shape ``(n, n, n)``.
    box_size
        [Mpc/h]

    Returns
    -------
    psi_1, psi_2
        Shape ``(3, n, n, n)`` [Mpc/h]; div psi_1 = -delta, and
        div psi_2 = (1/2) sum over i, j of (psi_i,i psi_j,j - psi_i,j psi_j,i).
    """
    n_cells = delta.shape[0]
    modes = torch.fft.rfftn(delta)
    first = _inverse_laplacian_gradient(modes, box_size)

    k = wavenumbers(n_cells, box_size, dtype=delta.dtype, device=delta.device)
    k_squared = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    k_squared[0, 0, 0] = 1

    def strain(i: int, j: int) -> Tensor:
        # psi_i = -d_i (laplacian^-1 (delta)), so psi_i,j = -k_i k_j / k^2 delta.
        return torch.fft.irfftn(-k[i] * k[j] / k_squared * modes, s=delta.shape)

    xx, yy, zz = strain(0, 0), strain(1, 1), strain(2, 2)
    source = xx * yy + xx * zz + yy * zz
    for i, j in ((0, 1), (0, 2), (1, 2)):
        source = source - strain(i, j) ** 2
    del xx, yy, zz
    # div psi_2 = source, so psi_2 is that of a density of the other sign.
    modes = torch.fft.rfftn(source).neg()
    del source
    return first, _inverse_laplacian_gradient(modes, box_size)


def linear_field_from_velocities(
    positions: Tensor,
    velocities: Tensor,
    masses: Tensor | None,
    *,
    redshift: float,
    omega_m: float,
    n_cells: int,
    box_size: float,
) -> Tensor:
    """Linear overdensity at redshift 0 from the particles of initial conditions.

    The velocities say how far particles have come, u = v / (a H f) to first order, and
    so where they started from. Starts on a cubic lattice, one for each mass of
    particle, are recognised: particles then give their first-order displacements
    themselves, and the field, exactly. From others, such as a glass, the field is
    -div(u), with the mass-weighted mean u around each cell.

    Parameters
    ----------
    positions
        Shape ``(n, 3)`` [Mpc/h].
    velocities
        Peculiar, shape ``(n, 3)`` [km/s].
    masses
        Shape ``(n,)``; equal if not given.
    redshift, omega_m
        Of the initial conditions.
    n_cells, box_size
        The grid of the result; box_size in [Mpc/h].

    Returns
    -------
    Tensor
        Shape ``(n_cells, n_cells, n_cells)``, float32, mean 0, without modes at the
        Nyquist frequency.

    Raises
    ------
    GridError
        If the grid is finer than the lattice, a cell holds no particle, or velocities
        and displacements contradict each other.
    """
    a = torch.tensor(1 / (1 + redshift), dtype=torch.float64)
    rate = growth_rate(a, omega_m)
    moved = velocities.double() / float(100 * hubble(a, omega_m) * a * rate)
    starts = positions.double() - moved
    if masses is None:
        masses = torch.ones_like(positions[:, 0])
    masses = masses.double()
    # dlnD2 / dlnD: with d = D psi_1 + D2 psi_2 and u = D psi_1 + ratio D2 psi_2, their
    # difference below leaves the first order alone.
    ratio = float(growth_rate_second_order(a, omega_m) / rate)
    modes = torch.zeros(1, device=positions.device)
    lattices = _lattices(starts, masses, box_size)
    for kind, lattice in lattices:
        displacement = lattice.displacements(positions[kind].double())
        _check_consistent(displacement, moved[kind])
        first = (ratio * displacement - moved[kind]) / (ratio - 1)
        share = masses[kind].sum() / masses.sum()
        modes = modes + share * lattice.density_modes(first, n_cells)
    if not lattices:
        modes = _modes_of_means(starts, moved, masses, n_cells, box_size)
    modes = modes / float(growth_factor(a, omega_m))
    modes[0, 0, 0] = 0
    return torch.fft.irfftn(modes, s=(n_cells,) * 3).float()


@dataclass(frozen=True)
class _Lattice:
    """A cubic lattice, and which particle started from which of its points."""

    n: int
    box_size: float
    offset: Tensor  # of point 0 from the corner of the box [spacings]
    points: Tensor  # of each particle, shape (n^3, 3)

    @classmethod
    def of(cls, starts: Tensor, box_size: float) -> _Lattice | None:
        """The lattice of starting positions, shape ``(m, 3)``, if they are one."""
        n = round(len(starts) ** (1 / 3))
        if n < 2 or n**3 != len(starts):
            return None
        places = starts * (n / box_size)
        turns = torch.polar(torch.ones_like(places), 2 * math.pi * places)
        offset = torch.angle(turns.mean(0)) / (2 * math.pi)
        points = torch.round(places - offset)
        one_each = torch.bincount(_flat(points, n), minlength=n**3) == 1
        return cls(n, box_size, offset, points) if bool(one_each.all()) else None

    def displacements(self, positions: Tensor) -> Tensor:
        """From the lattice, shape ``(n^3, 3)``, by the nearest image."""
        spacing = self.box_size / self.n
        distance = positions - (self.points + self.offset) * spacing
        return distance - self.box_size * torch.round(distance / self.box_size)

    def density_modes(self, displacements: Tensor, n_cells: int) -> Tensor:
        """Modes of -div of the displacements on a grid of cells."""
        if n_cells > self.n:
            raise GridError(
                f"n_cells = {n_cells} is finer than the lattice of {self.n}^3 "
                f"particles of these initial conditions; choose at most {self.n}"
            )
        n, flat = self.n, _flat(self.points, self.n)
        modes = torch.zeros(1, device=flat.device)
        axes = wavenumbers(n, self.box_size, dtype=torch.float64, device=flat.device)
        for axis, k in enumerate(axes):
            values = torch.zeros(n**3, dtype=torch.float64, device=flat.device)
            values[flat] = displacements[:, axis]
            modes = modes - 1j * k * torch.fft.rfftn(values.view(n, n, n))
        for axis, k in enumerate(axes):
            phase = k * float(self.offset[axis] * self.box_size / n)
            modes = modes * torch.polar(torch.ones_like(phase), -phase)
        return _cells_of(modes, n_cells)


def _lattices(
    starts: Tensor, masses: Tensor, box_size: float
) -> list[tuple[Tensor, _Lattice]]:
    """The lattice of each kind of particle; none unless all start on lattices."""
    values, number = torch.unique(masses, return_inverse=True)
    if len(values) > _MOST_LATTICES:
        return []
    found = []
    for one in range(len(values)):
        kind = number == one
        lattice = _Lattice.of(starts[kind], box_size)
        if lattice is None:
            return []
        found.append((kind, lattice))
    return found


def _check_consistent(displacement: Tensor, moved: Tensor) -> None:
    """Refuse velocities of another unit or time than the positions."""
    slope = float((displacement * moved).sum() / (displacement**2).sum())
    if not 0.7 < slope < 1.4:
        raise GridError(
            f"the velocities are {slope:.3g} of what the displacements of the "
            "particles imply; give peculiar velocities in km/s and the redshift of the "
            "same time"
        )


def _flat(points: Tensor, n: int) -> Tensor:
    """Index of lattice points, wrapped."""
    x, y, z = torch.remainder(points.long(), n).T
    return (x * n + y) * n + z


def _modes_of_means(
    starts: Tensor, moved: Tensor, masses: Tensor, n_cells: int, box_size: float
) -> Tensor:
    """Modes of -div of the mean displacement of the particles around each cell."""
    mass = paint(starts, n_cells, box_size, masses)
    if bool((mass <= 0).any()):
        raise GridError(
            f"{int((mass <= 0).sum())} of {mass.numel()} cells hold no particle; "
            f"choose n_cells below {n_cells} for these initial conditions"
        )
    n_half = math.pi * n_cells / box_size * (1 - 1e-6)
    modes = torch.zeros(1, device=starts.device)
    axes = wavenumbers(n_cells, box_size, dtype=torch.float64, device=starts.device)
    for axis, k in enumerate(axes):
        mean = paint(starts, n_cells, box_size, moved[:, axis] * masses) / mass
        modes = modes - 1j * k * torch.fft.rfftn(mean)
    for k in axes:
        # Undo the assignment (Hockney & Eastwood 1981, section 5-3).
        modes = modes / torch.sinc(k * box_size / n_cells / (2 * math.pi)) ** 2
        modes = torch.where(k.abs() > n_half, 0, modes)
    return modes


def resample(field: Tensor, n_cells: int) -> Tensor:
    """A periodic field on a coarser or finer grid, by cutting or padding its modes.

    Parameters
    ----------
    field
        Shape ``(m, m, m)``.
    n_cells
        Cells per side of the result.

    Returns
    -------
    Tensor
        Shape ``(n_cells, n_cells, n_cells)``: the modes below both Nyquist frequencies
        unchanged, all others absent.
    """
    m = field.shape[0]
    if m == n_cells:
        return field
    modes = torch.fft.rfftn(field) / _to_cell_centres(m, field.dtype, field.device)
    return torch.fft.irfftn(_cells_of(modes, n_cells), s=(n_cells,) * 3)


def _cells_of(modes: Tensor, n_cells: int) -> Tensor:
    """Modes, defined from the corner of the box, as a grid of cells samples them."""
    m = modes.shape[0]
    keep = (min(m, n_cells) - 1) // 2
    result = modes.new_zeros(n_cells, n_cells, n_cells // 2 + 1)
    low, high = slice(0, keep + 1), slice(-keep, None) if keep else slice(0, 0)
    for x in (low, high):
        for y in (low, high):
            result[x, y, : keep + 1] = modes[x, y, : keep + 1]
    centres = _to_cell_centres(n_cells, modes.real.dtype, modes.device)
    return result * centres * (n_cells / m) ** 3
