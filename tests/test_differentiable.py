"""Gradients through the whole chain are those of the fields that users get."""

import numpy as np
import pytest
import torch

from astrogan_emu import Emulator, differentiable_fields
from astrogan_emu.errors import (
    GridError,
    MissingParameterError,
    ParameterRangeError,
    UnknownFieldError,
)
from astrogan_emu.statistics import power_spectrum

PLANCK = {"omega_m": 0.31, "omega_b": 0.049, "h": 0.68, "n_s": 0.97, "sigma_8": 0.81}


def parameters(**changes):
    """Planck values as tensors that ask for gradients."""
    return {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in (PLANCK | changes).items()
    }


def test_it_is_the_emulator():
    """Matter and galaxies agree with `Emulator.emulate` to rounding."""
    tensors = differentiable_fields(PLANCK, seed=3, redshift=0.5, n_cells=16)
    fields = Emulator.load().emulate(PLANCK, seed=3, redshift=0.5, n_cells=16)
    galaxies = fields["galaxies"].data / PLANCK["h"] ** 3  # from Mpc to Mpc/h
    np.testing.assert_allclose(tensors[0], fields["matter"].data, rtol=1e-4)
    np.testing.assert_allclose(tensors[1], galaxies, rtol=1e-4, atol=1e-7)


def test_gradients_agree_with_finite_differences():
    """Of the large-scale power, through every part: a step of 1 % of the value."""

    def statistic(values):
        (matter,) = differentiable_fields(
            values, fields=["matter"], seed=1, redshift=0.5, n_cells=16
        )
        return torch.log(power_spectrum(matter, box_size=12.5).power[:4]).mean()

    values = parameters()
    statistic(values).backward()
    for name in ("omega_m", "sigma_8"):
        step = 0.01 * PLANCK[name]
        with torch.no_grad():
            up = statistic(PLANCK | {name: PLANCK[name] + step})
            down = statistic(PLANCK | {name: PLANCK[name] - step})
        slope = float(up - down) / (2 * step)
        # Float32 fields, and the kinks of cloud-in-cell between the two points.
        assert float(values[name].grad) == pytest.approx(slope, rel=0.05, abs=0.02)


def test_gradients_reach_the_linear_field():
    """More initial overdensity at the highest peak raises its final density."""
    start = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
    start.requires_grad_()
    (matter,) = differentiable_fields(
        PLANCK, fields=["matter"], seed=1, n_cells=16, initial_conditions=start
    )
    (slope,) = torch.autograd.grad(matter.max(), start)
    assert torch.isfinite(slope).all()
    assert slope.abs().sum() > 0


def test_galaxies_of_halos_have_no_gradients():
    """They are refused, and may be had without."""
    values = {"seed": 1, "n_cells": 16}
    for fields in (None, ["galaxies"]):
        with pytest.raises(UnknownFieldError, match="galaxies of model nbody have no"):
            differentiable_fields(parameters(), fields=fields, **values)
    with torch.no_grad():
        made = differentiable_fields(parameters(), fields=["galaxies"], **values)
    assert made.shape == (1, 16, 16, 16)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"params": {"omega_m": 0.3}}, MissingParameterError),
        ({"params": PLANCK | {"sigma_8": 2.0}}, ParameterRangeError),
        ({"redshift": 9.0}, ParameterRangeError),
        ({"fields": ["dark_photons"]}, UnknownFieldError),
        ({"n_cells": 15}, GridError),
        ({"initial_conditions": torch.zeros(8, 8, 8)}, GridError),
    ],
)
def test_what_cannot_be_is_refused(changes, error):
    """As the emulator does, before anything is computed."""
    with pytest.raises(error):
        differentiable_fields(
            **({"params": PLANCK, "seed": 1, "n_cells": 16} | changes)
        )
