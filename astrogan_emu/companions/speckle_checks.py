"""Whether drawn speckles are like real ones, before anything learns from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .templates import Speckles

__all__ = ["check_speckles"]


def check_speckles(real: Speckles, patches: NDArray[np.float32]) -> dict[str, Any]:
    """Hold drawn patches to real ones of the same conditions.

    Parameters
    ----------
    real
        Measured patches.
    patches
        One for each of them.

    Returns
    -------
    dict
        By name the largest difference, what is allowed, and, under ``"passed"``,
        whether all are: the ratio of standard deviations less 1 in three ranges of
        separation (0.1), the autocorrelation at lags of 1 to 3 samples (0.05), the
        correlation between ranks (0.1), the kurtosis (0.3).
    """
    order = np.argsort(real.conditions[:, 0], kind="stable")
    a, b = real.patches, patches
    std = [
        float(np.std(b[part]) / np.std(a[part]) - 1)
        for part in np.array_split(order, 3)
    ]
    differences = {
        "std": (max(map(abs, std)), 0.1),
        "autocorrelation": (
            float(np.abs(_autocorrelation(b) - _autocorrelation(a)).max()),
            0.05,
        ),
        "rank_correlation": (
            float(np.abs(_rank_correlation(b) - _rank_correlation(a)).max()),
            0.1,
        ),
        "kurtosis": (abs(_kurtosis(b) - _kurtosis(a)), 0.3),
    }
    passed = all(found <= allowed for found, allowed in differences.values())
    return {**differences, "passed": passed}


def _autocorrelation(x: NDArray[np.float32]) -> NDArray[np.float64]:
    x = x - x.mean()
    lags = [(x[..., lag:, :] * x[..., :-lag, :]).mean() for lag in (1, 2, 3)]
    lags += [(x[..., lag:] * x[..., :-lag]).mean() for lag in (1, 2, 3)]
    return np.array(lags) / x.var()


def _rank_correlation(x: NDArray[np.float32]) -> NDArray[Any]:
    return np.atleast_1d(np.corrcoef(x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1)))


def _kurtosis(x: NDArray[np.float32]) -> float:
    x = (x - x.mean()).astype(float)
    return float((x**4).mean() / (x**2).mean() ** 2)
