"""Fixtures that several test modules share."""

import os
from pathlib import Path

import hypothesis
import pytest

# The same examples in every run, and no complaint about a busy machine.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Keep torch from starting more threads than the toy problems are worth."""
    # Imported here, so that test modules without torch start at once.
    import torch

    threads = os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))
    torch.set_num_threads(int(threads))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real simulation data, which ASTROGAN_TEST_DATA names."""
    folder = os.environ.get("ASTROGAN_TEST_DATA")
    if not folder:
        pytest.skip("set ASTROGAN_TEST_DATA to the folder of the test data")
    path = Path(folder)
    if not path.is_dir():
        pytest.skip(f"ASTROGAN_TEST_DATA = {folder} is not a folder")
    return path


@pytest.fixture
def client():
    """Two processes of a cluster that restarts what is killed; of one test alone.

    Dask does not always restart a worker that a test before has killed.
    """
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=1_500_000_000,
            dashboard_address=":0",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
