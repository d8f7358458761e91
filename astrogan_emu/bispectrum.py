"""Bispectrum of periodic fields: three-point statistics of chosen triangles.

The estimator multiplies three fields, each filtered to one shell of wavenumbers, and
divides by the number of closed triangles (Scoccimarro 2000, 2015). Fields are accepted
and returned as in `statistics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .errors import GridError
from .periodic import Field, PeriodicField, Values, squared_wavenumbers

__all__ = ["Bispectrum", "Triangles", "bispectrum", "reduced_bispectrum"]

Triangles = Literal["equilateral", "squeezed"] | ArrayLike
"""Which triangles are measured; see `bispectrum`."""

Shell = tuple[float, float]
"""Lower and upper edge in units of the fundamental; the lower belongs to it."""


class Bispectrum(NamedTuple):
    """Bispectrum, or reduced bispectrum, of some triangles.

    Parameters
    ----------
    sides
        Mean wavenumber of the three shells of each triangle, shape ``(n_triangles, 3)``
        [h/Mpc].
    value
        Shape ``(..., n_triangles)`` [(Mpc/h)^6, or (Mpc/h)^4 for maps; no unit if
        reduced]. NaN where no triangle closes.
    n_triangles
        Closed triangles of modes in each configuration, shape ``(n_triangles,)``.
    """

    sides: Values
    value: Values
    n_triangles: Values

    @property
    def k(self) -> Values:
        """First side of each triangle, the short wave of squeezed ones [h/Mpc]."""
        return self.sides[:, 0]


def bispectrum(
    field: Field,
    *,
    box_size: float | None = None,
    triangles: Triangles = "equilateral",
    width: float | None = None,
    relative: bool = True,
    n_dim: int | None = None,
) -> Bispectrum:
    """Isotropic bispectrum, averaged over closed triangles between shells.

    ``B = V^2 <delta_1 delta_2 delta_3> / N^3`` with the unnormalised discrete Fourier
    transform of N cells in the volume V. Differentiable in `field`.

    Parameters
    ----------
    field
        Shape ``(..., n, n)`` or ``(..., n, n, n)``.
    box_size
        Comoving side length [Mpc/h]; not needed for a field with its own grid.
    triangles
        ``"equilateral"``: all sides in one shell, for each shell up to two thirds of
        the Nyquist wavenumber. ``"squeezed"``: two sides in one shell and the third in
        the first shell of all, up to the Nyquist wavenumber. Or the three sides of each
        triangle, shape ``(n_triangles, 3)`` [h/Mpc], on which shells are centred.
    width
        Width of the shells [h/Mpc]; twice the fundamental if not given. The first one
        starts at half the fundamental.
    relative
        Divide the field by its mean, as for any density; see `power_spectrum`.
    n_dim
        Two or three, needed only for a stack of n maps of n x n cells.

    Returns
    -------
    Bispectrum
        `sides`, `value`, `n_triangles`.

    Raises
    ------
    GridError
        If the field is no periodic square or cube, has no positive mean to divide by,
        or triangles are asked for that the grid does not resolve.
    """
    opened, shells = _prepare(field, box_size, triangles, width, n_dim)
    value = _bispectrum(opened, shells, relative)
    return _result(opened, shells, value)


def reduced_bispectrum(
    field: Field,
    *,
    box_size: float | None = None,
    triangles: Triangles = "equilateral",
    width: float | None = None,
    relative: bool = True,
    n_dim: int | None = None,
) -> Bispectrum:
    """Reduced bispectrum ``Q = B / (P_1 P_2 + P_2 P_3 + P_3 P_1)``.

    Parameters
    ----------
    field, box_size, triangles, width, relative, n_dim
        As in `bispectrum`; the power is measured in the same shells.

    Returns
    -------
    Bispectrum
        `sides`, `value` (without unit), `n_triangles`.

    Raises
    ------
    GridError
        As `bispectrum`.
    """
    opened, shells = _prepare(field, box_size, triangles, width, n_dim)
    modes = opened.modes(relative)
    norm = opened.volume / float(opened.n_cells**opened.n_dim)
    power = {}
    for shell in dict.fromkeys(shell for triple in shells for shell in triple):
        number = _shell(opened.n_cells, opened.n_dim, shell, opened.values.device)[1]
        filtered = _filtered(modes, shell, opened)
        power[shell] = norm * filtered.square().sum(opened.axes) / number
    products = torch.stack(
        [
            power[one] * power[two]
            + power[two] * power[three]
            + power[three] * power[one]
            for one, two, three in shells
        ],
        dim=-1,
    )
    return _result(opened, shells, _bispectrum(opened, shells, relative) / products)


def _prepare(
    field: Field,
    box_size: float | None,
    triangles: Triangles,
    width: float | None,
    n_dim: int | None,
) -> tuple[PeriodicField, tuple[tuple[Shell, Shell, Shell], ...]]:
    """The field as a tensor, and the three shells of every triangle."""
    opened = PeriodicField.of(field, box_size, n_dim)
    n, step = opened.n_cells, 2.0 if width is None else width / opened.fundamental
    if not (np.isfinite(step) and step > 0):
        raise GridError(f"width must be positive and finite [h/Mpc], got {width}")

    def shell(number: int) -> Shell:
        return 0.5 + number * step, 0.5 + (number + 1) * step

    if isinstance(triangles, str) and triangles == "equilateral":
        every = [(s, s, s) for s in map(shell, range(int((n / 3 - 0.5) / step)))]
    elif isinstance(triangles, str) and triangles == "squeezed":
        long = shell(0)
        last = int(((n - long[1]) / 2 - 0.5) / step)
        every = [(s, s, long) for s in map(shell, range(1, last))]
    elif isinstance(triangles, str):
        raise GridError(
            f"triangles = {triangles!r} is unknown; give 'equilateral', 'squeezed' or "
            "the three sides of each triangle in h/Mpc"
        )
    else:
        sides = np.asarray(triangles, dtype=np.float64) / opened.fundamental
        if sides.ndim != 2 or sides.shape[1] != 3 or not np.all(sides > 0):
            raise GridError(
                f"triangles must have three positive sides each, shape (n, 3), got "
                f"shape {sides.shape}"
            )
        # Rounded, so that an edge meant to be on a mode is on it.
        low, high = np.round(sides - step / 2, 10), np.round(sides + step / 2, 10)
        edges = np.stack([low, high], axis=-1).tolist()
        every = [(tuple(a), tuple(b), tuple(c)) for a, b, c in edges]
    if not every or max(sum(s[1] for s in triple) for triple in every) > n:
        # Three modes whose sum is n cells' worth look like a closed triangle.
        raise GridError(
            f"{n} cells a side resolve triangles of a perimeter up to "
            f"{n * opened.fundamental:.3g} h/Mpc with shells of "
            f"{step * opened.fundamental:.3g} h/Mpc; give smaller triangles, thinner "
            "shells or a finer grid"
        )
    return opened, tuple(every)


@lru_cache(maxsize=256)
def _shell(
    n_cells: int, n_dim: int, shell: Shell, device: torch.device
) -> tuple[Tensor, float, float]:
    """Which half-space modes are in a shell; how many in full space; their mean |k|."""
    squared = squared_wavenumbers(n_cells, n_dim, device)
    low = max(shell[0], 0.0)
    inside = (squared >= low**2) & (squared < shell[1] ** 2) & (squared > 0)
    # All but the first plane of the last axis, and the last one of even n, stand for
    # two modes.
    weight = torch.full((n_cells // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    weight[0] = 1
    if n_cells % 2 == 0:
        weight[-1] = 1
    weights = inside * weight
    number = float(weights.sum())
    mean = float((weights * squared.double().sqrt()).sum()) / max(number, 1)
    return inside, number, mean


def _filtered(modes: Tensor, shell: Shell, opened: PeriodicField) -> Tensor:
    """The field in real space with the modes of one shell only."""
    inside = _shell(opened.n_cells, opened.n_dim, shell, modes.device)[0]
    size = (opened.n_cells,) * opened.n_dim
    kept: Tensor = torch.fft.irfftn(modes * inside, s=size, dim=opened.axes)
    return kept


def _triple_products(
    shells: tuple[tuple[Shell, Shell, Shell], ...],
    filtered: Callable[[Shell], Tensor],
    axes: tuple[int, ...],
) -> Iterator[Tensor]:
    """Sum over cells of the product of three filtered fields, per triangle."""
    last_use = {s: i for i, triple in enumerate(shells) for s in triple}
    held: dict[Shell, Tensor] = {}
    for i, triple in enumerate(shells):
        for s in triple:
            if s not in held:
                held[s] = filtered(s)
        one, two, three = (held[s] for s in triple)
        yield (one * two * three).sum(axes)
        # Memory for the shells of few triangles at a time, not of all.
        held = {s: value for s, value in held.items() if last_use[s] > i}


@lru_cache(maxsize=32)
def _n_triangles(
    n_cells: int,
    n_dim: int,
    shells: tuple[tuple[Shell, Shell, Shell], ...],
    device: torch.device,
) -> Tensor:
    """Closed triangles of modes, each order of its sides counted."""
    size, axes = (n_cells,) * n_dim, tuple(range(-n_dim, 0))

    def ones(shell: Shell) -> Tensor:
        inside = _shell(n_cells, n_dim, shell, device)[0].to(torch.complex128)
        kept: Tensor = torch.fft.irfftn(inside, s=size, dim=axes)
        return kept

    sums = torch.stack(list(_triple_products(shells, ones, axes)))
    return (sums * float(n_cells**n_dim) ** 2).round()


def _bispectrum(
    opened: PeriodicField,
    shells: tuple[tuple[Shell, Shell, Shell], ...],
    relative: bool,
) -> Tensor:
    modes = opened.modes(relative)
    sums = torch.stack(
        list(
            _triple_products(
                shells, lambda shell: _filtered(modes, shell, opened), opened.axes
            )
        ),
        dim=-1,
    )
    number = _n_triangles(opened.n_cells, opened.n_dim, shells, modes.device)
    n_total = float(opened.n_cells**opened.n_dim)
    closed = torch.where(number > 0, number, torch.nan).to(sums)
    return sums * (opened.volume**2 / n_total) / closed


def _result(
    opened: PeriodicField,
    shells: tuple[tuple[Shell, Shell, Shell], ...],
    value: Tensor,
) -> Bispectrum:
    n, n_dim, device = opened.n_cells, opened.n_dim, opened.values.device
    means = [[_shell(n, n_dim, s, device)[2] for s in triple] for triple in shells]
    sides = torch.tensor(means, dtype=torch.float64, device=device) * opened.fundamental
    number = _n_triangles(n, n_dim, shells, device)
    dtype = opened.values.dtype
    return Bispectrum(
        opened.result(sides.to(dtype)),
        opened.result(value),
        opened.result(number.to(dtype)),
    )
