"""The generator's losses against simulations, put together as a training wants them.

Each is a function of `losses` or of `mode_losses`, of all fields at once, and is
summed with the weights of the fields; the training weighs the kinds against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batches import Batch, draw_noise
from .generators import FieldGenerator, FieldHead
from .losses import (
    distribution_losses,
    energy_score,
    expectation_loss,
    joint_loss,
    paired_loss,
)
from .mode_losses import (
    Modes,
    bispectrum_loss,
    cross_loss,
    decorrelation_loss,
    mode_score,
    power_loss,
)
from .training_config import TrainingConfig

__all__ = ["LOSSES", "generator_losses"]

LOSSES = (
    *("cell", "power", "phase", "bispectrum"),
    *("distribution", "tail", "cross", "joint"),
)
"""Kinds of losses, each with a weight of its own in `TrainingConfig`."""

# Of the fields that are compared beside that of cells, in cells: peaks and voids.
_SMOOTHINGS = (1.25, 2.5)
# Mean of a box, in the scale of its field, below which amounts hardly count.
_NEARLY_EMPTY = 1e-2
# Directions, and cells of each sample, in which joint distributions are compared.
_DIRECTIONS, _CELLS = 6, 8192


def generator_losses(
    generator: FieldGenerator,
    batch: Batch,
    config: TrainingConfig,
    step: int,
    rank: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """Losses of a generator against simulations, and the fields it made.

    Parameters
    ----------
    generator
        Its gradients are kept.
    batch
        Samples.
    config
        The choices.
    step, rank
        Numbers of the update and of the process, which decide the noise.

    Returns
    -------
    losses
        One for each of `LOSSES`.
    fields
        Physical, shape ``(draws batch, n_fields, n, ...)``: of paired samples
        ``config.draws`` fields each, the first of every sample, then the second.
    """
    draws = config.draws if batch.paired else 1
    noise = draw_noise(generator, batch, (config.seed, step, rank, 1), draws)
    bf16 = config.precision == "bf16"
    with torch.autocast(batch.base.device.type, torch.bfloat16, enabled=bf16):
        fields = generator(batch.base, batch.conditions, noise, batch.truth)
    fields, target = fields.float(), batch.target
    latent, wanted = (generator.to_latent(f) for f in (fields, target))
    modes, true_modes = Modes.of(fields), Modes.of(target)
    heads = generator.config.heads
    spread = config.distribution_weight > 0 or config.tail_weight > 0
    pairs = [(latent, wanted)]
    if spread or draws == 2:
        pairs += _smoothed(generator, modes, true_modes)

    parts = {"power": power_loss(modes, true_modes) + _amounts(heads, fields, target)}
    if config.bispectrum_weight > 0:
        parts["bispectrum"] = bispectrum_loss(modes, true_modes, step)
    if spread:
        one, *others = pairs
        some = [_every_other(one, step), *others]
        distances = zip(*(distribution_losses(*pair) for pair in some), strict=True)
        for name, kind in zip(("distribution", "tail"), distances, strict=True):
            parts[name] = torch.stack(kind).sum(0)
    if batch.paired:
        if draws == 2:
            parts["phase"] = mode_score(modes, true_modes)
            scores = [energy_score(*pair) for pair in pairs]
            parts["cell"] = torch.stack(scores).sum(0)
        else:
            parts["phase"] = decorrelation_loss(modes, true_modes)
            parts["cell"] = paired_loss(latent, wanted)
        parts["cell"] = _expected(parts["cell"], heads, fields, target, config)
        free = _free(heads)
        if config.cross_weight > 0 and heads[0].conserved and free:
            chosen = [modes.channels([0, *free]), true_modes.channels([0, *free])]
            parts["cross"] = torch.zeros_like(parts["power"])
            parts["cross"][free] = cross_loss(*chosen)
    weights = fields.new_tensor([_weight(head, config) for head in heads])
    losses = {name: fields.new_zeros(()) for name in LOSSES}
    losses |= {name: (weights * part).sum() for name, part in parts.items()}
    if config.joint_weight > 0:
        losses["joint"] = _joint(heads, latent, wanted, config, (step, rank))
    return losses, fields


def _free(heads: Sequence[FieldHead]) -> list[int]:
    """Channels of the fields that are not conserved."""
    return [i for i, head in enumerate(heads) if not head.conserved]


def _smoothed(
    generator: FieldGenerator, modes: Modes, true_modes: Modes
) -> list[tuple[Tensor, Tensor]]:
    """Transformed smooth fields and targets: known from every other cell."""
    every: Any = (..., *(slice(None, None, 2),) * (modes.values.ndim - 2))
    made, wanted = (
        [generator.to_latent(each.smoothed(scale)[every]) for scale in _SMOOTHINGS]
        for each in (modes, true_modes)
    )
    return list(zip(made, wanted, strict=True))


def _every_other(pair: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, Tensor]:
    """Some cells of fields and targets: in each step others."""
    made, wanted = pair
    starts = [step >> axis & 1 for axis in range(made.ndim - 2)]
    turn: Any = (..., *(slice(start, None, 2) for start in starts))
    return made[turn], wanted[turn]


def _expected(
    cells: Tensor,
    heads: Sequence[FieldHead],
    fields: Tensor,
    target: Tensor,
    config: TrainingConfig,
) -> Tensor:
    """Losses of cells, by channel, with those of expected densities in their places."""
    parts = list(cells.unbind())
    for i, head in enumerate(heads):
        if head.name in config.expected:
            scaled = (f[:, i : i + 1] / head.scale for f in (fields, target))
            (parts[i],) = expectation_loss(*scaled)
    return torch.stack(parts)


def _amounts(heads: Sequence[FieldHead], fields: Tensor, target: Tensor) -> Tensor:
    """Misfits of the means of the fields that are not conserved, by channel."""
    free = _free(heads)
    misfits = [fields.new_zeros(()) for _ in heads]
    for i in free:
        made, wanted = (f[:, i].flatten(1).mean(1) for f in (fields, target))
        # What is nearly empty, or is to be, is not held to a ratio.
        tiny = _NEARLY_EMPTY * heads[i].scale
        ratio = (made.unflatten(0, (-1, len(wanted))) + tiny) / (wanted + tiny)
        misfits[i] = torch.log(ratio).square().mean() / len(free)
    return torch.stack(misfits)


def _joint(
    heads: tuple[FieldHead, ...],
    latent: Tensor,
    wanted: Tensor,
    config: TrainingConfig,
    number: tuple[int, int],
) -> Tensor:
    """Distance of the joint distributions, in some of the cells and directions."""
    rng = np.random.default_rng((config.seed, *number, 3))
    directions = rng.standard_normal((_DIRECTIONS, len(heads)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions *= [min(1.0, _weight(head, config)) for head in heads]
    cells = rng.permutation(latent[0, 0].numel())[:_CELLS]
    chosen = torch.from_numpy(cells).to(latent.device)
    return joint_loss(
        latent.flatten(2)[..., chosen],
        wanted.flatten(2)[..., chosen],
        torch.from_numpy(directions).to(latent),
    )


def _weight(head: FieldHead, config: TrainingConfig) -> float:
    """Of a field in all losses but the critic's."""
    usual = 1.0 if head.conserved else config.free_weight
    return float(config.field_weights.get(head.name, usual))
