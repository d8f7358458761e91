"""Tiles of one box on the workers of a real cluster, some of which die."""

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from astrogan_emu.emulator import Emulator
from astrogan_emu.errors import BatchError, CheckpointError, NotEnoughMemoryError
from astrogan_emu.generated_fields import generated_fields
from astrogan_emu.spread_tiles import workers_of
from astrogan_emu.tiling import Tiling, choose_tiling, margin

CENTRE = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 1.0, "sigma_8": 0.8}
# Nothing below takes longer, even on a machine that is busy with other things [s].
LONGEST = 120


@pytest.fixture(scope="module")
def emulator():
    return Emulator.load("nbody")


@pytest.fixture(scope="module")
def base():
    """Something like matter and its galaxies."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.rand((2, 32, 32, 32), generator=generator)
    return noise * torch.tensor([3.0, 0.03])[:, None, None, None] + 0.01


def made(emulator, base, tile, **keywords):
    model, n = emulator._model, base.shape[-1]
    tiling = Tiling(n, tile, margin(model.generator.config.network))
    return generated_fields(model, base, CENTRE, 0.5, 7, tiling, **keywords)


@pytest.mark.parametrize("noisy", [True, False])
def test_workers_make_what_one_process_makes(client, emulator, base, noisy):
    """To the rounding of float32."""
    whole = made(emulator, base, (32, 32, 32), noisy=noisy)
    spread = made(emulator, base, (8, 16, 32), noisy=noisy, client=client)
    torch.testing.assert_close(spread, whole, rtol=1e-4, atol=1e-6)


def test_a_box_by_workers_is_the_same_box(client, emulator):
    """Through the front door; one tile is as much as such a small box is worth."""
    one, other = (
        emulator.emulate(CENTRE, n_cells=32, seed=1, **keywords)
        for keywords in ({}, {"client": client})
    )
    for name in one:
        np.testing.assert_allclose(other[name].data, one[name].data, rtol=1e-4)


def test_a_tile_that_is_lost_with_its_worker_is_made_again(client, emulator, base):
    """The box does not show it."""
    whole = made(emulator, base, (32, 32, 32))
    known = set(client.run(os.getpid).values())

    def kill():
        end = time.monotonic() + LONGEST
        while not (busy := [w for w, keys in client.processing().items() if keys]):
            assert time.monotonic() < end, "nothing happened"
        os.kill(client.run(os.getpid, workers=busy[:1])[busy[0]], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    spread = made(emulator, base, (4, 8, 32), client=client)
    thread.join(LONGEST)
    client.wait_for_workers(2, timeout=LONGEST)
    assert set(client.run(os.getpid).values()) != known
    torch.testing.assert_close(spread, whole, rtol=1e-4, atol=1e-6)


def test_workers_with_another_model_are_refused(client, emulator, base):
    """They would make another universe."""
    other = Emulator(replace(emulator._model, sha256="0" * 64))
    with pytest.raises(CheckpointError, match="is not the one the"):
        made(other, base, (16, 32, 32), client=client)


def test_the_plan_knows_the_workers(client, emulator):
    """What the network needs is not needed here, and tiles fit into a worker."""
    at_once, memory = workers_of(client)
    assert at_once == 2
    workers = client.scheduler_info()["workers"].values()
    assert memory < min(each["memory_limit"] for each in workers)
    here, there = (emulator.memory_plan(256, 16, c) for c in (None, client))
    assert there.generator < here.generator
    assert there.tiling.n_tiles > here.tiling.n_tiles


def test_tiles_are_shared_out_evenly():
    """With two workers half a box each, where one process would not cut it."""
    network = Emulator.load("nbody")._model.generator.config.network
    assert choose_tiling(256, network, 1e12).n_tiles == 1
    assert choose_tiling(256, network, 1e12, at_once=2).n_tiles == 2
    assert choose_tiling(256, network, 1e12, at_once=4).n_tiles == 4


def test_a_box_too_large_is_still_refused(client, emulator):
    """The base must fit here, and a tile into a worker."""
    with pytest.raises(NotEnoughMemoryError, match="n_cells = 256 needs"):
        emulator.emulate(CENTRE, n_cells=256, seed=1, max_memory=1, client=client)


def test_a_cluster_without_workers_is_refused(emulator):
    """Nothing would ever come back."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(BatchError, match="no workers"),
    ):
        emulator.emulate(CENTRE, n_cells=16, seed=1, client=client)
