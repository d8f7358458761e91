"""What the networks are told about a field: parameters and redshift as numbers.

The features are the unit-cube parameters, the scale factor, and, where the parameters
allow, the two numbers that set the state of structure at any redshift: the amplitude
sigma_8 D(z) and Omega_m(z). Which parameters exist is the `ParameterSpace`'s to say.
Of a parameter that a suite holds fixed a network can learn nothing, so it is not told.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .linear_theory import growth_factor, hubble
from .parameters import ParameterSpace

__all__ = ["condition_length", "condition_names", "conditions"]


def condition_names(space: ParameterSpace) -> tuple[str, ...]:
    """What the features of a parameter space are, in order.

    Parameters
    ----------
    space
        Names, order and ranges of the parameters.

    Returns
    -------
    tuple of str
        The parameters that vary, ``"a"``, and where the space has omega_m and sigma_8,
        varied or not, ``"omega_m(z)"`` and ``"sigma_8(z)"``.
    """
    varied = [p.name for p in space.parameters if p.high > p.low]
    derived = [f"{name}(z)" for name in ("omega_m", "sigma_8") if name in space]
    return (*varied, "a", *derived)


def condition_length(space: ParameterSpace) -> int:
    """Number of features that `conditions` makes for a parameter space."""
    return len(condition_names(space))


def conditions(
    space: ParameterSpace, parameters: ArrayLike | Tensor, redshift: ArrayLike
) -> Tensor:
    """Features of order one for each sample.

    Parameters
    ----------
    space
        Names, order and ranges of the parameters.
    parameters
        In the order of `space`, shape ``(batch, n_parameters)``; a tensor keeps its
        gradients.
    redshift
        Shape ``(batch,)``.

    Returns
    -------
    Tensor
        Float32, shape ``(batch, condition_length(space))``.
    """
    values = torch.atleast_2d(torch.as_tensor(parameters, dtype=torch.float64))
    a = 1 / (1 + torch.as_tensor(np.atleast_1d(redshift), dtype=torch.float64))
    unit = torch.as_tensor(space.to_unit(values.detach().numpy()))
    if values.requires_grad:
        unit = _with_gradient(unit, values, space)
    varied = torch.as_tensor(space.high > space.low)
    features = [2 * unit[:, varied] - 1, 2 * a[:, None] - 1]
    columns = dict(zip(space.names, values.unbind(1), strict=True))
    # Without a varying omega_m its growth is that of a standard universe.
    omega_m = columns.get("omega_m", torch.full_like(a, 0.3))
    if "omega_m" in columns:
        fraction = omega_m / (a**3 * hubble(a, omega_m) ** 2)
        features.append(2 * fraction[:, None] - 1)
    if "sigma_8" in columns:
        amplitude = columns["sigma_8"] * growth_factor(a, omega_m)
        features.append(torch.log(amplitude)[:, None] + 0.7)
    return torch.cat(features, 1).float()


def _with_gradient(unit: Tensor, values: Tensor, space: ParameterSpace) -> Tensor:
    """The same numbers, with the slopes of `ParameterSpace.to_unit`."""
    slopes = []
    for parameter, value in zip(
        space.parameters, values.detach().unbind(1), strict=True
    ):
        if parameter.high == parameter.low:
            slopes.append(torch.zeros_like(value))
        elif parameter.log:
            slopes.append(1 / (value * math.log(parameter.high / parameter.low)))
        else:
            slopes.append(torch.full_like(value, 1 / (parameter.high - parameter.low)))
    return unit + torch.stack(slopes, 1) * (values - values.detach())
