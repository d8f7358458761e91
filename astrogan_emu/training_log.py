"""Tables that a training run writes as it goes, for TensorBoard too."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ._files import atomic_path

__all__ = ["append_rows", "log_scalars", "truncate_logs"]


def append_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Add rows to a table, keeping the columns of all.

    Parameters
    ----------
    path
        CSV file; made if needed.
    rows
        Numbers by column.
    """
    if not rows:
        return
    known = list(_read_rows(path))
    columns = list(dict.fromkeys(key for row in [*known, *rows] for key in row))
    with atomic_path(path) as partial, partial.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows([*known, *rows])


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open(newline="") as stream:
            yield from csv.DictReader(stream)


def truncate_logs(folder: Path, step: int) -> None:
    """Drop what was logged after the state from which a run goes on.

    Parameters
    ----------
    folder
        Of the run.
    step
        Of the state.
    """
    for name in ("log.csv", "validation.csv"):
        rows = [row for row in _read_rows(folder / name) if int(row["step"]) <= step]
        if rows:
            (folder / name).unlink()
            append_rows(folder / name, rows)


@lru_cache(maxsize=1)
def _writer(folder: Path) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder)


def log_scalars(folder: Path, group: str, rows: list[dict[str, float]]) -> None:
    """Hand rows to TensorBoard, if it is installed.

    Parameters
    ----------
    folder
        Of the run.
    group
        First part of the names of its curves.
    rows
        Numbers by column, with their ``step``.
    """
    writer = _writer(folder / "tensorboard")
    if writer is None:
        return
    for row in rows:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(f"{group}/{name}", value, int(row["step"]))
    writer.flush()
