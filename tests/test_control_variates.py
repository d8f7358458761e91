import numpy as np
import pytest

from astrogan_emu.control_variates import carpool
from astrogan_emu.errors import ParameterError

MEAN = np.array([3.0, -1.0])


def gaussians(rng, n, correlation, bias=0.5, scale=2.0):
    """Pairs of known mean and correlation; the control is biased and rescaled."""
    y = rng.normal(size=(n, 2))
    noise = rng.normal(size=(n, 2))
    c = correlation * y + np.sqrt(1 - correlation**2) * noise
    return MEAN + y, bias + scale * c


def one(rng, n=20, m=400, correlation=0.95, **keywords):
    y, c = gaussians(rng, n, correlation)
    _, more = gaussians(rng, m, correlation)
    return carpool(y, c, more, **keywords)


def test_the_known_answer():
    """Unbiased, with the error it states and the gain 1 / (1 - r^2 M / (M + N))."""
    rng = np.random.default_rng(1)
    runs = [one(rng) for _ in range(600)]
    means = np.array([run.mean for run in runs])
    scatter = means.std(axis=0)
    np.testing.assert_allclose(means.mean(axis=0), MEAN, atol=4 * scatter[0] / 24)
    stated = np.sqrt(np.mean([run.error**2 for run in runs], axis=0))
    np.testing.assert_allclose(stated, scatter, rtol=0.1)
    gain = (1 / 20) / scatter**2
    expected = 1 / (1 - 0.95**2 * 400 / 420)
    # A coefficient from 20 pairs costs about a twentieth of it.
    np.testing.assert_allclose(gain, expected, rtol=0.2)
    reduction = np.median([run.variance_reduction for run in runs], axis=0)
    np.testing.assert_allclose(reduction, expected, rtol=0.25)


def test_the_coefficient_is_the_slope():
    """cov(y, c) / var(c), lowered for the error of the emulated mean."""
    estimate = one(np.random.default_rng(2), n=20_000, m=20_000, coefficient="diagonal")
    np.testing.assert_allclose(estimate.coefficient, 0.5 * 0.95 / 2, rtol=0.02)


def test_no_bias_where_nothing_is_gaussian():
    """The coefficient is never fitted to the pair it corrects."""
    rng = np.random.default_rng(3)
    means = []
    for _ in range(3000):
        c = rng.exponential(size=(6, 1))
        y = c**2 + 0.1 * rng.normal(size=(6, 1))
        means.append(carpool(y, c, rng.exponential(size=(60, 1))).mean)
    means = np.array(means)
    assert abs(means.mean() - 2) < 4 * means.std() / np.sqrt(len(means))


def test_independent_controls_gain_nothing_and_break_nothing():
    """The mean stays right; its error is about that of the simulations."""
    estimate = one(np.random.default_rng(4), n=200, m=2000, correlation=0.0)
    np.testing.assert_allclose(estimate.variance_reduction, 1, atol=0.1)
    np.testing.assert_allclose(estimate.mean, MEAN, atol=0.3)


def test_a_given_coefficient_needs_few_pairs():
    """Perfect controls give the mean of the further fields, moved by the offset."""
    rng = np.random.default_rng(5)
    c = rng.normal(size=(2, 4, 3))
    more = rng.normal(size=(100, 4, 3))
    estimate = carpool(c + 7, c, more, coefficient=1)
    np.testing.assert_allclose(estimate.mean, more.mean(axis=0) + 7)
    assert estimate.error.shape == estimate.coefficient.shape == (4, 3)
    assert (estimate.n_simulations, estimate.n_emulated) == (2, 100)


def test_a_full_coefficient_uses_the_other_numbers():
    """Controls in the wrong order are no use one by one, and all there is together."""
    rng = np.random.default_rng(6)
    y = rng.normal(size=(60, 2))
    more = rng.normal(size=(600, 2))
    c = y[:, ::-1] + 0.1 * rng.normal(size=y.shape)
    diagonal = carpool(y, c, more)
    full = carpool(y, c, more, coefficient="full")
    assert np.all(full.variance_reduction > 4 * diagonal.variance_reduction)
    np.testing.assert_allclose(full.coefficient, [[0, 0.9], [0.9, 0]], atol=0.05)


def test_a_statistic_that_never_varies_stays():
    """Its mean is itself and its error zero."""
    same = np.ones((6, 1))
    estimate = carpool(same, same, np.ones((9, 1)))
    assert (estimate.mean, estimate.error) == (1, 0)
    assert estimate.variance_reduction == 1


@pytest.mark.parametrize(
    ("shapes", "keywords", "match"),
    [
        (((6, 2), (5, 2), (9, 2)), {}, "pairs and must have the same shape"),
        (((6, 2), (6, 2), (9, 3)), {}, "emulated_more must hold the same"),
        (((4, 2), (4, 2), (9, 2)), {}, "at least 5 pairs, got 4"),
        (((9, 6), (9, 6), (9, 6)), {"coefficient": "full"}, "at least 10 pairs"),
        (((1, 2), (1, 2), (9, 2)), {}, "at least two fields"),
        (((6, 2), (6, 2), (9, 2)), {"coefficient": "best"}, "is unknown"),
        (((6, 2), (6, 2), (9, 2)), {"coefficient": [1, 2, 3]}, "statistic's shape"),
        (((6, 2), (6, 2), (9, 2)), {"coefficient": np.nan}, "finite"),
    ],
)
def test_mistakes_are_named(shapes, keywords, match):
    """By what is needed instead."""
    with pytest.raises(ParameterError, match=match):
        carpool(*map(np.ones, shapes), **keywords)


def test_values_that_are_not_finite_are_refused():
    """Rather than spread over the result."""
    bad = np.ones((6, 2))
    bad[3, 1] = np.nan
    with pytest.raises(ParameterError, match=r"emulated holds values .* not finite"):
        carpool(np.ones((6, 2)), bad, np.ones((6, 2)))
