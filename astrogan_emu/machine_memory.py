"""How much memory one task may use on this machine."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

from .errors import ParameterError
from .torch_threads import concurrent_tasks

__all__ = ["available_memory", "memory_limit"]

# Of what is free, the share that is used: others want some, too.
_SHARE = 0.9


def available_memory(device: torch.device | str = "cpu") -> int:
    """Memory that one task may use here [bytes].

    The least of what the machine has free, what the process's control group leaves, and
    what the limit of a dask worker leaves; shared among the tasks that run at once.

    Parameters
    ----------
    device
        Of the emulator.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(_SHARE * (free + kept))
    limits = [_free(), *_group_leaves(), *_worker_leaves()]
    return int(_SHARE * max(0, min(limits)) / concurrent_tasks())


def memory_limit(gigabytes: float | None, device: torch.device | str) -> float:
    """What a user allows, or what there is [bytes].

    Parameters
    ----------
    gigabytes
        What is allowed [GB], if anything is said.
    device
        Of the emulator.

    Raises
    ------
    ParameterError
        If `gigabytes` is not positive.
    """
    if gigabytes is None:
        return available_memory(device)
    if not gigabytes > 0:
        raise ParameterError(f"max_memory must be positive [GB], got {gigabytes}")
    return gigabytes * 1e9


def _free() -> int:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        # Where the system does not say what is free, half of all may be.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return sys.maxsize


def _group_leaves() -> list[int]:
    """What the limit of a container leaves, if it has one."""
    leaves = []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            folder = Path("/sys/fs/cgroup")
            most = int((folder / limit).read_text())
            leaves.append(most - int((folder / used).read_text()))
    return leaves


def _worker_leaves() -> list[int]:
    """What the limit of a dask worker leaves, if this is one and it has one."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return []
    with suppress(ValueError, AttributeError):
        worker = distributed.get_worker()
        limit = worker.memory_manager.memory_limit
        if limit:
            return [int(limit - worker.monitor.get_process_memory())]
    return []
