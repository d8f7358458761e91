"""What goes wrong on clusters: retried, or one clear error; finished work stays.

The clusters are real: processes that are killed, filled with memory, or kept from
writing. One is of dask's own making, with nannies that restart workers; the other is a
scheduler and workers that were started as commands, as on several machines.
"""

import contextlib
import importlib
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
# Nothing below takes longer, even on a machine that is busy with other things [s].
LONGEST = 300


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


def wait_until(condition):
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@contextlib.contextmanager
def running(output, **keywords):
    """While `made` is at work with a few samples finished; yields what it raises."""
    raised = []

    def run():
        try:
            made(output, **keywords)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_until(lambda: finished(output) > 1 or not thread.is_alive())
    assert thread.is_alive(), raised
    yield raised
    thread.join(LONGEST)
    assert not thread.is_alive()


def check(output, n):
    """All samples are there, undamaged, and those of a batch made in peace."""
    with SampleStore.open(output) as store:
        assert store.finished().sum() == n
    batch = emulate_batch(CENTRE, n_realizations=n, **OPTIONS)
    numbers = [0, 1, n - 1]
    expected = batch[np.array(numbers)].data.compute(scheduler="synchronous")
    np.testing.assert_allclose(stored(output)[numbers], expected, **ROUNDING)


def check_it_goes_on(output, n_realizations, **keywords):
    """What is finished is kept, and the same call makes the rest."""
    kept = stored(output, "complete")
    assert 2 <= np.count_nonzero(kept) < n_realizations
    made(output, n_realizations=n_realizations, **keywords)
    check(output, n_realizations)
    np.testing.assert_array_equal(stored(output, "complete")[kept > 0], kept[kept > 0])


@pytest.fixture
def client(client):
    """Workers that can write a store."""
    pytest.importorskip("zarr")
    return client


@pytest.mark.slow
def test_a_killed_worker_costs_only_its_sample(client, tmp_path):
    """Its work is done again, and the result is that of a quiet run."""
    output = tmp_path / "out.zarr"
    pid = next(iter(client.run(os.getpid).values()))
    with running(output, n_realizations=24, scheduler=client.scheduler.address) as bad:
        os.kill(pid, signal.SIGKILL)
        assert finished(output) < 24
    assert not bad
    check(output, 24)


@pytest.mark.slow
def test_a_worker_out_of_memory_is_replaced(client, tmp_path):
    """The sample that it had at the time is made by another."""
    workers = client.scheduler_info()["workers"].values()
    limit = min(each["memory_limit"] for each in workers)

    def fill(share):
        """Take this share of what the worker may have, beside its work."""
        import psutil

        taken = sys.__dict__.setdefault("taken_by_a_test", [])
        process = psutil.Process()
        while process.memory_info().rss < share * limit:
            taken.append(np.ones(1_000_000))

    def overfill():
        """All but a fortieth, which dask does not allow, without waiting for it."""
        threading.Thread(target=fill, args=(0.975,)).start()

    output = tmp_path / "out.zarr"
    full = next(iter(client.nthreads()))
    # Most of it before, so that the run is not over when the worker is.
    client.run(lambda: importlib.import_module("astrogan_emu.generation") and None)
    client.run(fill, 0.7, workers=[full])
    with running(output, n_realizations=100, scheduler=client.scheduler.address) as bad:
        client.run(overfill, workers=[full])
        wait_until(lambda: full not in client.nthreads())
        assert finished(output) < 100
    assert not bad
    check(output, 100)


@pytest.mark.slow
def test_a_sample_that_kills_worker_after_worker_is_given_up(
    client, tmp_path, monkeypatch
):
    """The error says what to do, and the same call goes on."""
    output = tmp_path / "out.zarr"
    options = {"n_realizations": 24, "scheduler": client.scheduler.address}
    # One death is enough here; three more take only time.
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)
    pid = next(iter(client.run(os.getpid).values()))
    with running(output, **options) as bad:
        os.kill(pid, signal.SIGKILL)
    (error,) = bad
    assert isinstance(error, BatchError)
    assert re.search(r"KilledWorker.* are kept .*ran out of memory", str(error))
    check_it_goes_on(output, **options)


@pytest.mark.slow
def test_a_box_too_large_for_a_worker_is_refused(client, tmp_path):
    """Before it is begun, by the limit of the worker."""
    with pytest.raises(NotEnoughMemoryError, match="n_cells = 320 needs"):
        made(tmp_path / "o.zarr", n_cells=320, scheduler=client.scheduler.address)


@pytest.mark.slow
def test_damaged_chunks_are_made_again_by_workers(client, tmp_path):
    """Reading one is an error; generating again mends it, and leaves the others."""
    output = tmp_path / "out.zarr"
    address = client.scheduler.address
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
    # The record of a sample may be damaged as well.
    (output / "complete" / "c" / "2").write_bytes(b"")
    with pytest.raises(FieldFileError, match="only 2 of 3 samples"):
        FieldBatch.from_zarr(output)
    untouched = output / "fields" / "c" / "0" / "0" / "0" / "0" / "0"
    written = untouched.stat().st_mtime_ns
    made(output, n_realizations=3, scheduler=address)
    assert untouched.stat().st_mtime_ns == written
    np.testing.assert_allclose(stored(output), before, **ROUNDING)
    check(output, 3)


