"""Fields whose mean follows the conditions by a regression."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from astrogan_emu.bases import BaseSettings
from astrogan_emu.checkpoints import (
    Model,
    ModelCard,
    read_model,
    read_tensors,
    write_model,
    write_tensors,
)
from astrogan_emu.conditioning import condition_length, condition_names, conditions
from astrogan_emu.dataset import RunSamples, TrainingSet, write_training_set
from astrogan_emu.errors import CheckpointError, TrainingError
from astrogan_emu.generators import FieldGenerator, FieldHead, GeneratorConfig
from astrogan_emu.networks import NetworkConfig
from astrogan_emu.parameters import Parameter, ParameterSpace
from astrogan_emu.training import TrainingConfig, train
from astrogan_emu.training_data import Description
from astrogan_emu.training_start import generator_shapes, with_levels
from astrogan_emu.trends import Level, LevelFit
from astrogan_emu.warm_start import warm_start

SPACE = ParameterSpace(
    (
        Parameter("omega_m", 0.1, 0.5),
        Parameter("sigma_8", 0.6, 1.0),
        Parameter("a_sn1", 0.25, 4.0, log=True, default=1.0),
    )
)
NAMES = condition_names(SPACE)
FEEDBACK = NAMES.index("a_sn1")
UNITS = {"matter": "", "stars": "solMass / Mpc3"}
# Of ln: an e-fold from one end of the range of feedback to the other.
LEVEL = Level((16.0, *(-0.5 if name == "a_sn1" else 0.0 for name in NAMES)))
HEADS = (
    FieldHead("matter", 0.2, conserved=True),
    FieldHead("stars", 1e7, conserved=False, start=0.2, slope=0.9, level=LEVEL),
)
CARD = ModelCard("toy", SPACE, (0, 2), 1.0, 16, BaseSettings(), UNITS)


def toy(heads=HEADS):
    torch.manual_seed(1)
    network = NetworkConfig(2, 1, len(heads), len(NAMES), (3, 4), (4,), style=4)
    generator = FieldGenerator(GeneratorConfig(network, heads, keep_scale=1.5))
    torch.nn.init.normal_(generator.network.head, std=0.1)
    return generator.eval().requires_grad_(False)


def told_at(a_sn1=1.0, z=0.0, space=SPACE):
    return conditions(space, [[0.3, 0.8, a_sn1]], z)


def base_of(batch=1, n_dim=2):
    torch.manual_seed(2)
    return torch.exp(torch.randn(batch, 1, *(16,) * n_dim))


def mean_of_stars(generator, told, truth=None, batch=1):
    made = generator(base_of(batch), told, None, truth)
    return made[:, 1].mean((1, 2), dtype=torch.float64)


# The regression.


def samples(n=60, slope=-0.5):
    """Means that fall with feedback, and scatter by a fifth."""
    rng = np.random.default_rng(4)
    for _ in range(n):
        point = [rng.uniform(0.1, 0.5), rng.uniform(0.6, 1.0), 4 ** rng.uniform(-1, 1)]
        told = conditions(SPACE, [point], rng.uniform(0, 2))[0].numpy()
        yield np.exp(16 + slope * told[FEEDBACK] + 0.2 * rng.standard_normal()), told


def fitted(found):
    fit = LevelFit("stars")
    for sample in found:
        fit.add(*sample)
    return fit


def test_a_level_is_found_again():
    """Also among conditions that nothing depends on."""
    level = fitted(samples()).solve(range(len(NAMES) - 2))
    for a_sn1 in (0.25, 4.0):
        expected = LEVEL(told_at(a_sn1)).item()
        assert level(told_at(a_sn1)).item() == pytest.approx(expected, rel=0.15)


def test_it_changes_with_what_it_is_told_alone():
    """Nor with what is the same in all samples."""
    level = fitted(samples()).solve([FEEDBACK])
    assert [i for i, factor in enumerate(level.coefficients[1:]) if factor] == [
        FEEDBACK
    ]
    one = fitted([next(samples())]).solve([FEEDBACK])
    assert not any(one.coefficients[1:])


def test_few_samples_are_believed_less():
    """Two exact ones make less than their response; sixty with scatter make it."""
    exact = [(np.exp(16 - 0.5 * told[FEEDBACK]), told) for _, told in samples(2)]
    two, sixty = (
        fitted(found).solve([FEEDBACK]).coefficients[1 + FEEDBACK]
        for found in (exact, samples())
    )
    assert -0.7 * 0.5 < two < -0.1 * 0.5
    assert sixty == pytest.approx(-0.5, abs=0.1)


def test_a_sample_without_any_says_nothing():
    """And without a sample there is no level."""
    fit = fitted(samples())
    before = fit.solve([FEEDBACK])
    fit.add(0.0, told_at()[0].numpy())
    assert fit.solve([FEEDBACK]) == before
    empty = fitted([(0.0, told_at()[0].numpy())])
    with pytest.raises(TrainingError, match="no training sample has any stars"):
        empty.solve([FEEDBACK])


def test_a_level_is_moved_to_other_samples():
    """Its changes stay."""
    moved = fitted(samples(slope=0.0)).moved(replace(LEVEL, coefficients=(
        3.0, *LEVEL.coefficients[1:])))  # fmt: skip
    assert moved.coefficients[1:] == LEVEL.coefficients[1:]
    assert moved.coefficients[0] == pytest.approx(16, abs=0.1)


def test_impossible_levels_are_refused():
    """With the reason."""
    for coefficients in ((), (float("inf"), 1.0)):
        with pytest.raises(TrainingError, match="finite coefficients, got"):
            Level(coefficients)
    with pytest.raises(TrainingError, match=r"matter cannot have a level.* the base"):
        replace(HEADS[0], level=LEVEL)
    with pytest.raises(TrainingError, match=r"stars cannot have .* every box, 2"):
        replace(HEADS[1], mean=2.0)
    with pytest.raises(TrainingError, match=r"level of stars takes 1 conditions; .* 6"):
        toy((HEADS[0], replace(HEADS[1], level=Level((1.0, 2.0)))))


# In a generator.


def test_the_mean_is_the_level_whatever_the_network_says():
    """For each box of a batch its own, by the true conditions."""
    told = torch.cat([told_at(0.5), told_at(2.0)])
    expected = LEVEL(told).double()
    torch.testing.assert_close(
        mean_of_stars(toy(), told, batch=2), expected, rtol=1e-5, atol=0
    )
    deaf = torch.zeros_like(told)
    torch.testing.assert_close(
        mean_of_stars(toy(), deaf, told, batch=2), expected, rtol=1e-5, atol=0
    )


def test_a_model_with_a_level_is_read_as_it_was_written(tmp_path):
    """And one from before there were any has none; a damaged one is refused."""
    path = tmp_path / "model.safetensors"
    write_model(path, toy(), CARD)
    assert read_model(path).generator.config == toy().config
    tensors, metadata = read_tensors(path)
    stars = metadata["generator"]["heads"][1]
    stars["level"]["coefficients"] = []
    write_tensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match="cannot be understood"):
        read_model(path)
    for head in metadata["generator"]["heads"]:
        del head["level"]
    write_tensors(path, tensors, metadata)
    without = (HEADS[0], replace(HEADS[1], level=None))
    assert read_model(path).generator.config == toy(without).config


# In a training.

TINY = TrainingConfig(
    paired_steps=2,
    adversarial_steps=1,
    widths=(4, 8),
    critic_widths=(4, 8),
    validate_every=3,
    levels=("stars",),
    level_conditions=("a_sn1",),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Stars in the densest cells, fewer where feedback is strong, in ten runs."""
    rng = np.random.default_rng(5)
    description = Description(
        tuple(UNITS), UNITS, SPACE, 16, 1.0, BaseSettings().to_dict()
    )
    runs = []
    for i, a_sn1 in enumerate(np.geomspace(0.25, 4.0, 10)):
        matter = rng.gamma(2.0, 0.5, (1, 16, 16, 16)).astype(np.float32)
        stars = np.where(matter > 3, 1e8 * matter, 0) / a_sn1
        fields = np.stack([matter, stars], 1).astype(np.float32)
        point = np.array([0.3, 0.8, a_sn1])
        runs.append(
            RunSamples(
                f"LH_{i}", "train", point, np.array([0.0]), fields, matter[:, None]
            )
        )
    path = tmp_path_factory.mktemp("levels") / "train.h5"
    write_training_set(path, description, runs)
    return path


