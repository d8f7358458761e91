from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import erfc

from astrogan_emu.errors import GridError
from astrogan_emu.morphology import (
    gaussian_smooth,
    minkowski_functionals,
    peak_counts,
    void_counts,
)

BOX = 20.0


def positive_field(shape, seed=0):
    return np.random.default_rng(seed).lognormal(size=shape)


def slow_peaks(field):
    """Values of cells above all their neighbours, found cell by cell."""
    n, n_dim = field.shape[0], field.ndim
    steps = [s for s in product((-1, 0, 1), repeat=n_dim) if any(s)]
    return np.array(
        [
            field[cell]
            for cell in np.ndindex(field.shape)
            if all(field[cell] > field[tuple(np.add(cell, step) % n)] for step in steps)
        ]
    )


@pytest.mark.parametrize("shape", [(16, 16), (17, 17), (8, 8, 8), (9, 9, 9)])
def test_peaks_and_voids_equal_a_search_cell_by_cell(shape):
    """Maxima and minima across the faces are counted once, above each threshold."""
    field = positive_field(shape)
    levels = [0.05, 0.3, 1.0, 3.0, 8.0]
    peaks, voids = slow_peaks(field), -slow_peaks(-field)
    expected = [np.sum(peaks >= level) for level in levels]
    np.testing.assert_array_equal(peak_counts(field, levels, box_size=BOX), expected)
    expected = [np.sum(voids <= level) for level in levels]
    np.testing.assert_array_equal(void_counts(field, levels, box_size=BOX), expected)


def test_a_plateau_is_no_peak():
    """Equal neighbours, such as empty cells, are not counted."""
    field = np.zeros((8, 8, 8))
    field[2, 2, 2] = field[2, 2, 3] = 1.0
    assert peak_counts(field, [0.0], box_size=BOX) == [0]
    field[2, 2, 3] = 0.5
    assert peak_counts(field, [0.0], box_size=BOX) == [1]


def test_counts_of_a_batch_are_those_of_its_members():
    """Leading axes are independent, and tensors give tensors."""
    batch = positive_field((3, 8, 8, 8))
    together = peak_counts(torch.tensor(batch), [1.0, 2.0], smoothing=2.0, box_size=BOX)
    assert isinstance(together, torch.Tensor)
    for counts, field in zip(together, batch, strict=True):
        single = peak_counts(field, [1.0, 2.0], smoothing=2.0, box_size=BOX)
        np.testing.assert_array_equal(counts, single)


@pytest.mark.parametrize("shape", [(17, 17), (16, 16, 16)])
@pytest.mark.parametrize("cells", [0.2, 1.0, 2.5, 30.0])
def test_smoothing_is_a_periodic_gaussian_in_real_space(shape, cells):
    """It agrees with SciPy's filter to where that truncates, at eight sigma."""
    field = positive_field(shape)
    n = shape[0]
    smooth = gaussian_smooth(field, cells * BOX / n, box_size=BOX)
    expected = gaussian_filter(field, cells, mode="wrap", truncate=8.0)
    np.testing.assert_allclose(smooth, expected, rtol=1e-9)
    assert smooth.mean() == pytest.approx(field.mean())


def test_smoothing_keeps_a_density_above_zero():
    """A single full cell leaves nothing below zero but rounding, at any scale."""
    field = np.zeros((16, 16, 16))
    field[3, 3, 3] = 1.0
    for scale in (0.1, 0.5, 1.0, 5.0):
        lowest = gaussian_smooth(field, scale, box_size=BOX).min()
        # A few units in the last place of the one.
        assert lowest > -4 * np.finfo(float).eps


def test_smoothing_by_nothing_and_gradients_through_it():
    """Scale zero is the identity, and training can smooth."""
    field = torch.tensor(positive_field((5, 5)), requires_grad=True)
    assert torch.equal(gaussian_smooth(field, 0.0, box_size=BOX), field)
    assert torch.autograd.gradcheck(
        lambda x: gaussian_smooth(x, 3.0, box_size=BOX), field, fast_mode=True
    )


def smooth_gaussian_field(shape, cells, seed):
    """A Gaussian field of unit variance, smooth over some cells."""
    noise = np.random.default_rng(seed).normal(size=shape)
    field = gaussian_filter(noise, cells, mode="wrap", truncate=6.0)
    return (field - field.mean()) / field.std()


def gaussian_curves(field, cell_size, levels):
    """Tomita's curves (1986) for a Gaussian field of this gradient variance.

    ``V_k = omega_d / (omega_(d-k) omega_k) lambda^k / (2 pi)^((k+1)/2) He_(k-1)
    exp(-nu^2 / 2)`` with ``lambda^2 = <|grad u|^2> / d``.
    """
    n, n_dim = field.shape[0], field.ndim
    k = np.fft.fftfreq(n, cell_size) * 2 * np.pi
    power = np.abs(np.fft.fftn(field)) ** 2
    squared = sum(np.ix_(*[k**2] * n_dim))
    slope = np.sqrt(np.sum(squared * power) / np.sum(power) / n_dim)
    ball = [1, 2, np.pi, 4 * np.pi / 3]
    hermite = [None, np.ones_like(levels), levels, levels**2 - 1]
    curves = [0.5 * erfc(levels / np.sqrt(2))]
    for order in range(1, n_dim + 1):
        curves.append(
            ball[n_dim]
            / (ball[n_dim - order] * ball[order])
            * slope**order
            / (2 * np.pi) ** ((order + 1) / 2)
            * hermite[order]
            * np.exp(-(levels**2) / 2)
        )
    return np.stack(curves, axis=-1)


