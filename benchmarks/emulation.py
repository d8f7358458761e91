"""Emulation, its parts, what it stands in for, and what could be used instead."""

import importlib.util
import subprocess
import sys
import time

import numpy as np
import torch

from astrogan_emu import bases
from astrogan_emu.emulator import Emulator
from astrogan_emu.grids import GridSpec, deposit
from astrogan_emu.initial_conditions import linear_field
from astrogan_emu.kept_memory import kept_memory
from astrogan_emu.machine_memory import available_memory
from astrogan_emu.particle_mesh import evolve, memory_to_evolve
from astrogan_emu.simulations import SimulationConfig
from benchmarks.machine import (
    counted_transforms,
    flops,
    generate,
    network_rate,
    seconds,
    shortest,
)

__all__ = [
    "deposition",
    "emulation",
    "from_nothing",
    "gpu_field",
    "memory",
    "simulation",
]

POINT = {"omega_m": 0.31, "omega_b": 0.049, "h": 0.68, "n_s": 0.967, "sigma_8": 0.81}


def emulation(n_cells, repeats=5, device="cpu"):
    """Warm time of a field, apart for base and generator, beside their floors."""
    emulator = Emulator.load("nbody", device=device)
    generator = emulator._model.generator
    box = n_cells * emulator.card.cell_size
    with torch.no_grad():
        delta = linear_field(
            POINT, n_cells=n_cells, box_size=box, seed=1, device=device
        )

        def base():
            return emulator.base(delta, POINT, 0.0, box)

        whole = shortest(
            lambda: emulator.emulate(POINT, n_cells=n_cells, seed=1), repeats
        )
        plan = emulator.memory_plan(n_cells)
        # As in a field.
        with kept_memory(plan.base, plan.available):
            of_base = shortest(base, repeats)
        count, transforms = counted_transforms(base)
    call = generate(generator, n_cells)
    of_generator = shortest(call, repeats)
    work = flops(call)
    rate, convolutions = network_rate(generator, n_cells)
    return {
        "field_s": whole,
        "base_s": of_base,
        "base_transforms": count,
        "base_transforms_s": transforms,
        "base_over_transforms": of_base / transforms,
        "generator_s": of_generator,
        "generator_gflop": work / 1e9,
        "generator_convolutions": convolutions,
        "convolution_gflop_per_s": rate / 1e9,
        "generator_share_of_convolution_rate": work / rate / of_generator,
    }


def simulation(n_steps=40, model="nbody", repeats=5, device="cpu"):
    """The run that a 64^3 field stands in for, without writing it, and that field.

    The simulation is run once, so that beside it stands the median of fields just
    before and just after it, and not the shortest: the machine's speed changes.
    """
    config = SimulationConfig()
    emulator = Emulator.load(model, device=device)

    def field():
        emulator.emulate(POINT, n_cells=64, seed=1)

    needed = memory_to_evolve(config.n_particles, config.n_mesh)

    def run(n_steps=n_steps):
        with torch.no_grad(), kept_memory(needed, available_memory(device)):
            delta = linear_field(
                POINT,
                n_cells=config.n_particles,
                box_size=config.box_size,
                seed=1,
                device=device,
            )
            for _ in evolve(
                delta,
                POINT,
                box_size=config.box_size,
                redshifts=[0.0],
                n_steps=n_steps,
                n_mesh=config.n_mesh,
                start_redshift=config.start_redshift,
            ):
                pass

    field()
    beside = [seconds(field) for _ in range(repeats)]
    if device == "cuda":
        run(n_steps=1)  # kernels are loaded when they are first used
    taken = seconds(run)
    beside += [seconds(field) for _ in range(repeats)]
    usual = float(np.median(beside))
    return {
        "s": taken,
        "steps": n_steps,
        "field_beside_s": usual,
        "over_field": taken / usual,
    }


def gpu_field(n_cells):
    """One field on a GPU, how much of it the halos took, and the GPU's peak memory."""
    emulator = Emulator.load("nbody", device="cuda")
    make_galaxies = bases._galaxies
    halos = []

    def timed(*arguments):
        made = []
        halos.append(seconds(lambda: made.append(make_galaxies(*arguments))))
        return made.pop()

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        bases._galaxies = timed
        whole = seconds(lambda: emulator.emulate(POINT, n_cells=n_cells, seed=1))
    finally:
        bases._galaxies = make_galaxies
    return {
        "field_s": whole,
        "halos_on_the_processor_s": sum(halos),
        "peak_gpu_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def from_nothing(folder):
    """Seconds of a new process: imports alone, and a field from the command line."""

    def new_process(code):
        def run():
            subprocess.run([sys.executable, "-c", code], check=True)

        return shortest(run, 3)

    bare = new_process("import numpy, astropy.units")
    package = new_process("import numpy, astropy.units, astrogan_emu")
    start = time.perf_counter()
    command = ["-m", "astrogan_emu", "emulate", "--seed", "1"]
    subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return {
        "import_beyond_numpy_and_units_s": package - bare,
        "first_field_from_command_line_s": time.perf_counter() - start,
    }


def memory(n_cells):
    """Peak memory of a new process that makes one field [GB]."""
    # Not ru_maxrss, which a process inherits from the one that started it.
    code = (
        "from astrogan_emu import emulate_galaxy_field\n"
        f"emulate_galaxy_field({POINT!r}, n_cells={n_cells}, seed=1)\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "(peak,) = [line.split()[1] for line in lines if line.startswith('VmHWM')]\n"
        "print(peak)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return {"peak_gb": int(done.stdout.split()[-1]) * 1024 / 1e9}


def deposition(n_particles=128, n_cells=128):
    """Cloud-in-cell of a lattice of moved particles, beside yt and numpy."""
    box = 50.0
    random = np.random.default_rng(1)
    positions = random.random((n_particles**3, 3)).astype(np.float32) * box
    grid = GridSpec(n_cells, box)
    result = {"ours_s": shortest(lambda: deposit(positions, grid=grid), 3)}
    edges = [np.linspace(0, box, n_cells + 1)] * 3

    def nearest():
        return np.histogramdd(positions, edges)

    result["numpy_histogramdd_nearest_cell_s"] = shortest(nearest, 1, 0)
    from yt.utilities.lib.particle_mesh_operations import CICDeposit_3

    fields = np.zeros((n_cells,) * 3)
    columns = [positions[:, i].astype(np.float64) for i in range(3)]
    ones = np.ones(len(positions))

    def yt_cic():
        fields[:] = 0
        CICDeposit_3(
            *columns,
            ones,
            len(ones),
            fields,
            np.zeros(3),
            np.array([n_cells] * 3, np.int32),
            box / n_cells,
        )

    result["yt_cic_not_periodic_s"] = shortest(yt_cic, 3)
    return result


def lognormal(n_cells):
    """A lognormal box by powerbox, if it is installed [s]."""
    if importlib.util.find_spec("powerbox") is None:
        return {"skipped": "powerbox is not installed"}
    import powerbox

    k = np.geomspace(1e-2, 20, 200)
    from astrogan_emu.linear_theory import linear_power

    power = np.asarray(linear_power(torch.tensor(k), POINT))

    def make():
        box = powerbox.LogNormalPowerBox(
            N=n_cells,
            dim=3,
            pk=lambda q: np.interp(q, k, power),
            boxlength=50.0,
            seed=1,
        )
        return box.delta_x()

    return {"s": shortest(make, 3)}
