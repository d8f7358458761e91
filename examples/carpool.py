"""
A precise mean from few simulations
===================================

Simulations are expensive and emulated fields are not. Both made from the same phases
share their chance fluctuations, and many more emulated fields show what of those is
chance. `carpool` (Chartier et al. 2021) takes it off the mean of the simulations, which
stays unbiased whatever the emulator gets wrong.

Run time: half a minute on two cores. Expected result: a table of the power spectrum of
matter, with the error of its mean from the simulations alone and from both, and how
many times more simulations would have been needed for the latter.

``python examples/carpool.py FOLDER`` takes the simulations from the ``suite.ecsv`` of a
folder instead, such as one made by
``astrogan-emu simulate FOLDER --design point --set point --runs 64 --seed 7``.
``ASTROGAN_EXAMPLE_CELLS=16`` makes small boxes.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from astropy.table import Table

from astrogan_emu import (
    Emulator,
    SimulationConfig,
    carpool,
    emulate_batch,
    read_snapshot,
    simulate,
)
from astrogan_emu.grids import GridSpec, deposit
from astrogan_emu.simulations import design_at_point
from astrogan_emu.statistics import power_spectrum

NAMES = ("omega_m", "omega_b", "h", "n_s", "sigma_8")
REDSHIFT = 0.0
BINS = {"bins": "log"}

# %%
# Simulations
# -----------
# All at one point of the parameters; they differ in their phases alone. The table of a
# suite says which seed each was made from.


def simulated(folder, n_cells):
    """Runs at one point, in boxes that the emulator makes with `n_cells` cells."""
    point = dict(zip(NAMES, (0.30966, 0.04897, 0.6766, 0.9665, 0.8102), strict=True))
    config = SimulationConfig(
        n_particles=2 * n_cells,
        n_mesh=4 * n_cells,
        box_size=n_cells * Emulator.load().card.cell_size,
        n_steps=20,
        redshifts=(REDSHIFT,),
    )
    design = design_at_point(point, 8, seed=7, name="point")
    return simulate(design, folder, config=config, workers=1, progress=False)


def spectrum(density, box_size):
    """Wavenumbers and power of the matter density."""
    measured = power_spectrum(density, box_size=box_size, **BINS)
    return np.asarray(measured.k), np.asarray(measured.power)


def main(folder):
    """Simulate if there is nothing yet, emulate, combine, and show."""
    n_cells = int(os.environ.get("ASTROGAN_EXAMPLE_CELLS", "32"))
    path = Path(folder) / "suite.ecsv"
    if not path.exists():
        path = simulated(folder, n_cells)
    suite = Table.read(path)
    # The table of a suite is written before its last run is done.
    runs = suite[
        [
            abs(row["redshift"] - REDSHIFT) < 1e-6
            and (path.parent / row["file"]).exists()
            for row in suite
        ]
    ]
    grid = GridSpec(
        round(runs["box_size"][0] / Emulator.load().card.cell_size),
        float(runs["box_size"][0]),
    )
    measured = []
    for row in runs:
        snapshot = read_snapshot(path.parent / row["file"])
        counts = deposit(snapshot.positions("dark_matter"), grid=grid)
        measured.append(spectrum(counts / counts.mean(), grid.box_size))
    k = measured[0][0]
    simulations = np.array([power for _, power in measured])

    # %%
    # Emulated fields
    # ---------------
    # One of the phases of each simulation, by its seed; and more of other phases.

    emulator = Emulator.load()
    point = {name: float(runs[name][0]) for name in NAMES}
    options = {"fields": ["matter"], "n_cells": grid.n_cells}
    pairs = np.array(
        [
            spectrum(
                emulator.emulate(
                    point, redshift=REDSHIFT, seed=int(row["seed"]), **options
                )["matter"].data,
                grid.box_size,
            )[1]
            for row in runs
        ]
    )
    batch = emulate_batch(
        point, redshift=REDSHIFT, n_realizations=3 * len(runs), seed=1, **options
    )
    more = np.array(
        [spectrum(sample["matter"].data, grid.box_size)[1] for sample in batch]
    )

    # %%
    # Both together
    # -------------

    result = carpool(simulations, pairs, more)
    print(f"{len(runs)} simulations, {len(more)} more emulated fields")
    print("k [h/Mpc]   P [(Mpc/h)^3]   error alone   with emulated   simulations saved")
    for row in zip(
        k,
        result.mean,
        result.simulation_error / result.simulation_mean,
        result.error / result.mean,
        result.variance_reduction,
        strict=True,
    ):
        print("{:9.3f}   {:13.4g}   {:11.2%}   {:13.2%}   {:13.1f} x".format(*row))
    print(
        f"the same error would take {np.median(result.variance_reduction):.1f} times "
        "more simulations (median over the bins)"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(temporary)
