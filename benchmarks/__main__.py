"""Time everything that speed is claimed for, side by side in one run.

    python -m benchmarks                      # 4 minutes on 2 cores
    python -m benchmarks --quick              # without 128^3, 256^3, simulation, memory
    python -m benchmarks -o docs/benchmarks.json
    python -m benchmarks --device cuda        # fields of 64^3, 256^3 and 512^3 on a GPU

Prints each time beside its floor on this machine, measured in the same run, and adds
the run to a JSON history. Times are noisy: compare ratios within one run, on a machine
that does nothing else.
"""

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks import emulation as of
from benchmarks.learning import training
from benchmarks.machine import describe

BARS = {
    "simulation over emulation, 64^3": (60, "at least"),
    "generator, share of convolution rate": (0.6, "at least"),
    "base over its Fourier transforms": (3, "at most"),
    "training step, share of convolution rate": (0.5, "at least"),
    "training, share of loading": (0.05, "at most"),
    "first field from the command line [s]": (6, "at most"),
    "import beyond numpy and astropy.units [s]": (0.3, "at most"),
    "peak memory of 64^3 [GB]": (1, "at most"),
    "peak memory of 256^3 [GB]": (6, "at most"),
}


def groups_on_gpu():
    """The groups of numbers that a GPU changes, and how each is measured."""
    yield "emulate_64", lambda _: of.emulation(64, device="cuda")
    yield "simulation", lambda _: of.simulation(device="cuda")
    for n_cells in (128, 256, 512):
        yield f"gpu_field_{n_cells}", lambda _, n=n_cells: of.gpu_field(n)
    yield "training_64", lambda done: training(_rate(done), device="cuda")
    more = {"batch_size": 8, "precision": "bf16"}
    yield (
        "training_64_of_8_in_bf16",
        lambda done: training(_rate(done), device="cuda", **more),
    )


def groups(quick):
    """All groups of numbers, and how each is measured."""
    yield "emulate_64", lambda _: of.emulation(64)
    if not quick:
        # Before training: for a while after it, in its process, a field takes longer.
        yield "simulation", lambda _: of.simulation()
    yield "training_64", lambda done: training(_rate(done))
    yield "from_nothing", lambda _: _in_folder(of.from_nothing)
    yield "deposition_128", lambda _: of.deposition()
    yield "lognormal_64", lambda _: of.lognormal(64)
    if not quick:
        yield "emulate_128", lambda _: of.emulation(128, repeats=2)
        yield "memory_64", lambda _: of.memory(64)
        yield "memory_256", lambda _: of.memory(256)


def _rate(done):
    return done["emulate_64"]["convolution_gflop_per_s"] * 1e9


def _in_folder(function):
    with tempfile.TemporaryDirectory() as folder:
        return function(folder)


def measure(quick, device):
    """All numbers, by group, each printed as soon as it is known."""
    result = {"date": time.strftime("%Y-%m-%d"), "machine": describe(device)}
    result["version"] = version("astrogan-emu")
    for group in result:
        show(group, result[group])
    for group, function in groups_on_gpu() if device == "cuda" else groups(quick):
        result[group] = function(result)
        show(group, result[group])
    return result


def judged(result):
    """The numbers that have a bar."""
    field, learning = result["emulate_64"], result["training_64"]
    numbers = {
        "generator, share of convolution rate": field[
            "generator_share_of_convolution_rate"
        ],
        "base over its Fourier transforms": field["base_over_transforms"],
        "training step, share of convolution rate": learning[
            "paired_share_of_convolution_rate"
        ],
        "training, share of loading": learning["paired_share_of_loading"],
    }
    if "from_nothing" in result:
        start = result["from_nothing"]
        numbers |= {
            "first field from the command line [s]": start[
                "first_field_from_command_line_s"
            ],
            "import beyond numpy and astropy.units [s]": start[
                "import_beyond_numpy_and_units_s"
            ],
        }
    if "simulation" in result:
        ratio = result["simulation"]["over_field"]
        numbers["simulation over emulation, 64^3"] = ratio
    for n in (64, 256):
        if f"memory_{n}" in result:
            numbers[f"peak memory of {n}^3 [GB]"] = result[f"memory_{n}"]["peak_gb"]
    return numbers


def show(group, values):
    """Print a group of numbers."""
    print(group, "" if isinstance(values, dict) else values)
    if isinstance(values, dict):
        for name, value in values.items():
            said = f"{value:.4g}" if isinstance(value, float) else value
            print(f"    {name:40s} {said}", flush=True)


def judge(result):
    """Print what has a bar."""
    print()
    for name, value in judged(result).items():
        bar, sense = BARS[name]
        good = value >= bar if sense == "at least" else value <= bar
        print(f"{name:45s} {value:8.3g}   {sense} {bar:g}   {'✓' if good else '✗'}")


def main():
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("-o", "--output", type=Path, help="JSON history to add to")
    options = parser.parse_args()
    result = measure(options.quick, options.device)
    judge(result)
    if options.output:
        before = options.output
        history = json.loads(before.read_text()) if before.is_file() else []
        options.output.write_text(json.dumps([*history, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
