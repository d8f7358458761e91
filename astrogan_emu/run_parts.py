"""The finished runs of an unfinished training set, one small file each.

A part remembers what it was made of, so that a preparation that goes on after an
interruption uses it for that and nothing else. Only `preparation` needs this.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ._files import atomic_path, sha256_of
from .dataset import RunSamples
from .errors import DatasetError
from .headers import read_header
from .snapshot_files import has_gadget_layout, snapshot_file

__all__ = [
    "Part",
    "check_part",
    "file_prints",
    "read_part",
    "write_part",
]


@dataclass(frozen=True)
class Part:
    """The samples of one run, before it is known which set they go into.

    Parameters
    ----------
    box_size
        Comoving side [Mpc/h].
    parameters
        Of the run.
    redshifts
        Shape ``(n_samples,)``.
    target
        Shape ``(n_samples, n_fields, n, n, n)``.
    base
        Shape ``(n_samples, n_channels, n, n, n)``.
    """

    box_size: float
    parameters: Mapping[str, float]
    redshifts: NDArray[np.float64]
    target: NDArray[np.float32]
    base: NDArray[np.float32]

    def samples(self, run: str, split: str, names: Sequence[str]) -> RunSamples:
        """The same, now that it is known what they are for.

        Parameters
        ----------
        run, split
            Name of the run, and its split.
        names
            Parameters of the set, in order.
        """
        return RunSamples(
            run=run,
            split=split,
            parameters=np.array([self.parameters[name] for name in names]),
            redshifts=self.redshifts,
            target=self.target,
            base=self.base,
        )


def file_prints(snapshots: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
    """SHA-256 of every file of some snapshots, by folder and name.

    Raises
    ------
    SnapshotError
        A snapshot is not there.
    """
    prints = {}
    for snapshot in snapshots:
        first = snapshot_file(snapshot)
        files = read_header(first).files if has_gadget_layout(first) else (first,)
        for file in files:
            prints[f"{file.parent.name}/{file.name}"] = sha256_of(file)
    return prints


def write_part(path: Path, part: Part, made_of: Mapping[str, Any]) -> None:
    """Write a part, whole or not at all.

    Parameters
    ----------
    path
        The file.
    part
        The samples.
    made_of
        Settings and fingerprints that decide the samples, which JSON can hold.
    """
    with atomic_path(path) as partial, h5py.File(partial, "w") as file:
        file.attrs["made_of"] = json.dumps(made_of)
        file.attrs["box_size"] = part.box_size
        file.attrs["parameters"] = json.dumps(dict(part.parameters))
        for name in ("redshifts", "target", "base"):
            values = getattr(part, name)
            # A checksum, so that damage is noticed when the part is read.
            file.create_dataset(
                name, data=values, chunks=(1, *values.shape[1:]), fletcher32=True
            )


def check_part(path: Path, made_of: Mapping[str, Any]) -> None:
    """Refuse a part that was made of something else.

    Raises
    ------
    DatasetError
        The part is damaged, or was made with other settings or files.
    """
    _, known = _read(path)
    wanted = json.loads(json.dumps(made_of))
    for name in dict.fromkeys((*wanted, *known)):
        if known.get(name) != wanted.get(name):
            raise DatasetError(
                f"{path} was begun with other {name}: {_short(known.get(name))}, not "
                f"{_short(wanted.get(name))}; remove the folder {path.parent} or give "
                "another output"
            )


def read_part(path: Path) -> Part:
    """Read a part.

    Raises
    ------
    DatasetError
        The part is damaged.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[Part, dict[str, Any]]:
    try:
        with h5py.File(path, "r") as file:
            part = Part(
                box_size=float(file.attrs["box_size"]),
                parameters=json.loads(file.attrs["parameters"]),
                redshifts=file["redshifts"][()],
                target=file["target"][()],
                base=file["base"][()],
            )
            return part, dict(json.loads(file.attrs["made_of"]))
    except (OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path}, a finished run of an unfinished training set, is damaged "
            f"({error}); remove it"
        ) from error


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:60]} ..."
