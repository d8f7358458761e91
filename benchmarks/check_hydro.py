"""What the model of gas makes of its parameters, beside the simulations.

    python benchmarks/check_hydro.py response train.h5 [model]
    python benchmarks/check_hydro.py fixed

``response``: change of a few numbers at redshift 0 when one strength of feedback goes
from 0.6 to 1.8, the rest at the centre: for the model the mean over two boxes and
its scatter, for the simulations of the training set, whose runs differ in everything at
once, a linear fit in omega_m, sigma_8 and the logarithms of the strengths, with its
standard error. Powers are at k = 1 h/Mpc, over that of the base.

``fixed``: what the model `nbody`, which knows omega_b, h and n_s, does about them: the
largest change, over k < 2 h/Mpc, of the matter power over that of its base, when one of
them leaves the value of the hydrodynamical suites by a tenth, and for Planck 2018.
"""

import argparse

import numpy as np
import torch
from astropy.cosmology import Planck18

from astrogan_emu.dataset import TrainingSet
from astrogan_emu.emulator import Emulator
from astrogan_emu.initial_conditions import linear_field
from astrogan_emu.parameters import COSMOLOGICAL, as_parameters
from astrogan_emu.statistics import power_spectrum

STRENGTHS = ("a_sn1", "a_sn2", "a_agn")
CENTRE = {"omega_m": 0.3, "sigma_8": 0.8}
SUITE = {**CENTRE, "omega_b": 0.049, "h": 0.6711, "n_s": 0.9624}
SIDE = 25.0


def power(field):
    """Wavenumbers and power."""
    k, values = power_spectrum(field, box_size=SIDE, relative=False)[:2]
    return np.asarray(k), np.asarray(values)


def numbers(fields, base):
    """Logarithms of the numbers that are looked at."""
    k, smooth = power(base)
    one = int(np.argmin(np.abs(k - 1)))
    result = {}
    for name in ("matter", "gas_density", "gas_temperature"):
        own = power(np.asarray(fields[name], float))[1]
        result[f"power of {name}"] = np.log(own[one] / smooth[one])
    for name in ("gas_temperature", "stellar_density"):
        mean = np.asarray(fields[name], float).mean()
        result[f"mean of {name}"] = np.log(max(mean, 1e-30))
    return result


def of_model(emulator, name):
    """Change of the numbers of the model, for two realisations."""
    found = []
    for seed in range(2):
        ends = []
        for strength in (0.6, 1.8):
            point = {**CENTRE, name: strength}
            made = emulator.emulate(point, n_cells=32, seed=seed)
            delta = linear_field(SUITE, n_cells=32, box_size=SIDE, seed=seed)
            with torch.no_grad():
                base = emulator.base(delta, SUITE, 0.0, SIDE)[0].numpy()
            ends.append(numbers({n: f.data for n, f in made.items()}, base))
        found.append({key: ends[1][key] - ends[0][key] for key in ends[0]})
    return {key: (np.mean(v), np.std(v)) for key, v in _columns(found).items()}


def of_simulations(path):
    """Slopes of a linear fit to all runs, as the same change, with their errors."""
    with TrainingSet.open(path) as data:
        rows, found = [], []
        for index in np.flatnonzero(data.redshifts == 0):
            base, target, parameters, _ = data.sample(index)
            known = dict(zip(data.space.names, parameters, strict=True))
            rows.append(
                [1, known["omega_m"], known["sigma_8"]]
                + [np.log(known[name]) for name in STRENGTHS]
            )
            found.append(numbers(dict(zip(data.fields, target, strict=True)), base[0]))
    matrix = np.array(rows)
    inverse = np.linalg.pinv(matrix)
    result = {}
    for key, values in _columns(found).items():
        slopes = inverse @ values
        rest = values - matrix @ slopes
        error = np.sqrt(rest @ rest / max(1, len(matrix) - matrix.shape[1]))
        errors = error * np.sqrt((inverse**2).sum(1))
        for i, name in enumerate(STRENGTHS):
            wide = np.log(3.0)
            result[name, key] = (slopes[3 + i] * wide, errors[3 + i] * wide)
    return result


def _columns(rows):
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def response(path, model):
    """Print the table."""
    emulator, fitted = Emulator.load(model), of_simulations(path)
    print(f"{'parameter':10s} {'change of ln':26s} {'model':>15s} {'simulations':>15s}")
    for name in STRENGTHS:
        for key, (mean, spread) in of_model(emulator, name).items():
            slope, error = fitted[name, key]
            print(
                f"{name:10s} {key:26s} {mean:+7.2f} +- {spread:.2f} "
                f"{slope:+9.2f} +- {error:.2f}"
            )


def fixed():
    """Print what a tenth does."""
    emulator = Emulator.load("nbody")

    def correction(point):
        ratios = []
        for seed in range(2):
            made = emulator.emulate(point, fields=["matter"], n_cells=32, seed=seed)
            delta = linear_field(point, n_cells=32, box_size=SIDE, seed=seed)
            with torch.no_grad():
                base = emulator.base(delta, point, 0.0, SIDE)[0].numpy()
            k, own = power(made["matter"].data)
            ratios.append(own / power(base)[1])
        return k, np.mean(ratios, 0)

    k, usual = correction(SUITE)
    planck = {name: as_parameters(Planck18)[name] for name in COSMOLOGICAL}
    points = {
        f"{name} {factor:.1f} x": {**SUITE, name: factor * SUITE[name]}
        for name in ("omega_b", "h", "n_s")
        for factor in (0.9, 1.1)
    }
    points["Planck 2018"] = {**planck, **CENTRE}
    for label, point in points.items():
        change = correction(point)[1] / usual - 1
        print(f"{label:14s} {np.abs(change[k <= 2]).max():.4f}")


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=("response", "fixed"))
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("model", nargs="?", default="hydro")
    options = parser.parse_args()
    if options.check == "fixed":
        fixed()
    elif options.dataset is None:
        parser.error("response needs a training set")
    else:
        response(options.dataset, options.model)


if __name__ == "__main__":
    main()
