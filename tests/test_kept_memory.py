"""Blocks that are freed and wanted again do not go to the system and back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import astrogan_emu
from astrogan_emu import kept_memory

BLOCKS = """
import resource
import numpy as np
from astrogan_emu.kept_memory import kept_memory

def faults_of_blocks(times=1):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20 // times):
        np.ones(8_000_000 * times)  # 64 MB, 15625 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with kept_memory(1e9, 3e9):
    kept, kept_large = faults_of_blocks(), faults_of_blocks(4)
after = int(open("/proc/self/statm").read().split()[1])
with kept_memory(2e9, 3e9):
    short = faults_of_blocks()
with kept_memory(4e9, 5e9):
    small, large = faults_of_blocks(), faults_of_blocks(4)
with kept_memory():  # of a work whose need is not known
    small = max(small, faults_of_blocks())
print(kept, small, kept_large, short, faults_of_blocks(), large, after)
"""


@pytest.mark.skipif(kept_memory._functions() is None, reason="needs glibc")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("of_dask", [{}, {"MALLOC_TRIM_THRESHOLD_": "65536"}])
def test_blocks_are_kept_for_a_box_and_then_given_back(of_dask):
    """Also in a dask worker; not where memory is short, nor once the box is made.

    Of a very large box only blocks of parts are kept.
    """
    paths = [str(Path(astrogan_emu.__file__).parents[1])]
    # Small pages alone, so that they can be counted.
    pages = {"NUMPY_MADVISE_HUGEPAGE": "0"}
    said = subprocess.run(
        [sys.executable, "-c", BLOCKS],
        env=os.environ | of_dask | pages | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    kept, small, kept_large, short, outside, large, left = map(int, said.split())
    assert min(short, outside) > 2 * max(kept, small)
    assert large > 2 * kept_large
    assert left * os.sysconf("SC_PAGE_SIZE") < 150e6


@pytest.mark.parametrize("name", ["MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_"])
def test_settings_of_the_user_are_left_alone(name, monkeypatch):
    """Whoever has set how blocks are kept meant it."""
    monkeypatch.setenv(name, "1")
    assert kept_memory._functions.__wrapped__() is None
