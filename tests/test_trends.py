"""Fields that start from a regression on another field and the conditions."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from astrogan_emu.bases import BaseSettings
from astrogan_emu.checkpoints import (
    Model,
    ModelCard,
    model_path,
    read_model,
    read_tensors,
    write_model,
    write_tensors,
)
from astrogan_emu.conditioning import condition_length, condition_names, conditions
from astrogan_emu.dataset import RunSamples, TrainingSet, write_training_set
from astrogan_emu.errors import CheckpointError, TrainingError
from astrogan_emu.generated_fields import generated_fields
from astrogan_emu.generators import FieldGenerator, FieldHead, GeneratorConfig
from astrogan_emu.networks import NetworkConfig
from astrogan_emu.parameters import Parameter, ParameterSpace
from astrogan_emu.tiling import Tiling, margin
from astrogan_emu.training import TrainingConfig, train
from astrogan_emu.training_data import Description
from astrogan_emu.training_start import generator_shapes
from astrogan_emu.trends import Trend, TrendFit
from astrogan_emu.warm_start import warm_start

SPACE = ParameterSpace(
    (
        Parameter("omega_m", 0.1, 0.5),
        Parameter("sigma_8", 0.6, 1.0),
        Parameter("a_agn", 0.25, 4.0, log=True, default=1.0),
    )
)
N_CONDITIONS = condition_length(SPACE)
UNITS = {"matter": "", "gas": "solMass / Mpc3", "heat": "K"}
NAMES = condition_names(SPACE)
TOLD = [NAMES.index(name) for name in ("omega_m", "sigma_8", "a")]
TREND = Trend(
    *("gas", 1.5, 0.8, -2.0, 3.0),
    ((1.4, *(0.1, -0.2, 0.0, 0.3, 0.0, 0.0)), (0.7, *(0.0, 0.1, 0.0, -0.1, 0.0, 0.0))),
)
HEADS = (
    # After the field that follows it, which makes no difference.
    FieldHead("heat", 2e3, conserved=False, trend=TREND),
    FieldHead("matter", 0.2, conserved=True),
    FieldHead("gas", 0.3, conserved=False, start=0.2, slope=0.9, mean=1.0),
)
CARD = ModelCard("toy", SPACE, (0, 2), 1.0, 16, BaseSettings(), UNITS)


def toy(n_dim=2, heads=HEADS, head=0.1):
    torch.manual_seed(1)
    network = NetworkConfig(n_dim, 1, len(heads), N_CONDITIONS, (3, 4), (4,), style=4)
    generator = FieldGenerator(GeneratorConfig(network, heads, keep_scale=1.5))
    torch.nn.init.normal_(generator.network.head, std=head)
    return generator.eval().requires_grad_(False)


def told_at(omega_m=0.3, sigma_8=0.8, a_agn=1.0, z=0.0, space=SPACE):
    return conditions(space, [[omega_m, sigma_8, a_agn]], z)


def base_of(n_dim=2, n=16, batch=1):
    torch.manual_seed(2)
    return torch.exp(torch.randn(batch, 1, *(n,) * n_dim))


def runs_with(trend, n_runs, cells=4096, outlier=False):
    """Logarithms of a field and of what follows it by a trend, with scatter."""
    rng = np.random.default_rng(3)
    for run in range(n_runs):
        point = [rng.uniform(0.1, 0.5), rng.uniform(0.6, 1.0), 1.0]
        for z in (0.0, 1.0):
            told = conditions(SPACE, [point], z)
            other = np.abs(rng.normal(trend.mean, trend.std, cells))
            own = trend(torch.from_numpy(other)[None], told)[0].numpy()
            own += 0.1 * rng.standard_normal(cells) + 3.0 * (outlier and run == 0)
            yield other, own, told[0].numpy()


def at_ends(trend):
    """Values of a trend at two densities, in the corners of the conditions."""
    x = torch.tensor([[0.9, 2.3]])
    corners = [told_at(om, s8, z=z) for om in (0.2, 0.4) for s8 in (0.7, 0.9)
               for z in (0.0, 1.0)]  # fmt: skip
    return torch.cat([trend(x, told) for told in corners])


def fitted(samples):
    fit = TrendFit("gas", TOLD)
    for sample in samples:
        fit.add(*sample)
    return fit.solve()


# The regression.


def test_a_trend_is_found_again():
    """That of many runs, also between them."""
    found = fitted(runs_with(TREND, 40))
    torch.testing.assert_close(at_ends(found), at_ends(TREND), atol=0.03, rtol=0)


def test_a_run_like_no_other_does_not_decide():
    """It is twenty times as hot, and moves the others by a few per cent."""
    found = fitted(runs_with(TREND, 10, outlier=True))
    without = fitted(runs_with(TREND, 10))
    assert float((at_ends(found) - at_ends(without)).abs().max()) < 0.15


def test_what_it_is_not_told_does_not_matter():
    """Nor does what is the same in all samples, so that one run is enough."""
    several, one = fitted(runs_with(TREND, 10)), fitted([next(runs_with(TREND, 1))])
    for row in several.coefficients:
        assert all((row[1 + i] != 0) == (i in TOLD) for i in range(N_CONDITIONS))
    for row in one.coefficients:
        assert not any(row[1:])


def test_it_is_followed_no_further_than_it_is_known():
    """A cell denser than any keeps the value of the densest."""
    x = torch.tensor([[1.5 + 3 * 0.8, 40.0], [1.5 - 2 * 0.8, -9.0]])
    values = TREND(x, told_at().repeat(2, 1))
    torch.testing.assert_close(values[:, 0], values[:, 1])


def test_impossible_trends_are_refused():
    """With the reason."""
    with pytest.raises(TrainingError, match="not finite"):
        replace(TREND, mean=float("nan"))
    with pytest.raises(TrainingError, match="std > 0 and low < high, got 0, "):
        replace(TREND, std=0)
    with pytest.raises(TrainingError, match="as many coefficients"):
        replace(TREND, coefficients=((1.0, 2.0), (1.0,)))
    with pytest.raises(TrainingError, match=r"heat cannot follow light.*gas, matter"):
        toy(heads=(replace(HEADS[0], trend=replace(TREND, field="light")), *HEADS[1:]))
    with pytest.raises(TrainingError, match="matter cannot follow gas"):
        toy(heads=(replace(HEADS[1], trend=TREND), HEADS[2]))
    short = replace(TREND, coefficients=((1.0, 2.0),))
    with pytest.raises(TrainingError, match=r"takes 1 conditions; the network .* 6"):
        toy(heads=(replace(HEADS[0], trend=short), *HEADS[1:]))


# In a generator.


def test_a_fresh_field_is_its_trend_with_the_field_that_was_made():
    """Before anything is learnt, and by the true conditions where it is told them."""
    generator = toy(head=0.0)
    told, other = told_at(0.2, 0.9, z=1.0), torch.zeros(1, N_CONDITIONS)
    made = generator(base_of(), told, None)
    latent = generator.to_latent(made)
    expected = TREND(latent[:, 2], told)
    # The soft floor is not felt above 0.5 by more than ln(1 + e^-5) / 10.
    high = expected > 0.5
    torch.testing.assert_close(latent[:, 0][high], expected[high], atol=1e-3, rtol=0)
    assert torch.equal(generator(base_of(), other, None, told), made)
    assert not torch.equal(generator(base_of(), other, None), made)


def test_several_draws_of_a_batch_follow_their_own_conditions():
    """Each as alone."""
    generator = toy()
    base, told = base_of(batch=2), torch.cat([told_at(0.2), told_at(0.4)])
    noise = generator.draw_noise(4, 16, torch.Generator().manual_seed(4))
    made = generator(base, told, noise)
    for i in range(4):
        alone = generator(
            *(x[i % 2 : i % 2 + 1] for x in (base, told)), [n[i : i + 1] for n in noise]
        )
        torch.testing.assert_close(made[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_tiles_give_what_the_whole_gives():
    """A trend adds nothing that reaches further."""
    model = SimpleNamespace(generator=toy(3), card=CARD)
    wide = margin(model.generator.config.network)
    point = {"omega_m": 0.2, "sigma_8": 0.9, "a_agn": 1.0}
    whole, tiles = (
        generated_fields(model, base_of(3, 24)[0], point, 0.5, 7, Tiling(24, cut, wide))
        for cut in ((24, 24, 24), (12, 12, 24))
    )
    torch.testing.assert_close(tiles, whole, rtol=2e-5, atol=1e-6)


def test_a_model_with_a_trend_is_read_as_it_was_written(tmp_path):
    """With the same settings, and the same fields."""
    path = tmp_path / "model.safetensors"
    write_model(path, toy(), CARD)
    read = read_model(path).generator
    assert read.config == toy().config
    told = told_at(0.2, z=1.0)
    assert torch.equal(read(base_of(), told, None), toy()(base_of(), told, None))


def test_a_model_from_before_there_were_trends_has_none(tmp_path):
    """The models that people have can still be read."""
    assert not any(
        h.trend for h in read_model(model_path("nbody")).generator.config.heads
    )
    path = tmp_path / "model.safetensors"
    write_model(
        path, toy(heads=HEADS[1:]), replace(CARD, units={"matter": "", "gas": "K"})
    )
    tensors, metadata = read_tensors(path)
    for head in metadata["generator"]["heads"]:
        del head["trend"]
    write_tensors(path, tensors, metadata)
    assert read_model(path).generator.config == toy(heads=HEADS[1:]).config


@pytest.mark.parametrize(
    "change", [{"std": -1.0}, {"coefficients": []}, {"field": "x"}, {"more": 1}]
)
def test_a_damaged_trend_is_refused(tmp_path, change):
    """As the rest of a model is."""
    path = tmp_path / "model.safetensors"
    write_model(path, toy(), CARD)
    tensors, metadata = read_tensors(path)
    metadata["generator"]["heads"][0]["trend"].update(change)
    write_tensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match="cannot be understood"):
        read_model(path)


# In a training.


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Gas that follows matter, and heat that follows gas, in eight runs."""
    rng = np.random.default_rng(5)
    description = Description(
        tuple(UNITS), UNITS, SPACE, 16, 1.0, BaseSettings().to_dict()
    )
    runs = []
    for i, omega_m in enumerate(np.linspace(0.2, 0.4, 8)):
        matter = rng.gamma(2.0, 0.5, (2, 16, 16, 16)).astype(np.float32)
        gas = 3.0 * (matter + 0.1)
        heat = 1e4 * (omega_m / 0.3) * gas**0.6
        fields = np.stack([matter, gas, heat], 1).astype(np.float32)
        point = np.array([omega_m, 0.8, 1.0])
        redshifts = np.array([1.0, 0.0])
        base = matter[:, None]
        runs.append(RunSamples(f"LH_{i}", "train", point, redshifts, fields, base))
    path = tmp_path_factory.mktemp("trends") / "train.h5"
    write_training_set(path, description, runs)
    return path


