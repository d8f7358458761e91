"""Checks against the training set: parameters are read, copies are found."""

import numpy as np
import pytest

from astrogan_emu.dataset import RunSamples, write_training_set
from astrogan_emu.errors import DatasetError
from astrogan_emu.parameters import Parameter, ParameterSpace
from astrogan_emu.training_checks import ParameterRegressor, TrainingChecks
from astrogan_emu.training_data import Description

N, BOX = 16, 25.0
SPACE = ParameterSpace([Parameter("sigma_8", 0.5, 1.0)])
RUNS = np.linspace(0.5, 1.0, 30)
HELD_OUT = np.linspace(0.55, 0.95, 8)


def field(sigma_8, seed):
    """A lognormal field whose contrast is the parameter."""
    random = np.random.default_rng(seed)
    modes = np.fft.rfftn(random.normal(size=(N, N, N)))
    k = np.meshgrid(*[np.fft.fftfreq(N) * N] * 2, np.arange(N // 2 + 1), indexing="ij")
    damped = modes / (1 + sum(x**2 for x in k))
    smooth = np.fft.irfftn(damped, s=(N,) * 3, axes=(0, 1, 2))
    density = np.exp(sigma_8 * smooth / smooth.std())
    return density / density.mean()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A training set of one redshift."""
    file = tmp_path_factory.mktemp("set") / "train.h5"
    settings = {"n_steps": 1, "mesh_factor": 1, "start_redshift": 9.0}
    description = Description(("matter",), {"matter": ""}, SPACE, N, BOX / N, settings)
    runs = []
    for i, value in enumerate(RUNS):
        target = field(value, i)[None, None].astype(np.float32)
        runs.append(
            RunSamples(f"{i}", "train", np.array([value]), np.zeros(1), target, target)
        )
    write_training_set(file, description, runs)
    return file


def scores(path, made):
    """Of fields that a function makes of the parameter and its seed."""
    checks = TrainingChecks(path, "model")
    for i, value in enumerate(HELD_OUT):
        seed = 100 + i
        checks.add(f"{i}", 0.0, field(value, seed), made(value, seed), BOX)
    return {each.metric: each for each in checks.scores()}


def test_a_regressor_reads_what_it_learnt():
    """A linear law with noise is found to within the noise."""
    random = np.random.default_rng(1)
    x = random.normal(size=(200, 5))
    weights = np.array([1.0, -2.0, 0.0, 0.0, 0.5])
    read = ParameterRegressor(
        x, (x @ weights + 3 + random.normal(size=200) / 10)[:, None]
    )
    fresh = random.normal(size=(50, 5))
    np.testing.assert_allclose(read(fresh)[:, 0], fresh @ weights + 3, atol=0.1)
    assert read.errors[0] == pytest.approx(0.1, rel=0.2)


def test_a_perfect_model_has_slope_one_and_remembers_nothing(path):
    """What is read off its fields is what is read off the simulations."""
    found = scores(path, field)
    assert found["M9 slope of sigma_8"].value == pytest.approx(0, abs=1e-9)
    assert found["M12 distance to training, made / true"].passed is True
    assert found["M11 distance of pairs, made / true"].passed is True
    assert found["M9 slope of sigma_8"].n_runs == len(HELD_OUT)


def test_a_model_that_heeds_its_parameters_by_half_has_half_the_slope(path):
    """Poor conditioning shows at the edges of the range."""
    found = scores(path, lambda value, seed: field(0.75 + (value - 0.75) / 2, seed))
    assert found["M9 slope of sigma_8"].value == pytest.approx(0.5, abs=0.1)
    assert found["M9 slope of sigma_8"].passed is False


def test_copies_are_found_wherever_they_hide(path):
    """A training field that was shifted and mirrored is still a copy."""

    def copy(value, seed):
        nearest = int(np.abs(RUNS - value).argmin())
        return np.roll(field(RUNS[nearest], nearest)[::-1], 5, axis=1)

    found = scores(path, copy)
    assert found["M12 distance to training, made / true"].value > 0.5


def test_a_model_that_repeats_itself_is_found(path):
    """The same phases for every seed."""
    found = scores(path, lambda value, seed: field(value, 7777))
    assert found["M11 distance of pairs, made / true"].value > 0.5


def test_boxes_of_another_size_are_left_out(path):
    """Their power is of other scales than the regressor knows."""
    checks = TrainingChecks(path, "model")
    for i in range(6):
        checks.add(f"{i}", 0.0, field(0.7, i), field(0.7, i), 2 * BOX)
    assert checks.scores() == []


def test_a_training_set_without_matter_is_refused(tmp_path):
    """There is nothing to compare."""
    settings = {"n_steps": 1, "mesh_factor": 1, "start_redshift": 9.0}
    description = Description(("gas",), {"gas": ""}, SPACE, N, BOX / N, settings)
    values = np.ones((1, 1, N, N, N), np.float32)
    run = RunSamples("a", "train", np.array([0.7]), np.zeros(1), values, values)
    write_training_set(tmp_path / "gas.h5", description, [run])
    with pytest.raises(DatasetError, match="holds no boxes of matter"):
        TrainingChecks(tmp_path / "gas.h5", "model")
