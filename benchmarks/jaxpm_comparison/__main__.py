"""From one linear field: JaxPM, our particle mesh, our simulation, the emulator.

    python -m benchmarks.jaxpm_comparison PYTHON [--n-particles 128] [--steps 50]

PYTHON is the interpreter of an environment of its own, made by
``python3 -m venv ENV; ENV/bin/pip install jaxpm packaging diffrax``. Prints power ratio
and correlation at redshift 0 of the matter on the cells of the emulator, and seconds.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from astrogan_emu.emulator import Emulator
from astrogan_emu.grids import GridSpec, deposit
from astrogan_emu.initial_conditions import linear_field
from astrogan_emu.particle_mesh import evolve
from astrogan_emu.statistics import correlation_coefficient, power_spectrum
from benchmarks.emulation import POINT

WAVENUMBERS = (0.25, 0.5, 1.0, 2.0, 3.0)


def of_jaxpm(python, delta, steps, grid):
    """Matter density by JaxPM, and the seconds of its second run."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "linear.npz", Path(folder) / "particles.npz"
        np.savez(source, delta=delta, steps=steps, **POINT)
        script = Path(__file__).parent / "run_jaxpm.py"
        subprocess.run([python, script, source, target], check=True)
        made = np.load(target)
        cells = torch.from_numpy(made["positions"])
        # Particle i starts in the centre of cell i.
        positions = (cells + 0.5) * (grid.box_size / len(delta))
        return density(positions, grid), float(made["seconds"][1])


def of_mesh(delta, steps, n_mesh, start_redshift, grid):
    """Matter density by our particle mesh, and its seconds."""
    start = time.perf_counter()
    with torch.no_grad():
        (particles,) = evolve(
            delta,
            POINT,
            box_size=grid.box_size,
            redshifts=[0.0],
            n_steps=steps,
            n_mesh=n_mesh,
            start_redshift=start_redshift,
        )
    seconds = time.perf_counter() - start
    return density(particles.positions, grid), seconds


def density(positions, grid):
    """Over its mean, on the cells of a grid."""
    counts = deposit(positions, grid=grid)
    return np.asarray(counts / counts.mean())


def line(name, field, truth, box_size, seconds):
    """One row of the table."""
    k, power = power_spectrum(field, box_size=box_size)[:2]
    wanted = power_spectrum(truth, box_size=box_size).power
    r = correlation_coefficient(field, truth, box_size=box_size).value
    ratio = np.asarray(power) / np.asarray(wanted)
    columns = [np.interp(WAVENUMBERS, np.asarray(k), each) for each in (ratio, r)]
    numbers = "  ".join(" ".join(f"{x:6.3f}" for x in each) for each in columns)
    return f"{name:36s} {numbers}  {seconds:7.2f}"


def main():
    """Run all four, print the table twice: against JaxPM, against our simulation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python")
    parser.add_argument("--n-particles", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    n, steps = options.n_particles, options.steps
    emulator = Emulator.load("nbody")
    grid = GridSpec(64, 64 * emulator.card.cell_size)
    delta = linear_field(POINT, n_cells=n, box_size=grid.box_size, seed=1)
    start = time.perf_counter()
    made = emulator.emulate(POINT, n_cells=64, initial_conditions=delta.numpy())
    emulated = made["matter"].data, time.perf_counter() - start
    rows = {
        "JaxPM": of_jaxpm(options.python, delta.numpy(), steps, grid),
        "our particle mesh, same mesh and start": of_mesh(delta, steps, n, 9.0, grid),
        "our simulation (mesh twice as fine)": of_mesh(delta, steps, 2 * n, 49.0, grid),
        "emulator": emulated,
    }
    header = " ".join(f"{k:6.2f}" for k in WAVENUMBERS)
    for against in ("JaxPM", "our simulation (mesh twice as fine)"):
        print(f"beside {against}: P ratio, then r, at k [h/Mpc]; seconds")
        print(f"{'':36s} {header}  {header}")
        for name, (field, seconds) in rows.items():
            print(line(name, field, rows[against][0], grid.box_size, seconds))


if __name__ == "__main__":
    main()
