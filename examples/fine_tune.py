"""
Fine-tune on a few runs
=======================

A trained model meets simulations of another code: a few runs move its weights, one run
says after how many steps to stop, and one that nobody looked at until then says what
was gained.

``python examples/fine_tune.py suite.ecsv`` takes hydrodynamical runs of your own, of
which the column ``set`` sends one to ``val`` and one to ``test``, and starts from
``hydro``. Without a suite, small particle-mesh runs with coarse forces play the other
code, and the model is ``nbody``.

Run time: a minute on two cores. Expected result: the power of matter comes closer,
on the run that was kept out from within 0.12 to within 0.04 of the simulation's.
Trained on one hydrodynamical run, ``hydro`` gains in temperature and loses in gas.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

from astrogan_emu import (
    SimulationConfig,
    TrainingConfig,
    prepare,
    simulate,
    train,
)
from astrogan_emu.checkpoints import model_path, read_model
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.scoring import total_score, validation_scores
from astrogan_emu.simulations import design_over_space

n_cells = int(os.environ.get("ASTROGAN_EXAMPLE_CELLS", "32"))
small = n_cells <= 16
folder = Path("fine_tune")
lengths = (2, 4) if small else (10, 20, 40, 80)


def own_runs():
    """Particle-mesh runs whose forces end at the cells: another code, for the model."""
    design = design_over_space(4, seed=3)
    design["set"] = ["LH", "LH", "val", "test"]
    config = SimulationConfig(
        n_particles=n_cells,
        box_size=25.0 * n_cells / 32,
        n_mesh=n_cells,
        n_steps=5 if small else 20,
        redshifts=(1.0, 0.0),
    )
    return simulate(design, folder / "suite", config=config, progress=False)


def training_set(suite, model):
    """The runs on the cells, above the base and in the ranges that the model knows."""
    config = replace(model.card.preparation, n_cells=n_cells)
    output, space = folder / "train.h5", model.card.space
    return prepare(suite, output, config=config, space=space, progress=False)


def settings(model, n_steps):
    """The loss that the model was trained with, at a low rate."""
    known = TrainingConfig(**model.card.provenance["training"])
    return replace(
        known,
        name="tuned",
        paired_steps=n_steps,
        adversarial_steps=0,
        batch_size=2,
        learning_rate=3e-4,
        ema=0.9,
        validate_every=n_steps,
    )


def score(path, data, split):
    """One number, smaller is better: departures of power and of correlation.

    Galaxies and stars are too few to choose by.
    """
    scores = validation_scores(read_model(path).generator, data, split)
    fields = [f for f in data.fields if f not in ("galaxies", "stellar_density")]
    for name in fields:
        power, r = (scores[f"{name}_{key}"] for key in ("power", "r_quarter"))
        print(f"  {name}: power within {power:.3f} of the simulation's, r = {r:.4f}")
    return total_score(scores, tuple(fields))


def main():
    """Try several lengths, choose by one run, and look at the other once."""
    folder.mkdir(exist_ok=True)
    suite = sys.argv[1] if len(sys.argv) > 1 else own_runs()
    before = model_path("hydro" if len(sys.argv) > 1 else "nbody")
    dataset = training_set(suite, read_model(before))
    paths = {0: before}
    for n_steps in lengths:
        run = folder / f"{n_steps}_steps"
        config = settings(read_model(before), n_steps)
        paths[n_steps] = train(dataset, run, config, initial=before, progress=False)
    with TrainingSet.open(dataset) as data:
        found = {}
        for n_steps, path in paths.items():
            print(f"{n_steps} steps, run to choose by:")
            found[n_steps] = score(path, data, "validation")
        best = min(found, key=found.get)
        print(f"best after {best} steps; on the run that was kept out of all this:")
        for label, path in (("before", before), ("after", paths[best])):
            print(label)
            print(f"  together {score(path, data, 'test'):.3f}")


if __name__ == "__main__":
    main()
