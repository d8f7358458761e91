"""How many companions a search would find: the completeness of its candidates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import astropy.units as u
import numpy as np
from astropy.stats import binom_conf_interval
from astropy.table import QTable
from numpy.typing import ArrayLike, NDArray

from ..errors import SequenceError
from .adi import ADISequence
from .detection import Search, check_choices, search
from .detector import DetectorConfig
from .pca import Companion
from .snr import snr_at
from .speckle import SpeckleGANConfig
from .templates import Speckles, conditions_at

__all__ = ["completeness"]


def completeness(
    sequence: ADISequence,
    contrasts: ArrayLike,
    separations: Any = None,
    *,
    count: int = 20,
    noise: str = "real",
    score: str = "cnn",
    seed: int = 0,
    max_fap: float = 0.01,
    known_sources: Iterable[tuple[Any, Any]] = (),
    detector: DetectorConfig | None = None,
    gan: SpeckleGANConfig | None = None,
) -> QTable:
    """Share of companions that a search finds, by separation and contrast.

    Companions are put into the frames one at a time, evenly spread around the star,
    and the frames are reduced anew for each. One is found if its pixel scores above
    what noise reaches anywhere in the map with a probability of `max_fap`. Places
    within 2 FWHM of a candidate of the sequence itself are left out.

    Parameters
    ----------
    sequence
        The frames.
    contrasts
        Fluxes of companions over that of the star.
    separations
        [arcsec, or a `~astropy.units.Quantity`]; those of the rings of the reduction
        if not given.
    count
        Companions for each separation and contrast.
    noise, score, seed, max_fap, known_sources, detector, gan
        As in `detect_companions`; places of known sources are left out too.

    Returns
    -------
    QTable
        For each separation and contrast: the completeness, the bounds of its 68 %
        confidence interval (Wilson 1927) as completeness_low and completeness_high,
        and the number of injections; NaN where there was no place for one.

    Raises
    ------
    SequenceError
        If a choice cannot be used, or a separation is not searched.
    TrainingError
        If the GAN's samples are not like the speckles.
    """
    check_choices(noise, score, max_fap, seed)
    if count < 1:
        raise SequenceError(f"count must be at least 1, got {count}")
    bright = np.atleast_1d(np.asarray(contrasts, dtype=float))
    if bright.ndim != 1 or not np.all(np.isfinite(bright) & (bright > 0)):
        raise SequenceError(f"contrasts must be positive numbers, got {contrasts!r}")
    found = search(
        sequence, noise=noise, score=score, seed=seed, detector=detector, gan=gan
    )
    radii = _radii(found, separations)
    taken = [sequence.to_pixel(*place) for place in known_sources]
    x, y, _ = found.peaks(max_fap)
    taken += list(zip(x, y, strict=True))
    threshold = found.distribution.score_at(max_fap)
    rng = np.random.default_rng((seed, 5))
    rows = []
    for radius in radii:
        places = _places(sequence, radius, count, taken, rng)
        for contrast in bright:
            flux = float(contrast) * sequence.star_flux
            hits = _scores(found, places, flux, score) > threshold
            share, low, high = _share(int(hits.sum()), len(hits))
            rows.append((radius, contrast, share, low, high, len(hits)))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return QTable(
        {
            "separation": columns[0] * sequence.pixel_scale * u.arcsec,
            "contrast": columns[1],
            "completeness": columns[2],
            "completeness_low": columns[3],
            "completeness_high": columns[4],
            "injections": columns[5],
        }
    )


def _radii(found: Search, separations: Any) -> NDArray[np.float64]:
    """Separations in pixels, all of them searched."""
    sequence = found.maps.sequence
    if separations is None:
        return found.maps.pca.ring_radii
    wanted = u.Quantity(separations, u.arcsec, ndmin=1).to_value(u.arcsec)
    low, high = (
        r * sequence.pixel_scale for r in (sequence.inner_radius, sequence.outer_radius)
    )
    if not np.all((wanted >= low) & (wanted <= high)):
        raise SequenceError(
            f"separations must be within what is searched, {low:.4g} to {high:.4g} "
            f"arcsec, got {wanted}"
        )
    return np.asarray(wanted / sequence.pixel_scale, dtype=float)


def _places(
    sequence: ADISequence,
    radius: float,
    count: int,
    taken: list[tuple[float, float]],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Places around the star, far from others, shape ``(n, 2)``."""
    theta = 2 * np.pi * (np.arange(count) + rng.random()) / count
    x = sequence.center[0] + radius * np.cos(theta)
    y = sequence.center[1] + radius * np.sin(theta)
    free = np.ones(count, dtype=bool)
    for at_x, at_y in taken:
        free &= np.hypot(x - at_x, y - at_y) > 2 * sequence.fwhm
    return np.stack([x, y], 1)[free]


def _scores(
    found: Search, places: NDArray[np.float64], flux: float, score: str
) -> NDArray[np.float64]:
    """Scores of companions, each at the pixel nearest to it."""
    maps, pca = found.maps, found.maps.pca
    center = maps.sequence.center
    pixels = np.round(places)
    radius = np.hypot(pixels[:, 0] - center[0], pixels[:, 1] - center[1])
    companions = [Companion(float(x), float(y), flux) for x, y in places]
    sources = [
        (float(x), float(y), companion)
        for (x, y), companion in zip(pixels, companions, strict=True)
    ]
    if score == "snr":
        only = [found.rank]
        return np.array([snr_at(pca, x, y, c, only=only)[0] for x, y, c in sources])
    if not sources:
        return np.empty(0)
    patches = np.stack([pca.patch(x, y, c) for x, y, c in sources])
    scaled = maps.scaled(patches, pca.ring_of(radius)).astype(np.float32)
    told = conditions_at(pca, radius)
    return found.learned.score(Speckles(scaled, told, pixels[:, 0], pixels[:, 1]))


def _share(hits: int, count: int) -> tuple[float, float, float]:
    if not count:
        return (np.nan,) * 3
    low, high = binom_conf_interval(hits, count, interval="wilson")
    share = hits / count
    # Of none or all of them the bound is off by rounding.
    return share, min(float(low), share), max(float(high), share)
