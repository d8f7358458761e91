"""A training that starts from a model of other fields and other parameters."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from astrogan_emu.bases import BaseSettings
from astrogan_emu.checkpoints import Model, ModelCard
from astrogan_emu.conditioning import condition_length, conditions
from astrogan_emu.errors import CheckpointError
from astrogan_emu.generators import (
    FieldGenerator,
    FieldHead,
    GeneratorConfig,
    InputScale,
)
from astrogan_emu.networks import NetworkConfig
from astrogan_emu.parameters import Parameter, ParameterSpace
from astrogan_emu.warm_start import warm_start

MATTER = FieldHead("matter", 0.2, conserved=True)
OLD_SPACE = ParameterSpace(
    (
        Parameter("omega_m", 0.1, 0.5),
        Parameter("h", 0.5, 0.9),
        Parameter("sigma_8", 0.6, 1.0),
    )
)
NEW_SPACE = ParameterSpace(
    (
        Parameter("omega_m", 0.2, 0.45),
        Parameter("h", 0.67, 0.67, default=0.67),
        Parameter("sigma_8", 0.65, 0.95),
        Parameter("a_sn1", 0.25, 4.0, log=True, default=1.0),
    )
)
UNITS = {"matter": "", "gas_density": "solMass / Mpc3"}


def config_for(space, *heads, n_dim=2):
    network = NetworkConfig(
        n_dim, 1, len(heads), condition_length(space), (4, 6), (4,), style=8
    )
    return GeneratorConfig(network, heads, base_mean=0.3, base_std=2.0, keep_scale=2.0)


@pytest.fixture
def model():
    """One that makes matter and galaxies, as if it had learnt something."""
    torch.manual_seed(3)
    galaxies = FieldHead("galaxies", 0.01, conserved=False, start=0.1)
    generator = FieldGenerator(config_for(OLD_SPACE, galaxies, MATTER))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    units = {"matter": "", "galaxies": "1 / Mpc3"}
    card = ModelCard("old", OLD_SPACE, (0, 2), 1.0, 16, BaseSettings(), units)
    return Model(generator.requires_grad_(False), card, Path("old.safetensors"), "")


@pytest.fixture
def gas():
    return FieldHead("gas_density", 2.0, conserved=False, start=0.4, slope=0.9)


def start_from(model, *heads):
    """The generator that a training on matter and gas would start with."""
    start = warm_start(model, config_for(NEW_SPACE, *heads), NEW_SPACE, UNITS)
    generator = FieldGenerator(start.config)
    generator.load_state_dict(start.weights)
    return generator.requires_grad_(False), start.report


def base_and_noise(generator):
    torch.manual_seed(4)
    base = torch.exp(torch.randn(1, 1, 16, 16))
    noise = generator.draw_noise(1, 16, torch.Generator().manual_seed(5))
    return base, noise


@pytest.mark.parametrize(
    ("omega_m", "sigma_8", "a_sn1", "z"),
    [(0.2, 0.65, 1.0, 0.0), (0.31, 0.8, 4.0, 1.0), (0.45, 0.95, 0.3, 2.0)],
)
def test_a_field_of_both_starts_as_the_old_model_makes_it(
    model, gas, omega_m, sigma_8, a_sn1, z
):
    """Though its parameters have other ranges, one is fixed and one is new."""
    generator, _ = start_from(model, MATTER, gas)
    base, noise = base_and_noise(generator)
    told_old = conditions(OLD_SPACE, [[omega_m, 0.67, sigma_8]], z)
    told_new = conditions(NEW_SPACE, [[omega_m, 0.67, sigma_8, a_sn1]], z)
    expected = model.generator(base, told_old, noise)[:, 1]
    found = generator(base, told_new, noise)[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_new_field_starts_as_in_a_fresh_network(model, gas):
    """From the power law of the base that the data gave, untouched by old channels."""
    generator, _ = start_from(model, MATTER, gas)
    fresh = FieldGenerator(
        replace(generator.config, base_mean=0.3, base_std=2.0)
    ).requires_grad_(False)
    base, noise = base_and_noise(generator)
    told = conditions(NEW_SPACE, [[0.3, 0.67, 0.8, 1.0]], 0.0)
    torch.testing.assert_close(
        generator(base, told, noise)[:, 1], fresh(base, told, noise)[:, 1]
    )


def test_it_is_said_what_was_copied(model, gas):
    """Fields, conditions and layers."""
    _, report = start_from(model, MATTER, gas)
    assert report["fields_copied"] == ["matter"]
    assert report["fields_new"] == ["gas_density"]
    assert report["conditions_new"] == ["a_sn1"]
    assert report["conditions_fixed"] == ["h"]
    assert "omega_m" in report["conditions_copied"]
    assert "network.encoder.0.0.weight" in report["layers_copied"]


def test_the_same_task_is_the_same_network(model):
    """Nothing is lost where nothing differs."""
    config = model.generator.config
    start = warm_start(model, config, OLD_SPACE, model.card.units)
    assert start.config == config
    for name, value in model.generator.state_dict().items():
        np.testing.assert_allclose(start.weights[name], value, rtol=1e-6, atol=1e-7)


def test_a_field_of_another_unit_is_another_field(model):
    """Its scale would mean nothing."""
    own = FieldHead("galaxies", 3.0, conserved=False)
    units = {"matter": "", "galaxies": "solMass / Mpc3"}
    config = config_for(NEW_SPACE, MATTER, own)
    start = warm_start(model, config, NEW_SPACE, units)
    assert start.report["fields_new"] == ["galaxies"]
    assert start.config.heads[1] == own


def test_the_base_may_gain_and_lose_channels(model):
    """A new channel is not heard yet, and one that is gone leaves the others."""
    old = model.generator.config
    more = (InputScale(0.5, 0.2, 1.5),)
    wider = replace(old, network=replace(old.network, in_channels=2), more_inputs=more)
    start = warm_start(model, wider, OLD_SPACE, model.card.units)
    assert start.config.more_inputs == more
    generator = FieldGenerator(start.config).requires_grad_(False)
    generator.load_state_dict(start.weights)
    base, noise = base_and_noise(model.generator)
    told = conditions(OLD_SPACE, [[0.3, 0.67, 0.8]], 0.5)
    expected = model.generator(base, told, noise)
    both = torch.cat([base, torch.rand_like(base)], 1)
    torch.testing.assert_close(generator(both, told, noise), expected)

    again = Model(generator, model.card, model.path, model.sha256)
    back = warm_start(again, old, OLD_SPACE, model.card.units)
    assert back.config == old
    generator = FieldGenerator(back.config).requires_grad_(False)
    generator.load_state_dict(back.weights)
    torch.testing.assert_close(generator(base, told, noise), expected)


def test_a_field_whose_channel_is_gone_starts_as_a_new_one(model):
    """With the slope that it had, it would follow the density."""
    old = model.generator.config
    matter, galaxies = old.heads
    follower = replace(galaxies, start=0.0, slope=1.0, follows=1)
    two = replace(
        old,
        network=replace(old.network, in_channels=2),
        more_inputs=(InputScale(0.5, 0.2, 1.5),),
        heads=(matter, follower),
    )
    known = Model(FieldGenerator(two), model.card, model.path, model.sha256)
    new = (matter, replace(galaxies, scale=9.0, start=0.7))
    for data, expected in (
        (replace(old, heads=new), replace(follower, start=0.7, slope=0.0, follows=0)),
        (two, follower),
    ):
        start = warm_start(known, data, OLD_SPACE, model.card.units)
        assert start.config.heads[1] == expected


def test_maps_do_not_start_from_boxes(model):
    """The kernels have other shapes."""
    config = config_for(NEW_SPACE, MATTER, n_dim=3)
    with pytest.raises(CheckpointError, match="n_dim = 2 and the data 3"):
        warm_start(model, config, NEW_SPACE, {"matter": ""})
