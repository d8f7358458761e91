"""Linear theory of flat LCDM: expansion, growth and the linear power spectrum.

Everything is evaluated in torch in double precision and is differentiable in
the parameters, in the scale factor and in the wavenumber. Radiation and the
masses of neutrinos are left out of the growth; nothing here knows about grids
or random fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "growth_factor",
    "growth_factor_second_order",
    "growth_rate",
    "growth_rate_second_order",
    "hubble",
    "linear_power",
    "sigma",
    "transfer_function",
]

Scalar: TypeAlias = "float | Tensor"

# Temperature of the cosmic microwave background [2.7 K] (Fixsen 2009).
_THETA_CMB = 2.7255 / 2.7


def hubble(a: ArrayLike | Tensor, omega_m: ArrayLike | Tensor) -> Tensor:
    """Expansion rate E(a) = H(a) / H0 of flat LCDM without radiation.

    Parameters
    ----------
    a
        Scale factor, 1 today; any shape.
    omega_m
        Matter density today over the critical density; broadcast with `a`.

    Returns
    -------
    Tensor
        Double precision, the broadcast shape.
    """
    a, omega_m = _double(a), _double(omega_m)
    return torch.sqrt(omega_m / a**3 + (1.0 - omega_m))


def growth_factor(a: ArrayLike | Tensor, omega_m: ArrayLike | Tensor) -> Tensor:
    """Linear growth factor D(a), normalised to 1 today.

    The growing mode D(a) ~ E(a) int_0^a da' / (a' E(a'))^3 (Heath 1977), exact
    for flat LCDM without radiation.

    Parameters
    ----------
    a
        Scale factor, 1 today; any shape.
    omega_m
        Matter density today over the critical density; broadcast with `a`.

    Returns
    -------
    Tensor
        Double precision, the broadcast shape.
    """
    a, omega_m = _double(a), _double(omega_m)
    return _growth_matter_era(a, omega_m) / _growth_matter_era(
        torch.ones_like(a), omega_m
    )


def growth_rate(a: ArrayLike | Tensor, omega_m: ArrayLike | Tensor) -> Tensor:
    """Linear growth rate f = dlnD / dlna.

    Parameters
    ----------
    a
        Scale factor, 1 today; any shape.
    omega_m
        Matter density today over the critical density; broadcast with `a`.

    Returns
    -------
    Tensor
        Double precision, the broadcast shape.

    Notes
    -----
    The logarithmic derivative of the Heath (1977) integral is
    f = Omega_m(a) (5 a / (2 D) - 3 / 2), with D -> a in the matter era.
    """
    a, omega_m = _double(a), _double(omega_m)
    growth = _growth_matter_era(a, omega_m)
    return _matter_fraction(a, omega_m) * (2.5 * a / growth - 1.5)


def growth_factor_second_order(
    a: ArrayLike | Tensor, omega_m: ArrayLike | Tensor
) -> Tensor:
    """Second-order growth factor D2(a) = -3/7 D^2 Omega_m(a)^(-1/143).

    It is negative: with Laplacian(phi1) = delta_linear at a = 1 and
    Laplacian(phi2) = sum_{i>j} (phi1_ii phi1_jj - phi1_ij^2), the displacement is
    -D grad(phi1) + D2 grad(phi2) (Bouchet et al. 1995). D is normalised to 1
    today, and D2 goes with it.

    Parameters
    ----------
    a
        Scale factor, 1 today; any shape.
    omega_m
        Matter density today over the critical density; broadcast with `a`.

    Returns
    -------
    Tensor
        Double precision, the broadcast shape.
    """
    a, omega_m = _double(a), _double(omega_m)
    fraction = _matter_fraction(a, omega_m)
    return -3.0 / 7.0 * growth_factor(a, omega_m) ** 2 * fraction ** (-1.0 / 143.0)


def growth_rate_second_order(
    a: ArrayLike | Tensor, omega_m: ArrayLike | Tensor
) -> Tensor:
    """Second-order growth rate dlnD2 / dlna = 2 Omega_m(a)^(6/11).

    The fit of Bouchet et al. (1995) for flat models with a cosmological constant.

    Parameters
    ----------
    a
        Scale factor, 1 today; any shape.
    omega_m
        Matter density today over the critical density; broadcast with `a`.

    Returns
    -------
    Tensor
        Double precision, the broadcast shape.
    """
    return 2.0 * _matter_fraction(_double(a), _double(omega_m)) ** (6.0 / 11.0)


def linear_power(
    k: ArrayLike | Tensor,
    parameters: Mapping[str, Scalar],
    redshift: Scalar = 0.0,
) -> Tensor:
    """Linear matter power spectrum.

    Parameters
    ----------
    k
        Comoving wavenumber [h/Mpc]; any shape. The power at ``k = 0`` is 0.
    parameters
        ``omega_m``, ``omega_b``, ``h``, ``n_s`` and ``sigma_8``; numbers or 0-d
        tensors, through which gradients flow.
    redshift
        Redshift of the spectrum.

    Returns
    -------
    Tensor
        P(k) [(Mpc/h)^3], double precision, the shape of `k`.
    """
    k = _double(k)
    n_s, sigma_8 = _double(parameters["n_s"]), _double(parameters["sigma_8"])
    growth = growth_factor(1.0 / (1.0 + _double(redshift)), parameters["omega_m"])
    unit_sigma_8 = torch.sqrt(_variance(_double(8.0), parameters))
    amplitude = (sigma_8 * growth / unit_sigma_8) ** 2
    positive = k > 0
    safe = torch.where(positive, k, torch.ones_like(k))
    power = amplitude * safe**n_s * transfer_function(safe, parameters) ** 2
    return torch.where(positive, power, torch.zeros_like(power))


def sigma(
    radius: ArrayLike | Tensor,
    parameters: Mapping[str, Scalar],
    redshift: Scalar = 0.0,
) -> Tensor:
    """Rms linear overdensity in spheres.

    Parameters
    ----------
    radius
        Comoving radius of the sphere [Mpc/h]; any shape.
    parameters
        As for `linear_power`.
    redshift
        Redshift of the linear field.

    Returns
    -------
    Tensor
        Double precision, the shape of `radius`; ``sigma_8`` at 8 Mpc/h, z = 0.
    """
    radius = _double(radius)
    growth = growth_factor(1.0 / (1.0 + _double(redshift)), parameters["omega_m"])
    ratio = _variance(radius, parameters) / _variance(_double(8.0), parameters)
    return _double(parameters["sigma_8"]) * growth * torch.sqrt(ratio)


def transfer_function(
    k: ArrayLike | Tensor, parameters: Mapping[str, Scalar]
) -> Tensor:
    """Transfer function of the total matter, 1 at small k.

    The fit of Eisenstein & Hu (1998), equations 2-24, with baryon wiggles.

    Parameters
    ----------
    k
        Comoving wavenumber [h/Mpc], positive; any shape.
    parameters
        ``omega_m``, ``omega_b`` and ``h``; numbers or 0-d tensors.

    Returns
    -------
    Tensor
        Double precision, the shape of `k`.
    """
    h = _double(parameters["h"])
    k = _double(k) * h
    om = _double(parameters["omega_m"]) * h**2
    ob = _double(parameters["omega_b"]) * h**2
    fb = ob / om
    fc = 1.0 - fb
    theta = _THETA_CMB

    z_eq = 2.50e4 * om / theta**4
    k_eq = 7.46e-2 * om / theta**2
    b1 = 0.313 * om**-0.419 * (1.0 + 0.607 * om**0.674)
    b2 = 0.238 * om**0.223
    z_d = 1291.0 * om**0.251 / (1.0 + 0.659 * om**0.828) * (1.0 + b1 * ob**b2)
    r_d = 31.5e3 * ob / theta**4 / z_d
    r_eq = 31.5e3 * ob / theta**4 / z_eq
    s = (
        2.0
        / (3.0 * k_eq)
        * torch.sqrt(6.0 / r_eq)
        * torch.log(
            (torch.sqrt(1.0 + r_d) + torch.sqrt(r_d + r_eq)) / (1.0 + torch.sqrt(r_eq))
        )
    )
    k_silk = 1.6 * ob**0.52 * om**0.73 * (1.0 + (10.4 * om) ** -0.95)
    q = k / (13.41 * k_eq)

    a1 = (46.9 * om) ** 0.670 * (1.0 + (32.1 * om) ** -0.532)
    a2 = (12.0 * om) ** 0.424 * (1.0 + (45.0 * om) ** -0.582)
    alpha_c = a1**-fb * a2 ** -(fb**3)
    bb1 = 0.944 / (1.0 + (458.0 * om) ** -0.708)
    bb2 = (0.395 * om) ** -0.0266
    beta_c = 1.0 / (1.0 + bb1 * (fc**bb2 - 1.0))

    def pressureless(alpha: Scalar, beta: Scalar) -> Tensor:
        c = 14.2 / alpha + 386.0 / (1.0 + 69.9 * q**1.08)
        log = torch.log(math.e + 1.8 * beta * q)
        return log / (log + c * q**2)

    f = 1.0 / (1.0 + (k * s / 5.4) ** 4)
    cold = f * pressureless(1.0, beta_c) + (1.0 - f) * pressureless(alpha_c, beta_c)

    y = (1.0 + z_eq) / (1.0 + z_d)
    root = torch.sqrt(1.0 + y)
    g = y * (-6.0 * root + (2.0 + 3.0 * y) * torch.log((root + 1.0) / (root - 1.0)))
    alpha_b = 2.07 * k_eq * s * (1.0 + r_d) ** -0.75 * g
    beta_b = 0.5 + fb + (3.0 - 2.0 * fb) * torch.sqrt((17.2 * om) ** 2 + 1.0)
    beta_node = 8.41 * om**0.435
    shifted = k * s / (1.0 + (beta_node / (k * s)) ** 3) ** (1.0 / 3.0)
    baryons = (
        pressureless(1.0, 1.0) / (1.0 + (k * s / 5.2) ** 2)
        + alpha_b / (1.0 + (beta_b / (k * s)) ** 3) * torch.exp(-((k / k_silk) ** 1.4))
    ) * torch.sinc(shifted / math.pi)
    return fb * baryons + fc * cold


def _double(value: ArrayLike | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(torch.float64)
    return torch.as_tensor(np.asarray(value, dtype=np.float64))


def _matter_fraction(a: Tensor, omega_m: Tensor) -> Tensor:
    return omega_m / (omega_m + (1.0 - omega_m) * a**3)


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(48)
    return 0.5 * (nodes + 1.0), 0.5 * weights


def _growth_matter_era(a: Tensor, omega_m: Tensor) -> Tensor:
    """Growing mode that tends to `a` in the matter era.

    With a' = a t^2 the integrand of Heath (1977) is analytic at t = 0.
    """
    a, omega_m = torch.broadcast_tensors(a, omega_m)
    t, weights = (torch.as_tensor(v, device=a.device) for v in _gauss_legendre())
    dark = (1.0 - omega_m) * a**3
    integrand = t**4 * (omega_m[..., None] + dark[..., None] * t**6) ** -1.5
    return 5.0 * omega_m * a * torch.sqrt(omega_m + dark) * (integrand @ weights)


def _variance(radius: Tensor, parameters: Mapping[str, Scalar]) -> Tensor:
    """Variance in spheres for P = k^n_s T^2, by the trapezoidal rule in ln k."""
    n_s = _double(parameters["n_s"])
    step = 0.01
    low, high = math.log(1e-5), math.log(100.0 / float(radius.detach().min()))
    k = torch.exp(torch.arange(low, high, step, dtype=torch.float64))
    k = k.to(radius.device)
    power = k**n_s * transfer_function(k, parameters) ** 2
    window = _top_hat(k * radius[..., None])
    return (window**2 * (power * k**3)).sum(-1) * (step / (2.0 * math.pi**2))


def _top_hat(x: Tensor) -> Tensor:
    """Fourier transform of a sphere of unit radius; 1 at 0."""
    large = x > 0.1
    safe = torch.where(large, x, torch.ones_like(x))
    exact = 3.0 * (torch.sin(safe) - safe * torch.cos(safe)) / safe**3
    series = 1.0 - x**2 / 10.0 * (1.0 - x**2 / 28.0 * (1.0 - x**2 / 54.0))
    return torch.where(large, exact, series)
