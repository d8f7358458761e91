"""The star's image: where it is, how wide, how bright, and the middle of its halo."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize, signal

from ..errors import SequenceError

__all__ = ["aperture_flux", "fit_fwhm", "middle_of", "symmetric_about"]


def middle_of(
    psf: NDArray[np.float64], center: tuple[float, float] | None
) -> tuple[float, float]:
    """Pixel of the star in its own image: the middle one if not given.

    Raises
    ------
    SequenceError
        If there is no middle pixel, or the star is not there.
    """
    n_y, n_x = psf.shape
    if center is None:
        if n_x % 2 == 0 or n_y % 2 == 0:
            raise SequenceError(
                f"the psf has {n_x} x {n_y} pixels, and an even number has no middle "
                "pixel; give psf_center=(x, y), or cut it to an odd size"
            )
        center = (n_x // 2, n_y // 2)
    y, x = np.unravel_index(int(np.argmax(psf)), psf.shape)
    if max(abs(x - center[0]), abs(y - center[1])) > 1.5:
        raise SequenceError(
            f"the psf is brightest at ({x}, {y}), not at its centre ({center[0]:g}, "
            f"{center[1]:g}); give psf_center=(x, y), or cut it around the star"
        )
    return float(center[0]), float(center[1])


def fit_fwhm(psf: NDArray[np.float64], center: tuple[float, float]) -> float:
    """FWHM of the round Gaussian that fits the core."""
    y, x = np.indices(psf.shape)
    radius = np.hypot(x - center[0], y - center[1])
    peak = psf[np.round(center[1]).astype(int), np.round(center[0]).astype(int)]
    below = radius[psf < peak / 2]
    if not (peak > 0 and below.size):
        raise SequenceError("the psf does not fall to half its peak; give fwhm=")
    core = radius <= max(2.5, 2 * float(below.min()))
    value, distance = psf[core], radius[core]

    def misfit(p: NDArray[np.float64]) -> NDArray[np.float64]:
        return p[0] * np.exp(-0.5 * (distance / p[1]) ** 2) + p[2] - value

    start = [peak, float(below.min()) / 1.18, 0.0]
    fit = optimize.least_squares(misfit, start, x_scale=np.abs(start) + peak * 1e-3)
    return float(2 * np.sqrt(2 * np.log(2)) * abs(fit.x[1]))


def aperture_flux(
    image: NDArray[np.float64], center: tuple[float, float], fwhm: float
) -> float:
    """Flux in a circle of one FWHM diameter, by a fine grid on the spline."""
    step = 0.1
    offsets = np.arange(-fwhm / 2, fwhm / 2 + step, step)
    dx, dy = (part.ravel() for part in np.meshgrid(offsets, offsets))
    inside = np.hypot(dx, dy) <= fwhm / 2
    where = [center[1] + dy[inside], center[0] + dx[inside]]
    mean = ndimage.map_coordinates(image, where, order=3).mean()
    return float(mean * np.pi * (fwhm / 2) ** 2)


def symmetric_about(image: NDArray[Any], fwhm: float) -> tuple[float, float]:
    """The point about which an image is most like itself turned by 180 degrees."""
    image = np.asarray(image, dtype=float)
    smooth = ndimage.gaussian_filter(image, fwhm / 2)
    # Speckles count, not only the brightest.
    flat = np.arcsinh(smooth / (np.median(np.abs(smooth - np.median(smooth))) + 1e-30))
    flat -= flat.mean()
    n_y, n_x = flat.shape
    # Of the image with its mirror image: a peak at twice the centre.
    paired = signal.fftconvolve(flat, flat)
    y, x = np.unravel_index(int(np.argmax(paired)), paired.shape)
    start = np.array([x / 2, y / 2])
    spline = ndimage.spline_filter(flat, 3)
    rows, columns = np.indices(flat.shape)
    reach = min(*start, n_x - 1 - start[0], n_y - 1 - start[1]) - 3
    if reach < 2 * fwhm:
        raise SequenceError(
            f"the frames look most symmetric about ({start[0]:.1f}, {start[1]:.1f}), "
            "next to their edge; give center=(x, y)"
        )
    disc = np.hypot(columns - start[0], rows - start[1]) < reach
    x0, y0, value = columns[disc], rows[disc], flat[disc]

    def difference(c: NDArray[np.float64]) -> float:
        mirrored = ndimage.map_coordinates(
            spline, [2 * c[1] - y0, 2 * c[0] - x0], order=3, prefilter=False
        )
        return float(np.mean((mirrored - value) ** 2))

    fit = optimize.minimize(
        difference, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-9}
    )
    return float(fit.x[0]), float(fit.x[1])
