"""What goes wrong on clusters: retried, or one clear error; finished work stays."""

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import astrogan_emu
from astrogan_emu import generation
from astrogan_emu.batch import FieldBatch, emulate_batch
from astrogan_emu.checkpoints import model_path
from astrogan_emu.errors import (
    BatchError,
    CheckpointError,
    FieldFileError,
    MissingDependencyError,
    NotEnoughMemoryError,
    ParameterError,
)
from astrogan_emu.generation import generate
from astrogan_emu.sample_store import SampleStore

CENTRE = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 1.0, "sigma_8": 0.8}
OPTIONS = {"fields": ["matter"], "n_cells": 16, "seed": 1}
ROUNDING = {"rtol": 1e-4, "atol": 1e-6}


def made(output, **keywords):
    options = {**OPTIONS, "progress": False, **keywords}
    return generate(CENTRE, output, **options)


def stored(output, name="fields"):
    with SampleStore.open(output) as store:
        return np.asarray(store[name][...])


def finished(output):
    with contextlib.suppress(FieldFileError):
        return int((stored(output, "complete") > 0).sum())
    return 0


def wait_until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def in_background(call):
    """Run a call in a thread; gives the thread and the list of what it raised."""
    raised = []

    def run():
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def check(output, n):
    """All samples are there, and the first ones are those of a batch."""
    with SampleStore.open(output) as store:
        assert store.finished().sum() == n
    batch = emulate_batch(CENTRE, n_realizations=n, **OPTIONS)
    for i in (0, n - 1):
        one = np.asarray(batch.data[i].compute(scheduler="synchronous"))
        np.testing.assert_allclose(stored(output)[i], one, **ROUNDING)


@pytest.fixture(scope="module")
def cluster():
    """Two processes of a cluster that restarts what is killed."""
    distributed = pytest.importorskip("distributed")
    pytest.importorskip("zarr")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="1.5GB",
            dashboard_address=":0",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_only_its_sample(cluster, tmp_path):
    """Its work is done again, and the result is that of a quiet run."""
    output = tmp_path / "out.zarr"
    address = cluster.scheduler.address
    thread, raised = in_background(
        lambda: made(output, n_realizations=24, scheduler=address)
    )
    wait_until(lambda: finished(output) > 1)
    pid = next(iter(cluster.run(os.getpid).values()))
    assert finished(output) < 24
    os.kill(pid, signal.SIGKILL)
    thread.join(300)
    assert not raised
    check(output, 24)


def hog():
    """Take memory until something puts an end to it, once."""
    taken = []
    while True:
        taken.append(np.ones(10_000_000))
        time.sleep(0.02)


@pytest.mark.slow
def test_a_worker_out_of_memory_is_replaced(cluster, tmp_path):
    """The samples of a worker that something else filled are made by others."""
    distributed = pytest.importorskip("distributed")
    output = tmp_path / "out.zarr"
    cluster.wait_for_workers(2, timeout=300)
    thread, raised = in_background(
        lambda: made(output, n_realizations=12, scheduler=cluster.scheduler.address)
    )
    wait_until(lambda: finished(output) > 1)
    # Killed once is enough to give it up.
    with pytest.raises(distributed.KilledWorker):
        cluster.submit(hog, pure=False).result(timeout=300)
    thread.join(300)
    # A sample that stood beside it each time may have been given up as well.
    for error in raised:
        assert isinstance(error, BatchError | NotEnoughMemoryError)
    made(output, n_realizations=12)
    check(output, 12)


@pytest.mark.slow
def test_a_box_too_large_for_a_worker_is_refused(cluster, tmp_path):
    """Before it is begun, by the limit of the worker."""
    cluster.wait_for_workers(2, timeout=300)
    with pytest.raises(NotEnoughMemoryError, match="n_cells = 320 needs"):
        made(tmp_path / "o.zarr", n_cells=320, scheduler=cluster.scheduler.address)


