"""Where errors of the response come from: what a network sees, or what it is told.

    astrogan-emu prepare pairs -o pairs.h5
    python -m benchmarks.told pairs.h5 [model ...]

For runs of a design of pairs, the change of ln P from the lower run of a parameter to
the higher, up to half the Nyquist frequency: of the simulation, and how far off are the
model, the model told in both runs what it is told in the middle one, and the base.
"""

import sys

import numpy as np
import torch

from astrogan_emu.batches import draw_noise, one_sample
from astrogan_emu.checkpoints import model_path, read_model
from astrogan_emu.conditioning import conditions
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.statistics import power_spectrum

METHODS = ("model", "held", "base")


def log_power(fields, box_size):
    """Ln P of each channel up to half the Nyquist frequency."""
    spectra = [power_spectrum(field, box_size=box_size) for field in fields]
    low = spectra[0].k <= np.pi * fields.shape[-1] / box_size / 2
    return np.log([each.power[low] for each in spectra])


def log_powers(model, data, index, middle):
    """Ln P of the simulation, the model, the model held to a middle run, the base."""
    batch = one_sample(data, index, torch.device("cpu"))
    noise = draw_noise(model.generator, batch, (7, 0))
    # In the ranges of the model: those of the data span the pairs alone.
    told = [
        conditions(model.card.space, data.parameters[[i]], data.redshifts[i])
        for i in (index, middle)
    ]
    made = [model.generator(batch.base, each, noise) for each in told]
    of = dict(zip(METHODS, (*made, batch.base), strict=True), simulation=batch.target)
    return {name: log_power(f[0].numpy(), data.box_size) for name, f in of.items()}


def changes(data, model):
    """By (redshift, parameter): changes of ln P, a list over realisations."""
    index = {
        (run, z): i
        for i, (run, z) in enumerate(zip(data.runs, data.redshifts, strict=True))
    }
    result = {}
    for (run, z), middle in index.items():
        name = str(run).removesuffix("_fiducial")
        if name == run:
            continue
        for parameter in data.space.names:
            ends = [index[f"{name}_{parameter}_{side}", z] for side in ("low", "high")]
            low, high = (log_powers(model, data, i, middle) for i in ends)
            change = {method: high[method] - low[method] for method in low}
            result.setdefault((z, parameter), []).append(change)
    return result


def main(path, *models):
    """Print a table for each model."""
    with TrainingSet.open(path, verify=False) as data, torch.no_grad():
        for name in models or ("nbody",):
            found = changes(data, read_model(model_path(name)))
            for channel, field in enumerate(data.fields):
                print(f"{name}, {field}: largest change of ln P; error of", *METHODS)
                squares = {method: [] for method in METHODS}
                for (z, parameter), runs in sorted(found.items()):
                    true = np.array([run["simulation"][channel] for run in runs])
                    errors = {
                        method: np.array([run[method][channel] for run in runs]) - true
                        for method in METHODS
                    }
                    for method, error in errors.items():
                        squares[method].append(np.nanmean(error**2))
                    worst = [np.abs(each.mean(0)).max() for each in errors.values()]
                    print(
                        f"z = {z:<4g} {parameter:8s} {np.abs(true.mean(0)).max():7.3f}",
                        *(f"{each:7.3f}" for each in worst),
                    )
                print(
                    "root mean square of a realisation's error:",
                    *(f"{np.sqrt(np.mean(each)):.4f}" for each in squares.values()),
                    flush=True,
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
