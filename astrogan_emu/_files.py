"""Files that are either whole or absent, and their fingerprints.

Nothing here knows what is inside a file.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from .errors import FileError

__all__ = ["atomic_path", "sha256_of"]


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[Path]:
    """Write a file in one step: whole on success, untouched on failure.

    The body writes to the path that is yielded, which lies in the same folder and
    ends like the target, so that writers that look at the suffix do the right
    thing. On success it takes the target's place in one step; on any exception it
    is removed and the target stays as it was.

    Parameters
    ----------
    path
        The file to make.
    overwrite
        Whether an existing file may be replaced.

    Yields
    ------
    temporary
        The path to write to; nothing exists there yet.

    Raises
    ------
    FileError
        The file exists and `overwrite` is false, the target is a folder, its
        folder does not exist, or the body wrote nothing.
    """
    target = Path(path)
    _check_target(target, overwrite)
    # Not tempfile: its files are private to the user, the result must not be; and
    # nothing may exist yet, as some writers (FITS, HDF5 in "x" mode) insist.
    temporary = target.with_name(f".{secrets.token_hex(8)}.{target.name}")
    try:
        yield temporary
        if not temporary.is_file():
            raise FileError(
                f"nothing was written for {target}; write to the path that "
                "atomic_path yields"
            )
        _flush_to_disk(temporary)
        _check_target(target, overwrite)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    digest
        64 hexadecimal digits.

    Raises
    ------
    FileError
        The file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"cannot read {os.fspath(path)}: {error.strerror}") from error


def _check_target(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise FileError(f"{target} is a folder; give the name of a file")
    if not target.parent.is_dir():
        raise FileError(f"the folder of {target} does not exist; make it first")
    if target.exists() and not overwrite:
        raise FileError(f"{target} exists; pass overwrite=True to replace it")


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())
