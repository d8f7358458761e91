"""Annular principal component analysis at many ranks at once.

Around each ring of separations, frames are compared in an annulus: the eigenvectors of
their Gram matrix give the speckles' share at every rank in one decomposition (Amara &
Quanz 2012, Soummer et al. 2012). What is left is turned by the angles and averaged.
All of it is linear in the frames, so only places that are asked for are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, sparse

from ..errors import SequenceError
from .adi import ADISequence, add_stamps

__all__ = ["AnnularPCA", "Companion", "RankMaps", "default_ranks"]

PATCH = 8
"""Samples along each side of a patch: an even number, as the critic halves it."""
_PATCH_FWHM = 2.0
# Of an annulus around its ring, on either side [FWHM].
_HALF_WIDTH = 1.75
# Most entries of one interpolation matrix.
_ENTRIES = 6_000_000


@dataclass(frozen=True)
class Companion:
    """A point source in turned frames: pixels, and flux in the cube's unit."""

    x: float
    y: float
    flux: float


def default_ranks(n_frames: int) -> tuple[int, ...]:
    """Ranks from 1 to half the frames, 30 at most."""
    steps = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)
    return tuple(rank for rank in steps if rank <= n_frames // 2)


class AnnularPCA:
    """What principal components leave of a sequence, at many ranks.

    Parameters
    ----------
    sequence
        The frames.
    ranks
        Numbers of components, increasing; `default_ranks` if not given.

    Raises
    ------
    SequenceError
        If a rank is not between 1 and the number of frames less 2.
    """

    def __init__(
        self, sequence: ADISequence, ranks: tuple[int, ...] | None = None
    ) -> None:
        self.sequence = sequence
        n_frames = len(sequence.cube)
        self.ranks = tuple(ranks or default_ranks(n_frames))
        if list(self.ranks) != sorted(set(self.ranks)) or not (
            1 <= self.ranks[0] <= self.ranks[-1] <= n_frames - 2
        ):
            raise SequenceError(
                f"ranks must increase from at least 1 to at most {n_frames - 2} for "
                f"{n_frames} frames, got {self.ranks}"
            )
        y, x = np.indices(sequence.cube.shape[1:])
        self._radius = np.hypot(x - sequence.center[0], y - sequence.center[1])

    @cached_property
    def _splines(self) -> NDArray[np.float32]:
        frames = self.sequence.cube
        filtered = frames.astype(float)
        for axis in (1, 2):
            filtered = ndimage.spline_filter1d(filtered, 3, axis=axis, mode="mirror")
        return filtered.astype(np.float32)

    @cached_property
    def ring_radii(self) -> NDArray[np.float64]:
        """Radii of the rings, half a FWHM apart [pixels]."""
        low, high = self.sequence.inner_radius, self.sequence.outer_radius
        n = max(1, int(np.ceil((high - low) / (0.5 * self.sequence.fwhm))))
        return low + (np.arange(n) + 0.5) * (high - low) / n

    def ring_of(self, radius: ArrayLike) -> NDArray[np.int64]:
        """Index of the ring nearest to each radius [pixels]."""
        distance = np.abs(np.asarray(radius)[..., None] - self.ring_radii)
        return np.argmin(distance, -1)

    def projectors(
        self, radius: float, companion: Companion | None = None
    ) -> NDArray[np.float64]:
        """What frames are to be multiplied with to lose their speckles.

        Parameters
        ----------
        radius
            Of the ring [pixels].
        companion
            Put into the frames first.

        Returns
        -------
        ndarray
            Shape ``(n_ranks, n_frames, n_frames)``.
        """
        sequence = self.sequence
        half = _HALF_WIDTH * sequence.fwhm
        inside = np.abs(self._radius - radius) <= half
        # What is behind a mask is not of the same kind.
        inside &= self._radius >= 0.5 * sequence.fwhm
        frames = sequence.cube
        if companion is not None:
            frames = frames.copy()
            stamps = sequence.stamps((companion.x, companion.y))
            add_stamps(frames, *stamps, companion.flux)
        data = frames[:, inside].astype(float)
        data -= data.mean(0)
        _, vectors = np.linalg.eigh(data @ data.T)
        n_frames = len(frames)
        keep = np.eye(n_frames) - 1 / n_frames
        result = np.empty((len(self.ranks), n_frames, n_frames))
        for i, rank in enumerate(self.ranks):
            lost = vectors[:, -rank:]
            result[i] = keep - lost @ (lost.T @ keep)
        return result

    def sample(
        self,
        radius: float,
        x: ArrayLike,
        y: ArrayLike,
        companion: Companion | None = None,
        *,
        only: Sequence[int] | None = None,
    ) -> NDArray[np.float64]:
        """The reduced image at places of turned frames.

        Parameters
        ----------
        radius
            Of the ring whose annulus decides what speckles are [pixels].
        x, y
            Any shape [pixels].
        companion
            Put into the frames first.
        only
            Indices of the ranks that are wanted; all if not given.

        Returns
        -------
        ndarray
            Shape ``(n_ranks, *shape of x)``.
        """
        shape = np.shape(x)
        flat_x, flat_y = np.ravel(x), np.ravel(y)
        keep = self.projectors(radius, companion)
        if only is not None:
            keep = keep[list(only)]
        splines = self._splines
        if companion is not None:
            splines = splines.copy()
            stamps = self.sequence.stamps((companion.x, companion.y), spline=True)
            add_stamps(splines, *stamps, companion.flux)
        n_frames = len(splines)
        step = max(1, _ENTRIES // (16 * n_frames))
        parts = [
            self._sample(keep, splines, flat_x[i : i + step], flat_y[i : i + step])
            for i in range(0, len(flat_x), step)
        ]
        return np.concatenate(parts, 1).reshape(len(keep), *shape)

    def _sample(
        self,
        keep: NDArray[np.float64],
        splines: NDArray[np.float32],
        x: NDArray[np.float64],
        y: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        n_frames, n_y, n_x = splines.shape
        where_x, where_y = self.sequence.track(x, y)
        column, along = _taps(where_x, n_x)
        row, across = _taps(where_y, n_y)
        pixel = row[:, :, :, None] * n_x + column[:, :, None, :]
        weight = across[:, :, :, None] * along[:, :, None, :]
        # Only pixels that some place passes through.
        used = np.zeros(n_y * n_x, dtype=bool)
        used[pixel.ravel()] = True
        index = np.cumsum(used) - 1
        n_used = int(index[-1]) + 1
        columns = index[pixel] + n_used * np.arange(n_frames)[:, None, None, None]
        # One row for each place, over all frames.
        columns = columns.transpose(1, 0, 2, 3).reshape(len(x), -1)
        weights = weight.transpose(1, 0, 2, 3).reshape(len(x), -1)
        starts = np.arange(len(x) + 1) * columns.shape[1]
        turn = sparse.csr_matrix(
            (weights.ravel().astype(np.float32), columns.ravel(), starts),
            shape=(len(x), n_frames * n_used),
        )
        data = splines.reshape(n_frames, -1)[:, used]
        left = np.empty((n_frames * n_used, len(keep)), dtype=np.float32)
        for i, matrix in enumerate(keep):
            left[:, i] = (matrix.astype(np.float32) @ data).ravel()
        return np.asarray((turn @ left).T, dtype=float) / n_frames

    def patch_grid(
        self, x: ArrayLike, y: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sample points of patches: first axis outwards from the star, second along.

        Parameters
        ----------
        x, y
            Centres [pixels], shape ``(n,)``.

        Returns
        -------
        x, y
            [pixels], shape ``(n, PATCH, PATCH)``.
        """
        step = _PATCH_FWHM * self.sequence.fwhm / PATCH
        offset = (np.arange(PATCH) - (PATCH - 1) / 2) * step
        center = self.sequence.center
        place = np.asarray(x) - center[0] + 1j * (np.asarray(y) - center[1])
        outwards = (place / np.abs(place))[:, None, None]
        grid = place[:, None, None] + outwards * (
            offset[:, None] + 1j * offset[None, :]
        )
        return grid.real + center[0], grid.imag + center[1]

    def patch(
        self, x: float, y: float, companion: Companion | None = None
    ) -> NDArray[np.float64]:
        """One patch, shape ``(n_ranks, PATCH, PATCH)``, in the cube's unit."""
        radius = float(
            np.hypot(x - self.sequence.center[0], y - self.sequence.center[1])
        )
        ring = float(self.ring_radii[self.ring_of(radius)])
        grid_x, grid_y = self.patch_grid([x], [y])
        return self.sample(ring, grid_x, grid_y, companion)[:, 0]

    def maps(self) -> RankMaps:
        """Reduced images of all rings."""
        n_y, n_x = self._radius.shape
        rows, columns = np.indices((n_y, n_x))
        half = (_PATCH_FWHM / 2 * np.sqrt(2) + 0.25) * self.sequence.fwhm + 2
        images = np.zeros((len(self.ring_radii), len(self.ranks), n_y, n_x))
        for i, radius in enumerate(self.ring_radii):
            near = np.abs(self._radius - radius) <= half
            images[i][:, near] = self.sample(radius, columns[near], rows[near])
        return RankMaps(self, images)


def _taps(where: NDArray[np.float64], size: int) -> tuple[Any, Any]:
    """The four coefficients that a cubic spline needs at a place, and their weights."""
    whole = np.floor(where).astype(int)
    f = where - whole
    weights = np.stack(
        [
            (1 - f) ** 3 / 6,
            (4 - 6 * f**2 + 3 * f**3) / 6,
            (1 + 3 * f + 3 * f**2 - 3 * f**3) / 6,
            f**3 / 6,
        ],
        -1,
    )
    index = whole[..., None] + np.arange(-1, 3)
    return np.clip(index, 0, size - 1), weights


class RankMaps:
    """Reduced images of a sequence, one set of ranks for each ring.

    Parameters
    ----------
    pca
        What made them.
    images
        Shape ``(n_rings, n_ranks, n_y, n_x)``; zero far from the ring.
    """

    def __init__(self, pca: AnnularPCA, images: NDArray[np.float64]) -> None:
        self.pca = pca
        self.sequence = pca.sequence
        self.images = images
        radius = pca._radius
        low, high = self.sequence.inner_radius, self.sequence.outer_radius
        self.valid: NDArray[np.bool_] = (radius >= low) & (radius <= high)
        self.ring: NDArray[np.int64] = pca.ring_of(radius)
        # Robust, so that a companion does not raise its own noise.
        self.median = np.empty(images.shape[:2])
        self.noise = np.empty(images.shape[:2])
        for i, r in enumerate(pca.ring_radii):
            values = images[i][:, np.abs(radius - r) <= 0.5 * self.sequence.fwhm]
            self.median[i] = np.median(values, -1)
            spread = np.median(np.abs(values - self.median[i][:, None]), -1)
            self.noise[i] = 1.4826 * spread + 1e-12 * np.abs(values).max(-1) + 1e-300

    @cached_property
    def positions(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels that are searched, x and y, in order of rows."""
        y, x = np.nonzero(self.valid)
        return x, y

    def scaled(self, patches: NDArray[np.float64], ring: ArrayLike) -> NDArray[Any]:
        """Patches in units of their ring's noise, shape ``(n, n_ranks, ...)``."""
        index = np.asarray(ring)
        return (patches - self.median[index][..., None, None]) / self.noise[index][
            ..., None, None
        ]

    def patches(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float32]:
        """Patches in units of the noise around places of turned frames.

        Parameters
        ----------
        x, y
            [pixels], shape ``(n,)``.

        Returns
        -------
        ndarray
            Shape ``(n, n_ranks, PATCH, PATCH)``.
        """
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        center = self.sequence.center
        ring = self.pca.ring_of(np.hypot(x - center[0], y - center[1]))
        n_ranks = len(self.pca.ranks)
        result = np.empty((len(x), n_ranks, PATCH, PATCH), dtype=np.float32)
        for i in np.unique(ring):
            own = ring == i
            grid_x, grid_y = self.pca.patch_grid(x[own], y[own])
            values = np.stack(
                [
                    ndimage.map_coordinates(image, [grid_y, grid_x], order=3)
                    for image in self.images[i]
                ],
                1,
            )
            result[own] = self.scaled(values, np.full(len(values), i))
        return result
