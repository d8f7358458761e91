"""What a model makes of a base: conditions and noise for it, and the fields.

The numbers of the noise depend on the seed and on their place, so that tiles of any
size are told the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from .checkpoints import Model
from .conditioning import conditions
from .noise import cell_noise
from .tiling import Tiling, corrections

__all__ = ["NOISE_STREAM", "generated_fields"]

NOISE_STREAM = 100
"""First stream of the generator's noise, which must not be that of the phases."""


def generated_fields(
    model: Model,
    base: Tensor,
    values: Mapping[str, float],
    redshift: float,
    seed: int,
    tiling: Tiling,
    *,
    noisy: bool = True,
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

    Returns
    -------
    Tensor
        Physical values, shape ``(n_fields, n, ...)``.
    """
    space = model.card.space
    vector = space.vector({name: values[name] for name in space.names})
    told = conditions(space, vector[None], redshift).to(base.device)
    levels = model.generator.network.noise_levels

    def noise(start: Sequence[int], shape: Sequence[int]) -> list[Tensor] | None:
        if not noisy:
            return None
        return [
            cell_noise(
                seed,
                NOISE_STREAM + i,
                base.shape[-1] >> level,
                n_dim=base.ndim - 1,
                # Windows are cut between the coarsest cells.
                start=[first >> level for first in start],
                shape=[size >> level for size in shape],
                device=base.device,
            )[None, None]
            for i, level in enumerate(levels)
        ]

    whole = base[None]
    correction = corrections(model.generator, whole, told, noise, tiling)
    return model.generator.physical(whole, correction)[0]
