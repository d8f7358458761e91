import numpy as np
import pytest
from scipy.stats import norm, wasserstein_distance

from astrogan_emu.distributions import log_distance, one_point_pdf
from astrogan_emu.errors import GridError


def positive_field(shape, seed=0):
    return np.random.default_rng(seed).lognormal(size=shape)


def test_distribution_of_a_lognormal_field_is_lognormal():
    """Bins and quantiles agree with the analytic law within 5 sigma of counting."""
    values = positive_field((64, 64, 64))
    pdf = one_point_pdf(values)
    share = pdf.density * np.diff(pdf.edges)
    expected = np.diff(norm.cdf(np.log(pdf.edges)))
    n = values.size
    sigma = np.sqrt((expected * n + 1) / n**2)
    assert np.all(np.abs(share - expected) < 5 * sigma)
    z = norm.ppf(pdf.levels)
    error = np.sqrt(pdf.levels * (1 - pdf.levels) / n) / norm.pdf(z)
    assert np.all(np.abs(np.log(pdf.quantiles) - z) < 5 * error)


def test_every_cell_is_in_a_bin_or_beyond_the_edges():
    """Shares sum to one per field, whatever the edges; a batch keeps its axes."""
    fields = positive_field((2, 3, 8, 8, 8))
    pdf = one_point_pdf(fields, bins=[0.5, 1.0, 3.0])
    total = np.sum(pdf.density * np.diff(pdf.edges), axis=-1) + pdf.below + pdf.above
    np.testing.assert_allclose(total, np.ones((2, 3)))
    assert pdf.quantiles.shape == (2, 3, 5)
    whole = one_point_pdf(fields[0, 0], bins=20)
    assert whole.below == whole.above == 0


def test_log_distance_is_the_wasserstein_distance_of_the_logs():
    """It agrees with SciPy's, and doubling a field moves it by ln 2."""
    one, other = positive_field((2, 12, 12, 12)) + 0.1
    measured = log_distance(one, other**2)
    expected = wasserstein_distance(np.log(one).ravel(), np.log(other**2).ravel())
    assert measured == pytest.approx(expected, rel=1e-9)
    assert log_distance(2 * one, one) == pytest.approx(np.log(2))
    empty = np.zeros_like(one)
    assert log_distance(empty, empty + 0.01) == 0


def test_values_without_a_distribution_are_refused():
    """Falling edges, levels beyond one, a floor of zero and unequal grids."""
    field = positive_field((8, 8))
    with pytest.raises(GridError, match="edges of bins"):
        one_point_pdf(field, bins=[2.0, 1.0])
    with pytest.raises(GridError, match="from 0 to 1"):
        one_point_pdf(field, levels=[99.9])
    with pytest.raises(GridError, match="floor must be positive"):
        log_distance(field, field, floor=0.0)
    with pytest.raises(GridError, match="same grid"):
        log_distance(field, positive_field((9, 9)))
