"""Memory that a box works with, kept from one of its steps to the next.

By default glibc gives every large block back to the system when it is freed, and asks
for it again, as zeros, a moment later. Above 64^3 cells that is a quarter of the time,
and in dask workers, which are told to give back all they can, also below.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["kept_memory"]

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# What glibc itself comes to after it has freed large blocks, and its default; but a
# little more is kept, for samples of 64^3 cells that follow each other.
_AFTERWARDS = {
    _TRIM_THRESHOLD: 256 << 20,
    _MMAP_THRESHOLD: 32 << 20,
    _MMAP_MAX: 65536,
}
# Larger boxes need every byte more than time, and none is lost to gaps between blocks.
_MOST_CELLS = 1 << 24
# Of larger boxes what was kept is given back at the end.
_SMALL = 1 << 18

_lock = threading.Lock()
_running = 0


@contextmanager
def kept_memory(n_cells: int) -> Iterator[None]:
    """Keep freed memory while a box is made, and give it back at the end.

    Does nothing where the C library is not glibc, or where its ``MALLOC_`` variables
    for large blocks are set.

    Parameters
    ----------
    n_cells
        Cells per side of the box.
    """
    global _running
    cells = n_cells**3
    functions = _functions()
    if functions is None or cells > _MOST_CELLS:
        yield
        return
    mallopt, trim = functions
    with _lock:
        _running += 1
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                for name, value in _AFTERWARDS.items():
                    mallopt(name, value)
                if cells > _SMALL:
                    trim(0)


@cache
def _functions() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """``mallopt`` and ``malloc_trim`` of glibc, if they are there and up to us."""
    chosen = {"MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_"}
    if os.name != "posix" or chosen & set(os.environ):
        return None
    library = ctypes.CDLL(None)
    try:
        return library.mallopt, library.malloc_trim
    except AttributeError:
        return None
