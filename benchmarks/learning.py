"""Steps of training, and how much of one is waiting for data."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from astrogan_emu.batches import SampleReader, draw_batch
from astrogan_emu.dataset import RunSamples, TrainingSet, write_training_set
from astrogan_emu.kept_memory import kept_memory
from astrogan_emu.parameters import Parameter, ParameterSpace
from astrogan_emu.training import _step
from astrogan_emu.training_config import TrainingConfig
from astrogan_emu.training_data import Description
from astrogan_emu.training_start import generator_shapes
from astrogan_emu.training_state import TrainingState
from benchmarks.machine import flops, seconds, shortest

__all__ = ["training"]

RANGES = {
    "omega_m": (0.1, 0.5),
    "omega_b": (0.03, 0.07),
    "h": (0.5, 0.9),
    "n_s": (0.8, 1.2),
    "sigma_8": (0.6, 1.0),
}


def training(rate, n_cells=64, steps=6, device="cpu", **choices):
    """Seconds of a step without and with the critic, and their parts.

    Parameters
    ----------
    rate
        Of the generator's convolutions on this machine [flop/s].
    **choices
        Of the training, such as ``batch_size=8``.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = _set(Path(folder) / "train.h5", n_cells)
        stages = {"paired_steps": 1000, "adversarial_steps": 1000}
        config = TrainingConfig(**stages, device=device, **choices)
        with TrainingSet.open(path, verify=False) as data, kept_memory():
            indices = data.indices("train")
            state = TrainingState(config, generator_shapes(data, config))
            samples = SampleReader(data, state.device)

            def batch():
                seed = (0, state.step, 0)
                return draw_batch(samples, indices, seed, config.batch_size)

            loading = shortest(batch, 5)
            result = {"loading_s": loading}
            # Of the critic, work is counted in a step without gradient penalty.
            for name, first in (("paired", 1), ("with_critic", 1001)):
                state.step = first
                ready = batch()

                def step(ready=ready):
                    _step(state, ready, config, 0)

                work = flops(step)
                taken = _mean(step, steps)
                result |= {
                    f"{name}_s": taken,
                    f"{name}_gflop": work / 1e9,
                    f"{name}_share_of_convolution_rate": work / rate / taken,
                    f"{name}_share_of_loading": loading / (taken + loading),
                }
    return result


def _mean(function, repeats):
    function()
    return seconds(lambda: [function() for _ in range(repeats)]) / repeats


def _set(path, n_cells):
    """A training set of random fields of the default model's shape."""
    space = ParameterSpace([Parameter(n, *both) for n, both in RANGES.items()])
    description = Description(
        ("matter", "galaxies"),
        {"matter": "", "galaxies": "littleh3 / Mpc3"},
        space,
        n_cells,
        50.0 / 64,
        {"n_steps": 20, "mesh_factor": 1, "start_redshift": 9.0},
    )
    random = np.random.default_rng(1)
    runs = []
    for i in range(4):
        base = random.lognormal(size=(1, 1, *(n_cells,) * 3)).astype(np.float32)
        target = np.concatenate([base, 0.01 * base**2], axis=1)
        point = space.from_unit(random.random(5))
        runs.append(RunSamples(f"{i}", "train", point, np.zeros(1), target, base))
    write_training_set(path, description, runs)
    return path


if __name__ == "__main__":
    print(training(float("nan")), torch.get_num_threads())
