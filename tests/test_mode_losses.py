"""Losses of Fourier modes: values that can be worked out by hand, tame gradients."""

import math

import pytest
import torch

from astrogan_emu.bispectrum import bispectrum
from astrogan_emu.generators import gaussian
from astrogan_emu.mode_losses import (
    Modes,
    bispectrum_loss,
    cross_loss,
    decorrelation_loss,
    mode_score,
    power_loss,
)


def random_field(n_dim=2, n=16, seed=0):
    torch.manual_seed(seed)
    field = torch.exp(torch.randn(2, 1, *(n,) * n_dim))
    return field / field.mean()


def spectral_losses(fields, target):
    """Misfits of power and of phases, of a single field."""
    made, wanted = Modes.of(fields), Modes.of(target)
    return power_loss(made, wanted)[0], decorrelation_loss(made, wanted)[0]


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
    assert float(cross_loss(Modes.of(fields), Modes.of(fields))) == pytest.approx(
        0, abs=1e-6
    )
    moved = fields.roll((3, 5), (2, 3))
    assert float(cross_loss(Modes.of(moved), Modes.of(fields))) == pytest.approx(
        0, abs=1e-5
    )


def test_cross_power_that_is_lost_costs_the_correlation():
    """Two copies of one field, of which one is emptied: ln(1 + 1)."""
    first = random_field()
    fields = torch.cat([first, first], 1)
    emptied = torch.cat([first, torch.zeros_like(first)], 1)
    assert float(cross_loss(Modes.of(emptied), Modes.of(fields))) == pytest.approx(
        math.log(2), rel=1e-4
    )


def test_cross_power_of_an_empty_field_can_be_learned_from():
    """Gradients are finite."""
    target = two_fields()
    target[:, 1] = 0
    fields = two_fields(seed=1).requires_grad_(True)
    cross_loss(Modes.of(fields), Modes.of(target)).backward()
    assert torch.isfinite(fields.grad).all()


def test_the_score_of_modes_leads_to_draws_from_the_truth():
    """Half of the target's variance is known, half is drawn."""
    torch.manual_seed(3)
    known, *unknown = (torch.randn(1, 1, 32, 32, 32) for _ in range(4))
    target = known + unknown[0]
    slopes = []
    for start in (0.5, 1.0, 2.0):
        spread = torch.tensor(start, requires_grad=True)
        draws = torch.cat([known + spread * each for each in unknown[1:]])
        mode_score(Modes.of(draws), Modes.of(target)).backward()
        slopes.append(float(spread.grad))
    assert slopes[0] < -0.05
    assert slopes[1] == pytest.approx(0, abs=0.01)
    assert slopes[2] > 0.05


def test_the_score_of_modes_of_empty_fields_can_be_learned_from():
    made = random_field().requires_grad_(True)
    nothing = Modes.of(torch.zeros(1, 1, 16, 16))
    mode_score(Modes.of(made), nothing).backward()
    assert bool(torch.isfinite(made.grad).all())
    empty = torch.zeros(2, 1, 16, 16, requires_grad=True)
    score = mode_score(Modes.of(empty), nothing)
    score.backward()
    assert float(score.detach()) == pytest.approx(0, abs=0.01)
    assert bool(torch.isfinite(empty.grad).all())


def test_an_empty_target_has_a_finite_cross_loss():
    """A box without a galaxy is no reason to stop a training."""
    fields = torch.rand(2, 2, 8, 8, 8)
    target = fields.clone()
    target[:, 1] = 0
    fields.requires_grad_()
    loss = cross_loss(Modes.of(fields), Modes.of(target))
    loss.backward()
    assert 0 < float(loss.detach()) < 1
    assert bool(torch.isfinite(fields.grad).all())
    assert float(fields.grad.abs().sum()) > 0


