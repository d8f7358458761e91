"""The game between generator and critic: who learns from what."""

import pytest
import torch

from astrogan_emu.adversarial import critic_update, critic_verdict, follow
from astrogan_emu.networks import Critic, NetworkConfig


@pytest.fixture
def game():
    torch.manual_seed(0)
    shapes = NetworkConfig(2, 1, 1, 2, widths=(4,), critic_widths=(4, 4), style=4)
    real, fake = torch.randn(8, 1, 8, 8) + 1, torch.randn(8, 1, 8, 8) - 1
    return Critic(shapes), real, fake, torch.zeros(8, 1, 8, 8), torch.zeros(8, 2)


def test_the_critic_learns_to_tell_the_real_from_the_generated(game):
    """Its margin grows until it is right, and its loss falls."""
    critic, *given = game
    optimiser = torch.optim.Adam(critic.parameters(), 5e-3)
    reports = [
        critic_update(critic, optimiser, *given, penalty=0.1 * (step % 4 == 0))
        for step in range(40)
    ]
    assert reports[-1]["margin"] > max(0.5, reports[0]["margin"] + 0.5)
    assert reports[-1]["critic"] < reports[0]["critic"]
    assert [step for step, r in enumerate(reports) if "penalty" in r] == [
        *range(0, 40, 4)
    ]


def test_the_verdict_teaches_the_generator_alone(game):
    """A gradient for what was generated, none for the critic."""
    critic, real, fake, base, told = game
    fake.requires_grad_()
    critic_verdict(critic, real, fake, base, told).backward()
    assert fake.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in critic.parameters())
    assert all(weight.requires_grad for weight in critic.parameters())


def test_an_average_follows_by_its_decay():
    """From 0 towards 1: after two steps of decay d it lacks d squared."""
    average, network = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    torch.nn.init.zeros_(average.weight)
    torch.nn.init.ones_(network.weight)
    for _ in range(2):
        follow(average, network, 0.9)
    torch.testing.assert_close(average.weight, torch.full((1, 2), 1 - 0.81))