TINY = TrainingConfig(
    paired_steps=2,
    adversarial_steps=1,
    widths=(4, 8),
    critic_widths=(4, 8),
    validate_every=3,
    trends={"heat": "gas"},
    trend_conditions=("omega_m",),
)


def test_a_training_starts_from_the_trend_of_its_runs(dataset):
    """Heat is right before a step is made, in a run of any omega_m."""
    with TrainingSet.open(dataset) as data:
        generator = FieldGenerator(generator_shapes(data, TINY)).requires_grad_(False)
        base, target, parameters, z = data.sample(0)
    told = conditions(SPACE, parameters[None], z)
    elsewhere = told_at(0.3, z=z)
    for said, least, most in ((told, 0.0, 0.1), (elsewhere, 0.3, 0.5)):
        made = generator(torch.from_numpy(base)[None], said, None)[0].numpy()
        off = abs(np.median(np.log(made[2] / target[2])))
        # At the omega_m of another run it is ln(0.3 / 0.2) = 0.41.
        assert least <= off < most


def test_a_trend_hears_what_the_network_does_not(dataset, tmp_path):
    """It is not hidden from it, nor blurred."""
    config = replace(TINY, unheard=("omega_m", "omega_m(z)"), condition_noise=0.5)
    generator = read_model(train(dataset, tmp_path, config, progress=False)).generator
    base = base_of(3)
    one, two = (generator(base, told_at(om), None)[0] for om in (0.2, 0.4))
    assert torch.equal(one[:2], two[:2])
    ratio = float((two[2] / one[2]).log().median())
    assert ratio == pytest.approx(np.log(2), abs=0.25)


