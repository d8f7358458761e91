"""Where a companion is and how bright: the one that, taken away, leaves only noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .pca import Companion, RankMaps
from .templates import Templates

__all__ = ["Measurement", "measure"]

_ROUNDS = 5


@dataclass(frozen=True)
class Measurement:
    """Place [pixels] and flux of a companion; whether the search settled."""

    x: float
    y: float
    flux: float
    settled: bool


def measure(maps: RankMaps, templates: Templates, x: float, y: float) -> Measurement:
    """Fit a companion by putting its negative into the frames (Lagrange et al. 2010).

    The sum of squares of the reduced patch, in units of the noise, at the ranks where
    companions are seen best, is made least by Gauss-Newton steps in place and flux;
    the frames are reduced anew for each, so nothing that the reduction does to a
    companion has to be known.

    Parameters
    ----------
    maps
        Reduced images.
    templates
        Companions to start from.
    x, y
        Where one was seen [pixels].

    Returns
    -------
    Measurement
        The companion.
    """
    pca, center = maps.pca, maps.sequence.center
    radius = float(np.hypot(x - center[0], y - center[1]))
    ring = int(pca.ring_of(radius))
    mean_snr = templates.snr.mean(0)
    best = sorted(np.argsort(-mean_snr)[:4].tolist())
    grid_x, grid_y = pca.patch_grid([x], [y])
    noise = maps.noise[ring][best][:, None]

    def left(companion: Companion | None) -> NDArray[np.float64]:
        values = pca.sample(
            float(pca.ring_radii[ring]), grid_x, grid_y, companion, only=best
        )
        values = values.reshape(len(best), -1) - maps.median[ring][best][:, None]
        return (values / noise).ravel()

    near = np.argsort(np.abs(templates.radius - radius))[:9]
    shape = np.median(templates.patches[near][:, best], 0).ravel()
    unit = float(np.median(templates.flux[near]))
    seen = left(None)
    ratio = max(float(seen @ shape / (shape @ shape)), 1.0)
    place = np.array([x, y, ratio * unit])
    step = np.array([0.2, 0.2, 0.0])
    settled = False
    for _ in range(_ROUNDS):
        step[2] = 0.1 * abs(place[2]) + 0.1 * unit
        now = left(Companion(place[0], place[1], -place[2]))
        slopes = []
        for i in range(3):
            other = place.copy()
            other[i] += step[i]
            moved = left(Companion(other[0], other[1], -other[2]))
            slopes.append((moved - now) / step[i])
        change, *_ = np.linalg.lstsq(np.stack(slopes, 1), -now, rcond=None)
        # A faint source must not run away from where it was seen.
        reach = 0.3 * maps.sequence.fwhm
        change[:2] = np.clip(change[:2], -reach, reach)
        place = place + change
        place[:2] = np.clip(
            place[:2], [x - 2 * reach, y - 2 * reach], [x + 2 * reach, y + 2 * reach]
        )
        settled = bool(
            np.hypot(*change[:2]) < 0.05
            and abs(change[2]) < 0.02 * unit + 0.01 * abs(place[2])
        )
        if settled:
            break
    return Measurement(float(place[0]), float(place[1]), float(place[2]), settled)
