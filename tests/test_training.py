"""The chain on toy boxes: simulate, prepare, train, emulate."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from astrogan_emu import training
from astrogan_emu.bases import BaseSettings
from astrogan_emu.checkpoints import read_model, read_tensors
from astrogan_emu.conditioning import condition_names
from astrogan_emu.dataset import RunSamples, TrainingSet, write_training_set
from astrogan_emu.emulator import Emulator
from astrogan_emu.errors import (
    CheckpointError,
    TrainingDivergedError,
    TrainingError,
)
from astrogan_emu.generators import FieldGenerator
from astrogan_emu.halos import OccupationModel
from astrogan_emu.preparation import PreparationConfig, prepare
from astrogan_emu.simulations import (
    LCDM_SPACE,
    SimulationConfig,
    design_over_space,
    simulate,
)
from astrogan_emu.statistics import correlation_coefficient
from astrogan_emu.suites import read_suite
from astrogan_emu.training import TrainingConfig, train
from astrogan_emu.training_data import Description
from astrogan_emu.training_log import log_scalars
from astrogan_emu.training_start import generator_shapes

TINY = TrainingConfig(
    paired_steps=4,
    adversarial_steps=3,
    widths=(4, 8),
    critic_widths=(4, 8),
    validate_every=3,
    checkpoint_every=2,
    penalty_every=2,
    condition_rate=2.0,
    joint_weight=1.0,
    tail_weight=1.0,
    cross_weight=1.0,
    bispectrum_weight=1.0,
    draws=2,
    expected=("galaxies",),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three runs of 16^3 particles at two redshifts, as a training set."""
    folder = tmp_path_factory.mktemp("chain")
    config = SimulationConfig(
        n_particles=16, box_size=12.5, n_mesh=16, n_steps=4, redshifts=(1.0, 0.0)
    )
    design = design_over_space(3, seed=1)
    suite = simulate(design, folder / "suite", config=config, progress=False)
    return prepare(
        suite,
        folder / "train.h5",
        config=PreparationConfig(n_cells=16),
        progress=False,
    )


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A finished training."""
    folder = tmp_path_factory.mktemp("run")
    train(dataset, folder, TINY, progress=False)
    return folder


def interrupt_after(steps, monkeypatch):
    """Make the training die in the middle of a step."""
    step, done = training._step, []

    def dying(*arguments):
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(1)
        return step(*arguments)

    monkeypatch.setattr(training, "_step", dying)


def test_a_training_leaves_a_model_that_emulates(run):
    """The end of the chain is a file that the emulator loads."""
    field = Emulator.load(run / "model.safetensors").emulate(
        {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 1.0, "sigma_8": 0.8},
        n_cells=16,
        seed=1,
        fields=["matter"],
        extrapolate=True,
    )["matter"]
    assert np.isfinite(field.data).all()


def test_a_training_says_what_it_does(run):
    """Configuration, losses, scores, a picture and the model without the critic."""
    config = json.loads((run / "config.json").read_text())
    assert config["training"]["paired_steps"] == 4
    assert len((run / "log.csv").read_text().splitlines()) == 1 + TINY.steps
    assert "matter_r_quarter" in (run / "validation.csv").read_text()
    assert (run / "samples.png").is_file()
    assert (run / "paired.safetensors").is_file()


@pytest.mark.parametrize("steps", [3, 5])
def test_an_interrupted_training_ends_the_same(
    dataset, run, tmp_path, monkeypatch, steps
):
    """Killed in either stage and started again, it reaches the same state."""
    with monkeypatch.context() as patch:
        interrupt_after(steps, patch)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, tmp_path, TINY, progress=False)
    train(dataset, tmp_path, TINY, progress=False)
    expected, _ = read_tensors(run / "state.safetensors")
    found, _ = read_tensors(tmp_path / "state.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # The order of sums over threads may differ by rounding.
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6)
    assert (tmp_path / "log.csv").read_text().count("\n") == 1 + TINY.steps


def test_another_configuration_does_not_go_on(dataset, run):
    """A folder holds one run."""
    other = TrainingConfig(paired_steps=9, widths=(4, 8))
    with pytest.raises(CheckpointError, match="another configuration"):
        train(dataset, run, other, progress=False)


def test_a_diverging_training_stops_with_its_reason(dataset, tmp_path, monkeypatch):
    """It does not go on with numbers that are none."""
    step = training._step
    monkeypatch.setattr(
        training, "_step", lambda *a: {**step(*a), "loss": float("nan")}
    )
    with pytest.raises(TrainingDivergedError, match="learning rate"):
        train(dataset, tmp_path, TINY, progress=False)


def test_training_can_start_from_a_model(dataset, run, tmp_path):
    """Fine-tuning begins where the other ended."""
    train(dataset, tmp_path, TINY, initial=run / "model.safetensors", progress=False)
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("initial", [None, "nbody"])
def test_what_is_not_heard_changes_nothing(dataset, tmp_path, initial):
    """But through the base; what is heard does."""
    config = replace(TINY, unheard=("h", "n_s", "sigma_8(z)"))
    path = train(dataset, tmp_path, config, initial=initial, progress=False)
    network = read_model(path).generator.network
    told = torch.rand(1, 8, generator=torch.Generator().manual_seed(1))
    names = condition_names(LCDM_SPACE)
    x = torch.rand(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = network(x, told, None)
        for i, name in enumerate(names):
            other = told.clone()
            other[:, i] += 0.5
            heard = not torch.equal(network(x, other, None), before)
            assert heard == (name not in config.unheard), name


def test_a_dry_run_trains_nothing(dataset, tmp_path):
    """The configuration alone is written."""
    train(dataset, tmp_path, TINY, dry_run=True, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_chain_on_real_simulations(test_data, tmp_path):
    """Hydrodynamical runs, read and trained on, and one of them followed."""
    folder = test_data / "mpgadget_lh"
    suite = read_suite(folder)
    suite = suite[np.isin(suite["run"], ["LH_8", "LH_9"]) & (suite["redshift"] == 0)]
    fields = ("matter", "gas_density")
    data = prepare(
        suite,
        tmp_path / "train.h5",
        config=PreparationConfig(n_cells=32, fields=fields),
        split=(1, 0, 0),
        workers=1,
        progress=False,
    )
    config = replace(TINY, paired_steps=6, adversarial_steps=2, expected=())
    emulator = Emulator.load(train(data, tmp_path / "run", config, progress=False))
    row = suite[suite["run"] == "LH_9"][0]
    own = {name: row[name] for name in emulator.card.space.names}
    made = emulator.emulate(
        own, n_cells=32, seed=1, initial_conditions=row["initial_conditions"]
    )
    with TrainingSet.open(data) as opened:
        target = opened.sample(int(np.flatnonzero(opened.runs == "LH_9")[0]))[1]
    matter = made["matter"].data
    r = correlation_coefficient(matter, target[0], box_size=25.0)
    assert r.value[r.k < 1.2].min() > 0.98
    assert matter.mean() == pytest.approx(1, abs=1e-5)
    # In comoving units without h: as much gas as the universe has, to what eight
    # steps can know.
    gas = made["gas_density"].to("solMass / Mpc3").data.mean(dtype=float)
    mean = target[1].mean(dtype=float) * own["h"] ** 2
    assert gas == pytest.approx(mean, rel=0.5)


@pytest.mark.slow
def test_several_processes_train_one_model(dataset, tmp_path):
    """Started by torchrun, they have batches of their own and the same weights."""
    choices = {**asdict(TINY), "device": "cpu"}
    options = [
        text
        for name, value in choices.items()
        for text in ("--set", f"{name}={json.dumps(value)}")
    ]
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "astrogan_emu"),
            *("train", str(dataset), "-o", str(tmp_path / "run"), *options),
        ],
        check=True,
        capture_output=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    tensors, metadata = read_tensors(tmp_path / "run" / "state.safetensors")
    assert metadata["step"] == TINY.steps
    assert (tmp_path / "run" / "log.csv").read_text().count("\n") == 1 + TINY.steps
    # Twice the samples in a step: not what one process alone would have made.
    alone = train(dataset, tmp_path / "alone", TINY, progress=False)
    other, _ = read_tensors(alone.parent / "state.safetensors")
    name = next(key for key in tensors if key.startswith("generator/"))
    assert not np.allclose(tensors[name], other[name], rtol=1e-6)


def test_tensorboard_gets_the_numbers_where_it_is_installed(tmp_path):
    """The same as the tables, as curves."""
    pytest.importorskip("tensorboard")
    log_scalars(tmp_path, "training", [{"step": 3, "loss": 0.5}])
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_impossible_choices_are_named(dataset, tmp_path):
    """A configuration that cannot be is refused before anything is done."""
    with pytest.raises(TrainingError, match="precision"):
        TrainingConfig(precision="float8")
    with pytest.raises(TrainingError, match="draws must be 1 or 2, got 3"):
        TrainingConfig(draws=3)
    with pytest.raises(TrainingError, match="condition_rate must be positive, got 0"):
        TrainingConfig(condition_rate=0)
    with pytest.raises(TrainingError, match="widths must be whole numbers, got"):
        TrainingConfig(widths=("4", "x"))
    with pytest.raises(TrainingError, match="batch_size must be a whole number, got"):
        TrainingConfig(batch_size=1.5)
    with pytest.raises(TrainingError, match="ema must be a number, got 'slow'"):
        TrainingConfig(ema="slow")
    with pytest.raises(TrainingError, match="name must be text, got 7"):
        TrainingConfig(name=7)
    with pytest.raises(TrainingError, match=r"widths must be a list .*, got 8"):
        TrainingConfig(widths=8)
    with pytest.raises(TrainingError, match=r"expected must be a list .* 'gas'"):
        TrainingConfig(expected="gas")
    with pytest.raises(TrainingError, match=r"field_weights must be .*, got True"):
        TrainingConfig(field_weights=True)
    with pytest.raises(TrainingError, match=r"field_weights must be .* 'gas'"):
        TrainingConfig(field_weights="gas")
    with pytest.raises(TrainingError, match=r"field_weights must be .* 'many'"):
        TrainingConfig(field_weights={"gas": "many"})
    with pytest.raises(TrainingError, match=r"unheard must be a list of names, .*3"):
        TrainingConfig(unheard=("h", 3))
    with pytest.raises(TrainingError, match=r"trends must be names .* \['gas'\]"):
        TrainingConfig(trends={"heat": ["gas"]})
    with pytest.raises(TrainingError, match="joint_weight must not be negative"):
        TrainingConfig(joint_weight=-1)
    with pytest.raises(TrainingError, match="expected names 'light'"):
        train(dataset, tmp_path, TrainingConfig(expected=("light",)), progress=False)
    with pytest.raises(TrainingError, match=r"unheard names 'b'; the data have .*a,"):
        train(dataset, tmp_path, TrainingConfig(unheard=("b",)), progress=False)
    deep = TrainingConfig(widths=(4,) * 6)
    with pytest.raises(TrainingError, match="multiple of 32"):
        train(dataset, tmp_path, deep, progress=False)


def test_galaxies_start_from_those_of_the_base(tmp_path):
    """Before training, they and matter are the base's, but for the soft floor."""
    rng = np.random.default_rng(1)
    matter = rng.gamma(2.0, 0.5, (2, 16, 16, 16)).astype(np.float32)
    # Halos in a few cells, as many as there were.
    galaxies = np.where(rng.random(matter.shape) < 0.05, 0.3 * matter, 0)
    both = np.stack([matter, galaxies], 1).astype(np.float32)
    occupation = asdict(OccupationModel())
    recipe = {"occupation": occupation, "linking_length": 0.25, "min_members": 8}
    description = Description(
        fields=("matter", "galaxies"),
        units={"matter": "", "galaxies": "littleh3 / Mpc3"},
        space=LCDM_SPACE,
        n_cells=16,
        cell_size=1.0,
        base_settings={**BaseSettings().to_dict(), "galaxies": recipe},
    )
    point = np.array([0.3, 0.05, 0.7, 1.0, 0.8])
    run = RunSamples("LH_0", "train", point, np.array([1.0, 0.0]), both, both)
    write_training_set(tmp_path / "train.h5", description, [run])
    with TrainingSet.open(tmp_path / "train.h5") as data:
        generator = FieldGenerator(generator_shapes(data, TINY))
    assert [head.follows for head in generator.config.heads] == [0, 1]
    base = torch.from_numpy(both[:1])
    with torch.no_grad():
        made = generator(base, torch.zeros(1, 8), None)[0].numpy()
    assert np.corrcoef(made[1].ravel(), galaxies[0].ravel())[0, 1] > 0.999
    full = galaxies[0] > galaxies.mean()
    np.testing.assert_allclose(made[1][full], galaxies[0][full], rtol=0.02)


