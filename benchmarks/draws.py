"""How draws of a model differ from simulations and from each other.

    python -m benchmarks.draws train.h5 [model]

For each field and redshift, at k = 0.5, 1, 2 and 3 h/Mpc: power over the simulation's,
and correlation of a draw with the simulation and with another draw of the same base.
Then the share of galaxies in cells where the simulation has none.
"""

import sys

import numpy as np
import torch

from astrogan_emu.batches import draw_noise, one_sample
from astrogan_emu.checkpoints import model_path, read_model
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.statistics import correlation_coefficient, power_spectrum

WAVENUMBERS = (0.5, 1, 2, 3)


def at_wavenumbers(k, values):
    """Values of a curve at `WAVENUMBERS`."""
    return np.interp(WAVENUMBERS, np.asarray(k), np.asarray(values))


def compared(draw, other, truth, box_size):
    """Power ratio, correlation with the truth, and of the draws."""
    first, second = (
        power_spectrum(f, box_size=box_size, relative=False) for f in (draw, truth)
    )
    k, r = correlation_coefficient(draw, truth, box_size=box_size)[:2]
    of_draws = correlation_coefficient(draw, other, box_size=box_size)[1]
    curves = (first.power / second.power, r, of_draws)
    return [at_wavenumbers(k, curve) for curve in curves]


def main(path, model="nbody"):
    """Print the table."""
    generator = read_model(model_path(model)).generator
    rows, smeared = {}, {}
    with TrainingSet.open(path, verify=False) as data, torch.no_grad():
        for index in data.indices("validation"):
            batch = one_sample(data, int(index), torch.device("cpu"))
            draws = [
                generator(
                    batch.base,
                    batch.conditions,
                    draw_noise(generator, batch, (seed, int(index))),
                )[0].numpy()
                for seed in (7, 8)
            ]
            z = float(data.redshifts[index])
            for i, name in enumerate(data.fields):
                truth = batch.target[0, i].numpy()
                found = compared(draws[0][i], draws[1][i], truth, data.box_size)
                rows.setdefault((name, z), []).append(found)
                if name == "galaxies":
                    empty = truth <= 1e-6 * truth.mean()
                    share = draws[0][i][empty].sum() / draws[0][i].sum()
                    smeared.setdefault(z, []).append((empty.mean(), share))
    print(f"k = {WAVENUMBERS} h/Mpc: P over P_sim, r, r of two draws")
    for (name, z), found in sorted(rows.items()):
        means = np.mean(found, 0).round(3)
        print(f"{name:9s} z = {z:<4g}", *(" ".join(map(str, row)) for row in means))
    for z, found in sorted(smeared.items()):
        cells, share = np.mean(found, 0)
        print(
            f"z = {z:<4g}: {cells:.3f} of the cells are empty in simulations, and hold "
            f"{share:.3f} of the galaxies"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