def test_stars_answer_to_feedback_after_three_steps(dataset, tmp_path):
    """Though the network has learnt nothing yet, and hears nothing of it."""
    config = replace(TINY, unheard=("a_sn1",), condition_noise=0.5)
    model = read_model(train(dataset, tmp_path, config, progress=False))
    weak, strong = (
        model.generator(base_of(n_dim=3), told_at(a_sn1), None)[0, 1].mean().item()
        for a_sn1 in (0.5, 2.0)
    )
    # Proportional to 1 / a_sn1 in the simulations; ten runs are believed by 9 in 10.
    assert np.log(weak / strong) == pytest.approx(np.log(4), rel=0.2)


def test_levels_of_what_is_not_there_are_refused(dataset, tmp_path):
    """By name, with what there is."""
    for change, message in (
        ({"levels": ("light",)}, "levels names 'light'; the data have matter, stars"),
        ({"level_conditions": ("h",)}, "level_conditions names 'h'; the data have ome"),
        ({"levels": ("matter",)}, "matter cannot have a level"),
    ):
        with pytest.raises(TrainingError, match=message):
            train(dataset, tmp_path, replace(TINY, **change), progress=False)


# In a training that starts from a model.

NARROW = ParameterSpace(
    (
        Parameter("omega_m", 0.2, 0.4),
        Parameter("sigma_8", 0.8, 0.8, default=0.8),
        Parameter("a_sn1", 0.5, 2.0, log=True, default=1.0),
    )
)


