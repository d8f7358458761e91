"""
Inference with an emulator
==========================

A simulated universe is observed in its matter power spectrum at redshift 0.5, and
omega_m and sigma_8 are recovered from it in two ways: by gradients through the emulator,
and by simulation-based inference with a small neural posterior that learns from emulated
fields alone. A calibration test says whether its error bars can be trusted. The other
three parameters are taken as known.

Run time: about 5 minutes on two cores. Expected result: both ways find the truth to
within their errors, the share of test universes inside the 68 % interval is near 0.68,
and ``inference.png`` shows posterior, truth and calibration.

``ASTROGAN_EXAMPLE_CELLS=16`` makes a rough check of it in seconds. A training set with
held-out simulations, ``python inference.py train.h5``, takes those for the observation
instead of a simulation made here.
"""

import math
import os
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from astropy.table import Table

from astrogan_emu import (
    Emulator,
    SimulationConfig,
    differentiable_fields,
    read_snapshot,
    read_suite,
    simulate,
)
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.statistics import power_spectrum

n_cells = int(os.environ.get("ASTROGAN_EXAMPLE_CELLS", "32"))
n_emulated = {16: 40}.get(n_cells, int(os.environ.get("ASTROGAN_EXAMPLE_RUNS", "400")))
emulator = Emulator.load("nbody")
side = n_cells * emulator.card.cell_size
redshift = 0.5
known = {"omega_b": 0.049, "h": 0.68, "n_s": 0.96}
names = ("omega_m", "sigma_8")
low, high = np.array([0.15, 0.65]), np.array([0.45, 0.95])

# %%
# What is observed
# ----------------
# The logarithm of the matter power in bins up to half the Nyquist frequency, where the
# emulator has been checked, and its slopes are what torch makes of them.

nyquist = math.pi * n_cells / side
edges = np.geomspace(0.75 * 2 * math.pi / side, nyquist / 2, 8)


def summary(matter):
    """Logarithm of the power of a density, shape (7,)."""
    measured = power_spectrum(matter, box_size=side, bins=edges)
    return torch.log(torch.as_tensor(measured.power))


def observe():
    """Summaries and true parameters of simulations: made here, or held out."""
    if len(sys.argv) > 1:
        with TrainingSet.open(sys.argv[1], verify=False) as data:
            at = [data.sample(int(i)) for i in data.indices("test")]
            order, fields = data.space.names, data.fields
        at = [each for each in at if abs(each.redshift - redshift) < 1e-3]
        truths = [dict(zip(order, map(float, each.parameters))) for each in at]
        channel = fields.index("matter")
        densities = [torch.as_tensor(each.fields[channel]) for each in at]
        return [summary(each) for each in densities], truths
    truth = {"omega_m": 0.31, "sigma_8": 0.81, **known}
    design = Table([{"run": "truth_0", "set": "truth", "seed": 2026, **truth}])
    config = SimulationConfig(
        n_particles=2 * n_cells,
        box_size=side,
        n_mesh=4 * n_cells,
        redshifts=(redshift,),
        n_steps=50 if n_cells > 16 else 10,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = simulate(design, folder, config=config, workers=1, progress=False)
        snapshot = read_snapshot(Path(read_suite(path)["file"][0]))
        density = torch.as_tensor(snapshot.density("matter", n_cells))
    return [summary(density)], [truth]
