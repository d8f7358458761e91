"""False-alarm probabilities from what a detector says where there are no companions.

A score becomes a probability by comparison with the local maxima of a map without
companions, made by detectors that did not learn from the places they score there: the
field is cut into sectors around the star, and each is scored by the detector that was
trained on the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats

from ..errors import SequenceError

__all__ = ["NullDistribution", "local_maxima", "sector_of", "uniformity"]

SECTORS = 4
# Share of the maxima from which on the tail is a law rather than a count.
_TAIL = 0.15
_FEWEST = 20


def sector_of(
    x: ArrayLike, y: ArrayLike, center: tuple[float, float], n: int = SECTORS
) -> NDArray[np.int64]:
    """Number of the sector around the star in which a place lies."""
    theta = np.arctan2(np.asarray(y) - center[1], np.asarray(x) - center[0])
    return np.minimum((theta % (2 * np.pi)) / (2 * np.pi) * n, n - 1).astype(int)


def local_maxima(
    values: NDArray[Any], fwhm: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels that no other within three quarters of a FWHM exceeds.

    Parameters
    ----------
    values
        A map; NaN where nothing is searched.
    fwhm
        [pixels]

    Returns
    -------
    x, y
        From the highest down.
    """
    reach = 0.75 * fwhm
    size = np.arange(-int(reach), int(reach) + 1)
    near = np.hypot(size[:, None], size[None, :]) <= reach
    filled = np.where(np.isfinite(values), values, -np.inf)
    highest = ndimage.maximum_filter(
        filled, footprint=near, mode="constant", cval=-np.inf
    )
    y, x = np.nonzero((filled == highest) & np.isfinite(values))
    order = np.argsort(-values[y, x], kind="stable")
    return x[order], y[order]


@dataclass(frozen=True)
class NullDistribution:
    """Scores of the local maxima of a map without companions.

    Up to the highest 15 % their own counts say how rare a score is; beyond, an
    exponential law through them, towards which the maxima of light-tailed noise tend,
    as long as the excesses are not heavier than that: then a generalised Pareto law
    (Coles 2001, section 4.2), by their first two moments.

    Parameters
    ----------
    scores
        Sorted.
    threshold, scale, shape
        Of the tail.
    """

    scores: NDArray[np.float64]
    threshold: float
    scale: float
    shape: float

    @classmethod
    def fit(cls, scores: ArrayLike) -> NullDistribution:
        """Learn from the scores of local maxima.

        Raises
        ------
        SequenceError
            If there are fewer than 20.
        """
        ordered = np.sort(np.asarray(scores, dtype=float))
        if len(ordered) < _FEWEST:
            raise SequenceError(
                f"the field has {len(ordered)} independent places, fewer than the "
                f"{_FEWEST} that false alarms can be learned from; use larger frames"
            )
        n_tail = max(_FEWEST // 2, int(_TAIL * len(ordered)))
        threshold = ordered[-n_tail - 1]
        excess = ordered[-n_tail:] - threshold
        mean, variance = excess.mean(), excess.var(ddof=1)
        shape = 0.5 * (1 - mean**2 / variance) if variance > 0 else 0.0
        # Not lighter than exponential, which would rule out what was never tried.
        shape = float(np.clip(shape, 0.0, 0.4))
        return cls(ordered, float(threshold), float(mean * (1 - shape)), shape)

    def survival(self, score: ArrayLike) -> NDArray[np.float64]:
        """Probability that a local maximum of noise reaches a score."""
        score = np.asarray(score, dtype=float)
        n = len(self.scores)
        above = n - np.searchsorted(self.scores, score, side="left")
        counted = (above + 0.5) / (n + 1)
        start = float(np.sum(self.scores > self.threshold) + 0.5) / (n + 1)
        tail = start * stats.genpareto.sf(
            score - self.threshold, self.shape, scale=max(self.scale, 1e-12)
        )
        return np.where(score > self.threshold, tail, counted)

    def map_probability(self, score: ArrayLike) -> NDArray[np.float64]:
        """Probability that the highest of a map of noise reaches a score."""
        expected = len(self.scores) * self.survival(score)
        return -np.expm1(-expected)

    def score_at(self, map_probability: float) -> float:
        """Score that a map of noise reaches with a given probability."""
        low, high = float(self.scores[0]), self.threshold + 1e4 * max(self.scale, 1e-9)
        for _ in range(200):
            middle = 0.5 * (low + high)
            if self.map_probability(middle) > map_probability:
                low = middle
            else:
                high = middle
        return high


def uniformity(
    scores: ArrayLike, groups: ArrayLike
) -> tuple[float, NDArray[np.float64]]:
    """How uniform false-alarm probabilities are on noise.

    Parameters
    ----------
    scores
        Of local maxima without companions.
    groups
        Each group is judged by a distribution learned from the others.

    Returns
    -------
    p_value
        Of the Kolmogorov-Smirnov test.
    probabilities
        Of each maximum.
    """
    scores, groups = np.asarray(scores), np.asarray(groups)
    result = np.empty(len(scores))
    for group in np.unique(groups):
        own = groups == group
        result[own] = NullDistribution.fit(scores[~own]).survival(scores[own])
    return float(stats.kstest(result, "uniform").pvalue), result
