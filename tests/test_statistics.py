from types import SimpleNamespace

import numpy as np
import pytest
import torch

from astrogan_emu.errors import GridError
from astrogan_emu.grids import GridSpec
from astrogan_emu.statistics import (
    correlation_coefficient,
    cross_power,
    power_correlation_matrix,
    power_spectrum,
    transfer_function,
)

BOX = 20.0


def positive_field(shape, seed=0):
    return np.random.default_rng(seed).lognormal(size=shape)


def slow_spectrum(first, second, box_size):
    """P(k) by explicit sums over cells, mode by mode, of the full Fourier space."""
    n, n_dim = first.shape[0], first.ndim
    a, b = first / first.mean() - 1, second / second.mean() - 1
    cells = np.stack(np.meshgrid(*[np.arange(n)] * n_dim, indexing="ij"), -1)
    cells = cells.reshape(-1, n_dim)
    sums, counts, lengths = {}, {}, {}
    for mode in cells - (n - 1) // 2:
        phase = np.exp(-2j * np.pi * (cells @ mode) / n)
        length = np.sqrt(np.sum(mode**2))
        bin_number = int(np.floor(length + 0.5))
        product = (phase @ a.ravel()) * np.conj(phase @ b.ravel())
        sums[bin_number] = sums.get(bin_number, 0) + product.real
        counts[bin_number] = counts.get(bin_number, 0) + 1
        lengths[bin_number] = lengths.get(bin_number, 0) + length
    used = range(1, (n - 1) // 2 + 1)
    norm = box_size**n_dim / n ** (2 * n_dim)
    k = np.array([lengths[i] / counts[i] for i in used]) * 2 * np.pi / box_size
    power = np.array([norm * sums[i] / counts[i] for i in used])
    return k, power, np.array([counts[i] for i in used])


@pytest.mark.parametrize("shape", [(9, 9), (12, 12), (7, 7, 7), (8, 8, 8)])
def test_power_equals_explicit_sums_over_cells_and_modes(shape):
    """The FFT, the half space and the bins agree with direct sums, to rounding."""
    field = positive_field(shape)
    k, power, n_modes = slow_spectrum(field, field, BOX)
    measured = power_spectrum(field, box_size=BOX)
    np.testing.assert_allclose(measured.k, k, rtol=1e-12)
    np.testing.assert_array_equal(measured.n_modes, n_modes)
    np.testing.assert_allclose(measured.power, power, rtol=1e-10)


@pytest.mark.parametrize("shape", [(10, 10), (8, 8, 8)])
def test_cross_power_equals_explicit_sums(shape):
    """Cross-power has the right sign and size in every bin."""
    first, second = positive_field(shape), positive_field(shape, seed=1)
    _, power, _ = slow_spectrum(first, second, BOX)
    measured = cross_power(first, second, box_size=BOX).power
    np.testing.assert_allclose(measured, power, rtol=1e-9, atol=1e-12)


def test_white_noise_has_flat_power_of_variance_times_cell_volume():
    """White noise of variance s^2 has P = s^2 V_cell, within 5 sigma of its scatter."""
    n = 48
    noise = np.random.default_rng(3).normal(scale=1.5, size=(n, n, n))
    spectrum = power_spectrum(noise, box_size=BOX, relative=False)
    expected = 1.5**2 * (BOX / n) ** 3
    sigma = np.sqrt(2 / spectrum.n_modes)
    assert np.all(np.abs(spectrum.power / expected - 1) < 5 * sigma)


def test_power_of_a_plane_wave_sits_in_its_own_bin():
    """A wave of amplitude A has V A^2 / 2 in all, split over the modes of its bin."""
    n = 16
    x = np.arange(n)
    wave = 0.3 * np.cos(2 * np.pi * 5 * x / n)[:, None, None] * np.ones((n, n, n))
    spectrum = power_spectrum(1 + wave, box_size=BOX)
    total = np.zeros_like(spectrum.power)
    total[4] = BOX**3 * 0.3**2 / 2
    np.testing.assert_allclose(
        spectrum.power * spectrum.n_modes, total, rtol=1e-10, atol=1e-10
    )


def test_power_does_not_depend_on_the_unit_of_a_density():
    """Relative power is that of the overdensity, whatever the density's unit."""
    field = positive_field((8, 8, 8))
    one, scaled = (power_spectrum(f, box_size=BOX).power for f in (field, 7e9 * field))
    np.testing.assert_allclose(scaled, one, rtol=1e-12)


def test_power_is_the_same_wherever_the_box_is_cut():
    """Rolling and transposing a periodic field leaves its power as it is."""
    field = positive_field((8, 8, 8))
    moved = np.roll(field, (3, -2, 1), (0, 1, 2)).transpose(2, 0, 1)
    one, other = (power_spectrum(f, box_size=BOX).power for f in (field, moved))
    np.testing.assert_allclose(other, one, rtol=1e-10)


def test_leading_axes_are_independent_fields():
    """A batch gives what its members give one by one."""
    batch = positive_field((2, 3, 8, 8, 8))
    together = power_spectrum(batch, box_size=BOX).power
    assert together.shape[:2] == (2, 3)
    single = power_spectrum(batch[1, 2], box_size=BOX).power
    np.testing.assert_allclose(together[1, 2], single, rtol=1e-12)


def test_a_stack_as_long_as_its_maps_can_be_told_from_a_cube():
    """A stack of n maps of n x n cells is one when n_dim says so."""
    maps = positive_field((8, 8, 8))
    stack = power_spectrum(maps, box_size=BOX, n_dim=2).power
    np.testing.assert_allclose(stack[3], power_spectrum(maps[3], box_size=BOX).power)


def test_float32_tensors_agree_with_float64_arrays():
    """The training precision costs less than 1e-4 in any bin."""
    field = positive_field((24, 24, 24))
    exact = power_spectrum(field, box_size=BOX)
    measured = power_spectrum(torch.tensor(field, dtype=torch.float32), box_size=BOX)
    assert measured.power.dtype == torch.float32
    np.testing.assert_allclose(measured.power.numpy(), exact.power, rtol=1e-4)


@pytest.mark.parametrize("relative", [True, False])
def test_gradients_of_power_agree_with_finite_differences(relative):
    """Training sees the true derivative of every bin, for P and for cross-power."""
    field = torch.tensor(positive_field((2, 4, 4)), requires_grad=True)
    other = torch.tensor(positive_field((2, 4, 4), seed=1), requires_grad=True)

    def powers(one, two):
        options = {"box_size": BOX, "relative": relative}
        cross = cross_power(one, two, **options).power
        return power_spectrum(one, **options).power, cross

    assert torch.autograd.gradcheck(powers, (field, other), fast_mode=True)


def test_identical_fields_correlate_fully_and_transfer_one():
    """Every bin has r = 1 and T = 2 for a field and its double contrast."""
    field = positive_field((8, 8, 8))
    double = 2 * field - field.mean()
    r = correlation_coefficient(double, field, box_size=BOX).value
    t = transfer_function(double, field, box_size=BOX).value
    np.testing.assert_allclose(r, 1, rtol=1e-10)
    np.testing.assert_allclose(t, 2, rtol=1e-10)


def test_added_noise_lowers_the_correlation_by_its_share_of_the_power():
    """It is sqrt(P / (P + N)) with independent noise; 5 sigma of the cross scatter."""
    rng = np.random.default_rng(5)
    signal, noise = rng.normal(size=(2, 32, 32, 32))
    r, n_modes = correlation_coefficient(signal, signal + noise, box_size=BOX)[1:]
    assert np.all(np.abs(r - np.sqrt(0.5)) < 5 / np.sqrt(n_modes))


def test_logarithmic_bins_hold_every_mode_of_the_linear_ones_once():
    """Log bins are unions of linear ones, none of them empty."""
    field = positive_field((32, 32, 32))
    linear = power_spectrum(field, box_size=BOX)
    log = power_spectrum(field, box_size=BOX, bins="log")
    assert len(log.k) < len(linear.k)
    assert np.all(log.n_modes > 0)
    assert log.n_modes.sum() == linear.n_modes.sum()
    np.testing.assert_allclose(
        np.sum(log.power * log.n_modes), np.sum(linear.power * linear.n_modes)
    )


def test_given_edges_equal_the_default_ones_and_empty_bins_are_nan():
    """Edges are in h/Mpc, and a bin without modes is NaN, not zero."""
    field = positive_field((16, 16, 16))
    k_f = 2 * np.pi / BOX
    default = power_spectrum(field, box_size=BOX)
    edges = k_f * np.array([0.5, 1.5, 1.6, 1.7, 2.5])
    measured = power_spectrum(field, box_size=BOX, bins=edges)
    np.testing.assert_allclose(measured.power[0], default.power[0])
    assert np.isnan(measured.power[2])


def test_a_field_with_its_own_grid_needs_no_box_size():
    """Box size and shape come from the field's grid, and a contradiction is refused."""
    values = positive_field((8, 8, 8))
    field = SimpleNamespace(data=values, grid=GridSpec(8, BOX))
    expected = power_spectrum(values, box_size=BOX).power
    np.testing.assert_array_equal(power_spectrum(field).power, expected)
    with pytest.raises(GridError, match="contradicts the field's own 20 Mpc/h"):
        power_spectrum(field, box_size=30.0)
    part = SimpleNamespace(data=values[:4, :4, :4], grid=GridSpec(8, BOX))
    with pytest.raises(GridError, match="only part of its grid"):
        power_spectrum(part)


def test_an_overdensity_is_not_divided_by_its_mean_of_zero():
    """A field without a positive mean is refused, and the message says what to do."""
    field = positive_field((8, 8, 8))
    with pytest.raises(GridError, match="relative=False"):
        power_spectrum(field - field.mean(), box_size=BOX)


@pytest.mark.parametrize(
    ("field", "box_size", "match"),
    [
        (np.ones((4, 5)), BOX, "square"),
        (np.ones((6, 6, 5)), BOX, "square"),
        (np.ones(8), BOX, "square"),
        (np.ones((2, 2)), BOX, "at least 4 cells"),
        (np.ones((8, 8)), None, "box_size must be positive"),
        (np.ones((8, 8)), -1.0, "box_size must be positive"),
        (np.full((8, 8), 1j), BOX, "real numbers"),
    ],
)
def test_what_is_no_periodic_field_is_refused(field, box_size, match):
    """Shapes, box sizes and number types that make no sense name the trouble."""
    with pytest.raises(GridError, match=match):
        power_spectrum(field, box_size=box_size)


def test_fields_on_different_grids_are_not_compared():
    """Cross-power of 8 and 16 cells is refused."""
    with pytest.raises(GridError, match="different grids"):
        cross_power(positive_field((8, 8)), positive_field((16, 16)), box_size=BOX)


@pytest.mark.parametrize("bins", ["cubic", [1.0], [2.0, 1.0]])
def test_unusable_bins_are_refused(bins):
    """Unknown names and edges that do not rise are errors."""
    with pytest.raises(GridError, match="bins"):
        power_spectrum(positive_field((8, 8)), box_size=BOX, bins=bins)


def test_correlation_matrix_shows_which_bins_vary_together():
    """Bins sharing their scatter correlate, others do not (5 sigma of 400 samples)."""
    rng = np.random.default_rng(2)
    shared, own = rng.normal(size=(2, 400))
    matrix = power_correlation_matrix(np.stack([shared, 3 * shared + 1, own], -1))
    np.testing.assert_allclose(np.diag(matrix), 1)
    assert matrix[0, 1] == pytest.approx(1)
    assert abs(matrix[0, 2]) < 5 / np.sqrt(400)


def test_correlation_matrix_takes_spectra_in_any_form():
    """One batched spectrum, a list of single ones and a bare array agree."""
    fields = positive_field((5, 8, 8, 8))
    batch = power_spectrum(fields, box_size=BOX)
    single = [power_spectrum(field, box_size=BOX) for field in fields]
    expected = power_correlation_matrix(batch.power)
    np.testing.assert_allclose(power_correlation_matrix(batch), expected)
    np.testing.assert_allclose(power_correlation_matrix(single), expected)
    with pytest.raises(GridError, match="at least two samples"):
        power_correlation_matrix(single[:1])
