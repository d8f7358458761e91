"""What the networks are told: numbers of order one that carry the state of growth."""

import numpy as np
import pytest
import torch

from astrogan_emu.conditioning import (
    condition_length,
    condition_names,
    conditions,
)
from astrogan_emu.linear_theory import growth_factor, hubble
from astrogan_emu.parameters import Parameter, ParameterSpace

OMEGA_M = Parameter("omega_m", 0.1, 0.5)
SIGMA_8 = Parameter("sigma_8", 0.6, 1.0)
WIND = Parameter("a_sn1", 0.25, 4.0, log=True)

SPACES = [
    ((OMEGA_M, SIGMA_8, WIND), 6),
    ((OMEGA_M,), 3),
    ((SIGMA_8,), 3),
    ((WIND,), 2),
]


@pytest.mark.parametrize(("parameters", "length"), SPACES)
def test_length_is_known_before_the_features(parameters, length):
    """Parameters, scale factor, and one for each of omega_m and sigma_8."""
    space = ParameterSpace(parameters)
    made = conditions(space, np.tile(space.low, (3, 1)), np.zeros(3))
    assert condition_length(space) == length
    assert made.shape == (3, length)
    assert made.dtype == torch.float32


def test_features_are_of_order_one_over_the_whole_range():
    """No corner of the space, from today to redshift 5, shouts louder than another."""
    space = ParameterSpace((OMEGA_M, SIGMA_8, WIND))
    unit = np.stack(np.meshgrid(*[[0.0, 0.5, 1.0]] * 3), -1).reshape(-1, 3)
    for redshift in (0.0, 0.5, 2.0, 5.0):
        made = conditions(space, space.from_unit(unit), np.full(len(unit), redshift))
        assert made.abs().max() < 2


def test_range_ends_are_minus_one_and_one():
    """Parameters fill [-1, 1], logarithmically where the space says so."""
    space = ParameterSpace((OMEGA_M, WIND))
    made = conditions(space, [[0.1, 0.25], [0.3, 1.0], [0.5, 4.0]], [0.0, 0.0, 0.0])
    expected = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(made[:, :2], expected, atol=1e-6, rtol=0)


def test_the_amplitude_follows_linear_growth():
    """One feature is ln(sigma_8 D(z)), up to its offset."""
    space = ParameterSpace((OMEGA_M, SIGMA_8))
    made = conditions(space, [[0.3, 0.8], [0.3, 0.8]], [0.0, 1.0])
    expected = torch.log(growth_factor(0.5, 0.3)).float()
    torch.testing.assert_close(made[1, -1] - made[0, -1], expected)


def test_the_matter_fraction_is_that_of_the_redshift():
    """One feature is 2 Omega_m(z) - 1 = 2 Omega_m (1 + z)^3 / E^2 - 1."""
    space = ParameterSpace((OMEGA_M, SIGMA_8))
    made = conditions(space, [[0.3, 0.8]], [1.0])
    expected = 2 * 0.3 * 8 / float(hubble(0.5, 0.3)) ** 2 - 1
    assert float(made[0, 3]) == pytest.approx(expected, abs=1e-6)


def test_samples_are_described_one_by_one():
    """A batch holds what its samples would be told alone."""
    space = ParameterSpace((OMEGA_M, SIGMA_8))
    values, redshifts = np.array([[0.2, 0.7], [0.4, 0.9]]), np.array([0.0, 2.0])
    both = conditions(space, values, redshifts)
    for i in range(2):
        alone = conditions(space, values[i : i + 1], redshifts[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], alone)


def test_what_a_suite_holds_fixed_is_not_told():
    """A network cannot have learnt from it; growth still knows its value."""
    fixed = Parameter("h", 0.67, 0.67, default=0.67)
    space = ParameterSpace((OMEGA_M, fixed, SIGMA_8))
    assert condition_names(space) == (
        *("omega_m", "sigma_8", "a", "omega_m(z)", "sigma_8(z)"),
    )
    made = conditions(space, [[0.3, 0.67, 0.8], [0.3, 0.70, 0.8]], [0.5, 0.5])
    torch.testing.assert_close(made[0], made[1])
    alone = conditions(ParameterSpace((OMEGA_M, SIGMA_8)), [[0.3, 0.8]], [0.5])
    torch.testing.assert_close(made[:1], alone)
