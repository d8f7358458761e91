"""Losses of the conditional GAN: pure functions of the values of fields, and of scores.

Generated fields are compared with a simulation cell by cell on the logarithmic scale,
or two fields of one base at once by a score that is best for draws from the right
distribution, and value by value in the one-point distribution; `mode_losses` compares
their Fourier modes. The adversarial loss is relativistic (Jolicoeur-Martineau 2019)
with the gradient penalty of Mescheder et al. (2018) on real and generated fields.

Several draws of each sample may be compared with it at once: the first draw of every
sample, then the second, and so on.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "distribution_losses",
    "energy_score",
    "expectation_loss",
    "gradient_penalty",
    "joint_loss",
    "paired_loss",
    "relativistic_loss",
]


def relativistic_loss(winner_scores: Tensor, loser_scores: Tensor) -> Tensor:
    """How far the winner is from outscoring its partner.

    Parameters
    ----------
    winner_scores, loser_scores
        Scores of paired samples, any shape.

    Returns
    -------
    Tensor
        Scalar.
    """
    return F.softplus(loser_scores - winner_scores).mean()


def gradient_penalty(scores: Tensor, fields: Tensor) -> Tensor:
    """Squared gradient of the critic at its input, per cell (Mescheder et al. 2018).

    Parameters
    ----------
    scores
        Of shape ``(batch, n_scales)``.
    fields
        The critic's input, which requires a gradient, shape ``(batch, channels, ...)``.

    Returns
    -------
    Tensor
        Scalar, for a field of unit cells: the sum over cells times their number, so
        that its size does not depend on the grid.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), fields, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() * fields[0, 0].numel()


def paired_loss(latent: Tensor, target: Tensor) -> Tensor:
    """Smooth absolute difference on the logarithmic scale (Girshick 2015).

    Quadratic for small differences, so that sparse fields are not drawn to zero.

    Parameters
    ----------
    latent, target
        Transformed fields, shape ``(batch, channels, ...)``.

    Returns
    -------
    Tensor
        Mean over samples and cells, shape ``(channels,)``.
    """
    return _by_channel(F.smooth_l1_loss(latent, target, reduction="none"))


def energy_score(made: Tensor, target: Tensor) -> Tensor:
    """Fair energy score of two draws, cell by cell (Gneiting & Raftery 2007, eq. 22).

    The mean distance of the draws from the target, less half of that between the draws.
    Its expectation is least if the draws come from the distribution of the target: a
    difference alone would be least for two draws of its median.

    Parameters
    ----------
    made
        Shape ``(2 batch, channels, ...)``.
    target
        Shape ``(batch, channels, ...)``.

    Returns
    -------
    Tensor
        Mean over samples and cells, shape ``(channels,)``; of two draws it may be
        negative.
    """
    first, second = made.chunk(2)
    off = _by_channel((first - target).abs()) + _by_channel((second - target).abs())
    return 0.5 * (off - _by_channel((first - second).abs()))


def distribution_losses(latent: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Wasserstein distances of the one-point distributions.

    In one dimension that is the mean absolute difference of the sorted values.

    Parameters
    ----------
    latent
        Fields transformed by log(1 + value / scale), shape
        ``(draws batch, channels, ...)``.
    target
        Transformed likewise, shape ``(batch, channels, ...)``.

    Returns
    -------
    distribution
        Of the logarithms. What minimises a difference cell by cell is a median, and
        medians are less spread than values: voids come out too shallow. This puts the
        spread back. Mean over samples, shape ``(channels,)``.
    tail
        Of the values, in units of scale and mean together. On the logarithmic scale the
        few dense cells that hold most of the objects, and most of the power on small
        scales, hardly count beside the many empty ones; here each cell counts with what
        it holds. Likewise ``(channels,)``.
    """
    made, wanted = _ranked(latent, target)
    held, amounts = torch.expm1(made), torch.expm1(wanted)
    tails = (held - amounts).abs().mean(-1) / (1 + amounts.mean(-1))
    distances = (made - wanted).abs().mean(-1)
    return distances.mean((0, 1)), tails.mean((0, 1))


def _ranked(latent: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted values, ``(draws, batch, channels, cells)`` and without the first axis."""
    made, wanted = (each.flatten(2).sort(-1).values for each in (latent, target))
    return made.unflatten(0, (-1, len(wanted))), wanted


def expectation_loss(fields: Tensor, target: Tensor) -> Tensor:
    """Deviance of the target from an expected density (Poisson's, per cell).

    Least, on average, where each cell holds the mean of what the simulations have
    there, also if nearly all of them have nothing: a difference of logarithms would be
    least at their median, which is empty.

    Parameters
    ----------
    fields
        Densities, shape ``(draws batch, channels, ...)``, none negative.
    target
        In the same unit, shape ``(batch, channels, ...)``.

    Returns
    -------
    Tensor
        Mean over samples and cells, in the unit of the densities, 0 where they agree,
        shape ``(channels,)``.
    """
    tiny = 1e-6
    made = fields.unflatten(0, (-1, len(target)))
    ratio = torch.log((target + tiny) / (made + tiny))
    return _by_channel((made - target + (target + tiny) * ratio).flatten(0, 1))


def joint_loss(latent: Tensor, target: Tensor, directions: Tensor) -> Tensor:
    """Sliced Wasserstein distance of the joint distributions of the fields' values.

    Along each direction in the space of fields it is the first of
    `distribution_losses`; over all directions it is zero only if the relations between
    fields agree, such as that of temperature and density (Bonneel et al. 2015). A
    difference cell by cell is least for values between two kinds of gas that no cell
    has; here they cost.

    Parameters
    ----------
    latent
        Transformed fields, shape ``(draws batch, channels, ...)``.
    target
        Likewise, shape ``(batch, channels, ...)``.
    directions
        Shape ``(n_directions, channels)``.

    Returns
    -------
    Tensor
        Scalar, the mean over samples and directions.
    """
    made, wanted = _ranked(
        *(
            torch.einsum("bcn,dc->bdn", each.flatten(2), directions)
            for each in (latent, target)
        )
    )
    return (made - wanted).abs().mean()


def _by_channel(values: Tensor) -> Tensor:
    """Means over all axes but the second."""
    return values.flatten(2).mean((0, 2))