def test_trends_of_what_is_not_there_are_refused(dataset, tmp_path):
    """By name, with what there is."""
    for change, message in (
        ({"trends": {"heat": "light"}}, "trends names 'light'; the data have matter"),
        ({"trends": {"light": "gas"}}, "trends names 'light'"),
        ({"trend_conditions": ("h",)}, "trend_conditions names 'h'; the data have ome"),
        ({"trends": {"matter": "gas"}}, "matter cannot follow gas"),
    ):
        with pytest.raises(TrainingError, match=message):
            train(dataset, tmp_path, replace(TINY, **change), progress=False)
    with pytest.raises(TrainingError, match="trends must be names of fields by"):
        TrainingConfig(trends=("heat",))


def test_the_configuration_is_written_as_json(dataset, tmp_path):
    """With the regression's numbers."""
    train(dataset, tmp_path, TINY, dry_run=True, progress=False)
    heads = json.loads((tmp_path / "config.json").read_text())["generator"]["heads"]
    assert heads[2]["trend"]["field"] == "gas"
    assert len(heads[2]["trend"]["coefficients"][0]) == 1 + N_CONDITIONS


# In a training that starts from a model.

NARROW = ParameterSpace(
    (
        Parameter("omega_m", 0.2, 0.4),
        Parameter("sigma_8", 0.8, 0.8, default=0.8),
        Parameter("a_agn", 0.5, 2.0, log=True, default=1.0),
    )
)


