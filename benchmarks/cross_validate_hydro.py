"""How the choices for the model `hydro` do on runs left out of training.

    python benchmarks/cross_validate_hydro.py mpgadget_lh/ work/ [--precision float32]

Of the runs that are not kept for testing, two at a time are left out of a training of
half as many steps as `remake_hydro` makes, and scored with shares of the network's
corrections: means over these runs and redshifts of abs(ln) of the ratio of powers to
k = 2 h/Mpc, of the correlation at k = 1 and 2, and of abs(ln) of the ratio of means.
Interrupted, it starts the training that it was in again.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from remake_hydro import EARLY, KEPT, PREPARATION, TRAINING, reduced
from score_hydro import K_MAX, measure

from astrogan_emu.checkpoints import model_path
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.emulator import Emulator
from astrogan_emu.preparation import prepare
from astrogan_emu.suites import read_suite, write_suite
from astrogan_emu.training import train

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Those of the lab book.
GROUPS = ("LH_0,LH_9", "LH_2,LH_4", "LH_3,LH_10", "LH_8,LH_5")


def numbers(k, values):
    """Of one sample: departure of the power, correlations, departure of the mean."""
    power, _, r, mean = values
    one, two = (int(np.argmin(np.abs(k - x))) for x in (1, 2))
    departure = np.abs(np.log(power[k <= K_MAX])).mean()
    return departure, r[one], r[two], abs(np.log(mean[0]))


def scored(suite, left_out, work, training):
    """Numbers by share and field for the runs that are left out."""
    folder = work / "_".join(left_out)
    folder.mkdir(parents=True, exist_ok=True)
    own = suite[[KEPT.get(str(run)) != "test" for run in suite["run"]]]
    own["set"] = ["test" if str(run) in left_out else "LH" for run in own["run"]]
    write_suite(own, folder / "suite.ecsv")
    data = prepare(folder / "suite.ecsv", folder / "train.h5", config=PREPARATION)
    path = train(data, folder / "run", training, initial=model_path("nbody"))
    models = {share: Emulator.load(reduced(path, share)) for share in SHARES}
    found = {}
    with TrainingSet.open(data) as opened:
        k, rows, _ = measure(opened, models, "test")
    for (share, field, _), samples in rows.items():
        if share != "base":
            found.setdefault((field, share), []).extend(numbers(k, v) for v in samples)
    return found


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("work", type=Path)
    parser.add_argument("--precision", default=TRAINING.precision)
    parser.add_argument("--steps", type=int, default=EARLY)
    parser.add_argument("--groups", nargs="+", default=GROUPS, help="runs left out")
    options = parser.parse_args()
    training = replace(
        TRAINING,
        paired_steps=options.steps,
        adversarial_steps=0,
        keep_every=0,
        precision=options.precision,
    )
    suite, found = read_suite(options.suite), {}
    for group in options.groups:
        own = scored(suite, group.split(","), options.work, training)
        for key, samples in own.items():
            found.setdefault(key, []).extend(samples)
    print(f"{'field':16s} {'share':>6s} {'power':>7s} {'r k=1':>7s} {'r k=2':>7s} mean")
    for (field, share), samples in sorted(found.items()):
        power, one, two, mean = np.mean(samples, 0)
        print(f"{field:16s} {share:6g} {power:7.3f} {one:7.4f} {two:7.4f} {mean:.3f}")


if __name__ == "__main__":
    main()
