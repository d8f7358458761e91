"""Losses: their values where they can be worked out by hand, and tame gradients."""

import math

import pytest
import torch

from astrogan_emu.losses import (
    cross_loss,
    energy_score,
    expectation_loss,
    gradient_penalty,
    joint_loss,
    mode_score,
    paired_loss,
    relativistic_loss,
    spectral_losses,
    tail_loss,
)


def random_field(n_dim=2, n=16, seed=0):
    torch.manual_seed(seed)
    field = torch.exp(torch.randn(2, 1, *(n,) * n_dim))
    return field / field.mean()


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


@pytest.mark.parametrize("n_dim", [2, 3])
@pytest.mark.parametrize("n", [8, 9])
def test_identical_fields_have_no_spectral_loss(n_dim, n):
    """Neither power nor phases differ, to rounding."""
    field = random_field(n_dim, n)
    power, phase = spectral_losses(field, field)
    assert float(power) == 0
    assert float(phase) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n_dim", [2, 3])
@pytest.mark.parametrize("factor", [1.1, 2.0, 0.5])
def test_a_scaled_contrast_costs_its_power_alone(n_dim, factor):
    """The log power differs by x = 2 ln(factor), and the loss is ln(1 + |x|)."""
    target = random_field(n_dim, 8)
    power, phase = spectral_losses(1 + factor * (target - 1), target)
    expected = math.log1p(abs(2 * math.log(factor)))
    assert float(power) == pytest.approx(expected, rel=1e-4)
    assert float(phase) == pytest.approx(0, abs=1e-5)


def test_opposite_phases_cost_two():
    """The correlation is -1 on every scale, at the same power."""
    target = random_field()
    power, phase = spectral_losses(2 - target, target)
    assert float(power) == pytest.approx(0, abs=1e-6)
    assert float(phase) == pytest.approx(2, abs=1e-5)


def test_the_mean_is_no_matter_of_the_spectral_losses():
    """A constant added changes nothing: shells start at the fundamental mode."""
    target = random_field()
    power, phase = spectral_losses(target + 3, target)
    assert float(power) == pytest.approx(0, abs=1e-6)
    assert float(phase) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("empty", ["fields", "target", "both"])
def test_empty_fields_leave_losses_and_gradients_finite(empty):
    """A box without galaxies must not end the training."""
    fields, target = random_field(seed=0), random_field(seed=1)
    if empty in ("fields", "both"):
        fields = torch.zeros_like(fields)
    if empty in ("target", "both"):
        target = torch.zeros_like(target)
    fields.requires_grad_()
    power, phase = spectral_losses(fields, target)
    (power + phase).backward()
    assert torch.isfinite(power + phase)
    assert torch.isfinite(fields.grad).all()


def test_the_smallest_grid_has_finite_gradients():
    """Even where no mode lies beyond the Nyquist frequency."""
    fields, target = random_field(n=2).requires_grad_(), random_field(n=2, seed=1)
    sum(spectral_losses(fields, target)).backward()
    assert torch.isfinite(fields.grad).all()


def test_losses_seen_in_inference_can_be_trained_on_later():
    """What is kept between calls must not be bound to inference mode."""
    target = random_field(n=10)
    with torch.inference_mode():
        spectral_losses(target, target)
    fields = random_field(n=10, seed=1).requires_grad_()
    sum(spectral_losses(fields, target.clone())).backward()
    assert fields.grad is not None


def two_fields(seed=0, lean=0.5):
    """A field, and another that leans on it."""
    first, other = random_field(seed=seed), random_field(seed=seed + 100)
    return torch.cat([first, 1e6 * (lean * first + (1 - lean) * other)], 1)


def test_cross_power_that_is_right_costs_nothing():
    """Whatever the units, and the phases."""
    fields = two_fields()
    assert float(cross_loss(fields, fields)) == pytest.approx(0, abs=1e-6)
    moved = fields.roll((3, 5), (2, 3))
    assert float(cross_loss(moved, fields)) == pytest.approx(0, abs=1e-5)


