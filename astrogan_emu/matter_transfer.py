"""The matter transfer function: a table fitted to CAMB, differentiable.

It holds the shape of the linear power spectrum; amplitude, tilt and growth are the
work of `linear_theory`. ``benchmarks/fit_linear_transfer.py`` remakes the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .errors import MissingParameterError, ParameterError, ParameterRangeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "MatterTransfer",
    "Scalar",
    "as_double",
    "one_number",
    "parameter",
    "smooth_transfer_function",
]

Scalar: TypeAlias = "float | Tensor"

# Temperature of the cosmic microwave background [2.7 K] (Fixsen 2009).
_THETA_CMB = 2.7255 / 2.7

_ADVICE = (
    "it covers omega_m 0.1-0.5, omega_b 0.03-0.07 and h 0.5-0.9 and about 10 % more: "
    "come closer to these, or bring a power spectrum of your own"
)


class MatterTransfer:
    """Transfer function of one universe, as a piecewise cubic on the table's nodes.

    The nodes are fixed in k times the sound horizon, where the wiggles of all universes
    are in step.

    Parameters
    ----------
    parameters
        ``omega_m``, ``omega_b`` and ``h``; numbers or 0-d tensors.
    device
        Where the wavenumbers will be.

    Raises
    ------
    MissingParameterError
        A parameter is absent.
    ParameterError
        A parameter is not one number.
    ParameterRangeError
        The table does not cover these parameters.
    """

    def __init__(self, parameters: Mapping[str, Scalar], device: torch.device) -> None:
        omega_m, omega_b, self.h = (
            parameter(parameters, name, device) for name in ("omega_m", "omega_b", "h")
        )
        if not self.h.item() > 0.0:
            raise ParameterRangeError(f"h must be positive, got {self.h.item():g}")
        self.physical_m, self.physical_b = omega_m * self.h**2, omega_b * self.h**2
        self.table = table = _table(device)
        weights = table.weights(self.physical_m, omega_b / omega_m)
        self.ratio = torch.tensordot(weights, table.ratio, 2)
        self.sound_horizon = torch.exp((weights * table.log_sound_horizon).sum())
        k = table.nodes / self.sound_horizon
        smooth = smooth_transfer_function(k, self.physical_m, self.physical_b)
        self.values = self.ratio * smooth
        self.slopes = _slopes(self.values)

    def __call__(self, k: Tensor) -> Tensor:
        """T(k) for k in h/Mpc."""
        k = k * self.h
        x = k * self.sound_horizon
        u = self.table.place(x)
        last = len(self.values) - 1
        result = _hermite(u.clamp(max=last), self.values, self.slopes)
        beyond = u > last
        if not bool(beyond.any()):
            return result
        # Over a stretch, so that the rounding of the table does not show.
        start, end = self.table.nodes[-21], self.table.nodes[-1]
        slope = (self.ratio[-1] - self.ratio[-21]) / torch.log(end / start)
        ratio = self.ratio[-1] + slope * torch.log(x[beyond] / end)
        smooth = smooth_transfer_function(k[beyond], self.physical_m, self.physical_b)
        return result.masked_scatter(beyond, ratio * smooth)


def smooth_transfer_function(
    k: ArrayLike | Tensor, physical_m: Scalar, physical_b: Scalar
) -> Tensor:
    """Transfer function without wiggles of Eisenstein & Hu (1998), equations 26-31.

    Parameters
    ----------
    k
        Comoving wavenumber [1/Mpc]; any shape.
    physical_m, physical_b
        omega_m h^2 and omega_b h^2.

    Returns
    -------
    Tensor
        Double precision, the shape of `k`.
    """
    k, om, ob = as_double(k), as_double(physical_m), as_double(physical_b)
    fb = ob / om
    s = 44.5 * torch.log(9.83 / om) / torch.sqrt(1.0 + 10.0 * ob**0.75)
    alpha = (
        1.0 - 0.328 * torch.log(431.0 * om) * fb + 0.38 * torch.log(22.3 * om) * fb**2
    )
    gamma = om * (alpha + (1.0 - alpha) / (1.0 + (0.43 * k * s) ** 4))
    q = k * _THETA_CMB**2 / gamma
    log = torch.log(2.0 * math.e + 1.8 * q)
    return log / (log + (14.2 + 731.0 / (1.0 + 62.5 * q)) * q**2)


def as_double(value: ArrayLike | Tensor) -> Tensor:
    """Turn anything like an array into a double-precision tensor, where it is."""
    if isinstance(value, Tensor):
        return value.to(torch.float64)
    return torch.as_tensor(np.array(value, dtype=np.float64))


def one_number(name: str, value: Scalar, device: torch.device) -> Tensor:
    """Turn one number, called `name`, into a 0-d tensor.

    Raises
    ------
    ParameterError
        It is more or less than one number.
    """
    number = as_double(value).to(device)
    if number.numel() != 1:
        raise ParameterError(
            f"{name} must be one number, got shape {tuple(number.shape)}; "
            "call once for each universe"
        )
    return number.reshape(())


def parameter(
    parameters: Mapping[str, Scalar], name: str, device: torch.device
) -> Tensor:
    """Take one parameter as a 0-d tensor.

    Raises
    ------
    MissingParameterError
        It is absent.
    ParameterError
        It is more or less than one number.
    """
    if name not in parameters:
        raise MissingParameterError(
            f"{name} is missing: linear theory needs omega_m, omega_b, h, n_s and "
            f"sigma_8, got {', '.join(parameters) or 'none'}"
        )
    return one_number(name, parameters[name], device)


@dataclass(frozen=True)
class _Table:
    """The fitted ratio to `smooth_transfer_function`, and where it is valid.

    Chebyshev coefficients in the baryon fraction, scaled to [-1, 1], and in
    ln(omega_m h^2), whose centre and half width are polynomials of the former.
    """

    ratio: Tensor  # (n_fraction, n_matter, n_nodes)
    log_sound_horizon: Tensor  # (n_fraction, n_matter)
    baryon_fraction: tuple[float, float]
    centre: tuple[float, ...]
    half_width: tuple[float, ...]
    nodes: Tensor  # (n_nodes,), k times the sound horizon
    spacing: tuple[float, ...]

    @classmethod
    def load(cls, device: torch.device) -> _Table:
        file = resources.files("astrogan_emu") / "data" / "linear_transfer.npz"
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            return cls(
                ratio=torch.as_tensor(data["ratio"].astype(np.float64), device=device),
                log_sound_horizon=torch.as_tensor(
                    data["log_sound_horizon"], device=device
                ),
                baryon_fraction=tuple(data["baryon_fraction"].tolist()),
                centre=tuple(data["centre"].tolist()),
                half_width=tuple(data["half_width"].tolist()),
                nodes=torch.as_tensor(data["nodes"], device=device),
                spacing=tuple(data["spacing"].tolist()),
            )

    def place(self, x: Tensor) -> Tensor:
        """Where x = k s lies among the nodes, 0 at the first and 1 at the second.

        The nodes are even in ln x, but for more of them where the wiggles are.
        """
        turn, density, end, step = self.spacing
        return (torch.log1p(x / turn) + density * x / (1.0 + x / end)) / step

    def weights(self, physical_m: Tensor, fraction: Tensor) -> Tensor:
        """Products of the Chebyshev polynomials, (n_fraction, n_matter)."""
        low, high = self.baryon_fraction
        if not low <= fraction.item() <= high:
            raise ParameterRangeError(
                f"omega_b / omega_m = {fraction.item():g} is outside the range "
                f"[{low:.3g}, {high:.3g}] of the linear power spectrum; {_ADVICE}"
            )
        x = 2.0 * (fraction - low) / (high - low) - 1.0
        centre = _polynomial(self.centre, x)
        half_width = _polynomial(self.half_width, x)
        y = (torch.log(physical_m) - centre) / half_width
        if not abs(y.item()) <= 1.0:
            lowest = math.exp((centre - half_width).item())
            highest = math.exp((centre + half_width).item())
            raise ParameterRangeError(
                f"omega_m h^2 = {physical_m.item():g} is outside the range "
                f"[{lowest:.3g}, {highest:.3g}] of the linear power spectrum for "
                f"omega_b / omega_m = {fraction.item():g}; {_ADVICE}"
            )
        n_fraction, n_matter = self.log_sound_horizon.shape
        return torch.outer(_chebyshev(x, n_fraction), _chebyshev(y, n_matter))


@lru_cache(maxsize=4)
def _table(device: torch.device) -> _Table:
    # Made within inference mode, it could not be differentiated through later.
    with torch.inference_mode(False):
        return _Table.load(device)


def _chebyshev(x: Tensor, n_terms: int) -> Tensor:
    """Chebyshev polynomials T_0 ... T_(n_terms - 1) at one x."""
    terms = [torch.ones_like(x), x]
    while len(terms) < n_terms:
        terms.append(2.0 * x * terms[-1] - terms[-2])
    return torch.stack(terms)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    result = torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        result = result * x + coefficient
    return result


def _slopes(values: Tensor) -> Tensor:
    """Derivatives at the nodes per node spacing, of fourth order in the spacing."""
    inner = (8.0 * (values[3:-1] - values[1:-3]) - (values[4:] - values[:-4])) / 12.0

    def at_end(v: Tensor) -> Tensor:
        first = (-25 * v[0] + 48 * v[1] - 36 * v[2] + 16 * v[3] - 3 * v[4]) / 12.0
        second = (-3 * v[0] - 10 * v[1] + 18 * v[2] - 6 * v[3] + v[4]) / 12.0
        return torch.stack([first, second])

    return torch.cat([at_end(values[:5]), inner, -at_end(values[-5:].flip(0)).flip(0)])


def _hermite(u: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
    """Piecewise cubic through `values` with `slopes` at u = 0, 1, 2, ..."""
    index = u.detach().long().clamp(max=len(values) - 2)
    x = u - index
    low, high = values[index], values[index + 1]
    slope_low, slope_high = slopes[index], slopes[index + 1]
    step = high - low
    third = slope_low + slope_high - 2.0 * step
    second = step - slope_low - third
    return low + x * (slope_low + x * (second + x * third))
