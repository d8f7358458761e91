"""Put a trained model into the package, with its scores and speed in its card.

    python benchmarks/ship_model.py train.h5 run/model.safetensors

Scores it on the held-out simulations as ``score_model.py`` does, times an emulated box
and the simulation that it stands in for (128^3 particles, 256^3 mesh, 50 steps) beside
each other, and writes ``astrogan_emu/models/<name>.safetensors``. On 2 cores it takes
about two minutes.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from score_model import closer, measure, summary

from astrogan_emu.checkpoints import read_model, write_model
from astrogan_emu.initial_conditions import linear_field
from astrogan_emu.particle_mesh import evolve
from astrogan_emu.simulations import SimulationConfig

FOLDER = Path(__file__).parent.parent / "astrogan_emu" / "models"
POINT = {"omega_m": 0.31, "omega_b": 0.049, "h": 0.68, "n_s": 0.967, "sigma_8": 0.81}


def seconds_of_simulation():
    """One run of the default suite, without writing it."""
    config = SimulationConfig()
    start = time.perf_counter()
    with torch.no_grad():
        delta = linear_field(
            POINT, n_cells=config.n_particles, box_size=config.box_size, seed=1
        )
        for _ in evolve(
            delta,
            POINT,
            box_size=config.box_size,
            redshifts=[0.0],
            n_steps=config.n_steps,
            n_mesh=config.n_mesh,
            start_redshift=config.start_redshift,
        ):
            pass
    return time.perf_counter() - start


def seconds_of_emulation(emulator):
    """The shortest of five, after one to warm up."""
    taken = []
    for seed in range(6):
        start = time.perf_counter()
        emulator.emulate(POINT, n_cells=64, seed=seed)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def main(dataset, path):
    """Score, time, write."""
    k, rows, runs, emulator = measure(dataset, path, "test")
    scores = {"test_runs": float(runs)}
    for (field, z), values in summary(k, rows).items():
        names = ("worst_power_ratio", "power_k1", "power_k2", "r_k1", "r_k2")
        for name, value in zip(names, values, strict=True):
            scores[f"{field}_z{z:g}_{name}"] = round(value, 4)
    for z in sorted({z for _, z in rows}):
        scores[f"closer_than_base_z{z:g}"] = float(closer(k, rows, z))
    emulation, simulation = seconds_of_emulation(emulator), seconds_of_simulation()
    print(
        f"emulation {emulation:.3f} s, simulation {simulation:.1f} s: "
        f"ratio {simulation / emulation:.1f} ({torch.get_num_threads()} threads)"
    )
    model = read_model(path)
    provenance = dict(model.card.provenance)
    provenance["simulation_over_emulation"] = round(simulation / emulation, 1)
    card = replace(model.card, scores=scores, provenance=provenance)
    output = FOLDER / f"{card.name}.safetensors"
    write_model(output, model.generator, card)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main(*sys.argv[1:])
