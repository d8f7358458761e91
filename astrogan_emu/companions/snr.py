"""Signal-to-noise ratios with the statistics of few apertures (Mawet et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats

from .adi import ADISequence
from .pca import AnnularPCA, Companion, RankMaps

__all__ = ["significance", "snr_at", "snr_from_apertures", "snr_map"]


def snr_from_apertures(fluxes: NDArray[Any]) -> NDArray[np.float64]:
    """Signal-to-noise ratio of the first of several apertures at one separation.

    Mawet et al. (2014, equation 9): the difference to the mean of the others over
    their standard deviation times sqrt(1 + 1/n), which follows Student's distribution
    with n - 1 degrees of freedom for n others of Gaussian noise.

    Parameters
    ----------
    fluxes
        Shape ``(..., 1 + n)``.

    Returns
    -------
    ndarray
        Shape ``(...)``.
    """
    others = fluxes[..., 1:]
    n = others.shape[-1]
    scatter = others.std(-1, ddof=1) * np.sqrt(1 + 1 / n)
    return (fluxes[..., 0] - others.mean(-1)) / np.maximum(scatter, 1e-300)


def significance(snr: ArrayLike, radius: ArrayLike, fwhm: float) -> NDArray[Any]:
    """Gaussian standard deviations of the same false-alarm probability.

    Parameters
    ----------
    snr
        Of `snr_from_apertures`.
    radius
        Separation [pixels].
    fwhm
        [pixels]

    Returns
    -------
    ndarray
        [standard deviations]
    """
    n = n_apertures(radius, fwhm) - 1
    return stats.norm.isf(stats.t.sf(np.asarray(snr, dtype=float), n - 1))


def n_apertures(radius: ArrayLike, fwhm: float) -> NDArray[np.int64]:
    """Apertures of one FWHM that fit on a circle."""
    count = np.floor(2 * np.pi * np.asarray(radius, dtype=float) / fwhm)
    return np.asarray(np.maximum(count, 4), dtype=np.int64)


def disc(fwhm: float) -> NDArray[np.float64]:
    """Share of each pixel that lies within half a FWHM."""
    half = int(np.ceil(fwhm / 2))
    fine = (np.arange((2 * half + 1) * 10) + 0.5) / 10 - half - 0.5
    inside = np.hypot(fine[:, None], fine[None, :]) <= fwhm / 2
    size = 2 * half + 1
    return inside.reshape(size, 10, size, 10).mean((1, 3))


def _circle(sequence: ADISequence, x: Any, y: Any, count: int) -> tuple[Any, Any]:
    """Aperture centres around the star, that of the place itself first."""
    place = x - sequence.center[0] + 1j * (y - sequence.center[1])
    turn = np.exp(2j * np.pi * np.arange(count) / count)
    around = np.asarray(place)[..., None] * turn
    return around.real + sequence.center[0], around.imag + sequence.center[1]


def snr_map(maps: RankMaps) -> NDArray[np.float64]:
    """Signal-to-noise ratio at each searched pixel and rank.

    Parameters
    ----------
    maps
        Reduced images.

    Returns
    -------
    ndarray
        Shape ``(n_ranks, n_y, n_x)``; NaN where nothing is searched.
    """
    sequence, pca = maps.sequence, maps.pca
    kernel = disc(sequence.fwhm)
    n_ranks, shape = len(pca.ranks), maps.valid.shape
    result = np.full((n_ranks, *shape), np.nan)
    for i in range(len(pca.ring_radii)):
        y, x = np.nonzero(maps.valid & (maps.ring == i))
        radius = np.hypot(x - sequence.center[0], y - sequence.center[1])
        counts = n_apertures(radius, sequence.fwhm)
        # Between pixels a linear law would smooth all apertures but the first.
        fluxes = [
            ndimage.spline_filter(ndimage.convolve(image, kernel, mode="constant"), 3)
            for image in maps.images[i]
        ]
        for count in np.unique(counts):
            own = counts == count
            around = _circle(sequence, x[own], y[own], int(count))
            for rank in range(n_ranks):
                values = ndimage.map_coordinates(
                    fluxes[rank], [around[1], around[0]], order=3, prefilter=False
                )
                result[rank, y[own], x[own]] = snr_from_apertures(values)
    return result


def snr_at(
    pca: AnnularPCA,
    x: float,
    y: float,
    companion: Companion | None = None,
    *,
    only: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Signal-to-noise ratio at one place, with a companion put in first.

    Parameters
    ----------
    pca
        The reduction.
    x, y
        [pixels]
    companion
        Put into the frames before they are reduced.
    only
        Indices of the ranks that are wanted; all if not given.

    Returns
    -------
    ndarray
        Shape ``(n_ranks,)``.
    """
    sequence = pca.sequence
    radius = float(np.hypot(x - sequence.center[0], y - sequence.center[1]))
    count = int(n_apertures(radius, sequence.fwhm))
    around_x, around_y = _circle(sequence, x, y, count)
    # A grid in the aperture that is fine enough for what the frames resolve.
    offset = np.arange(-1.5, 2) * sequence.fwhm / 4
    dx, dy = (part.ravel() for part in np.meshgrid(offset, offset))
    inside = np.hypot(dx, dy) <= sequence.fwhm / 2
    ring = float(pca.ring_radii[pca.ring_of(radius)])
    values = pca.sample(
        ring,
        around_x[:, None] + dx[inside],
        around_y[:, None] + dy[inside],
        companion,
        only=only,
    )
    return snr_from_apertures(values.mean(-1))
