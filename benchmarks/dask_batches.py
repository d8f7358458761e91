"""Measure what batches, workers and large boxes cost.

    python benchmarks/dask_batches.py
    python benchmarks/dask_batches.py --cells 16 --samples 4 --boxes 16 32

Prints, each as a ratio within one run: dask against a plain loop over the same samples;
two workers against one; peak memory of a worker for few and for many samples; and the
time per cell and peak memory of single boxes, the last of which may be a large one such
as ``--boxes 64 128 256 512``. Each process uses one thread. On two free cores the
default takes about half an hour.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import torch

from astrogan_emu import Emulator, emulate_batch, generate

CENTRE = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 1.0, "sigma_8": 0.8}


def batch(options):
    """The samples that all ways make."""
    return emulate_batch(
        CENTRE,
        fields=["matter"],
        n_realizations=options.samples,
        seed=1,
        n_cells=options.cells,
    )


def seconds(call):
    """Wall-clock time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def plain_loop(options):
    """One sample after the other, without dask."""
    emulator = Emulator.load()
    for row in batch(options).table:
        emulator.emulate(
            CENTRE, fields=["matter"], n_cells=options.cells, seed=int(row["seed"])
        )


def overhead(options):
    """Dask's own share: the same samples, alternately in both ways."""
    ratios = []
    plain_loop(options)
    for _ in range(3):
        loop = seconds(lambda: plain_loop(options))
        with_dask = seconds(lambda: batch(options).compute(scheduler="synchronous"))
        ratios.append(with_dask / loop)
    print(f"dask over a plain loop: {sorted(ratios)[1]:.3f}", flush=True)


def two_workers(options):
    """Two processes against one, the start of the cluster left out."""
    from distributed import Client, LocalCluster

    taken = []
    for workers in (1, 2):
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            Client(cluster) as client,
        ):
            # Each process imports torch and reads the model once.
            batch(options)[: 4 * workers].data.compute()
            client.wait_for_workers(workers)
            taken.append(seconds(lambda: batch(options).data.mean().compute()))
    print(f"one worker over two: {taken[0] / taken[1]:.2f}", flush=True)


def peak_of(*arguments):
    """Run a part of this script alone: its seconds and peak memory [bytes]."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def flat_memory(options):
    """Peak memory of a process that generates few and many samples."""
    peaks = [
        peak_of("--alone-samples", n, "--cells", options.cells)["peak"] / 1e9
        for n in (options.samples, 4 * options.samples)
    ]
    print(
        f"peak memory of {options.samples} and {4 * options.samples} samples of "
        f"{options.cells}^3: {peaks[0]:.2f} and {peaks[1]:.2f} GB",
        flush=True,
    )


def large_boxes(options):
    """Time per cell and peak memory of single boxes."""
    first = None
    for n in options.boxes:
        alone = peak_of("--alone-box", n)
        per_cell = alone["seconds"] / n**3
        first = first or per_cell
        print(
            f"{n}^3 cells: {alone['seconds']:.1f} s, {1e6 * per_cell:.3f} us per cell "
            f"({per_cell / first:.2f} of the first), peak {alone['peak'] / 1e9:.2f} GB "
            f"({alone['plan']})",
            flush=True,
        )


def alone(options):
    """What `peak_of` runs: prints one line of JSON."""
    torch.set_num_threads(1)
    plan, taken = "", 0.0
    if options.alone_box:
        n, emulator = options.alone_box, Emulator.load()
        emulator.emulate(CENTRE, fields=["matter"], n_cells=16, seed=1)
        plan = str(emulator.memory_plan(n))
        taken = seconds(
            lambda: emulator.emulate(CENTRE, fields=["matter"], n_cells=n, seed=1)
        )
    else:
        with tempfile.TemporaryDirectory() as folder:
            generate(
                CENTRE,
                Path(folder) / "out.zarr",
                fields=["matter"],
                n_realizations=options.alone_samples,
                n_cells=options.cells,
                seed=1,
                progress=False,
            )
    # Kilobytes on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": taken, "peak": peak, "plan": plan}))


def main():
    """Measure all, or one part alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--alone-samples", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--alone-box", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone_samples or options.alone_box:
        alone(options)
        return
    torch.set_num_threads(1)
    with dask.config.set({"distributed.worker.memory.target": False}):
        overhead(options)
        two_workers(options)
    flat_memory(options)
    large_boxes(options)


if __name__ == "__main__":
    main()
