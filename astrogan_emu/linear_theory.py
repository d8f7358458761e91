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
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .errors import ParameterError
from .matter_transfer import MatterTransfer, Scalar, as_double, one_number, parameter

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
    a, omega_m = _together(a, omega_m)
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
    a, omega_m = _together(a, omega_m)
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
    a, omega_m = _together(a, omega_m)
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
    a, omega_m = _together(a, omega_m)
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
    return 2.0 * _matter_fraction(*_together(a, omega_m)) ** (6.0 / 11.0)


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

    Raises
    ------
    MissingParameterError
        A parameter is absent.
    ParameterError
        A parameter or the redshift is not one number, or a wavenumber is negative.
    ParameterRangeError
        The fit to CAMB does not cover these parameters.
    """
    k = _wavenumber(k)
    transfer = MatterTransfer(parameters, k.device)
    n_s, sigma_8, omega_m = (
        parameter(parameters, name, k.device) for name in ("n_s", "sigma_8", "omega_m")
    )
    growth = growth_factor(_scale_factor(redshift, k.device), omega_m)
    eight = torch.full((), 8.0, dtype=torch.float64, device=k.device)
    amplitude = (sigma_8 * growth) ** 2 / _variance(eight, transfer, n_s)
    # The gradient of k^n_s at 0 is not finite, so 0 is kept out of the power law.
    positive = k > 0.0
    safe = torch.where(positive, k, torch.ones_like(k))
    power = amplitude * safe**n_s * transfer(safe) ** 2
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

    Raises
    ------
    MissingParameterError
        A parameter is absent.
    ParameterError
        A parameter or the redshift is not one number, or a radius is not positive.
    ParameterRangeError
        The fit to CAMB does not cover these parameters.
    """
    radius = as_double(radius)
    if not bool((radius > 0.0).all()):
        raise ParameterError("the radius of a sphere must be positive [Mpc/h]")
    transfer = MatterTransfer(parameters, radius.device)
    n_s, sigma_8, omega_m = (
        parameter(parameters, name, radius.device)
        for name in ("n_s", "sigma_8", "omega_m")
    )
    growth = growth_factor(_scale_factor(redshift, radius.device), omega_m)
    spheres = torch.cat(
        [radius.reshape(-1), torch.full_like(radius, 8.0).reshape(-1)[:1]]
    )
    variance = _variance(spheres, transfer, n_s)
    ratio = (variance[:-1] / variance[-1]).reshape(radius.shape)
    return sigma_8 * growth * torch.sqrt(ratio)


def transfer_function(
    k: ArrayLike | Tensor, parameters: Mapping[str, Scalar]
) -> Tensor:
    """Transfer function of the total matter, 1 at small k.

    A fit to CAMB without massive neutrinos, N_eff = 3.046 and T_CMB = 2.7255 K, made
    by ``benchmarks/fit_linear_transfer.py``: a smooth fit times a tabulated ratio that
    holds the wiggles. The power it gives is within 0.3 % of CAMB's at k = 0.005-20
    h/Mpc anywhere in the range, and within 0.03 % in most of it, but for the zeros of
    the transfer function where baryons are 70 % of the matter. Beyond the table (k = 20
    h/Mpc or more) the ratio continues linearly in ln k, and the power at 100 h/Mpc is
    good to 1 %, but to 10 % only where omega_m h^2 is below 0.1.

    Parameters
    ----------
    k
        Comoving wavenumber [h/Mpc]; any shape.
    parameters
        ``omega_m``, ``omega_b`` and ``h``; numbers or 0-d tensors.

    Returns
    -------
    Tensor
        Double precision, the shape of `k`.

    Raises
    ------
    MissingParameterError
        A parameter is absent.
    ParameterRangeError
        The table does not cover these parameters.
    """
    k = _wavenumber(k)
    return MatterTransfer(parameters, k.device)(k)


def _wavenumber(k: ArrayLike | Tensor) -> Tensor:
    k = as_double(k)
    if not bool((k >= 0.0).all()):
        raise ParameterError("wavenumbers must be numbers from 0 upwards [h/Mpc]")
    return k


def _scale_factor(redshift: Scalar, device: torch.device) -> Tensor:
    redshift = one_number("redshift", redshift, device)
    if not redshift.item() > -1.0:
        raise ParameterError(f"redshift must be above -1, got {redshift.item():g}")
    return 1.0 / (1.0 + redshift)


def _together(
    a: ArrayLike | Tensor, omega_m: ArrayLike | Tensor
) -> tuple[Tensor, Tensor]:
    """Both in double precision, on the accelerator if one of them is."""
    a, omega_m = as_double(a), as_double(omega_m)
    device = omega_m.device if a.device.type == "cpu" else a.device
    return a.to(device), omega_m.to(device)


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


def _variance(radius: Tensor, transfer: MatterTransfer, n_s: Tensor) -> Tensor:
    """Variance in spheres for P = k^n_s T^2, by the trapezoidal rule in ln k.

    The integrand vanishes at both ends, so that the rule converges exponentially.
    """
    step = 0.01
    low, high = math.log(1e-5), math.log(100.0 / radius.min().item())
    k = torch.exp(
        torch.arange(low, high, step, dtype=torch.float64, device=radius.device)
    )
    power = k**n_s * transfer(k) ** 2
    window = _top_hat(k * radius[..., None])
    return (window**2 * (power * k**3)).sum(-1) * (step / (2.0 * math.pi**2))


def _top_hat(x: Tensor) -> Tensor:
    """Fourier transform of a sphere of unit radius; 1 at 0."""
    large = x > 0.1
    safe = torch.where(large, x, torch.ones_like(x))
    exact = 3.0 * (torch.sin(safe) - safe * torch.cos(safe)) / safe**3
    series = 1.0 - x**2 / 10.0 * (1.0 - x**2 / 28.0 * (1.0 - x**2 / 54.0))
    return torch.where(large, exact, series)