def started(heads, units=UNITS):
    model = Model(toy(), CARD, "old.safetensors", "")
    network = NetworkConfig(2, 1, len(heads), condition_length(NARROW), (3, 4), (4,))
    config = GeneratorConfig(network, heads, keep_scale=1.5)
    return warm_start(model, config, NARROW, units)


def test_a_trend_means_the_same_in_other_ranges():
    """Fields of both models are the same, also where a parameter no longer varies."""
    fresh = tuple(replace(head, trend=None) for head in HEADS)
    start = started(fresh)
    generator = FieldGenerator(start.config).requires_grad_(False)
    generator.load_state_dict(start.weights)
    for omega_m, z in ((0.2, 0.0), (0.35, 1.0)):
        expected = toy()(base_of(), told_at(omega_m, 0.8, z=z), None)
        made = generator(base_of(), told_at(omega_m, 0.8, z=z, space=NARROW), None)
        torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-4)


def test_a_field_whose_leader_is_gone_starts_as_a_new_one():
    """From what the new data say."""
    heat = replace(HEADS[0], trend=None, start=0.3)
    start = started((heat, HEADS[1]), {"matter": "", "heat": "K"})
    assert start.config.heads[0] == heat
    assert start.report["fields_new"] == ["heat"]


def test_a_known_field_gets_no_trend():
    """The network has learnt to correct another start."""
    short = Trend(
        "gas", 0.0, 1.0, -1.0, 1.0, ((0.0,) * (1 + condition_length(NARROW)),)
    )
    model = Model(toy(heads=(replace(HEADS[0], trend=None), *HEADS[1:])), CARD, "a", "")
    heads = (replace(HEADS[0], trend=short), *HEADS[1:])
    network = NetworkConfig(2, 1, 3, condition_length(NARROW), (3, 4), (4,))
    with pytest.raises(CheckpointError, match="leave it out of trends"):
        warm_start(model, GeneratorConfig(network, heads), NARROW, UNITS)
