"""The whole chain as one differentiable function of the parameters.

`Emulator.emulate` is for fields; `differentiable_fields` is for gradients: of anything
computed from the fields, in the cosmological parameters or in the linear field.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

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
from .generated_fields import NOISE_STREAM
from .initial_conditions import linear_field
from .noise import cell_noise, whole_seed
from .parameters import COSMOLOGICAL

__all__ = ["differentiable_fields"]


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
        If the model does not make a field, or gradients are asked for of one that
        starts from the halos of the base.
    GridError
        If `n_cells` or the linear field does not fit, or the model makes maps.

    Notes
    -----
    The particle-mesh steps are kept in memory for the way back: about 0.5 GB for 64^3
    cells. Cloud-in-cell assignment is differentiable almost everywhere, so gradients of
    averages over many cells, such as power spectra, are smooth.

    Halos gain and lose members in jumps, which no derivative knows of. So galaxies that
    start from them have no gradients. Matter sees the halos of its base too, which are
    taken as they are: the model `nbody` has d ln P / d sigma_8 right to 3 %, and
    d ln P / d omega_m to 0.11, below half the Nyquist frequency (one seed, finite
    differences).

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
    asked = [*values.values(), initial_conditions]
    if torch.is_grad_enabled() and any(
        value is not None and value.requires_grad for value in asked
    ):
        _check_gradients(loaded, wanted)
    generator.check_size(n_cells)
    if card.base.depth is not None:
        raise GridError(f"model {card.name} makes maps; gradients are for boxes")
    seed, box_size = whole_seed(seed), n_cells * card.cell_size
    if initial_conditions is None:
        initial_conditions = linear_field(
            values,
            n_cells=n_cells,
            box_size=box_size,
            seed=seed,
            fixed=fixed,
            paired=paired,
        )
    elif tuple(initial_conditions.shape) != (n_cells,) * 3:
        raise GridError(
            f"initial_conditions must have the shape {(n_cells,) * 3}, got "
            f"{tuple(initial_conditions.shape)}"
        )
    base = base_fields(
        initial_conditions,
        values,
        box_size=box_size,
        redshift=redshift,
        settings=card.base,
    )
    noise = None
    if stochastic:
        levels = enumerate(generator.network.noise_levels)
        noise = [
            cell_noise(seed, NOISE_STREAM + i, n_cells >> level)[None, None]
            for i, level in levels
        ]
    told = conditions(card.space, vector[None], redshift)
    result: Tensor = generator(base[None], told, noise)[0]
    return result[[made.index(name) for name in wanted]]


def _check_gradients(model: Model, wanted: Sequence[str]) -> None:
    """Refuse gradients of what follows halos."""
    for head in model.generator.config.heads:
        if head.name in wanted and head.follows > 0:
            raise UnknownFieldError(
                f"{head.name} of model {model.card.name} have no gradients: halos gain "
                "and lose members in jumps. Ask for other fields, such as "
                "fields=['matter'], or take differences of many realisations"
            )
