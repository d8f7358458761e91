"""Losses: their values where they can be worked out by hand, and tame gradients."""

import math

import pytest
import torch

from astrogan_emu.losses import (
    distribution_losses,
    energy_score,
    expectation_loss,
    gradient_penalty,
    joint_loss,
    paired_loss,
    relativistic_loss,
)


def test_equal_scores_cost_ln_2():
    """Neither side of an even game is ahead."""
    scores = torch.randn(4, 3)
    assert float(relativistic_loss(scores, scores)) == pytest.approx(math.log(2))


def test_only_the_difference_of_scores_counts():
    """A critic cannot win by raising all of its scores."""
    ahead, behind = torch.randn(2, 4, 3)
    torch.testing.assert_close(
        relativistic_loss(ahead + 5, behind + 5), relativistic_loss(ahead, behind)
    )


def test_a_clear_win_costs_nothing_and_a_clear_loss_its_margin():
    """The loss tends to 0 and to its argument."""
    low, high = torch.zeros(4, 1), torch.full((4, 1), 30.0)
    assert float(relativistic_loss(high, low)) < 1e-6
    assert float(relativistic_loss(low, high)) == pytest.approx(30.0)


def test_the_penalty_of_a_linear_critic_is_its_squared_weight():
    """The gradient of w . x is w, for each sample; cells times the sum of squares."""
    weight = torch.randn(1, 2, 4, 4)
    fields = torch.randn(3, 2, 4, 4, requires_grad=True)
    scores = (weight * fields).flatten(1).sum(1, keepdim=True)
    expected = 16 * weight.square().sum()
    torch.testing.assert_close(gradient_penalty(scores, fields), expected)


def test_the_penalty_of_a_mean_does_not_depend_on_the_grid():
    """A score that is a mean over cells has penalty 1 on any grid."""
    for n in (4, 8):
        fields = torch.randn(2, 1, n, n, requires_grad=True)
        scores = fields.flatten(1).mean(1, keepdim=True)
        assert float(gradient_penalty(scores, fields)) == pytest.approx(1.0)


def test_the_penalty_can_be_learned_from():
    """It is differentiable in the critic's weights: d(n w^2)/dw = 2 n w."""
    weight = torch.tensor(0.5, requires_grad=True)
    fields = torch.randn(1, 1, 2, 2, requires_grad=True)
    scores = (weight * fields.sum()).view(1, 1)
    gradient_penalty(scores, fields).backward()
    # Four cells, each of gradient w, times their number.
    assert float(weight.grad) == pytest.approx(2 * 16 * 0.5)


def test_paired_loss_is_quadratic_then_linear():
    """d^2 / 2 below 1, |d| - 1/2 above."""
    target = torch.zeros(1, 1, 4, 4)
    assert float(paired_loss(target, target)) == 0
    assert float(paired_loss(target + 0.1, target)) == pytest.approx(0.005)
    assert float(paired_loss(target + 3, target)) == pytest.approx(2.5)


def test_an_expected_density_is_the_mean():
    """Of four cells of which one holds everything, a constant is best at the mean."""
    target = torch.tensor([0.0, 0.0, 0.0, 8.0]).view(1, 1, 4)
    constants = torch.linspace(0.1, 8, 80)
    found = [
        float(expectation_loss(torch.full_like(target, c), target)) for c in constants
    ]
    assert float(constants[found.index(min(found))]) == pytest.approx(2.0, abs=0.05)
    assert float(expectation_loss(target, target)) == pytest.approx(0, abs=1e-5)


def test_joint_distributions_see_relations_between_fields():
    """Cells may change places together; which values go together may not change."""
    torch.manual_seed(0)
    first = torch.randn(1, 1, 4096)
    target = torch.cat([first, first], 1)
    diagonal = torch.tensor([[0.6, -0.8]])
    order = torch.randperm(4096)
    assert float(joint_loss(target[..., order], target, diagonal)) < 1e-6
    unrelated = torch.cat([first, first[..., order]], 1)
    along = torch.eye(2)
    assert float(joint_loss(unrelated, target, along)) < 1e-6
    # A Gaussian of standard deviation 1 beside one of 0.2: (1 - 0.2) E |x|.
    expected = 0.8 * math.sqrt(2 / math.pi)
    assert float(joint_loss(unrelated, target, diagonal)) == pytest.approx(
        expected, rel=0.05
    )


SPREADS = (0.0, 0.5, 1.0, 2.0)


def test_the_energy_score_is_least_for_draws_from_the_truth():
    """Of normal draws: (root(1 + s^2) - s / root 2) root(2 / pi)."""
    target, first, second = torch.randn(
        3, 400_000, generator=torch.Generator().manual_seed(1)
    )
    found = []
    for spread in SPREADS:
        made = spread * torch.stack([first, second])[:, None]
        found.append(float(energy_score(made, target[None, None])))
        expected = math.sqrt(1 + spread**2) - spread / math.sqrt(2)
        expected *= math.sqrt(2 / math.pi)
        assert found[-1] == pytest.approx(expected, abs=0.005)
    assert SPREADS[found.index(min(found))] == 1.0


def test_two_equal_draws_score_their_distance():
    made, target = torch.rand(1, 1, 8, 8).repeat(2, 1, 1, 1), torch.rand(1, 1, 8, 8)
    score = energy_score(made, target)
    assert float(score) == pytest.approx(float((made - target).abs().mean()))


def test_a_generator_learns_how_uncertain_its_target_is():
    """Distance alone would drive the strength of the noise to nothing."""
    torch.manual_seed(2)
    strength = torch.tensor(0.1, requires_grad=True)
    optimiser = torch.optim.Adam([strength], 0.02)
    for _ in range(300):
        target = 0.7 * torch.randn(1, 1, 4000)
        optimiser.zero_grad()
        energy_score(strength * torch.randn(2, 1, 4000), target).backward()
        optimiser.step()
    assert float(strength.detach()) == pytest.approx(0.7, abs=0.05)


def test_the_tail_counts_what_cells_hold():
    """One cell of a thousand that holds half of all: far off here, near on the log."""
    target = torch.ones(1, 1, 1000)
    target[..., 0] = 1000
    made = torch.ones(1, 1, 1000)
    _, distance = distribution_losses(torch.log1p(made), torch.log1p(target))
    # A mean difference of 0.999, in units of 1 + 1.999.
    assert float(distance) == pytest.approx(0.999 / 2.999, rel=1e-4)
    order = torch.randperm(1000)
    moved = torch.log1p(target[..., order])
    assert max(map(float, distribution_losses(moved, torch.log1p(target)))) == 0


def test_draws_are_compared_with_their_own_sample():
    """Several draws in a row cost the mean of what each costs alone, by channel."""
    torch.manual_seed(4)
    target = torch.rand(3, 2, 64)
    draws = torch.rand(2, 3, 2, 64)
    for loss in (distribution_losses, expectation_loss):
        together, first, second = (
            torch.stack([*loss(made, target)])
            for made in (draws.flatten(0, 1), draws[0], draws[1])
        )
        assert together.shape[-1] == 2
        torch.testing.assert_close(together, (first + second) / 2)
