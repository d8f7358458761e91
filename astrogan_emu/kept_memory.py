"""Memory that a box, or a training, works with, kept from one step to the next.

By default glibc gives every large block back to the system when it is freed, and asks
for it again, as zeros, a moment later. That is a quarter of the time of 128^3 cells,
of a training step and of a simulation, and more in dask workers, which are told to give
back all they can.
"""

from __future__ import annotations

import ctypes
import math
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
# Gaps between blocks that are kept cost memory. Where more is needed, as by the network
# of a box of 256^3 cells, blocks of a gigabyte leave gaps that no other fits into: then
# only blocks like those that a convolution works with, part by part, are kept.
_LEAST_ROOM, _MOST, _BLOCK = 2, 2.5e9, 128 << 20
# Of boxes that need more, what was kept is given back at the end: of those above 64^3.
_SMALL = 100e6

_lock = threading.Lock()
_running = 0


@contextmanager
def kept_memory(
    needed: float = math.inf, available: float = math.inf
) -> Iterator[None]:
    """Keep freed memory while work is done, and give it back at the end.

    Where very much is needed the largest blocks are not kept. Does nothing where memory
    is short, the C library is not glibc, or its ``MALLOC_`` variables for large blocks
    are set.

    Parameters
    ----------
    needed
        Memory of that work, if it is known: that of a part of a box, say, as of a
        `MemoryPlan` [bytes].
    available
        What there is [bytes].
    """
    global _running
    functions = _functions()
    if functions is None or _MOST >= needed > available / _LEAST_ROOM:
        yield
        return
    mallopt, trim = functions
    with _lock:
        _running += 1
        if needed > _MOST:
            mallopt(_MMAP_THRESHOLD, _BLOCK)
        else:
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
                if needed > _SMALL:
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
