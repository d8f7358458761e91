"""The game between generator and critic: the critic's update, and the average.

Shared by everything here that is trained adversarially, whatever its fields are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .losses import gradient_penalty, relativistic_loss
from .networks import Critic

__all__ = ["critic_update", "critic_verdict", "follow", "synchronise"]


def critic_update(
    critic: Critic,
    optimiser: torch.optim.Optimizer,
    real: Tensor,
    fake: Tensor,
    base: Tensor,
    conditions: Tensor,
    *,
    penalty: float,
) -> dict[str, Tensor]:
    """One update of the critic: the real should outscore the generated.

    Parameters
    ----------
    critic, optimiser
        Its weights change.
    real, fake
        As the critic sees them, shape ``(batch, channels, n, ...)``.
    base, conditions
        What both are told of.
    penalty
        Weight of half the gradient penalty in this update; 0 leaves it out.

    Returns
    -------
    dict
        Loss, margin between the scores, and the penalty where there is one.
    """
    real = real.detach().requires_grad_(penalty > 0)
    fake = fake.detach().requires_grad_(penalty > 0)
    score_real = critic(real, base, conditions)
    score_fake = critic(fake, base, conditions)
    loss = relativistic_loss(score_real, score_fake)
    margin = (score_real - score_fake).mean()
    report = {"critic": loss.detach(), "margin": margin.detach()}
    if penalty > 0:
        size = gradient_penalty(score_real, real) + gradient_penalty(score_fake, fake)
        loss = loss + 0.5 * penalty * size
        report["penalty"] = size.detach()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    synchronise(critic)
    nn.utils.clip_grad_norm_(critic.parameters(), 5.0)
    optimiser.step()
    return report


def critic_verdict(
    critic: Critic, real: Tensor, fake: Tensor, base: Tensor, conditions: Tensor
) -> Tensor:
    """The generator's loss: the generated should outscore the real.

    Parameters
    ----------
    critic
        Its weights get no gradient.
    real, fake, base, conditions
        As in `critic_update`.

    Returns
    -------
    Tensor
        Scalar, differentiable in `fake`.
    """
    critic.requires_grad_(False)
    verdict = relativistic_loss(
        critic(fake, base, conditions), critic(real, base, conditions)
    )
    critic.requires_grad_(True)
    return verdict


def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move an average of weights towards those of now.

    Parameters
    ----------
    average, network
        Of the same shapes.
    decay
        Share that the average keeps.
    """
    with torch.no_grad():
        for mean, value in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)


def synchronise(module: nn.Module) -> None:
    """Average gradients over processes, when there are several."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
        for parameter in module.parameters():
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= world
