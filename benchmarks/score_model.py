"""Scores of a model on held-out simulations, beside the base alone, per redshift.

    python benchmarks/score_model.py train.h5 [model] [split]

For each trained redshift, against the simulations of the same phases: the mean ratio of
the power spectra, its largest departure from 1 up to k = 2 h/Mpc, and the correlation
coefficient at 1 and 2 h/Mpc, for each field and for the base; and for how many
simulations the model's matter power is closer than the base's up to k = 2 h/Mpc.
"""

import sys

import numpy as np
import torch

from astrogan_emu.conditioning import conditions
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.emulator import Emulator
from astrogan_emu.noise import cell_noise
from astrogan_emu.statistics import correlation_coefficient, power_spectrum

K_MAX = 2.0


def compare(first, second, box_size):
    """Wavenumber, power ratio and correlation coefficient."""
    p = [power_spectrum(f, box_size=box_size, relative=False) for f in (first, second)]
    r = correlation_coefficient(first, second, box_size=box_size)
    return p[0].k, p[0].power / p[1].power, r.value


def measure(dataset, model, split):
    """Power ratios and correlations by field and redshift, and their wavenumbers."""
    emulator = Emulator.load(model)
    generator = emulator._model.generator
    rows = {}
    with TrainingSet.open(dataset) as data:
        for index in data.indices(split):
            base, target, parameters, redshift = data.sample(index)
            told = conditions(data.space, parameters[None], redshift)
            noise = [
                cell_noise(int(index), 100 + i, data.n_cells >> level)[None, None]
                for i, level in enumerate(generator.network.noise_levels)
            ]
            with torch.no_grad():
                made = generator(torch.from_numpy(base)[None], told, noise)[0].numpy()
            pairs = {"base": (base[0], target[0])}
            pairs |= {n: (made[i], target[i]) for i, n in enumerate(data.fields)}
            for name, pair in pairs.items():
                k, ratio, r = compare(*pair, data.box_size)
                rows.setdefault((name, redshift), []).append((ratio, r))
        runs = len(set(data.runs[data.indices(split)]))
    return k, rows, runs, emulator


def summary(k, rows):
    """Scores by field and redshift: worst mean ratio, ratios at 1 and 2, r at both."""
    one, two = (int(np.argmin(np.abs(k - x))) for x in (1, 2))
    low = k <= K_MAX
    result = {}
    for key, values in sorted(rows.items()):
        ratio, r = (np.mean([v[i] for v in values], 0) for i in (0, 1))
        worst = ratio[low][np.argmax(np.abs(ratio[low] - 1))]
        result[key] = tuple(map(float, (worst, ratio[one], ratio[two], r[one], r[two])))
    return result


def closer(k, rows, redshift):
    """Simulations whose matter power the model meets better than the base does."""
    low = k <= K_MAX

    def misfit(name):
        ratios = [ratio[low] for ratio, _ in rows[name, redshift]]
        return np.array([np.sqrt(np.mean(np.log(ratio) ** 2)) for ratio in ratios])

    return int(np.sum(misfit("matter") < misfit("base")))


def main(dataset, model="nbody", split="test"):
    """Print the table."""
    k, rows, runs, emulator = measure(dataset, model, split)
    print(f"{runs} runs of the {split} split; model {emulator.card.name} from {model}")
    print("field     z    worst mean P ratio   P ratio at k = 1, 2   r at k = 1, 2")
    for (field, z), values in summary(k, rows).items():
        worst, p1, p2, r1, r2 = values
        print(
            f"{field:9s} {z:3.1f}  {worst:18.3f}   {p1:9.3f} {p2:9.3f}"
            f"   {r1:6.4f} {r2:6.4f}"
        )
    for z in sorted({z for _, z in rows}):
        count = closer(k, rows, z)
        print(
            f"z = {z:g}: matter power closer than the base's in {count} of {runs} runs"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
