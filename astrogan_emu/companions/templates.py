"""What is learned from: speckles without companions, and companions without speckles.

Speckle patches come from the sequence with its angles' signs changed, in which nothing
on the sky adds up. Templates are what a companion that was put into the frames changes
in the reduced image, so its self-subtraction, and how it disturbs the principal
components, are in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from .pca import AnnularPCA, Companion, RankMaps
from .snr import disc

__all__ = ["Speckles", "Templates", "conditions_at"]


def conditions_at(pca: AnnularPCA, radius: ArrayLike) -> NDArray[np.float32]:
    """What networks are told about a patch.

    Parameters
    ----------
    pca
        The reduction it comes from.
    radius
        Separations [pixels], shape ``(n,)``.

    Returns
    -------
    ndarray
        Logarithms, of order one, of the separation [FWHM], of how far the field turns
        there [FWHM], and of the number of frames; shape ``(n, 3)``.
    """
    sequence = pca.sequence
    separation = np.asarray(radius, dtype=float) / sequence.fwhm
    turned = separation * np.deg2rad(sequence.rotation)
    frames = np.full_like(separation, len(sequence.cube) / 60)
    columns = [separation / 4, turned / 4, frames]
    return np.log(np.stack(columns, -1)).astype(np.float32)


@dataclass(frozen=True)
class Speckles:
    """Patches without companions.

    Parameters
    ----------
    patches
        In units of the noise of their ring, shape ``(n, n_ranks, PATCH, PATCH)``.
    conditions
        Of `conditions_at`.
    x, y
        Centres [pixels].
    """

    patches: NDArray[np.float32]
    conditions: NDArray[np.float32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]

    @classmethod
    def of(cls, maps: RankMaps) -> Speckles:
        """All patches of reduced images, one around each searched pixel."""
        x, y = maps.positions
        center = maps.sequence.center
        radius = np.hypot(x - center[0], y - center[1])
        return cls(
            maps.patches(x, y),
            conditions_at(maps.pca, radius),
            x.astype(float),
            y.astype(float),
        )

    def where(self, chosen: NDArray[np.bool_]) -> Speckles:
        """Some of the patches."""
        return Speckles(
            self.patches[chosen],
            self.conditions[chosen],
            self.x[chosen],
            self.y[chosen],
        )


@dataclass(frozen=True)
class Templates:
    """What companions of a signal-to-noise ratio of one look like.

    Parameters
    ----------
    patches
        In units of the noise of their ring, for the flux at which the companion's
        ratio is 1 at its best rank; shape ``(n, n_ranks, PATCH, PATCH)``.
    conditions
        Of `conditions_at`.
    radius
        Separations [pixels].
    flux
        For a ratio of 1, in the cube's unit.
    snr
        Ratio of each rank, 1 for the best; shape ``(n, n_ranks)``.
    """

    patches: NDArray[np.float32]
    conditions: NDArray[np.float32]
    radius: NDArray[np.float64]
    flux: NDArray[np.float64]
    snr: NDArray[np.float64]

    @classmethod
    def make(cls, maps: RankMaps, count: int, rng: np.random.Generator) -> Templates:
        """Put companions into a sequence, one at a time.

        Parameters
        ----------
        maps
            Reduced images of the sequence, without companions if possible.
        count
            Number of companions, spread evenly over separations.
        rng
            Source of their places.
        """
        pca, sequence = maps.pca, maps.sequence
        noise = aperture_noise(maps)
        low, high = sequence.inner_radius, sequence.outer_radius
        radius = low + (np.arange(count) + rng.random(count)) * (high - low) / count
        theta = rng.uniform(0, 2 * np.pi, count)
        x = sequence.center[0] + radius * np.cos(theta)
        y = sequence.center[1] + radius * np.sin(theta)
        # A companion is seldom in the middle of the pixel around which it is seen.
        shift = rng.uniform(-0.5, 0.5, (2, count))
        ring = pca.ring_of(radius)
        aperture = _aperture_weights(pca)
        patches = np.empty((count, *maps.patches(x[:1], y[:1]).shape[1:]))
        # Bright enough to be seen, faint enough to be as those looked for.
        trial = 6 * np.median(noise[ring], 1)
        for i in range(count):
            companion = Companion(x[i] + shift[0, i], y[i] + shift[1, i], trial[i])
            changed = pca.patch(x[i], y[i], companion) - pca.patch(x[i], y[i])
            patches[i] = changed / trial[i]
        snr = (patches * aperture).sum((-1, -2)) / noise[ring]
        best = snr.max(1)
        # Where no rank leaves anything, nothing can be learned.
        seen = best > 0
        patches, ring, best = patches[seen], ring[seen], best[seen]
        scaled = patches / maps.noise[ring][..., None, None] / best[:, None, None, None]
        return cls(
            scaled.astype(np.float32),
            conditions_at(pca, radius[seen]),
            radius[seen],
            1 / best,
            snr[seen] / best[:, None],
        )

    @property
    def best_rank(self) -> int:
        """Index of the rank whose ratio is the highest on average."""
        return int(np.argmax(self.snr.mean(0)))


def _aperture_weights(pca: AnnularPCA) -> NDArray[np.float64]:
    """Weights that make a patch the flux of the aperture in its middle."""
    fwhm, size = pca.sequence.fwhm, pca.patch_grid([9e3], [9e3])[0].shape[-1]
    step = 2 * fwhm / size
    fine = (np.arange(size * 10) + 0.5) / 10 - size / 2
    inside = np.hypot(fine[:, None], fine[None, :]) * step <= fwhm / 2
    return inside.reshape(size, 10, size, 10).mean((1, 3)) * step**2


def aperture_noise(maps: RankMaps) -> NDArray[np.float64]:
    """Standard deviation, robust, of aperture fluxes on each ring.

    Parameters
    ----------
    maps
        Reduced images.

    Returns
    -------
    ndarray
        In the cube's unit, shape ``(n_rings, n_ranks)``.
    """
    kernel = disc(maps.sequence.fwhm)
    result = np.empty_like(maps.noise)
    for i, images in enumerate(maps.images):
        own = maps.valid & (maps.ring == i)
        for rank, image in enumerate(images):
            flux = ndimage.convolve(image, kernel, mode="constant")[own]
            spread = np.median(np.abs(flux - np.median(flux)))
            result[i, rank] = 1.4826 * spread + 1e-300
    return result