def test_gas_of_one_mean_starts_as_a_share_of_the_matter(tmp_path):
    """Each cell has the cosmic share, whatever gas does in the training runs."""
    rng = np.random.default_rng(1)
    matter = rng.gamma(2.0, 0.5, (2, 16, 16, 16)).astype(np.float32)
    matter /= matter.mean((1, 2, 3), keepdims=True)
    # Smoother than matter, with a mean of 5 in every box.
    gas = matter**0.8
    gas *= 5 / gas.mean((1, 2, 3), keepdims=True)
    description = Description(
        ("matter", "gas_density"),
        {"matter": "", "gas_density": "solMass / Mpc3"},
        *(LCDM_SPACE, 16, 1.0, BaseSettings().to_dict()),
    )
    both = np.stack([matter, gas], 1).astype(np.float32)
    point = np.array([0.3, 0.05, 0.7, 1.0, 0.8])
    run = RunSamples(
        "LH_0", "train", point, np.array([1.0, 0.0]), both, matter[:, None]
    )
    write_training_set(tmp_path / "train.h5", description, [run])
    with TrainingSet.open(tmp_path / "train.h5") as data:
        generator = FieldGenerator(generator_shapes(data, TINY))
    with torch.no_grad():
        made = generator(torch.from_numpy(matter[:1, None]), torch.zeros(1, 8), None)
    full = matter[0] > 0.5
    np.testing.assert_allclose(made[0, 1][full], 5 * matter[0][full], rtol=0.01)