def test_cross_power_that_is_lost_costs_the_correlation():
    """Two copies of one field, of which one is emptied: ln(1 + 1)."""
    first = random_field()
    fields = torch.cat([first, first], 1)
    emptied = torch.cat([first, torch.zeros_like(first)], 1)
    assert float(cross_loss(emptied, fields)) == pytest.approx(math.log(2), rel=1e-4)


def test_cross_power_of_an_empty_field_can_be_learned_from():
    """Gradients are finite."""
    target = two_fields()
    target[:, 1] = 0
    fields = two_fields(seed=1).requires_grad_(True)
    cross_loss(fields, target).backward()
    assert torch.isfinite(fields.grad).all()


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
    both = torch.stack([target, target])
    found = []
    for spread in SPREADS:
        made = spread * torch.stack([first, second])
        found.append(float(energy_score(made, both)))
        expected = math.sqrt(1 + spread**2) - spread / math.sqrt(2)
        expected *= math.sqrt(2 / math.pi)
        assert found[-1] == pytest.approx(expected, abs=0.005)
    assert SPREADS[found.index(min(found))] == 1.0


def test_two_equal_draws_score_their_distance():
    made, target = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    made[1], target[1] = made[0], target[0]
    score = energy_score(made, target)
    assert float(score) == pytest.approx(float((made - target).abs().mean()))


def test_a_generator_learns_how_uncertain_its_target_is():
    """Distance alone would drive the strength of the noise to nothing."""
    torch.manual_seed(2)
    strength = torch.tensor(0.1, requires_grad=True)
    optimiser = torch.optim.Adam([strength], 0.02)
    for _ in range(300):
        target = 0.7 * torch.randn(4000).repeat(2, 1)
        optimiser.zero_grad()
        energy_score(strength * torch.randn(2, 4000), target).backward()
        optimiser.step()
    assert float(strength.detach()) == pytest.approx(0.7, abs=0.05)


def test_the_score_of_modes_leads_to_draws_from_the_truth():
    """Half of the target's variance is known, half is drawn."""
    torch.manual_seed(3)
    known, *unknown = (torch.randn(1, 1, 32, 32, 32) for _ in range(4))
    target = (known + unknown[0]).repeat(2, 1, 1, 1, 1)
    slopes = []
    for start in (0.5, 1.0, 2.0):
        spread = torch.tensor(start, requires_grad=True)
        draws = torch.cat([known + spread * each for each in unknown[1:]])
        mode_score(draws, target).backward()
        slopes.append(float(spread.grad))
    assert slopes[0] < -0.05
    assert slopes[1] == pytest.approx(0, abs=0.01)
    assert slopes[2] > 0.05


def test_the_score_of_modes_of_empty_fields_can_be_learned_from():
    made = random_field().requires_grad_(True)
    mode_score(made, torch.zeros_like(made)).backward()
    assert bool(torch.isfinite(made.grad).all())
    empty = torch.zeros(2, 1, 16, 16, requires_grad=True)
    score = mode_score(empty, torch.zeros_like(empty))
    score.backward()
    assert float(score.detach()) == pytest.approx(0, abs=0.01)
    assert bool(torch.isfinite(empty.grad).all())


def test_the_tail_counts_what_cells_hold():
    """One cell of a thousand that holds half of all: far off here, near on the log."""
    target = torch.ones(1, 1, 1000)
    target[..., 0] = 1000
    made = torch.ones(1, 1, 1000)
    distance = tail_loss(torch.log1p(made), torch.log1p(target))
    # A mean difference of 0.999, in units of 1 + 1.999.
    assert float(distance) == pytest.approx(0.999 / 2.999, rel=1e-4)
    order = torch.randperm(1000)
    assert float(tail_loss(torch.log1p(target[..., order]), torch.log1p(target))) == 0


def test_an_empty_target_has_a_finite_cross_loss():
    """A box without a galaxy is no reason to stop a training."""
    fields = torch.rand(2, 2, 8, 8, 8)
    target = fields.clone()
    target[:, 1] = 0
    fields.requires_grad_()
    loss = cross_loss(fields, target)
    loss.backward()
    assert 0 < float(loss.detach()) < 1
    assert bool(torch.isfinite(fields.grad).all())
    assert float(fields.grad.abs().sum()) > 0
