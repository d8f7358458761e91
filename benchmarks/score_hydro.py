"""Scores of a model of gas on held-out runs, beside the base and other networks.

    python benchmarks/score_hydro.py train.h5 [model ...] [--split test]

For each field and redshift, against the simulations of the same phases, as means over
runs: the power's largest departure from the simulation's up to k = 2 h/Mpc and its
ratio at 1 and 2, the same departure for the cross-power with matter, the correlation
coefficient at 1 and 2, and the ratio of means. ``all`` is over the redshifts too. For
gas and temperature also their relation: the largest departure of the median temperature
in bins of gas density that hold at least a hundredth of the cells.
"""

import argparse
import warnings

import numpy as np
import torch

from astrogan_emu.conditioning import conditions
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.emulator import Emulator
from astrogan_emu.noise import cell_noise
from astrogan_emu.statistics import (
    correlation_coefficient,
    cross_power,
    power_spectrum,
)

K_MAX = 2.0
EDGES = np.linspace(-2, 3, 26)


def emulated(emulator, data, index):
    """Fields of one sample of a training set, as the model makes them."""
    generator = emulator._model.generator
    base, _, parameters, redshift = data.sample(index)
    told = conditions(data.space, parameters[None], redshift)
    noise = [
        cell_noise(int(index), 100 + i, data.n_cells >> level)[None, None]
        for i, level in enumerate(generator.network.noise_levels)
    ]
    with torch.no_grad():
        made = generator(torch.from_numpy(base)[None], told, noise)[0].numpy()
    return dict(zip(emulator.fields, made, strict=True))


def statistics(field, truth, matter, true_matter, box_size):
    """Wavenumbers; ratios of power and cross-power, correlation; ratio of means."""
    options = {"box_size": box_size, "relative": False}
    k, power = power_spectrum(field, **options)[:2]
    crossed = np.asarray(cross_power(field, matter, **options).power)
    true_crossed = np.asarray(cross_power(truth, true_matter, **options).power)
    r = correlation_coefficient(field, truth, box_size=box_size).value
    return np.asarray(k), np.array(
        [
            np.asarray(power) / np.asarray(power_spectrum(truth, **options).power),
            crossed / true_crossed,
            np.asarray(r),
            np.full(len(r), field.mean(dtype=float) / truth.mean(dtype=float)),
        ]
    )


def ridge(gas, temperature):
    """Median temperature in bins of gas density over its mean; and cells in them."""
    x = np.concatenate([np.log10(g / g.mean()).ravel() for g in gas])
    t = np.concatenate([np.ravel(each) for each in temperature])
    which = np.digitize(x, EDGES)
    bins = range(1, len(EDGES))
    median = [np.median(t[which == i]) if (which == i).any() else np.nan for i in bins]
    return np.array(median), np.bincount(which, minlength=len(EDGES) + 1)[1:-1]


def measure(data, models, split):
    """Statistics by method, field and redshift, and ridges by method and redshift."""
    rows, ridges, k = {}, {}, None
    for index in data.indices(split):
        base, target, _, z = data.sample(index)
        truth = dict(zip(data.fields, target, strict=True))
        made = {"base": {"matter": base[0]}}
        made |= {name: emulated(e, data, index) for name, e in models.items()}
        for method, fields in {**made, "simulation": truth}.items():
            if {"gas_density", "gas_temperature"} <= set(fields):
                pair = (fields["gas_density"], fields["gas_temperature"])
                ridges.setdefault((method, z), []).append(pair)
            for name, field in fields.items():
                if method == "simulation" or not truth[name].any():
                    continue
                k, values = statistics(
                    field, truth[name], fields["matter"], truth["matter"], data.box_size
                )
                rows.setdefault((method, name, z), []).append(values)
    return k, rows, ridges


def departure(values):
    """The value that is furthest from 1."""
    return float(values[np.nanargmax(np.abs(values - 1))])


def table(k, rows, ridges):
    """Lines of text, a field and method each."""
    low = k <= K_MAX
    one, two = (int(np.argmin(np.abs(k - x))) for x in (1, 2))
    yield (
        f"{'field':16s} {'method':22s} {'z':>4s} {'worst P':>8s} {'P k=1':>7s} "
        f"{'P k=2':>7s} {'worst X':>8s} {'r k=1':>7s} {'r k=2':>7s} {'mean':>7s}"
    )
    redshifts = sorted({z for *_, z in rows})
    for method, field in sorted({key[:2] for key in rows}, key=lambda e: e[::-1]):
        for z in [*redshifts, None]:
            found = [
                values
                for key in ([z] if z is not None else redshifts)
                for values in rows.get((method, field, key), [])
            ]
            power, crossed, r, mean = np.mean(found, 0)
            yield (
                f"{field:16s} {method:22s} {'all' if z is None else f'{z:g}':>4s} "
                f"{departure(power[low]):8.3f} {power[one]:7.3f} {power[two]:7.3f} "
                f"{departure(crossed[low]):8.3f} {r[one]:7.4f} {r[two]:7.4f} "
                f"{mean[0]:7.4f}"
            )
    for method in sorted({m for m, _ in ridges} - {"simulation"}):
        for z in redshifts:
            wanted, cells = ridge(*zip(*ridges["simulation", z], strict=True))
            made, _ = ridge(*zip(*ridges[method, z], strict=True))
            enough = cells > 0.01 * cells.sum()
            ratio = made[enough] / wanted[enough]
            yield (
                f"temperature-density ridge, {method}, z = {z:g}: worst "
                f"{departure(ratio):.3f}, mean departure "
                f"{np.mean(np.abs(ratio - 1)):.3f}"
            )


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("models", nargs="*", default=["hydro"])
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    models = {name[-22:]: Emulator.load(name) for name in options.models}
    with TrainingSet.open(options.dataset) as data, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = sorted(set(data.runs[data.indices(options.split)]))
        print(f"{options.split} runs: {', '.join(runs)}")
        for line in table(*measure(data, models, options.split)):
            print(line)


if __name__ == "__main__":
    main()
