"""Where a snapshot lies: the files of one output, and opening them safely.

A simulation output is one HDF5 file, several numbered ones, or a folder of them.
What the files say is the business of `headers`.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import h5py

from .errors import SnapshotError

__all__ = [
    "has_gadget_layout",
    "numbered_files",
    "open_hdf5",
    "snapshot_file",
    "subgroup",
]

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = (".hdf5", ".h5")
_NUMBERED = re.compile(r"(?P<stem>.+)\.(?P<number>\d+)(?P<suffix>\.hdf5|\.h5)")


def has_gadget_layout(path: str | os.PathLike[str]) -> bool:
    """Whether a file is HDF5 with the particle counts of a Gadget header.

    Parameters
    ----------
    path
        An existing file.

    Returns
    -------
    answer
        False also for another kind of file.

    Raises
    ------
    SnapshotError
        The file begins like HDF5 but cannot be opened.
    """
    with open(path, "rb") as stream:
        if stream.read(len(_HDF5_SIGNATURE)) != _HDF5_SIGNATURE:
            return False
    with open_hdf5(path) as file:
        header = subgroup(file, "Header")
        return header is not None and any(
            name in header.attrs for name in ("NumPart_ThisFile", "NumPart_Total")
        )


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, or say in one line why that fails.

    Parameters
    ----------
    path
        The file.

    Yields
    ------
    file
        The open file; damage met while it is open is reported the same way.

    Raises
    ------
    SnapshotError
        The file is missing, truncated, damaged or no HDF5 file.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except SnapshotError:
        raise
    # h5py reports damage inside a file as any of these.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = str(error).strip("'\"") or type(error).__name__
        raise SnapshotError(f"cannot read {path} as HDF5: {reason}") from error


def snapshot_file(path: str | os.PathLike[str]) -> Path:
    """Find the file to start from, given a file or the folder of one output.

    Parameters
    ----------
    path
        A file, or a folder (such as ``snapdir_004``) with the files of one output.

    Returns
    -------
    file
        A file that exists and is not empty.

    Raises
    ------
    SnapshotError
        Nothing is there, the file is empty, or the folder holds no output, or more
        than one.
    """
    given = Path(path)
    if given.is_dir():
        return snapshot_file(_only_output(given))
    if not given.is_file():
        raise SnapshotError(f"{given} does not exist; check the name of the snapshot")
    if given.stat().st_size == 0:
        raise SnapshotError(f"{given} is empty; write or download it again")
    return given


def numbered_files(path: Path, number: int) -> tuple[Path, ...]:
    """Name all files of an output in several files, given one of them.

    Parameters
    ----------
    path
        Any one of the files, named like ``snap_000.2.hdf5``; dots elsewhere in the
        name do no harm.
    number
        How many there must be.

    Returns
    -------
    files
        The files in order.

    Raises
    ------
    SnapshotError
        The name carries no number, or a file is missing.
    """
    if number == 1:
        return (path,)
    match = _NUMBERED.fullmatch(path.name)
    if match is None:
        raise SnapshotError(
            f"{path} is one of {number} files of a snapshot, but its name does not "
            "end in a number as snap_000.0.hdf5 does; give the files such names"
        )
    files = tuple(
        path.with_name(f"{match['stem']}.{index}{match['suffix']}")
        for index in range(number)
    )
    if missing := [file.name for file in files if not file.is_file()]:
        raise SnapshotError(
            f"{path} belongs to a snapshot of {number} files, of which {len(missing)} "
            f"are missing, {missing[0]} first"
        )
    return files


def subgroup(file: h5py.File | h5py.Group, name: str) -> h5py.Group | None:
    """Return the group of a name, or None if there is none or it is no group.

    Parameters
    ----------
    file
        The file or group to look in.
    name
        The name of the group.

    Returns
    -------
    group
        The group, or None.
    """
    item = file.get(name)
    return item if isinstance(item, h5py.Group) else None


def _only_output(folder: Path) -> Path:
    """Return the first file of the only output in a folder."""
    outputs: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in _SUFFIXES and not file.name.startswith("."):
            match = _NUMBERED.fullmatch(file.name)
            outputs.setdefault(match["stem"] if match else file.name, file)
    if not outputs:
        raise SnapshotError(f"{folder} holds no .hdf5 file; give the snapshot itself")
    if len(outputs) > 1:
        names = ", ".join(file.name for file in outputs.values())
        raise SnapshotError(
            f"{folder} holds {len(outputs)} outputs; give one of them: {names}"
        )
    return next(iter(outputs.values()))
