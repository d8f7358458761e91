"""Summary statistics of periodic fields: power spectra and what follows from them.

Every function takes a NumPy array, a torch tensor or a `GalaxyField`, in two or three
dimensions and with any leading (batch, channel) axes. A tensor gives tensors back and
keeps gradients; anything else is measured in float64 and gives arrays. Nothing here
corrects for the mass-assignment window or shot noise: fields are compared on the same
grid. One-point statistics are in `distributions`, three-point ones in `bispectrum`,
peaks, voids and topology in `morphology`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .errors import GridError
from .periodic import Field, PeriodicField, Values, squared_wavenumbers

__all__ = [
    "Bins",
    "ScaleRatio",
    "Spectrum",
    "correlation_coefficient",
    "cross_power",
    "power_correlation_matrix",
    "power_spectrum",
    "transfer_function",
]

Bins = Literal["linear", "log"] | ArrayLike | None
"""How modes are binned; see `power_spectrum`."""


class Spectrum(NamedTuple):
    """Power per bin of wavenumber.

    Parameters
    ----------
    k
        Mean wavenumber of the modes in each bin, shape ``(n_bins,)`` [h/Mpc].
    power
        Shape ``(..., n_bins)`` [(Mpc/h)^3, or (Mpc/h)^2 for maps; times the squared
        unit of the field if it was not measured relative to its mean]. NaN where a
        bin holds no modes.
    n_modes
        Modes in each bin, counting both halves of Fourier space, shape ``(n_bins,)``.
    """

    k: Values
    power: Values
    n_modes: Values


class ScaleRatio(NamedTuple):
    """A dimensionless comparison of two fields per bin of wavenumber.

    Parameters
    ----------
    k
        Mean wavenumber of the modes in each bin, shape ``(n_bins,)`` [h/Mpc].
    value
        Shape ``(..., n_bins)``.
    n_modes
        Modes in each bin, counting both halves of Fourier space, shape ``(n_bins,)``.
    """

    k: Values
    value: Values
    n_modes: Values


class _Binning(NamedTuple):
    """Which bin each half-space mode falls in, and what each bin holds."""

    bin_of_mode: Tensor  # (n_half_space,); the last index collects the rest
    multiplicity: Tensor  # (n_half_space,); 1 or 2
    n_modes: Tensor  # (n_bins,)
    k: Tensor  # (n_bins,), in units of the fundamental


def _multiplicity(n_cells: int, n_dim: int, device: torch.device) -> Tensor:
    """How often each half-space mode occurs in full space, shape as the modes'."""
    along_last = torch.full((n_cells // 2 + 1,), 2.0, device=device)
    along_last[0] = 1
    if n_cells % 2 == 0:
        along_last[-1] = 1
    return along_last.expand(*[n_cells] * (n_dim - 1), -1)


def _bin_edges(bins: Bins, n_cells: int, fundamental: float) -> tuple[float, ...]:
    """Edges of the bins, in units of the fundamental."""
    last = int((n_cells - 1) // 2)
    if bins is None or (isinstance(bins, str) and bins == "linear"):
        return tuple(i + 0.5 for i in range(last + 1))
    if isinstance(bins, str) and bins == "log":
        # Unions of the linear bins, so that none is empty.
        steps = np.geomspace(1, last + 1, max(2, round(10 * np.log10(last + 1)) + 1))
        return tuple(float(i) - 0.5 for i in np.unique(np.round(steps)))
    if isinstance(bins, str):
        raise GridError(
            f"bins = {bins!r} is unknown; give 'linear', 'log' or the edges in h/Mpc"
        )
    edges = np.asarray(bins, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise GridError("the edges of bins must be a rising list of at least two")
    # Rounded, so that an edge meant to be on a mode is on it.
    return tuple(np.round(edges / fundamental, 10).tolist())


@lru_cache(maxsize=16)
def _binning(
    n_cells: int, n_dim: int, edges: tuple[float, ...], device: torch.device
) -> _Binning:
    squared = squared_wavenumbers(n_cells, n_dim, device).flatten()
    # Compared squared: whole numbers, so that no mode moves between bins by rounding.
    bounds = torch.tensor(edges, dtype=torch.float64, device=device)
    bounds = torch.where(bounds < 0, -1.0, bounds.square())
    bin_of_mode = torch.bucketize(squared.double(), bounds, right=True) - 1
    n_bins = len(edges) - 1
    # Neither the mean nor what lies outside the edges belongs to a bin.
    outside = (bin_of_mode < 0) | (bin_of_mode >= n_bins) | (squared == 0)
    bin_of_mode[outside] = n_bins
    multiplicity = _multiplicity(n_cells, n_dim, device).flatten()

    def total(weights: Tensor) -> Tensor:
        return torch.bincount(bin_of_mode, weights, minlength=n_bins + 1)[:n_bins]

    n_modes = total(multiplicity.double())
    k = total(multiplicity * squared.double().sqrt()) / n_modes
    return _Binning(bin_of_mode, multiplicity, n_modes, k)


def _binned(product: Tensor, like: PeriodicField, binning: _Binning) -> Tensor:
    """Mean of a real half-space product over the modes of each bin, (..., n_bins)."""
    weighted = product.flatten(-like.n_dim) * binning.multiplicity.to(product)
    n_bins = len(binning.k)
    index = binning.bin_of_mode.expand(weighted.shape)
    sums = weighted.new_zeros((*weighted.shape[:-1], n_bins + 1))
    sums = sums.scatter_add(-1, index, weighted)[..., :n_bins]
    norm = like.volume / float(like.n_cells**like.n_dim) ** 2
    return norm * sums / binning.n_modes.to(product)


def _prepare(
    fields: Sequence[Field], box_size: float | None, bins: Bins, n_dim: int | None
) -> tuple[list[PeriodicField], _Binning]:
    """The fields as tensors, with the bins they share."""
    opened = [PeriodicField.of(field, box_size, n_dim) for field in fields]
    first = opened[0]
    for other in opened[1:]:
        if (other.n_cells, other.n_dim, other.box_size) != (
            first.n_cells,
            first.n_dim,
            first.box_size,
        ):
            raise GridError(
                f"the fields live on different grids: {first.n_cells} cells and "
                f"{first.box_size:g} Mpc/h in {first.n_dim} dimensions, and "
                f"{other.n_cells} cells and {other.box_size:g} Mpc/h in {other.n_dim}"
            )
    edges = _bin_edges(bins, first.n_cells, first.fundamental)
    return opened, _binning(first.n_cells, first.n_dim, edges, first.values.device)


def _per_bin(field: PeriodicField, binning: _Binning) -> tuple[Values, Values]:
    """Mean wavenumber [h/Mpc] and number of modes, in the kind of the field."""
    dtype = field.values.dtype
    k = field.fundamental * binning.k
    return field.result(k.to(dtype)), field.result(binning.n_modes.to(dtype))


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Real part of a times b conjugate, without a complex product in memory."""
    return first.real * second.real + first.imag * second.imag


def power_spectrum(
    field: Field,
    *,
    box_size: float | None = None,
    bins: Bins = None,
    relative: bool = True,
    n_dim: int | None = None,
) -> Spectrum:
    """Isotropic power spectrum, averaged over the modes in bins of wavenumber.

    ``P(k) = V <|delta_k|^2> / N^2`` with the unnormalised discrete Fourier transform
    of N cells in the volume V, so that ``<delta_k delta_k'> = V P(k)`` in the usual
    continuum convention. Differentiable in `field`.

    Parameters
    ----------
    field
        Shape ``(..., n, n)`` or ``(..., n, n, n)``.
    box_size
        Comoving side length [Mpc/h]; not needed for a field with its own grid.
    bins
        ``"linear"`` (the default): width of the fundamental k_f, from k_f / 2 to the
        Nyquist wavenumber. ``"log"``: unions of these, about ten per decade. Or the
        edges [h/Mpc]; a bin holds its lower edge.
    relative
        Divide the field by its mean, as for any density. With False only the mean is
        removed: for overdensities, temperatures, or to save time in training on
        fields whose mean is one.
    n_dim
        Two or three, needed only for a stack of n maps of n x n cells.

    Returns
    -------
    Spectrum
        `k`, `power`, `n_modes`.

    Raises
    ------
    GridError
        If the field is no periodic square or cube, or has no positive mean to divide
        by.
    """
    (opened,), binning = _prepare([field], box_size, bins, n_dim)
    modes = opened.modes(relative)
    power = _binned(_inner(modes, modes), opened, binning)
    k, n_modes = _per_bin(opened, binning)
    return Spectrum(k, opened.result(power), n_modes)


def cross_power(
    first: Field,
    second: Field,
    *,
    box_size: float | None = None,
    bins: Bins = None,
    relative: bool = True,
    n_dim: int | None = None,
) -> Spectrum:
    """Cross-power spectrum of two fields; its own power where they are equal.

    Parameters
    ----------
    first, second
        Shapes ``(..., n, n[, n])``; leading axes broadcast.
    box_size, bins, relative, n_dim
        As in `power_spectrum`.

    Returns
    -------
    Spectrum
        `k`, `power` (of either sign), `n_modes`.

    Raises
    ------
    GridError
        As `power_spectrum`, and if the fields live on different grids.
    """
    (one, two), binning = _prepare([first, second], box_size, bins, n_dim)
    power = _binned(_inner(one.modes(relative), two.modes(relative)), one, binning)
    k, n_modes = _per_bin(one, binning)
    return Spectrum(k, one.result(power), n_modes)


def correlation_coefficient(
    first: Field,
    second: Field,
    *,
    box_size: float | None = None,
    bins: Bins = None,
    n_dim: int | None = None,
) -> ScaleRatio:
    """Cross-correlation coefficient ``r(k) = P_12 / sqrt(P_1 P_2)``.

    Parameters
    ----------
    first, second
        Shapes ``(..., n, n[, n])``; leading axes broadcast. Their means and units do
        not matter.
    box_size, bins, n_dim
        As in `power_spectrum`.

    Returns
    -------
    ScaleRatio
        `k`, `value` between -1 and 1, `n_modes`.

    Raises
    ------
    GridError
        As `cross_power`.
    """
    (one, two), binning = _prepare([first, second], box_size, bins, n_dim)
    a, b = one.modes(relative=False), two.modes(relative=False)
    auto = [_binned(_inner(modes, modes), one, binning) for modes in (a, b)]
    value = _binned(_inner(a, b), one, binning) / (auto[0] * auto[1]).sqrt()
    k, n_modes = _per_bin(one, binning)
    return ScaleRatio(k, one.result(value), n_modes)


def transfer_function(
    field: Field,
    reference: Field,
    *,
    box_size: float | None = None,
    bins: Bins = None,
    relative: bool = True,
    n_dim: int | None = None,
) -> ScaleRatio:
    """Transfer function ``T(k) = sqrt(P_field / P_reference)``.

    Parameters
    ----------
    field, reference
        Shapes ``(..., n, n[, n])``; leading axes broadcast.
    box_size, bins, relative, n_dim
        As in `power_spectrum`.

    Returns
    -------
    ScaleRatio
        `k`, `value`, `n_modes`.

    Raises
    ------
    GridError
        As `cross_power`.
    """
    (one, two), binning = _prepare([field, reference], box_size, bins, n_dim)
    above, below = (
        _binned(_inner(modes, modes), one, binning)
        for modes in (one.modes(relative), two.modes(relative))
    )
    k, n_modes = _per_bin(one, binning)
    return ScaleRatio(k, one.result((above / below).sqrt()), n_modes)


def power_correlation_matrix(
    spectra: Spectrum | Sequence[Spectrum] | ArrayLike,
) -> NDArray[np.float64]:
    """Correlation of the power in different bins over many samples.

    Parameters
    ----------
    spectra
        One `Spectrum` whose power has shape ``(n_samples, n_bins)``, a list of spectra
        of single fields, or the power itself.

    Returns
    -------
    ndarray
        Shape ``(n_bins, n_bins)``, ones on the diagonal.

    Raises
    ------
    GridError
        If there are fewer than two samples or the shapes do not agree.
    """
    if isinstance(spectra, Spectrum):
        spectra = spectra.power
    elif isinstance(spectra, Sequence) and isinstance(spectra[0], Spectrum):
        spectra = [one.power for one in spectra]  # type: ignore[union-attr]
    if isinstance(spectra, Tensor):
        spectra = spectra.detach().cpu()
    power = np.asarray(spectra, dtype=np.float64)
    if power.ndim != 2 or len(power) < 2:
        raise GridError(
            "a correlation matrix needs the power of at least two samples, shape "
            f"(n_samples, n_bins), got {power.shape}"
        )
    return np.asarray(np.corrcoef(power, rowvar=False))
