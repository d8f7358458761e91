"""What a model makes of a base: conditions and noise for it, and the fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .checkpoints import Model
from .conditioning import conditions
from .generator_noise import window_noise
from .spread_tiles import spread_corrections
from .tiling import Tiling, corrections

__all__ = ["generated_fields"]


def generated_fields(
    model: Model,
    base: Tensor,
    values: Mapping[str, float],
    redshift: float,
    seed: int,
    tiling: Tiling,
    *,
    noisy: bool = True,
    client: Any | None = None,
) -> Tensor:
    """Fields over a base.

    Parameters
    ----------
    model
        The model.
    base
        Shape ``(channels, n, n, n)``, or ``(channels, n, n)`` for maps.
    values
        Of the parameters.
    redshift
        Of the base.
    seed
        Of the noise.
    tiling
        How the network's work is cut.
    noisy
        Whether there is noise.
    client
        A `distributed.Client` whose workers make the tiles, instead of this process.

    Returns
    -------
    Tensor
        Physical values, shape ``(n_fields, n, ...)``.
    """
    space = model.card.space
    vector = space.vector({name: values[name] for name in space.names})
    told = conditions(space, vector[None], redshift).to(base.device)
    whole = base[None]

    def noise(start: Sequence[int], shape: Sequence[int]) -> list[Tensor] | None:
        levels = model.generator.network.noise_levels
        n, device = base.shape[-1], base.device
        return window_noise(seed, levels, n, start, shape, device) if noisy else None

    if client is None:
        correction = corrections(model.generator, whole, told, noise, tiling)
    else:
        own_seed = seed if noisy else None
        correction = spread_corrections(model, whole, told, own_seed, tiling, client)
    return model.generator.physical(whole, correction, told)[0]
