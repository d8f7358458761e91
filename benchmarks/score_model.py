"""Scores of a model on held-out simulations, beside the base alone, per redshift.

    python benchmarks/score_model.py train.h5 [model] [split]

For each trained redshift: the mean ratio of the matter power to the simulation's of the
same phases, its largest departure from 1 up to k = 2 h/Mpc, and the correlation
coefficient at 1 and 2 h/Mpc, for the model and for its base; the same for galaxies.
"""

import sys

import numpy as np
import torch

from astrogan_emu.conditioning import conditions
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.emulator import Emulator
from astrogan_emu.statistics import correlation_coefficient, power_spectrum


def compare(first, second, box_size):
    """Wavenumber, power ratio and correlation coefficient."""
    p = [power_spectrum(f, box_size=box_size, relative=False) for f in (first, second)]
    r = correlation_coefficient(first, second, box_size=box_size)
    return p[0].k, p[0].power / p[1].power, r.value


def main(dataset, model="nbody", split="test"):
    """Print the table."""
    emulator = Emulator.load(model)
    generator = emulator._model.generator
    random = torch.Generator().manual_seed(0)
    with TrainingSet.open(dataset) as data:
        rows = {}
        for index in data.indices(split):
            base, target, parameters, redshift = data.sample(index)
            told = conditions(data.space, parameters[None], redshift)
            with torch.no_grad():
                noise = generator.draw_noise(1, data.n_cells, random)
                made = generator(torch.from_numpy(base)[None], told, noise)[0].numpy()
            pairs = {"base": (base[0], target[0])}
            pairs |= {n: (made[i], target[i]) for i, n in enumerate(data.fields)}
            for name, pair in pairs.items():
                k, ratio, r = compare(*pair, data.box_size)
                rows.setdefault((name, redshift), []).append((ratio, r))
        runs = len(set(data.runs[data.indices(split)]))
    print(f"{runs} runs of the {split} split; model {emulator.identity['sha256'][:12]}")
    print(
        "field     z    worst mean P ratio, k < 2   P ratio at k = 1, 2   r at k = 1, 2"
    )
    one, two = (int(np.argmin(np.abs(k - x))) for x in (1, 2))
    for (name, z), values in sorted(rows.items()):
        ratio, r = (np.mean([v[i] for v in values], 0) for i in (0, 1))
        worst = ratio[k <= 2][np.argmax(np.abs(ratio[k <= 2] - 1))]
        print(
            f"{name:9s} {z:3.1f}  {worst:25.3f}   {ratio[one]:9.3f} {ratio[two]:7.3f}"
            f"   {r[one]:8.4f} {r[two]:7.4f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