def started(head):
    model = Model(toy(), CARD, "old.safetensors", "")
    network = NetworkConfig(2, 1, 2, condition_length(NARROW), (3, 4), (4,))
    config = GeneratorConfig(network, (HEADS[0], head), keep_scale=1.5)
    return warm_start(model, config, NARROW, UNITS)


def test_a_level_means_the_same_in_other_ranges():
    """Stars of both models are as many."""
    start = started(replace(HEADS[1], level=None))
    generator = FieldGenerator(start.config).requires_grad_(False)
    generator.load_state_dict(start.weights)
    for a_sn1 in (0.6, 1.9):
        expected = mean_of_stars(toy(), told_at(a_sn1))
        made = mean_of_stars(generator, told_at(a_sn1, space=NARROW))
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=0)


def test_a_mean_that_all_new_boxes_have_takes_its_place():
    """There is nothing to answer to."""
    start = started(replace(HEADS[1], level=None, mean=3e6))
    assert start.config.heads[1].level is None
    assert start.config.heads[1].mean == 3e6


def test_fine_tuning_keeps_the_response_and_takes_the_amount(dataset):
    """Unless the response of the new runs is asked for."""
    with TrainingSet.open(dataset) as data:
        own = TrainingConfig(levels=("stars",), level_conditions=("a_sn1",))
        fresh = generator_shapes(data, own).heads
        fitted = with_levels(fresh, data, own)
        other = (fitted[0], replace(fitted[1], level=LEVEL))
        moved = with_levels(other, data, TrainingConfig())
        again = with_levels(other, data, own)
        true = [target[1].mean() for _, target, *_ in map(data.sample, range(10))]
    assert moved[1].level.coefficients[1:] == LEVEL.coefficients[1:]
    middle = moved[1].level(told_at(1.0)).item()
    assert middle == pytest.approx(np.exp(np.mean(np.log(true))), rel=1e-3)
    assert again[1].level == fitted[1].level
