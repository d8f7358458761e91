"""The generator's losses against simulations, put together as a training wants them.

Each is a function of `losses`, for one field or for several, with the weight of its
field; the training weighs the kinds against each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batches import Batch, draw_noise
from .generators import FieldGenerator, FieldHead, gaussian
from .losses import (
    cross_loss,
    distribution_loss,
    energy_score,
    expectation_loss,
    joint_loss,
    mode_score,
    paired_loss,
    spectral_losses,
    tail_loss,
)
from .training_config import TrainingConfig

__all__ = ["LOSSES", "generator_losses"]

LOSSES = ("cell", "power", "phase", "distribution", "tail", "cross", "joint")
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
        Samples; with ``config.draws`` of 2 the second half of paired ones repeats the
        first.
    config
        The choices.
    step, rank
        Numbers of the update and of the process, which decide the noise.

    Returns
    -------
    losses
        One for each of `LOSSES`.
    fields
        Physical, shape ``(batch, n_fields, n, ...)``.
    """
    noise = draw_noise(generator, batch, (config.seed, step, rank, 1))
    draws = config.draws if batch.paired else 1
    bf16 = config.precision == "bf16"
    with torch.autocast(batch.base.device.type, torch.bfloat16, enabled=bf16):
        # The second half repeats the first; the network does so when noise comes in.
        once = slice(len(batch.base) // draws)
        fields = generator(batch.base[once], batch.conditions[once], noise)
    fields, target = fields.float(), batch.target
    latent, wanted = (generator.to_latent(f) for f in (fields, target))
    heads = generator.config.heads
    pairs = []
    if config.distribution_weight > 0 or config.tail_weight > 0 or draws == 2:
        pairs = _spread_pairs(generator, latent, wanted, fields, target, step)
    losses = {name: fields.new_zeros(()) for name in LOSSES}
    for channel, head in enumerate(heads):
        own = slice(channel, channel + 1)
        weight = _weight(head, config)
        power, phase = spectral_losses(fields[:, own], target[:, own])
        parts = {"power": power}
        if config.distribution_weight > 0:
            distances = [distribution_loss(a[:, own], b[:, own]) for a, b in pairs]
            parts["distribution"] = torch.stack(distances).sum()
        if config.tail_weight > 0:
            tails = [tail_loss(a[:, own], b[:, own]) for a, b in pairs]
            parts["tail"] = torch.stack(tails).sum()
        if draws == 2:
            phase = mode_score(fields[:, own], target[:, own])
        if batch.paired:
            parts["phase"] = phase
            if head.name in config.expected:
                scaled = (f[:, own] / head.scale for f in (fields, target))
                parts["cell"] = expectation_loss(*scaled)
            elif draws == 2:
                scored = [(latent, wanted), *pairs[1:]]
                scores = [energy_score(a[:, own], b[:, own]) for a, b in scored]
                parts["cell"] = torch.stack(scores).sum()
            else:
                parts["cell"] = paired_loss(latent[:, own], wanted[:, own])
        for name, value in parts.items():
            losses[name] = losses[name] + weight * value
    free = [i for i, head in enumerate(heads) if not head.conserved]
    for i in free:
        # What is nearly empty, or is to be, is not held to a ratio.
        tiny = _NEARLY_EMPTY * heads[i].scale
        ratio = (_mean(fields[:, i]) + tiny) / (_mean(target[:, i]) + tiny)
        misfit = torch.log(ratio).square().mean() / len(free)
        losses["power"] = losses["power"] + _weight(heads[i], config) * misfit
    if batch.paired and config.cross_weight > 0 and heads[0].conserved:
        for i in free:
            misfit = cross_loss(fields[:, [0, i]], target[:, [0, i]])
            losses["cross"] = losses["cross"] + _weight(heads[i], config) * misfit
    if config.joint_weight > 0:
        losses["joint"] = _joint(heads, latent, wanted, config, (step, rank))
    return losses, fields


def _spread_pairs(
    generator: FieldGenerator,
    latent: Tensor,
    wanted: Tensor,
    fields: Tensor,
    target: Tensor,
    step: int,
) -> list[tuple[Tensor, Tensor]]:
    """Some cells of the transformed fields and targets, and of the smoothed ones."""
    to_latent = generator.to_latent
    # A smooth field is known from every other cell; of cells each step compares others.
    every: Any = (..., *(slice(None, None, 2),) * (fields.ndim - 2))
    starts = [step >> axis & 1 for axis in range(fields.ndim - 2)]
    turn: Any = (..., *(slice(start, None, 2) for start in starts))
    return [(latent[turn], wanted[turn])] + [
        (
            to_latent(gaussian(fields, scale)[every]),
            to_latent(gaussian(target, scale)[every]),
        )
        for scale in _SMOOTHINGS
    ]


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


def _mean(fields: Tensor) -> Tensor:
    """Of each sample, shape ``(batch,)``."""
    return fields.flatten(1).mean(1)


def _weight(head: FieldHead, config: TrainingConfig) -> float:
    """Of a field in all losses but the critic's."""
    usual = 1.0 if head.conserved else config.free_weight
    return float(config.field_weights.get(head.name, usual))
