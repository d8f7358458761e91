"""
Train on toy boxes
==================

From nothing to a model of one's own: a suite of small particle-mesh simulations is
run, made into a training set, trained on, and the model emulates. The same calls serve
a suite of real snapshots.

Run time: 10 minutes on two cores. Expected result: the folder ``toy`` with snapshots,
training set and model, and ``toy.png``. After so little training on so few boxes, the
power of the emulated field lies between that of the base and that of the simulation; a
model for use takes an hour of training, see the page of the default model.

``simulate`` and ``prepare`` start processes that read this file again, so that the work
has to stand in a function, below the last line's guard.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from astrogan_emu import (
    Emulator,
    PreparationConfig,
    SimulationConfig,
    TrainingConfig,
    prepare,
    read_suite,
    simulate,
    train,
)
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.simulations import design_over_space
from astrogan_emu.statistics import power_spectrum

n_cells = int(os.environ.get("ASTROGAN_EXAMPLE_CELLS", "32"))
small = n_cells <= 16
workers = 1 if small else 2
side = 25.0 * n_cells / 32  # Mpc/h
folder = Path("toy")


def run_suite():
    """Simulations over the whole range of parameters, read back by yt as any other."""
    design = design_over_space(10 if small else 16, seed=1)
    config = SimulationConfig(
        n_particles=n_cells if small else 2 * n_cells,
        box_size=side,
        n_mesh=2 * n_cells if small else 4 * n_cells,
        n_steps=5 if small else 40,
        redshifts=(0.0,) if small else (1.0, 0.0),
    )
    return simulate(
        design, folder / "suite", config=config, workers=workers, progress=False
    )


def train_model(suite):
    """A training set and a model; a few steps only, where all is to be small."""
    dataset = prepare(
        suite,
        folder / "train.h5",
        config=PreparationConfig(fields=("matter",), n_cells=n_cells),
        workers=workers,
        progress=False,
    )
    config = TrainingConfig(
        name="toy",
        paired_steps=4 if small else 300,
        adversarial_steps=2 if small else 40,
        widths=(4, 8) if small else (8, 24, 48),
        critic_widths=(4, 8) if small else (16, 32),
        validate_every=2 if small else 100,
    )
    return dataset, train(dataset, folder / "run", config, progress=False)


def compare(suite, dataset, model):
    """Simulation, base and model of a run that was kept from training."""
    emulator = Emulator.load(model)
    print(emulator)
    with TrainingSet.open(dataset) as data:
        index = int(data.indices("test")[-1])
        run = str(data.runs[index])
        base, target, parameters, redshift = data.sample(index)
        values = dict(zip(data.space.names, map(float, parameters), strict=True))
    print(f"{run}, kept for testing, at redshift {redshift:g}: {values}")
    table = read_suite(suite)
    start = table["initial_conditions"][table["run"] == run][0]
    made = emulator.emulate(
        values, redshift=redshift, n_cells=n_cells, seed=1, initial_conditions=start
    )["matter"].data
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
    truth = power_spectrum(target[0], box_size=side).power
    named = {"simulation": target[0], "base": base[0], "model": made}
    for ax, (name, density) in zip(axes, named.items(), strict=False):
        slab = np.log10(density[..., : n_cells // 4].mean(2) + 0.1)
        ax.imshow(slab.T, origin="lower", extent=(0, side, 0, side), cmap="cividis")
        ax.set(title=name, xlabel="x [Mpc/h]")
        k, power, _ = power_spectrum(density, box_size=side)
        axes[3].semilogx(k, power / truth, label=name)
        print(f"{name}: power over the simulation's {(power / truth).mean():.2f}")
    axes[3].set(xlabel="k [h/Mpc]", ylabel="P(k) over the simulation's", ylim=(0, 1.5))
    axes[3].legend()
    figure.savefig("toy.png", dpi=150)


if __name__ == "__main__":
    suite = run_suite()
    dataset, model = train_model(suite)
    compare(suite, dataset, model)
