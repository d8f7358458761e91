"""How many threads torch may use where several tasks run side by side.

A scheduler that runs one task per core, each of which starts one thread per core,
makes the machine slower than a single task would be.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator

import dask
import torch

__all__ = ["concurrent_tasks", "one_thread", "shared_cores"]

_lock = threading.Lock()
_running = 0
_before = 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, and restore its setting afterwards.

    Their number may change the last digit of a transform, where the same bytes are
    wanted on any machine; and networks of a few thousand weights on patches of a few
    pixels lose more by handing work from thread to thread than they gain.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def shared_cores() -> Iterator[int]:
    """Give torch this task's share of the cores, and restore its setting afterwards.

    The share is the cores that this process may use, or torch's own setting if that is
    lower, over the tasks that its dask scheduler runs at once; one at least.

    Yields
    ------
    share
        Threads that torch uses in this thread of Python.
    """
    global _running, _before
    with _lock:
        # The first task in knows what the setting was; the others see its share.
        if _running == 0:
            _before = torch.get_num_threads()
        _running += 1
        before = _before
        share = max(1, min(before, _cores()) // concurrent_tasks())
        torch.set_num_threads(share)
    try:
        yield share
    finally:
        with _lock:
            # Torch keeps one number per thread, and one for threads yet to come.
            torch.set_num_threads(before)
            _running -= 1


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def concurrent_tasks() -> int:
    """How many tasks may run at once in the process that this one runs in."""
    # Inside a worker, distributed is imported already.
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        with contextlib.suppress(ValueError):
            return int(distributed.get_worker().state.nthreads)
    in_main_process = multiprocessing.parent_process() is None
    if in_main_process and threading.current_thread() is threading.main_thread():
        return 1
    return int(dask.config.get("num_workers", None) or _cores())
