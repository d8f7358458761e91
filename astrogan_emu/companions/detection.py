"""Looking for companions: from a sequence to maps, candidates and limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import astropy.units as u
import numpy as np
from astropy.nddata import NDData
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy import stats

from ..errors import SequenceError
from .adi import ADISequence
from .calibration import (
    SECTORS,
    NullDistribution,
    local_maxima,
    sector_of,
    uniformity,
)
from .detector import CompanionDetector, DetectorConfig
from .pca import AnnularPCA, RankMaps
from .photometry import measure
from .results import CompanionDetections
from .snr import n_apertures, significance, snr_map
from .speckle import NOISES, SpeckleGAN, SpeckleGANConfig, noise_pool
from .templates import Speckles, Templates

__all__ = [
    "Learned",
    "Search",
    "check_choices",
    "detect_companions",
    "learn",
    "search",
]

Scorer = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]
SCORES = ("cnn", "critic", "snr")
_TEMPLATES = 200


@dataclass(frozen=True)
class Learned:
    """What was learned from a sequence: one scorer for each sector of its field.

    Parameters
    ----------
    scorers
        Each of patches and conditions; learned from the other sectors.
    templates
        Companions, as the reduction shows them.
    speckles
        Patches without companions.
    null
        Reduced images without companions.
    """

    scorers: tuple[Scorer, ...]
    templates: Templates
    speckles: Speckles
    null: RankMaps

    def score(self, speckles: Speckles) -> NDArray[np.float64]:
        """Scores of patches, each by the scorer that did not see its sector."""
        center = self.null.sequence.center
        sector = sector_of(speckles.x, speckles.y, center)
        result = np.empty(len(sector))
        for i, scorer in enumerate(self.scorers):
            own = sector == i
            result[own] = scorer(speckles.patches[own], speckles.conditions[own])
        return result


def learn(
    null: RankMaps,
    *,
    noise: str = "real",
    score: str = "cnn",
    seed: int = 0,
    templates: Templates | None = None,
    detector: DetectorConfig | None = None,
    gan: SpeckleGANConfig | None = None,
    strict: bool = True,
) -> Learned:
    """Learn what companions look like from a sequence without any.

    Parameters
    ----------
    null
        Reduced images of a flipped sequence.
    noise, score, seed, detector, gan
        As in `detect_companions`; a score ``"snr"`` has nothing to learn.
    templates
        Companions; made if not given.
    strict
        Refuse a GAN whose samples are not like the speckles.

    Returns
    -------
    Learned
        One scorer for each sector.
    """
    if templates is None:
        # The ratio learns from them its rank alone.
        count = _TEMPLATES if score != "snr" else _TEMPLATES // 4
        templates = Templates.make(null, count, np.random.default_rng((seed, 0)))
    speckles = Speckles.of(null)
    center, fwhm = null.sequence.center, null.sequence.fwhm
    scorers: list[Scorer] = []
    for sector in range(SECTORS if score != "snr" else 0):
        mine = speckles.where(_away_from(speckles, sector, center, fwhm))
        own_seed = seed * SECTORS + sector
        if score == "critic":
            scorers.append(SpeckleGAN.fit(mine, seed=own_seed, config=gan).score)
            continue
        pool = noise_pool(noise, mine, seed=own_seed, config=gan, strict=strict)
        trained = CompanionDetector.train(
            _draws(pool), templates, seed=own_seed, config=detector
        )
        scorers.append(trained.score)
    return Learned(tuple(scorers), templates, speckles, null)


def _draws(
    pool: Speckles,
) -> Callable[[int, np.random.Generator], tuple[Any, Any]]:
    def draw(count: int, rng: np.random.Generator) -> tuple[Any, Any]:
        chosen = rng.integers(len(pool.patches), size=count)
        return pool.patches[chosen], pool.conditions[chosen]

    return draw


def _away_from(
    speckles: Speckles, sector: int, center: tuple[float, float], fwhm: float
) -> NDArray[np.bool_]:
    """Patches whose middle is not within a FWHM of a sector."""
    away = np.ones(len(speckles.x), dtype=bool)
    turns = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    ring = fwhm * np.cos(turns), fwhm * np.sin(turns)
    for dx, dy in [(0.0, 0.0), *zip(*ring, strict=True)]:
        away &= sector_of(speckles.x + dx, speckles.y + dy, center) != sector
    return away


@dataclass(frozen=True)
class Search:
    """A sequence, what was learned from it, and what that says of its pixels.

    Parameters
    ----------
    maps
        Reduced images.
    learned
        What was learned.
    rank
        Index of the rank of the signal-to-noise ratio.
    values, ratio
        Score and signal-to-noise ratio, shape ``(n_y, n_x)``; NaN where nothing is
        searched.
    null_values
        Score without companions.
    """

    maps: RankMaps
    learned: Learned
    rank: int
    values: NDArray[np.float64]
    ratio: NDArray[np.float64]
    null_values: NDArray[np.float64]

    @cached_property
    def null_maxima(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels, x and y, of the local maxima without companions."""
        return local_maxima(self.null_values, self.maps.sequence.fwhm)

    @cached_property
    def distribution(self) -> NullDistribution:
        """Of the scores of these."""
        x, y = self.null_maxima
        return NullDistribution.fit(self.null_values[y, x])

    def peaks(
        self, max_fap: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Local maxima, x and y, that noise seldom reaches, and how seldom."""
        x, y = local_maxima(self.values, self.maps.sequence.fwhm)
        fap = self.distribution.map_probability(self.values[y, x])
        rare = fap < max_fap
        return x[rare], y[rare], fap[rare]


def search(
    sequence: ADISequence,
    *,
    noise: str = "real",
    score: str = "cnn",
    seed: int = 0,
    detector: DetectorConfig | None = None,
    gan: SpeckleGANConfig | None = None,
) -> Search:
    """Learn from a sequence and score its pixels; parameters of `detect_companions`."""
    maps, null = AnnularPCA(sequence).maps(), AnnularPCA(sequence.flip()).maps()
    learned = learn(
        null, noise=noise, score=score, seed=seed, detector=detector, gan=gan
    )
    rank = learned.templates.best_rank
    ratio = snr_map(maps)[rank]
    if score == "snr":
        return Search(maps, learned, rank, ratio, ratio, snr_map(null)[rank])
    values = _map(maps, learned.score(Speckles.of(maps)))
    null_values = _map(null, learned.score(learned.speckles))
    return Search(maps, learned, rank, values, ratio, null_values)


def detect_companions(
    cube: Any,
    angles: Any = None,
    psf: Any = None,
    *,
    noise: str = "real",
    score: str = "cnn",
    seed: int = 0,
    max_fap: float = 0.01,
    known_sources: Iterable[tuple[Any, Any]] = (),
    detector: DetectorConfig | None = None,
    gan: SpeckleGANConfig | None = None,
    **sequence: Any,
) -> CompanionDetections:
    """Look for faint companions of a star in an angular differential sequence.

    A detector learns from the sequence itself: speckles with the angles' signs
    changed, so that companions do not add up, and companions that are put into it.
    False-alarm probabilities come from parts of the field that it did not learn from.

    Parameters
    ----------
    cube
        Frames, shape ``(n_frames, n_y, n_x)``, or an `ADISequence`.
    angles, psf
        As in `ADISequence`, if `cube` is not one.
    noise
        What the detector learns speckles from: ``"real"``, the sequence's own;
        ``"gaussian"`` or ``"gan"``, drawn from a model of them; ``"gan+real"``.
    score
        ``"cnn"``, the detector's; ``"critic"``, how unlike speckles a patch is to the
        GAN's critic; ``"snr"``, the signal-to-noise ratio, without learning.
    seed
        Of everything random; the same seed gives the same maps and tables.
    max_fap
        A candidate is what noise would exceed anywhere in the map with less than this
        probability.
    known_sources
        Separation [arcsec] and position angle [deg] of companions that are known:
        candidates there are flagged.
    detector, gan
        Choices of the trainings.
    **sequence
        As in `ADISequence`, `pixel_scale` and `center` at least, if `cube` is not one.

    Returns
    -------
    CompanionDetections
        Maps, candidates and contrast limits.

    Raises
    ------
    SequenceError
        If the sequence, or a choice, cannot be used.
    TrainingError
        If the GAN's samples are not like the speckles.
    """
    check_choices(noise, score, max_fap, seed)
    if isinstance(cube, ADISequence):
        if angles is not None or psf is not None or sequence:
            raise SequenceError(
                "angles, psf and settings are part of the ADISequence that was given; "
                "leave them out"
            )
        adi = cube
    else:
        if (
            angles is None
            or psf is None
            or not {"pixel_scale", "center"} <= {*sequence}
        ):
            raise SequenceError(
                "give angles, psf, pixel_scale= and center= (x and y in pixels from 0, "
                "or 'fit') with the cube"
            )
        adi = ADISequence(cube, angles, psf, **sequence)
    known = [adi.to_pixel(*place) for place in known_sources]
    found = search(adi, noise=noise, score=score, seed=seed, detector=detector, gan=gan)
    maps, distribution = found.maps, found.distribution
    x, y = found.null_maxima
    scores = found.null_values[y, x]
    fap = np.where(maps.valid, distribution.map_probability(found.values), np.nan)
    meta = {
        **{"version": version("astrogan-emu"), "noise": noise, "score": score},
        **{"seed": seed, "max_fap": max_fap, "rank": maps.pca.ranks[found.rank]},
        **{"ranks": list(maps.pca.ranks), "n_frames": len(adi.cube)},
        **{"rotation": adi.rotation, "fwhm": adi.fwhm, "star_flux": adi.star_flux},
        **{"center": list(adi.center), "pixel_scale": adi.pixel_scale},
        "north_offset": adi.north_offset,
        "separations": [r * adi.pixel_scale for r in _search_range(adi)],
        "threshold": distribution.score_at(max_fap),
        "tail_shape": distribution.shape,
        "null_maxima": len(scores),
        "null_uniformity": uniformity(scores, sector_of(x, y, adi.center))[0],
        "detector": asdict(detector or DetectorConfig()) if score == "cnn" else {},
    }
    wcs = _wcs(adi)

    def data(array: NDArray[Any]) -> NDData:
        return NDData(array, mask=~maps.valid, wcs=wcs, meta=dict(meta))

    return CompanionDetections(
        detection_map=data(found.values),
        snr_map=data(found.ratio),
        fap_map=data(fap),
        candidates=_candidates(found, max_fap, known),
        limits=_limits(found, distribution.score_at(max_fap), score, seed),
        meta=meta,
    )


def check_choices(noise: str, score: str, max_fap: float, seed: int) -> None:
    """Refuse, before any work, what `detect_companions` does not offer."""
    for name, value, allowed in (("noise", noise, NOISES), ("score", score, SCORES)):
        if value not in allowed:
            raise SequenceError(
                f"{name} must be one of {', '.join(allowed)}, got {value!r}"
            )
    if not 0 < max_fap < 1:
        raise SequenceError(f"max_fap must be between 0 and 1, got {max_fap}")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise SequenceError(f"seed must be a whole number from 0, got {seed!r}")


def _search_range(adi: ADISequence) -> tuple[float, float]:
    return adi.inner_radius, adi.outer_radius


def _map(maps: RankMaps, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.full(maps.valid.shape, np.nan)
    result[maps.valid] = scores
    return result


def _candidates(
    searched: Search, max_fap: float, known: list[tuple[float, float]]
) -> QTable:
    maps, values, ratio = searched.maps, searched.values, searched.ratio
    adi = maps.sequence
    rows: list[dict[str, Any]] = []
    for x, y, fap in zip(*searched.peaks(max_fap), strict=True):
        # The brightest first, each only once: wings are no companions of their own.
        if any(np.hypot(x - r["x"], y - r["y"]) < 1.5 * adi.fwhm for r in rows):
            continue
        found = measure(maps, searched.learned.templates, float(x), float(y))
        separation, angle = adi.to_sky(found.x, found.y)
        radius = float(np.hypot(x - adi.center[0], y - adi.center[1]))
        snr = float(ratio[y, x])
        flags = []
        if any(np.hypot(x - a, y - b) < adi.fwhm for a, b in known):
            flags.append("known")
        if not found.settled:
            flags.append("flux not settled")
        if found.flux <= 0:
            flags.append("no positive flux")
        low, high = _search_range(adi)
        if min(radius - low, high - radius) < 0.5 * adi.fwhm:
            flags.append("edge of the search")
        contrast = found.flux / adi.star_flux
        rows.append(
            {
                **{"x": found.x, "y": found.y, "separation": separation},
                **{"position_angle": angle, "snr": snr},
                "significance": float(significance(snr, radius, adi.fwhm)),
                **{"score": float(values[y, x]), "fap_map": float(fap)},
                **{"contrast": contrast, "contrast_error": abs(contrast / snr)},
                "flags": ", ".join(flags),
            }
        )
    if rows:
        return QTable(rows)
    columns: dict[str, Any] = {"x": float, "y": float, "separation": u.arcsec}
    columns |= {"position_angle": u.deg}
    names = ("snr", "significance", "score", "fap_map", "contrast", "contrast_error")
    columns |= dict.fromkeys(names, float)
    empty = QTable()
    for name, kind in columns.items():
        empty[name] = [] * kind if isinstance(kind, u.UnitBase) else np.empty(0)
    empty["flags"] = np.empty(0, dtype="U1")
    return empty


def _limits(searched: Search, threshold: float, score: str, seed: int) -> QTable:
    """Contrasts at which companions are seen, ring by ring."""
    adi, learned, rank = searched.maps.sequence, searched.learned, searched.rank
    templates, null = learned.templates, learned.null
    radii = null.pca.ring_radii
    rng = np.random.default_rng((seed, 4))
    center = adi.center
    radius = np.hypot(learned.speckles.x - center[0], learned.speckles.y - center[1])
    ring = null.pca.ring_of(radius)
    unit, five, half = np.empty((3, len(radii)))
    for i, r in enumerate(radii):
        near = np.argsort(np.abs(templates.radius - r))[:9]
        unit[i] = np.median(templates.flux[near])
        # Student's distribution is wider than the Gaussian where apertures are few.
        freedom = int(n_apertures(r, adi.fwhm)) - 2
        wanted = stats.t.isf(stats.norm.sf(5), freedom)
        at_rank = max(float(np.median(templates.snr[near, rank])), 1e-6)
        five[i] = wanted * unit[i] / at_rank
        if score == "snr":
            half[i] = threshold * unit[i] / at_rank
            continue
        own = rng.choice(np.flatnonzero(ring == i), 48)
        half[i] = unit[i] * _half_complete(learned, own, near, threshold, rng)
    return QTable(
        {
            "separation": radii * adi.pixel_scale * u.arcsec,
            "contrast_5sigma": five / adi.star_flux,
            "contrast_50": half / adi.star_flux,
        }
    )


def _half_complete(
    learned: Learned,
    own: NDArray[np.int64],
    near: NDArray[np.int64],
    threshold: float,
    rng: np.random.Generator,
) -> float:
    """Signal-to-noise ratio at which half of the companions pass a threshold."""
    ratios = np.arange(0.0, 16.1, 1.0)
    chosen = near[rng.integers(len(near), size=len(own))]
    speckles = learned.speckles
    shares = []
    for ratio in ratios:
        added = (ratio * learned.templates.patches[chosen]).astype(np.float32)
        told = speckles.conditions[own]
        patches = Speckles(
            speckles.patches[own] + added, told, speckles.x[own], speckles.y[own]
        )
        shares.append(np.mean(learned.score(patches) > threshold))
    found = np.maximum.accumulate(shares)
    if found[-1] < 0.5:
        return float("nan")
    return float(np.interp(0.5, found, ratios))


def _wcs(adi: ADISequence) -> WCS:
    """The sky if the star's place is known, else offsets from it, in degrees."""
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [adi.center[0] + 1, adi.center[1] + 1]
    scale = adi.pixel_scale / 3600
    phi = np.deg2rad(adi.north_offset)
    wcs.wcs.pc = [[np.cos(phi), -np.sin(phi)], [np.sin(phi), np.cos(phi)]]
    wcs.wcs.cdelt = [-scale, scale]
    wcs.wcs.cunit = ["deg", "deg"]
    if adi.target is None:
        wcs.wcs.cname = ["offset to the east", "offset to the north"]
        wcs.wcs.ctype = ["XOFFSET", "YOFFSET"]
    else:
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [adi.target.icrs.ra.deg, adi.target.icrs.dec.deg]
        wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs
