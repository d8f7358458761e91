"""Gradients through the whole chain are those of the fields that users get."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from astrogan_emu import Emulator, differentiable_fields
from astrogan_emu.checkpoints import model_path, read_model, write_model
from astrogan_emu.errors import (
    GridError,
    MissingParameterError,
    ParameterRangeError,
    UnknownFieldError,
)
from astrogan_emu.generators import FieldGenerator
from astrogan_emu.statistics import power_spectrum
from astrogan_emu.warm_start import warm_start

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


@pytest.fixture(scope="module")
def without_halos(tmp_path_factory):
    """The shipped model, deaf to the halos of its base, which make jumps."""
    model = read_model(model_path("nbody"))
    config = model.generator.config
    matter, galaxies = config.heads
    deaf = replace(
        config,
        network=replace(config.network, in_channels=1),
        heads=(matter, replace(galaxies, follows=0)),
        more_inputs=(),
    )
    start = warm_start(model, deaf, model.card.space, model.card.units)
    generator = FieldGenerator(start.config)
    generator.load_state_dict(start.weights)
    card = replace(model.card, base=replace(model.card.base, galaxies=None))
    path = tmp_path_factory.mktemp("model") / "deaf.safetensors"
    write_model(path, generator, card)
    return path


def test_gradients_agree_with_finite_differences(without_halos):
    """Of the large-scale power, through every part: a step of 1 % of the value."""

    def statistic(values):
        (matter,) = differentiable_fields(
            values,
            fields=["matter"],
            seed=1,
            redshift=0.5,
            n_cells=16,
            model=without_halos,
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


def test_galaxies_of_halos_have_gradients_in_the_parameters():
    """By differences, as halos grow by members that join them one by one."""

    def amount(values):
        (galaxies,) = differentiable_fields(
            values, fields=["galaxies"], seed=1, redshift=0.5, n_cells=32
        )
        return torch.log(galaxies.mean())

    values = parameters()
    amount(values).backward()
    step = 0.015
    with torch.no_grad():
        up, down = (
            amount(PLANCK | {"omega_m": PLANCK["omega_m"] + change})
            for change in (step, -step)
        )
    slope = float(up - down) / (2 * step)
    assert slope > 1
    assert float(values["omega_m"].grad) == pytest.approx(slope, rel=0.25)


def test_galaxies_of_halos_have_no_gradients_in_the_phases():
    """They are refused, and may be had without."""
    start = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"seed": 1, "n_cells": 16, "initial_conditions": start.requires_grad_()}
    for fields in (None, ["galaxies"]):
        with pytest.raises(UnknownFieldError, match="galaxies of model nbody have no"):
            differentiable_fields(PLANCK, fields=fields, **options)
    with torch.no_grad():
        made = differentiable_fields(PLANCK, fields=["galaxies"], **options)
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
