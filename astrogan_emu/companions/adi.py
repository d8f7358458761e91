"""Angular differential imaging sequences: frames, angles and the star's image.

In such a sequence the field turns around the star from frame to frame while the
speckles of the optics stay. Here it is checked, given one convention of angles, and
companions are put into it; what is done against the speckles is `pca`'s part.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ..errors import FileError, SequenceError
from .star import aperture_flux, fit_fwhm, middle_of, symmetric_about

__all__ = ["ADISequence"]

_CONVENTIONS = {"parallactic": 1.0, "clockwise": -1.0}
_FEWEST_FRAMES = 5


class ADISequence:
    """Frames of one star while the field turns.

    Positions are ``(x, y)`` in pixels, counted from 0 at the centre of the first
    pixel. A position angle is counted from north through east, east to the left of
    north as on the sky.

    Parameters
    ----------
    cube
        Frames, shape ``(n_frames, n_y, n_x)``, any linear unit.
    angles
        By how much each frame is to be turned so that all agree [deg, or a
        `~astropy.units.Quantity`], shape ``(n_frames,)``.
    psf
        Image of the star without a mask, shape ``(m_y, m_x)``, any scale.
    pixel_scale
        Arcseconds per pixel, or a `~astropy.units.Quantity` (angle, or angle per
        pixel).
    center
        ``(x, y)`` of the star behind its mask, the same in all frames, or ``"fit"``
        for the point about which the median frame is most symmetric.
    fwhm
        Of the PSF [pixels]; from a Gaussian fit to it if not given.
    psf_center
        ``(x, y)`` of the star in `psf`; its middle pixel if not given.
    star_flux
        Flux of the star inside a circle of one FWHM diameter, in the unit of `cube`;
        that of `psf`, as if of the same exposure, if not given.
    angle_convention
        ``"parallactic"``: angles turn frames counterclockwise (x to the right, y up),
        as parallactic angles do; ``"clockwise"``: the other way.
    north_offset
        Position angle of the y axis once frames are turned [deg].
    target
        Where the star is on the sky.

    Raises
    ------
    SequenceError
        If lengths or shapes do not fit, values are not finite, the field turns too
        little, or a centre is missing.
    """

    def __init__(
        self,
        cube: ArrayLike,
        angles: Any,
        psf: ArrayLike,
        *,
        pixel_scale: Any,
        center: Any,
        fwhm: float | None = None,
        psf_center: tuple[float, float] | None = None,
        star_flux: float | None = None,
        angle_convention: str = "parallactic",
        north_offset: Any = 0.0,
        target: SkyCoord | None = None,
    ) -> None:
        self.cube = _checked(cube, 3, "the cube", "(n_frames, n_y, n_x)")
        if angle_convention not in _CONVENTIONS:
            raise SequenceError(
                f"angle_convention must be one of {', '.join(_CONVENTIONS)}, got "
                f"{angle_convention!r}"
            )
        turns = np.atleast_1d(np.squeeze(_value(angles, u.deg, "angles")))
        turns = _checked(turns, 1, "the angles", "(n_frames,)").astype(float)
        self.angles: NDArray[np.float64] = _CONVENTIONS[angle_convention] * turns
        if len(self.cube) != len(turns):
            raise SequenceError(
                f"the cube has {len(self.cube)} frames but there are {len(turns)} "
                "angles; give one angle per frame"
            )
        if len(self.cube) < _FEWEST_FRAMES:
            raise SequenceError(
                f"the cube has {len(self.cube)} frames; at least {_FEWEST_FRAMES} are "
                "needed to tell speckles from companions"
            )
        if not np.any(self.cube != self.cube[0]):
            raise SequenceError(
                "all frames are the same; a sequence of single exposures is needed"
            )
        self.pixel_scale = _scale(pixel_scale)
        self.north_offset = float(_value(north_offset, u.deg, "north_offset"))
        if not np.isfinite(self.north_offset):
            raise SequenceError(f"north_offset must be finite, got {north_offset}")
        self.target = target
        image = _checked(psf, 2, "the psf", "(m_y, m_x)").astype(float)
        self.psf_center = middle_of(image, psf_center)
        self.fwhm = fit_fwhm(image, self.psf_center) if fwhm is None else float(fwhm)
        if not 1 <= self.fwhm <= min(image.shape):
            raise SequenceError(
                f"the fwhm is {self.fwhm:.3g} pixels, but must be between 1 and the "
                f"size of the psf, {min(image.shape)}; give fwhm= in pixels"
            )
        flux = aperture_flux(image, self.psf_center, self.fwhm)
        if not flux > 0:
            raise SequenceError(
                f"the psf has flux {flux:.3g} at its centre; not a star"
            )
        # Of unit flux within one FWHM, so that fluxes are those of this aperture.
        self.psf: NDArray[np.float64] = image / flux
        self.star_flux = float(flux if star_flux is None else star_flux)
        if not (np.isfinite(self.star_flux) and self.star_flux > 0):
            raise SequenceError(f"star_flux must be positive, got {star_flux}")
        self.center = self._find_center(center)
        if self.outer_radius <= 1.25 * self.fwhm:
            raise SequenceError(
                f"the frames reach {self.outer_radius:.3g} pixels from the star, "
                "besides 1.5 FWHM at their edge; at least 1.25 FWHM "
                f"({1.25 * self.fwhm:.3g} pixels) are needed: use larger frames"
            )
        if self.inner_radius >= self.outer_radius:
            raise SequenceError(
                f"the field turns by {self.rotation:.3g} deg, which is one FWHM "
                f"({self.fwhm:.3g} pixels) only beyond {self.inner_radius:.3g} pixels, "
                f"while the frames reach {self.outer_radius:.3g}; a companion would "
                "be removed with the speckles: use a longer sequence"
            )

    def __repr__(self) -> str:
        return (
            f"<ADISequence {len(self.cube)} frames of {self.cube.shape[2]} x "
            f"{self.cube.shape[1]} pixels, {self.rotation:.1f} deg, star at "
            f"({self.center[0]:.2f}, {self.center[1]:.2f}), FWHM {self.fwhm:.2f} px>"
        )

    @classmethod
    def read(
        cls,
        cube: str | os.PathLike[str],
        angles: str | os.PathLike[str],
        psf: str | os.PathLike[str],
        **options: Any,
    ) -> ADISequence:
        """Read a sequence from three FITS files; `options` are those of the class.

        Raises
        ------
        FileError
            If a file cannot be read.
        SequenceError
            As the class.
        """
        return cls(_read(cube), _read(angles), _read(psf), **options)

    @classmethod
    def read_eidc(
        cls,
        folder: str | os.PathLike[str],
        instrument: str,
        number: int,
        **options: Any,
    ) -> ADISequence:
        """Read a sequence in the layout of the Exoplanet Imaging Data Challenge.

        The files are ``<instrument>_<kind>_<number>.fits`` with the kinds cube, pa,
        psf and pxscale. There the star is at pixel ``n // 2`` of each axis, in cube
        and PSF, which `center` and `psf_center` can override.

        Raises
        ------
        FileError
            If a file cannot be read.
        SequenceError
            As the class.
        """
        cube, angles, psf, scale = (
            _read(Path(folder) / f"{instrument}_{kind}_{number}.fits")
            for kind in ("cube", "pa", "psf", "pxscale")
        )
        psf = np.squeeze(psf)
        options.setdefault("pixel_scale", float(np.ravel(scale)[0]))
        for name, image in (("center", cube), ("psf_center", psf)):
            n_y, n_x = image.shape[-2:]
            options.setdefault(name, (n_x // 2, n_y // 2))
        return cls(cube, angles, psf, **options)

    @property
    def rotation(self) -> float:
        """Range of the angles [deg]."""
        return float(np.ptp(np.unwrap(self.angles, period=360)))

    @property
    def inner_radius(self) -> float:
        """Least separation that is searched [pixels].

        There the field turns by one FWHM; never less than 1.25 FWHM, where no more
        than seven apertures fit around the star.
        """
        turned = np.deg2rad(max(self.rotation, 1e-6))
        return float(self.fwhm * max(1.25, 1 / turned))

    @property
    def outer_radius(self) -> float:
        """Largest separation whose surroundings stay inside all frames [pixels]."""
        n_y, n_x = self.cube.shape[1:]
        x, y = self.center
        return min(x, y, n_x - 1 - x, n_y - 1 - y) - 1.5 * self.fwhm

    def flip(self) -> ADISequence:
        """The same frames with the angles' signs changed.

        Nothing on the sky adds up when frames are turned the wrong way, while
        speckles and noise do not care: a sequence without companions.
        """
        return self._with(angles=-self.angles)

    def take(self, frames: Any) -> ADISequence:
        """A sequence of some of the frames.

        Parameters
        ----------
        frames
            A slice or indices.
        """
        return self._with(cube=self.cube[frames], angles=self.angles[frames])

    def to_pixel(self, separation: Any, position_angle: Any) -> tuple[float, float]:
        """Pixel, once frames are turned, of a place on the sky.

        Parameters
        ----------
        separation
            [arcsec]
        position_angle
            [deg]

        Returns
        -------
        x, y
            [pixels]
        """
        radius = float(_value(separation, u.arcsec, "separation")) / self.pixel_scale
        angle = float(_value(position_angle, u.deg, "position_angle"))
        if not (0 <= radius < np.inf and np.isfinite(angle)):
            raise SequenceError(
                "a place on the sky needs a separation that is not negative and a "
                f"finite position angle, got {separation} and {position_angle}"
            )
        theta = np.deg2rad(angle - self.north_offset + 90)
        x, y = self.center
        return x + radius * np.cos(theta), y + radius * np.sin(theta)

    def to_sky(self, x: float, y: float) -> tuple[u.Quantity, u.Quantity]:
        """Separation [arcsec] and position angle [deg] of a pixel of turned frames."""
        dx, dy = x - self.center[0], y - self.center[1]
        angle = np.rad2deg(np.arctan2(dy, dx)) - 90 + self.north_offset
        return (
            np.hypot(dx, dy) * self.pixel_scale * u.arcsec,
            (angle % 360) * u.deg,
        )

    def inject(
        self, separation: Any, position_angle: Any, contrast: float
    ) -> ADISequence:
        """A sequence with a companion more (or, of negative contrast, less).

        Parameters
        ----------
        separation
            [arcsec]
        position_angle
            [deg]
        contrast
            Flux of the companion over that of the star.

        Raises
        ------
        SequenceError
            If the place is outside a frame.
        """
        position = self.to_pixel(separation, position_angle)
        n_y, n_x = self.cube.shape[1:]
        x, y = self.track([position[0]], [position[1]])
        lost = np.sum((x < 0) | (x > n_x - 1) | (y < 0) | (y > n_y - 1))
        if lost:
            raise SequenceError(
                f"separation {separation} and position angle {position_angle} are "
                f"outside {lost} of {len(self.cube)} frames; put the companion closer"
            )
        return self.inject_flux(position, contrast * self.star_flux)

    def inject_flux(self, position: tuple[float, float], flux: float) -> ADISequence:
        """As `inject`, at a pixel of turned frames, with a flux in the cube's unit."""
        if not np.isfinite(flux):
            raise SequenceError(f"the flux of a companion must be finite, got {flux}")
        cube = self.cube.copy()
        add_stamps(cube, *self.stamps(position), flux)
        return self._with(cube=cube)

    def track(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Where places of turned frames are in each frame.

        Parameters
        ----------
        x, y
            [pixels], shape ``(n,)``.

        Returns
        -------
        ndarray
            x and y [pixels], shape ``(2, n_frames, n)``.
        """
        offset = np.asarray(x) - self.center[0] + 1j * (np.asarray(y) - self.center[1])
        turned = offset * np.exp(-1j * np.deg2rad(self.angles))[:, None]
        return np.stack([turned.real + self.center[0], turned.imag + self.center[1]])

    def stamps(
        self, position: tuple[float, float], *, spline: bool = False
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """A companion of unit flux in each frame, where it is not zero.

        Parameters
        ----------
        position
            ``(x, y)`` in turned frames.
        spline
            Give cubic-spline coefficients in place of values.

        Returns
        -------
        stamps
            Shape ``(n_frames, m, m)``.
        corners
            x and y of the first pixel of each, shape ``(2, n_frames)``.
        """
        where = self.track([position[0]], [position[1]])[..., 0]
        half = min(min(self.psf.shape) // 2 - 1, int(np.ceil(2.5 * self.fwhm)))
        corners = np.floor(where).astype(int) - half
        pixels = np.arange(2 * half + 2)
        # Rows of the PSF are shifted one axis after the other.
        x = corners[0][:, None] + pixels - where[0][:, None] + self.psf_center[0]
        y = corners[1][:, None] + pixels - where[1][:, None] + self.psf_center[1]
        shape = (len(where[0]), len(pixels), len(pixels))
        grid = [
            np.broadcast_to(y[:, :, None], shape),
            np.broadcast_to(x[:, None, :], shape),
        ]
        values = ndimage.map_coordinates(
            self._psf_spline, grid, order=3, prefilter=False, mode="constant"
        )
        # No step at the edge, which the spline would carry into the frame.
        distance = np.hypot(
            (grid[0] - self.psf_center[1]), (grid[1] - self.psf_center[0])
        )
        values = values * np.clip((half - distance) / self.fwhm * 2, 0, 1)
        if spline:
            for axis in (1, 2):
                values = ndimage.spline_filter1d(values, 3, axis=axis, mode="mirror")
        return values, corners

    @cached_property
    def _psf_spline(self) -> NDArray[np.float64]:
        return np.asarray(ndimage.spline_filter(self.psf, 3), dtype=float)

    def _with(self, **changes: Any) -> ADISequence:
        """A copy with other frames or angles, checked again."""
        settings = {
            **{"cube": self.cube, "angles": self.angles, "psf": self.psf},
            **{"pixel_scale": self.pixel_scale, "center": self.center},
            **{"fwhm": self.fwhm, "psf_center": self.psf_center},
            **{"star_flux": self.star_flux, "north_offset": self.north_offset},
            "target": self.target,
            **changes,
        }
        return ADISequence(**settings)

    def _find_center(self, center: Any) -> tuple[float, float]:
        if isinstance(center, str):
            if center != "fit":
                raise SequenceError(f"center must be (x, y) or 'fit', got {center!r}")
            return symmetric_about(np.median(self.cube, 0), self.fwhm)
        try:
            x, y = (float(value) for value in center)
        except (TypeError, ValueError) as error:
            raise SequenceError(
                f"center must be (x, y) in pixels from 0, or 'fit', got {center!r}"
            ) from error
        n_y, n_x = self.cube.shape[1:]
        if not (0 <= x < n_x and 0 <= y < n_y):
            raise SequenceError(
                f"center ({x:g}, {y:g}) is outside the frames of {n_x} x {n_y} pixels"
            )
        return x, y


def add_stamps(
    frames: NDArray[Any], stamps: NDArray[Any], corners: NDArray[Any], flux: float
) -> None:
    """Add stamps to frames in place; what lies outside is lost."""
    n_y, n_x = frames.shape[1:]
    size = stamps.shape[-1]
    for frame, stamp, (x, y) in zip(frames, stamps, corners.T, strict=True):
        left, low = max(0, -x), max(0, -y)
        right, high = min(size, n_x - x), min(size, n_y - y)
        if left < right and low < high:
            part = frame[y + low : y + high, x + left : x + right]
            part += flux * stamp[low:high, left:right]


def _value(given: Any, unit: u.Unit, name: str) -> Any:
    """A plain number in a unit."""
    if not isinstance(given, u.Quantity):
        return given
    try:
        return given.to_value(unit)
    except u.UnitConversionError as error:
        raise SequenceError(
            f"{name} must be an angle, got the unit {given.unit}"
        ) from error


def _scale(given: Any) -> float:
    if isinstance(given, u.Quantity) and given.unit.is_equivalent(u.arcsec / u.pix):
        given = given.to(u.arcsec / u.pix).value
    scale = float(_value(given, u.arcsec, "pixel_scale"))
    if not (np.isfinite(scale) and scale > 0):
        raise SequenceError(f"pixel_scale must be positive, got {scale}")
    return scale


def _checked(given: Any, n_dim: int, name: str, shape: str) -> NDArray[Any]:
    array = np.asarray(given)
    if array.ndim != n_dim or array.size == 0:
        raise SequenceError(f"{name} must have shape {shape}, got {array.shape}")
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise SequenceError(f"{name} must be real numbers, got {array.dtype}")
    array = array.astype(np.float32 if n_dim == 3 else float)
    if bad := int((~np.isfinite(array)).sum()):
        raise SequenceError(
            f"{name} has {bad} values that are not finite; replace them, or cut the "
            "frames to where there are data"
        )
    return array


def _read(path: str | os.PathLike[str]) -> NDArray[Any]:
    try:
        with fits.open(path) as file:
            for hdu in file:
                if getattr(hdu, "data", None) is not None and hdu.is_image:
                    return np.array(hdu.data, dtype=hdu.data.dtype.newbyteorder("="))
    except (OSError, ValueError, TypeError) as error:
        raise FileError(f"cannot read {os.fspath(path)} as FITS: {error}") from error
    raise FileError(f"{os.fspath(path)} holds no image")