@pytest.mark.slow
def test_a_damaged_chunk_is_made_again_by_workers(cluster, tmp_path):
    """Reading it is an error; generating again mends it."""
    output = tmp_path / "out.zarr"
    cluster.wait_for_workers(2, timeout=300)
    address = cluster.scheduler.address
    made(output, n_realizations=3, scheduler=address)
    before = stored(output)
    chunk = output / "fields" / "c" / "1" / "0" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 0xFF
    chunk.write_bytes(bytes(content))
    batch = FieldBatch.from_zarr(output)
    with pytest.raises(FieldFileError, match=r"sample 1 of .* is damaged"):
        batch.compute()
    np.testing.assert_array_equal(np.asarray(batch.data[2]), before[2])
    made(output, n_realizations=3, scheduler=address)
    np.testing.assert_allclose(stored(output), before, **ROUNDING)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def apart(tmp_path):
    """A scheduler and workers that are processes of their own, in folders."""
    pytest.importorskip("distributed")
    pytest.importorskip("zarr")
    running = []
    paths = [str(Path(astrogan_emu.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def start(*command, folder=tmp_path, largest_file=None):
        def limit():
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file,) * 2)

        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=limit,
        )
        running.append(process)
        return process

    address = f"tcp://127.0.0.1:{free_port()}"
    scheduler = start("scheduler", "--host", address, "--no-dashboard")

    def worker(folder, **keywords):
        options = ["--no-nanny", "--nthreads", "1", "--no-dashboard"]
        return start("worker", address, *options, folder=folder, **keywords)

    yield address, scheduler, worker
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_scheduler_that_is_gone_is_one_clear_error(apart, tmp_path, monkeypatch):
    """What was finished is kept, and the run goes on without it."""
    address, scheduler, worker = apart
    worker(tmp_path)
    monkeypatch.setattr(generation, "_PATIENCE", "3s")
    output = tmp_path / "out.zarr"
    thread, raised = in_background(
        lambda: made(output, n_realizations=60, scheduler=address)
    )
    wait_until(lambda: finished(output) > 1 or raised)
    scheduler.kill()
    thread.join(300)
    assert [type(error) for error in raised] == [BatchError]
    assert re.search("scheduler is gone|workers failed", str(raised[0]))
    assert "finished samples are kept" in str(raised[0])
    assert 2 <= finished(output) < 60


@pytest.mark.slow
def test_a_worker_without_the_model_or_room_says_so(apart, tmp_path):
    """One clear error each, which names what is to be put right."""
    address, _, worker = apart
    for name in ("with", "without", "full"):
        (tmp_path / name).mkdir()
    shutil.copy(model_path("nbody"), tmp_path / "with" / "own.safetensors")
    shutil.copy(model_path("nbody"), tmp_path / "own.safetensors")
    output = tmp_path / "out.zarr"
    # A path that means another file for each process, as on machines apart.
    mine = "/proc/self/cwd/own.safetensors"
    if not Path("/proc/self/cwd").exists():
        pytest.skip("needs the /proc of Linux")
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        without = worker(tmp_path / "without")
        with pytest.raises(
            CheckpointError, match=r"cannot load the model on .* every worker"
        ):
            made(output, n_realizations=3, scheduler=address, model=mine)
        without.kill()
        full = worker(tmp_path / "with", largest_file=8_000)
        with pytest.raises(FieldFileError, match=r"cannot write sample \d"):
            made(output, n_realizations=3, scheduler=address, model=mine)
        full.kill()
        assert finished(output) == 0
        worker(tmp_path / "with")
        made(output, n_realizations=3, scheduler=address, model=mine)
    finally:
        os.chdir(here)
    check(output, 3)


def test_devices_get_a_process_each(tmp_path, monkeypatch):
    """dask-cuda starts the workers; without it, the error says what to install."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with (
        pytest.raises(MissingDependencyError, match=r"astrogan-emu\[cuda\]"),
        generation._client(2, None, "cuda"),
    ):
        pass
    asked = {}

    class Started(Exception):
        pass

    def start(**keywords):
        asked.update(keywords)
        raise Started

    module = ModuleType("dask_cuda")
    module.LocalCUDACluster = start
    monkeypatch.setitem(sys.modules, "dask_cuda", module)
    monkeypatch.setattr(distributed, "LocalCluster", None)
    with pytest.raises(Started), generation._client(2, None, "cuda"):
        pass
    assert asked["n_workers"] == 2


def test_a_device_that_is_not_there_is_an_error(monkeypatch):
    """In the process that was to use it; a batch may be planned elsewhere."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    batch = emulate_batch(CENTRE, device="cuda", **OPTIONS)
    with pytest.raises(BatchError, match=r"no CUDA device .*dask-cuda"):
        batch.compute(scheduler="synchronous")
    with pytest.raises(ParameterError, match="device must be 'cpu' or 'cuda'"):
        emulate_batch(CENTRE, device="tpu", **OPTIONS)
