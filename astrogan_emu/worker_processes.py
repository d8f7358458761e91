"""Processes of this machine that work through a list of tasks.

They are spawned, not forked: threads of torch and HDF5 do not survive a fork. A spawned
process imports the script that started it, which a script has to expect.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import current_process, get_context, parent_process
from typing import Any

from .errors import BatchError

__all__ = ["GUARD", "environment", "in_processes", "refuse_while_importing"]

GUARD = (
    "in a script, write this call below the line 'if __name__ == \"__main__\":', as "
    "every process that it starts imports the script first"
)
"""What a script has to heed."""

# glibc returns large blocks to the system at once; a run that keeps them is twice as
# fast. Read at the start of a process, so it is set for the workers only.
_KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "68719476736",
    "MALLOC_TOP_PAD_": "268435456",
}


def refuse_while_importing() -> None:
    """End this process if it is a new one that is still importing its script.

    Called first by everything that starts processes: such a script has no guard, and
    would start processes without end. The one that started this one says so, once.

    Raises
    ------
    SystemExit
        In such a process.
    """
    # Set by multiprocessing while a spawned process imports the script.
    if getattr(current_process(), "_inheriting", False):
        raise SystemExit(1)


def in_processes(
    function: Callable[..., Any],
    tasks: Iterable[tuple[Any, ...]],
    workers: int,
    after: Callable[[], Any],
) -> None:
    """Call a function for each task, in processes that end with this one.

    Parameters
    ----------
    function
        Of a module, not of a script.
    tasks
        Arguments of each call.
    workers
        Processes.
    after
        Called here after each task.

    Raises
    ------
    BatchError
        If a process is lost, or the script has no guard.
    Exception
        The first that a call raises; tasks that were not begun are given up.
    """
    any_done = False
    with (
        environment(_KEEP_MEMORY),
        ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_end_with_parent
        ) as pool,
    ):
        try:
            for job in as_completed([pool.submit(function, *task) for task in tasks]):
                job.result()
                any_done = True
                after()
        except BrokenProcessPool as error:
            raise BatchError(_lost(any_done)) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _lost(any_done: bool) -> str:
    memory = "a process that is killed often ran out of memory: use fewer workers"
    if any_done:
        return f"a worker process was lost; {memory}, and start again to go on"
    return f"the worker processes ended at once; {GUARD}; or else {memory}"


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes started meanwhile."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _end_with_parent() -> None:
    """Make a worker end when its parent is killed, rather than run on unseen."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