@pytest.mark.parametrize(("n_dim", "n"), [(2, 256), (3, 64)])
def test_minkowski_functionals_of_gaussian_fields_follow_the_analytic_curves(n_dim, n):
    """The mean of eight fields is within 6 % of each curve's largest value.

    That is three standard errors of the scatter between these fields (5 % in the Euler
    characteristic), and 1 % for the lattice at a smoothing of two cells.
    """
    levels = np.linspace(-2.5, 2.5, 11)
    off = []
    for seed in range(8):
        field = smooth_gaussian_field((n,) * n_dim, 2.0, seed)
        measured = minkowski_functionals(field, levels, box_size=BOX).values
        expected = gaussian_curves(field, BOX / n, levels)
        off.append((measured - expected) / np.abs(expected).max(axis=0))
    np.testing.assert_allclose(np.mean(off, axis=0), 0, atol=0.06)


def ball(n, radius, n_dim=3):
    """A smooth hill whose level set at 0 is a ball in the middle of the box."""
    x = (np.arange(n) + 0.5) / n * BOX - BOX / 2
    return radius - np.sqrt(sum(np.ix_(*[x**2] * n_dim)))


def test_minkowski_functionals_of_a_ball_are_those_of_geometry():
    """Volume, surface / 6 and Euler characteristic; integrated curvature is 4 pi r.

    Crofton counts see the surface from three directions only, exact on average over
    orientations; a ball has them all, so 2 % are left from its 24 cells across.
    """
    radius = 6.0
    _, ((volume, surface, curvature, euler),) = minkowski_functionals(
        ball(40, radius), [0.0], box_size=BOX
    )
    box = BOX**3
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3 / box, rel=0.02)
    assert surface == pytest.approx(4 * np.pi * radius**2 / 6 / box, rel=0.02)
    assert curvature == pytest.approx(
        4 * np.pi * radius * 2 / (6 * np.pi) / box, rel=0.02
    )
    assert euler == pytest.approx(1 / box, rel=1e-12)


def test_minkowski_functionals_of_a_disc_and_its_complement():
    """A disc has Euler characteristic 1, the box around it -1, with one boundary."""
    disc = ball(80, 6.0, n_dim=2)
    area, boundary, euler = minkowski_functionals(disc, [0.0], box_size=BOX).values[0]
    assert area == pytest.approx(np.pi * 36 / BOX**2, rel=0.02)
    assert boundary == pytest.approx(2 * np.pi * 6 / 4 / BOX**2, rel=0.02)
    assert euler == pytest.approx(1 / BOX**2)
    around = minkowski_functionals(-disc, [0.0], box_size=BOX).values[0]
    np.testing.assert_allclose(around, [1 - area, boundary, -euler])


def test_topology_counts_holes():
    """A spherical shell has characteristic 2, a ring 0."""
    shell = minkowski_functionals(-np.abs(ball(40, 6.0)), [-1.0], box_size=BOX)
    assert shell.values[0, 3] * BOX**3 == pytest.approx(2)
    x = (np.arange(40) + 0.5) / 2 - BOX / 2
    x, y, z = np.ix_(x, x, x)
    ring = -np.sqrt((np.sqrt(x**2 + y**2) - 5) ** 2 + z**2)
    torus = minkowski_functionals(ring, [-2.0], box_size=BOX)
    assert torus.values[0, 3] * BOX**3 == pytest.approx(0, abs=1e-9)


def test_smoothing_first_equals_measuring_the_smoothed_field():
    """The smoothing option is the smoothing function, for every statistic."""
    field = positive_field((12, 12, 12))
    smooth = gaussian_smooth(field, 2.0, box_size=BOX)
    levels = [0.8, 1.0, 1.5]
    for measure in (peak_counts, void_counts):
        np.testing.assert_array_equal(
            measure(field, levels, smoothing=2.0, box_size=BOX),
            measure(smooth, levels, box_size=BOX),
        )
    np.testing.assert_allclose(
        minkowski_functionals(field, levels, smoothing=2.0, box_size=BOX).values,
        minkowski_functionals(smooth, levels, box_size=BOX).values,
    )


@pytest.mark.parametrize("thresholds", [1.0, [], [np.nan], [[1.0]]])
def test_thresholds_that_are_no_list_of_numbers_are_refused(thresholds):
    """One number alone, none, NaN and a table are errors."""
    with pytest.raises(GridError, match="thresholds must be a list"):
        peak_counts(positive_field((8, 8)), thresholds, box_size=BOX)


def test_a_negative_smoothing_is_refused():
    """The message says what is allowed."""
    with pytest.raises(GridError, match="zero or more"):
        gaussian_smooth(positive_field((8, 8)), -1.0, box_size=BOX)
