"""Measure what batches, workers and large boxes cost.

    python -m benchmarks.dask_batches -o dask.json  # three quarters of an hour
    python -m benchmarks.dask_batches --trial       # toy sizes: does it work?
    python -m benchmarks.dask_batches -o dask.json --parts two_workers  # rest stays

Prints, each as a ratio within one run: dask against a plain loop over the same samples;
two workers against one; peak memory of the processes of `generate` for few and many
samples; and time per cell and peak memory of single boxes. Each process uses one
thread. Times are noisy: run it on two cores that do nothing else.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import torch

from astrogan_emu import Emulator, emulate_batch, generate
from benchmarks.machine import describe

CENTRE = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 1.0, "sigma_8": 0.8}
BARS = {
    "dask over a plain loop": (1.1, "at most"),
    "one worker over two": (1.7, "at least"),
    "peak memory of a process [GB]": (2.5, "at most"),
    "peak memory, many samples over few": (1.1, "at most"),
    "time per cell, 256^3 over 64^3": (1.15, "at most"),
    "time per cell, 128^3 over 64^3": (1.15, "at most"),
    "peak memory of 512^3 [GB]": (20, "at most"),
}
# Of a large box [GB]; more would have fewer tiles.
MAX_MEMORY = 18


def batch(cells, samples):
    """The samples that all ways make."""
    return emulate_batch(
        CENTRE, fields=["matter"], n_realizations=samples, seed=1, n_cells=cells
    )


def seconds(call):
    """Wall-clock time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def plain_loop(cells, samples):
    """One sample after the other, without dask."""
    emulator = Emulator.load()
    for row in batch(cells, samples).table:
        emulator.emulate(
            CENTRE, fields=["matter"], n_cells=cells, seed=int(row["seed"])
        )


def overhead(options):
    """Dask's own share: the same samples, alternately in both ways."""
    cells, samples = options.cells, options.samples
    loops, with_dask = [], []
    plain_loop(cells, 2)
    for _ in range(5):
        loops.append(seconds(lambda: plain_loop(cells, samples)))
        with_dask.append(
            seconds(lambda: batch(cells, samples).compute(scheduler="synchronous"))
        )
    return {
        "plain_loop_s": loops,
        "dask_s": with_dask,
        "dask over a plain loop": statistics.median(with_dask)
        / statistics.median(loops),
    }


def two_workers(options):
    """Two processes against one, the start of the cluster left out."""
    from distributed import Client, LocalCluster

    taken = {}
    for workers in (1, 2):
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            Client(cluster) as client,
        ):
            client.wait_for_workers(workers)
            # Each process imports torch and reads the model once.
            batch(options.cells, 4 * workers).data.mean().compute()
            work = batch(options.cells, 2 * options.samples).data.mean()
            taken[workers] = [seconds(work.compute) for _ in range(3)]
    one, two = (statistics.median(taken[workers]) for workers in (1, 2))
    return {"one_worker_s": taken[1], "two_workers_s": taken[2]} | {
        "one worker over two": one / two,
        "samples": 2 * options.samples,
    }


def in_a_process(*arguments):
    """Run a part of this script in a process that does nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.dask_batches", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def memory_of_generate(options):
    """Peak memory of any process of two workers, for few and many samples."""
    runs = [
        in_a_process("--alone-samples", n, "--cells", options.cells)
        for n in options.memory
    ]
    few, many = (run["peak_gb"] for run in runs)
    return {
        "runs": runs,
        "peak memory of a process [GB]": many,
        "peak memory, many samples over few": many / few,
    }


def large_boxes(options):
    """Time per cell and peak memory of single boxes."""
    runs = {n: in_a_process("--alone-box", n) for n in options.boxes}
    first = runs[options.boxes[0]]["us_per_cell"]
    measured = {"runs": list(runs.values())}
    for n, run in runs.items():
        if n > options.boxes[0]:
            name = f"time per cell, {n}^3 over {options.boxes[0]}^3"
            measured[name] = run["us_per_cell"] / first
        measured[f"peak memory of {n}^3 [GB]"] = run["peak_gb"]
    return measured


def alone_samples(cells, samples):
    """Peak memory of `generate`, its workers included."""
    with tempfile.TemporaryDirectory() as folder:
        taken = seconds(
            lambda: generate(
                CENTRE,
                Path(folder) / "out.zarr",
                fields=["matter"],
                n_realizations=samples,
                n_cells=cells,
                seed=1,
                workers=2,
                progress=False,
            )
        )
    return {"cells": cells, "samples": samples, "seconds": taken}


def alone_box(cells):
    """Time of one box: the middle of three or five, or of one that is large."""
    torch.set_num_threads(1)
    emulator = Emulator.load()
    limit = MAX_MEMORY if cells > 256 else None
    plan = emulator.memory_plan(cells, limit)
    emulator.emulate(CENTRE, fields=["matter"], n_cells=16, seed=1)
    taken, worked = [], []
    for _ in range(5 if cells <= 64 else 3 if cells <= 128 else 1):
        before = time.process_time()
        taken.append(
            seconds(
                lambda: emulator.emulate(
                    CENTRE, fields=["matter"], n_cells=cells, seed=1, max_memory=limit
                )
            )
        )
        worked.append(time.process_time() - before)
    per_cell = 1e6 / cells**3
    return {
        "cells": cells,
        "seconds": taken,
        "us_per_cell": per_cell * statistics.median(taken),
        "us_of_processor_per_cell": per_cell * statistics.median(worked),
        "plan": str(plan),
    }


def peak_gb():
    """Largest resident memory of this process or any that it has waited for."""
    # Not that of `getrusage`, which begins with the memory of the process before. For
    # the workers it is, but a process that only starts workers is smaller than they.
    lines = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, others) * 1024 / 1e9


def show(numbers):
    """Print what has a bar, then everything."""
    print(json.dumps(numbers, indent=1), flush=True)
    for name, (bar, sense) in BARS.items():
        if name in numbers:
            good = numbers[name] <= bar if sense == "at most" else numbers[name] >= bar
            said = f"{numbers[name]:8.3f}   {sense} {bar:g}   {'✓' if good else '✗'}"
            print(f"{name:40s} {said}", flush=True)


def main():
    """Measure all, or one part alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument(
        "--memory", type=int, nargs=2, default=[50, 1000], metavar=("FEW", "MANY")
    )
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--output", "-o", type=Path, help="JSON to write")
    parser.add_argument("--trial", action="store_true", help="toy sizes")
    parts = (overhead, two_workers, memory_of_generate, large_boxes)
    names = [part.__name__ for part in parts]
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--alone-samples", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--alone-box", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone_samples or options.alone_box:
        if options.alone_box:
            result = alone_box(options.alone_box)
        else:
            result = alone_samples(options.cells, options.alone_samples)
        print(json.dumps(result | {"peak_gb": peak_gb()}))
        return
    if options.trial:
        options.cells, options.samples, options.memory = 16, 4, [4, 8]
        options.boxes = [16, 32]
    torch.set_num_threads(1)
    result = {"date": time.strftime("%Y-%m-%d"), "machine": describe()}
    if options.output and options.output.exists() and options.parts != names:
        result = json.loads(options.output.read_text()) | result
    with dask.config.set({"distributed.worker.memory.target": False}):
        for part in parts:
            if part.__name__ not in options.parts:
                continue
            numbers = part(options)
            show(numbers)
            result[part.__name__] = numbers
            if options.output:
                options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