class Apart:
    """A scheduler and workers, each started by its command, in its own folder."""

    def __init__(self, folder):
        self.folder = folder
        self.workers = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        self.scheduler = self._start("scheduler", "--host", self.address)

    def _start(self, *command, folder=None):
        paths = [str(Path(astrogan_emu.__file__).parents[1])]
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *command, "--no-dashboard"],
            cwd=folder or self.folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start_worker(self, folder=None):
        """A worker that nobody restarts."""
        options = ["--no-nanny", "--nthreads", "1"]
        worker = self._start("worker", self.address, *options, folder=folder)
        self.workers.append(worker)
        return worker

    def with_workers(self, count):
        """Have as many workers as this, all of them at work."""
        import distributed

        for one in self.workers[count:]:
            one.kill()
            one.wait()
        self.workers = [one for one in self.workers if one.poll() is None]
        while len(self.workers) < count:
            self.start_worker()
        with distributed.Client(self.address, timeout=LONGEST) as client:
            wait_until(lambda: len(client.nthreads()) == count)

    def end(self):
        """Kill them all."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """The same for all tests, each of which asks for the workers that it needs."""
    pytest.importorskip("distributed")
    pytest.importorskip("zarr")
    processes = Apart(tmp_path_factory.mktemp("apart"))
    yield processes
    processes.end()


@pytest.mark.slow
def test_a_killed_worker_that_nobody_restarts(apart, tmp_path):
    """The others do its work."""
    apart.with_workers(2)
    output = tmp_path / "out.zarr"
    with running(output, n_realizations=24, scheduler=apart.address) as bad:
        apart.workers[0].kill()
        assert finished(output) < 24
    assert not bad
    check(output, 24)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_a_disk_that_fills_up_is_one_clear_error(apart, tmp_path):
    """What was finished is kept, and with room again the run goes on."""
    apart.with_workers(1)
    output = tmp_path / "out.zarr"
    options = {"n_realizations": 30, "scheduler": apart.address}
    pid = apart.workers[0].pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    with running(output, **options) as bad:
        # Room for records, but no longer for a field.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (8_000, before[1]))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    (error,) = bad
    assert isinstance(error, FieldFileError)
    assert re.search(r"cannot write sample \d+ .*: File too large; .*kept", str(error))
    check_it_goes_on(output, **options)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")
def test_a_worker_without_the_model_says_so(apart, tmp_path, monkeypatch):
    """The error names the machine, and the file, and what every worker needs."""
    apart.with_workers(0)
    for folder in (apart.folder, tmp_path):
        shutil.copy(model_path("nbody"), folder / "own.safetensors")
    without = tmp_path / "without"
    without.mkdir()
    # A path that means another file for each process, as on machines apart.
    options = {"scheduler": apart.address, "model": "/proc/self/cwd/own.safetensors"}
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out.zarr"
    bad = apart.start_worker(without)
    with pytest.raises(CheckpointError, match=r"model on .*own.* every worker needs"):
        made(output, n_realizations=8, **options)
    # Beside another it is the same, unless the other gets all that is tried again.
    apart.with_workers(2)
    with contextlib.suppress(CheckpointError):
        made(output, n_realizations=8, **options)
    bad.kill()
    made(output, n_realizations=8, **options)
    check(output, 8)


@pytest.mark.slow
def test_no_worker_left_is_one_clear_error(apart, tmp_path, monkeypatch):
    """A run does not wait for ever for workers that do not come back."""
    monkeypatch.setattr(generation, "_PATIENCE", 0.5)
    monkeypatch.setattr(generation, "_RETURN", 0.5)
    apart.with_workers(1)
    output = tmp_path / "out.zarr"
    with running(output, n_realizations=30, scheduler=apart.address) as bad:
        apart.workers[0].kill()
    (error,) = bad
    assert isinstance(error, BatchError)
    assert re.search("last worker is gone; finished samples are kept", str(error))
    check_it_goes_on(output, n_realizations=30)


@pytest.mark.slow
def test_a_scheduler_that_is_gone_is_one_clear_error(apart, tmp_path, monkeypatch):
    """What was finished is kept, and the run goes on without it."""
    monkeypatch.setattr(generation, "_PATIENCE", 2)
    apart.with_workers(1)
    output = tmp_path / "out.zarr"
    with running(output, n_realizations=30, scheduler=apart.address) as bad:
        apart.scheduler.kill()
    (error,) = bad
    assert isinstance(error, BatchError)
    assert re.search("scheduler is gone; finished samples are kept", str(error))
    check_it_goes_on(output, n_realizations=30)


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