def test_modes_smooth_as_fields_do():
    """One transform serves the spectra and the smoothed fields."""
    for n_dim in (2, 3):
        field = random_field(n_dim, 8)
        torch.testing.assert_close(
            Modes.of(field).smoothed(1.5), gaussian(field, 1.5), rtol=1e-5, atol=1e-6
        )


def test_draws_are_compared_with_their_own_sample():
    """Several draws in a row cost the mean of what each costs alone, by channel."""
    torch.manual_seed(5)
    target = Modes.of(torch.rand(3, 2, 8, 8, 8))
    draws = torch.rand(2, 3, 2, 8, 8, 8)
    for loss in (power_loss, decorrelation_loss, cross_loss):
        together, first, second = (
            loss(Modes.of(made), target)
            for made in (draws.flatten(0, 1), draws[0], draws[1])
        )
        assert together.shape == ((1,) if loss is cross_loss else (2,))
        torch.testing.assert_close(together, (first + second) / 2)


def bispectrum_misfit(fields, target, turn=0):
    """Of a single field."""
    return float(bispectrum_loss(Modes.of(fields), Modes.of(target), turn)[0])


@pytest.mark.parametrize("turn", range(4))
def test_the_bispectrum_of_a_moved_field_is_right(turn):
    """Phases of a translation cancel in closed triangles."""
    target = random_field(3)
    assert bispectrum_misfit(target, target, turn) == 0
    moved = target.roll((3, 5, 1), (2, 3, 4))
    assert bispectrum_misfit(moved, target, turn) == pytest.approx(0, abs=1e-4)


def test_a_negative_contrast_has_the_opposite_bispectrum():
    """They differ by twice the bispectrum that `bispectrum` measures there."""
    target = random_field(3, 30)
    options = {"box_size": 1.0, "relative": False}
    expected = []
    shells = [(0, 0, 0), (3, 3, 3), (3, 3, 0)]
    centres = [[2 * math.pi * (1.5 + 2 * s) for s in triple] for triple in shells]
    found = bispectrum(target, triangles=centres, **options)
    dispersion = {}
    modes = torch.fft.fftn(target, dim=(2, 3, 4))
    wave = torch.fft.fftfreq(30, 1 / 30)
    size = torch.sqrt(wave[:, None, None] ** 2 + wave[:, None] ** 2 + wave**2)
    for shell in (0, 3):
        inside = (size >= 0.5 + 2 * shell) & (size < 2.5 + 2 * shell)
        filtered = torch.fft.ifftn(modes * inside, dim=(2, 3, 4)).real
        dispersion[shell] = filtered.square().mean((2, 3, 4)).sqrt()
    for i, triple in enumerate(shells):
        one, two, three = (dispersion[s] for s in triple)
        product = found.value[..., i] * found.n_triangles[i]
        expected.append(2 * torch.asinh(product.abs() / (0.1 * one * two * three)))
    assert bispectrum_misfit(2 - target, target, 0) == pytest.approx(
        float(torch.stack(expected).mean()), rel=1e-3
    )


def test_draws_may_differ_in_their_bispectrum():
    """If one of two draws is the target itself, the other costs nothing."""
    target, other = random_field(3), random_field(3, seed=1)
    assert bispectrum_misfit(torch.cat([target, other]), target) == pytest.approx(
        0, abs=1e-6
    )
    assert bispectrum_misfit(torch.cat([other, other]), target) > 0.01


@pytest.mark.parametrize("empty", ["fields", "target", "both"])
def test_the_bispectrum_of_nothing_leaves_gradients_finite(empty):
    """And a box without galaxies is not judged."""
    fields, target = random_field(3, seed=0), random_field(3, seed=1)
    if empty in ("fields", "both"):
        fields = torch.zeros_like(fields)
    if empty in ("target", "both"):
        target = torch.zeros_like(target)
    fields.requires_grad_()
    loss = bispectrum_loss(Modes.of(fields), Modes.of(target), 0).sum()
    loss.backward()
    assert torch.isfinite(fields.grad).all()
    if empty != "fields":
        assert float(loss.detach()) == 0
