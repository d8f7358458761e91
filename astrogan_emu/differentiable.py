"""The whole chain as one differentiable function of the parameters.

`Emulator.emulate` is for fields; `differentiable_fields` is for gradients: of anything
computed from the fields, in the cosmological parameters or in the linear field.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .bases import base_fields
from .checkpoints import Model, load_model
from .conditioning import conditions
from .errors import (
    GridError,
    MissingParameterError,
    ParameterRangeError,
    UnknownFieldError,
)
from .generator_noise import window_noise
from .initial_conditions import linear_field
from .noise import whole_seed
from .parameters import COSMOLOGICAL
from .simulations import LCDM_SPACE

__all__ = ["differentiable_fields"]

# To either side, in units of the range of a parameter.
_STEP = 0.02


def differentiable_fields(
    params: Mapping[str, float | Tensor],
    *,
    seed: int,
    redshift: float = 0.0,
    fields: Sequence[str] | None = None,
    n_cells: int = 64,
    initial_conditions: Tensor | None = None,
    stochastic: bool = True,
    fixed: bool = False,
    paired: bool = False,
    model: str | os.PathLike[str] = "nbody",
) -> Tensor:
    """Fields of one realisation as a tensor with gradients.

    The same numbers as `Emulator.emulate`, to rounding: linear power, seeded phases,
    particle-mesh steps and generator are all differentiated by torch.

    Parameters
    ----------
    params
        Every parameter of the model, by its canonical name; those that are 0-d
        tensors with ``requires_grad`` get gradients.
    seed
        Fixes everything random.
    redshift
        Of the fields.
    fields
        Which fields; all that the model makes if not given.
    n_cells
        Cells per side; the box is `n_cells` times the model's cell size.
    initial_conditions
        Linear overdensity at redshift 0, shape ``(n_cells, n_cells, n_cells)``,
        instead of a drawn one; may have gradients too.
    stochastic
        Add the generator's noise.
    fixed, paired
        As for `linear_field`.
    model
        Name or file of a model of boxes.

    Returns
    -------
    Tensor
        Float32, shape ``(n_fields, n_cells, n_cells, n_cells)``. Densities are ratios
        to the mean, galaxies are in (h/Mpc)^3: the units of the model's card.

    Raises
    ------
    MissingParameterError
        If a parameter of the model is not given.
    ParameterRangeError
        If a parameter or the redshift lies outside the trained range: there is no
        extrapolation here, so keep optimisers inside it.
    UnknownFieldError
        If the model does not make a field, or gradients in `initial_conditions` are
        asked for of one that starts from the halos of the base.
    GridError
        If `n_cells` or the linear field does not fit, or the model makes maps.

    Notes
    -----
    The particle-mesh steps are kept in memory for the way back: about 0.5 GB for 64^3
    cells. Cloud-in-cell assignment is differentiable almost everywhere, so gradients of
    averages over many cells, such as power spectra, are smooth.

    Halos gain and lose members in jumps, which no derivative knows of. What a model
    takes from the halos of its base gets its gradients in the parameters by central
    differences over 4 % of their ranges: two more bases on the way back for each
    parameter that wants one. For gradients in the linear field halos stay as they are.

    Examples
    --------
    >>> import torch
    >>> sigma_8 = torch.tensor(0.8, requires_grad=True)
    >>> params = dict(omega_m=0.3, omega_b=0.05, h=0.7, n_s=0.96, sigma_8=sigma_8)
    >>> (matter,) = differentiable_fields(params, fields=["matter"], n_cells=16, seed=1)
    >>> matter.var().backward()
    >>> bool(sigma_8.grad > 0)
    True
    """
    loaded = load_model(model)
    card, generator = loaded.card, loaded.generator
    names = tuple(dict.fromkeys((*COSMOLOGICAL, *card.space.names)))
    if missing := [name for name in names if name not in params]:
        raise MissingParameterError(
            f"{', '.join(missing)} not given; this model needs {', '.join(names)}"
        )
    values = {n: torch.as_tensor(params[n], dtype=torch.float64) for n in names}
    vector = torch.stack([values[name] for name in card.space.names])
    card.space.check(vector.detach().numpy())
    low, high = card.redshifts
    if not low <= redshift <= high:
        raise ParameterRangeError(
            f"redshift = {redshift:g} is outside the trained range [{low:g}, {high:g}]"
        )
    made = generator.config.fields
    wanted = made if fields is None else tuple(fields)
    if unknown := [name for name in wanted if name not in made]:
        raise UnknownFieldError(
            f"model {card.name} does not make {unknown[0]!r}; it makes "
            f"{', '.join(made)}"
        )
    generator.check_size(n_cells)
    if card.base.depth is not None:
        raise GridError(f"model {card.name} makes maps; gradients are for boxes")
    seed, box_size = whole_seed(seed), n_cells * card.cell_size
    if initial_conditions is not None:
        _check_initial_conditions(initial_conditions, n_cells, loaded, wanted)

    def base_at(parameters: Mapping[str, Tensor]) -> Tensor:
        start = initial_conditions
        if start is None:
            start = linear_field(
                parameters,
                n_cells=n_cells,
                box_size=box_size,
                seed=seed,
                fixed=fixed,
                paired=paired,
            )
        return base_fields(
            start,
            parameters,
            box_size=box_size,
            redshift=redshift,
            settings=card.base,
        )

    base = base_at(values)
    if card.base.galaxies is not None:
        differences: Callable[..., Any] = _ByDifferences.apply
        cosmology = [values[name] for name in COSMOLOGICAL]
        galaxies = cast(Tensor, differences(base[1], base_at, *cosmology))
        base = torch.stack([base[0], galaxies])
    noise = None
    if stochastic:
        levels, whole = generator.network.noise_levels, (n_cells,) * 3
        noise = window_noise(seed, levels, n_cells, (0, 0, 0), whole)
    told = conditions(card.space, vector[None], redshift)
    result: Tensor = generator(base[None], told, noise)[0]
    return result[[made.index(name) for name in wanted]]


class _ByDifferences(torch.autograd.Function):
    """Galaxies of the base, with gradients in the parameters by central differences.

    Halos gain and lose members in jumps. No derivative knows of them, but over a step
    in which many particles come and go they are what makes halos grow.
    """

    @staticmethod
    def forward(
        ctx: Any,
        galaxies: Tensor,
        base_at: Callable[[Mapping[str, Tensor]], Tensor],
        *values: Tensor,
    ) -> Tensor:
        ctx.base_at, ctx.values = base_at, [value.detach() for value in values]
        return galaxies.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        slopes: list[Tensor | None] = []
        for i, name in enumerate(COSMOLOGICAL):
            if not ctx.needs_input_grad[2 + i]:
                slopes.append(None)
                continue
            step = _STEP * float(LCDM_SPACE[name].high - LCDM_SPACE[name].low)
            sides = []
            for change in (step, -step):
                moved = dict(zip(COSMOLOGICAL, ctx.values, strict=True))
                moved[name] = moved[name] + change
                with torch.no_grad():
                    sides.append(ctx.base_at(moved)[1])
            slope = ((sides[0] - sides[1]) / (2 * step) * gradient).sum()
            slopes.append(slope.to(ctx.values[i]))
        return None, None, *slopes


def _check_initial_conditions(
    start: Tensor, n_cells: int, model: Model, wanted: Sequence[str]
) -> None:
    """Refuse those that do not fit, or gradients in them of what follows halos."""
    if tuple(start.shape) != (n_cells,) * 3:
        raise GridError(
            f"initial_conditions must have the shape {(n_cells,) * 3}, got "
            f"{tuple(start.shape)}"
        )
    if not (start.requires_grad and torch.is_grad_enabled()):
        return
    for head in model.generator.config.heads:
        if head.name in wanted and head.follows > 0:
            raise UnknownFieldError(
                f"{head.name} of model {model.card.name} have no gradients in the "
                "initial conditions: halos gain and lose members in jumps. Ask for "
                "other fields, such as fields=['matter']"
            )
