"""Time everything that speed is claimed for, side by side in one run.

    python -m benchmarks                      # 4 minutes on 2 cores
    python -m benchmarks --quick              # without 128^3, 256^3, simulation, memory
    python -m benchmarks -o docs/benchmarks.json

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


def measure(quick):
    """All numbers, by group."""
    result = {"date": time.strftime("%Y-%m-%d"), "machine": describe()}
    result["version"] = version("astrogan-emu")
    result["emulate_64"] = of.emulation(64)
    if not quick:
        # Before training: for a while after it, in its process, a field takes longer.
        result["simulation"] = of.simulation()
    rate = result["emulate_64"]["convolution_gflop_per_s"] * 1e9
    result["training_64"] = training(rate)
    with tempfile.TemporaryDirectory() as folder:
        result["from_nothing"] = of.from_nothing(folder)
    result["deposition_128"] = of.deposition()
    result["lognormal_64"] = of.lognormal(64)
    if not quick:
        result["emulate_128"] = of.emulation(128, repeats=2)
        result["memory_64"] = of.memory(64)
        result["memory_256"] = of.memory(256)
    return result


def judged(result):
    """The numbers that have a bar."""
    field, learning = result["emulate_64"], result["training_64"]
    start = result["from_nothing"]
    numbers = {
        "generator, share of convolution rate": field[
            "generator_share_of_convolution_rate"
        ],
        "base over its Fourier transforms": field["base_over_transforms"],
        "training step, share of convolution rate": learning[
            "paired_share_of_convolution_rate"
        ],
        "training, share of loading": learning["paired_share_of_loading"],
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
            numbers[f"peak memory of {n}^3 [GB]"] = result[f"memory_{n}"]["peak_gb"]
    return numbers


def show(result):
    """Print everything, then what has a bar."""
    for group, values in result.items():
        print(group, "" if isinstance(values, dict) else values)
        if isinstance(values, dict):
            for name, value in values.items():
                said = f"{value:.4g}" if isinstance(value, float) else value
                print(f"    {name:40s} {said}")
    print()
    for name, value in judged(result).items():
        bar, sense = BARS[name]
        good = value >= bar if sense == "at least" else value <= bar
        print(f"{name:45s} {value:8.3g}   {sense} {bar:g}   {'✓' if good else '✗'}")


def main():
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("-o", "--output", type=Path, help="JSON history to add to")
    options = parser.parse_args()
    result = measure(options.quick)
    show(result)
    if options.output:
        before = options.output
        history = json.loads(before.read_text()) if before.is_file() else []
        options.output.write_text(json.dumps([*history, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
