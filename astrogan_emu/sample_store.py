"""Samples on disk, one by one, so that an interruption costs only unfinished ones.

A store is a zarr group, which many processes may write at once, or an HDF5 file, which
one may. Both hold the same arrays:

======================  ==========================================================
``fields``              float32, shape ``(n_samples, n_fields, n, n, n)``
``power``, ``pdf``      statistics, if any, shape ``(n_samples, n_fields, n_bins)``
``table/*``             one array per column of the table of samples
``complete``            0, or 1 + CRC-32 of the sample, written after the sample
======================  ==========================================================

Whether a sample is there is decided by ``complete`` alone, and its checksum tells a
damaged sample from a good one. What the samples are is not known here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from ._files import atomic_path
from ._optional import require
from .errors import FieldFileError
from .field_specs import as_unit
from .grids import GridSpec

__all__ = ["SampleStore", "read_zarr", "write_zarr"]

_FORMAT = "astrogan_emu.samples"
_VERSION = 1
_HDF5 = (".h5", ".hdf5")

# What a damaged file makes zarr, its codecs and h5py raise.
_DAMAGE = (OSError, RuntimeError, LookupError, TypeError, ValueError)


class SampleStore:
    """A store that is open; use `create` or `open`, and close it.

    Parameters
    ----------
    path
        Of the zarr group or HDF5 file.
    group
        The open zarr group or HDF5 file.
    """

    def __init__(self, path: Path, group: Any) -> None:
        self.path = path
        self._group = group

    @staticmethod
    def check_name(path: str | os.PathLike[str]) -> Path:
        """The path, if its ending says what kind of store it is.

        Raises
        ------
        FieldFileError
            If it ends in anything but ``.zarr``, ``.h5`` or ``.hdf5``, or its folder
            does not exist.
        MissingDependencyError
            If zarr is needed and not installed.
        """
        given = Path(path)
        if given.suffix not in (".zarr", *_HDF5):
            raise FieldFileError(
                f"{given} must end in .zarr, or in .h5 for a single process"
            )
        if not given.absolute().parent.is_dir():
            raise FieldFileError(f"the folder of {given} does not exist; make it first")
        if given.suffix == ".zarr":
            require("zarr", "distributed")
        return given

    @classmethod
    def create(
        cls,
        path: Path,
        description: Mapping[str, Any],
        table: QTable,
        per_sample: Mapping[str, tuple[int, ...]],
        constants: Mapping[str, NDArray[Any]],
    ) -> None:
        """Make an empty store, whole or not at all.

        Parameters
        ----------
        path
            Where; nothing may be there.
        description
            What is in it, in types that JSON can hold.
        table
            One row per sample.
        per_sample
            Shape, for one sample, of each array: ``fields`` as float32, any other as
            float64.
        constants
            Arrays that all samples share.
        """
        attributes = {
            "format": _FORMAT,
            "version": _VERSION,
            "description": json.dumps(description),
        }
        shapes = {name: (len(table), *shape) for name, shape in per_sample.items()}
        fixed = {f"table/{name}": np.asarray(table[name]) for name in table.colnames}
        fixed |= {"complete": np.zeros(len(table), dtype="<i8")}
        fixed |= constants
        if path.suffix in _HDF5:
            with atomic_path(path, overwrite=False) as part, h5py.File(part, "w") as f:
                f.attrs.update(attributes)
                for name, shape in shapes.items():
                    _allocate(f, name, shape)
                for name, values in fixed.items():
                    f.create_dataset(name, data=values)
            return
        with _new_folder(path) as part:
            zarr = require("zarr", "distributed")
            group = zarr.open_group(str(part), mode="w-", zarr_format=3)
            group.attrs.update(attributes)
            for name, shape in shapes.items():
                group.create_array(
                    name,
                    shape=shape,
                    chunks=(1, *shape[1:]),
                    dtype=_dtype(name),
                    fill_value=np.nan,
                )
            for name, values in fixed.items():
                # Samples are marked by whoever made them, so marks are files apart.
                one = name == "complete"
                array = group.create_array(
                    name,
                    shape=values.shape,
                    chunks=(1,) if one else tuple(max(1, n) for n in values.shape),
                    dtype=values.dtype,
                )
                if not one:
                    array[...] = values

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, write: bool = False) -> Self:
        """Open a store.

        Parameters
        ----------
        path
            Of the zarr group or HDF5 file.
        write
            Whether samples will be added.

        Raises
        ------
        FieldFileError
            If there is none, or it is of another kind.
        """
        given = Path(path)
        if not given.exists():
            raise FieldFileError(f"{given} does not exist")
        try:
            if given.suffix in _HDF5:
                group: Any = h5py.File(given, "r+" if write else "r")
            else:
                zarr = require("zarr", "distributed")
                group = zarr.open_group(str(given), mode="r+" if write else "r")
        except BlockingIOError as error:
            raise FieldFileError(
                f"another process has {given} open; wait for it, or end it"
            ) from error
        except _DAMAGE as error:
            raise FieldFileError(
                f"{given} is no store of samples, or is damaged ({error}); give "
                "another name"
            ) from error
        store = cls(given, group)
        if store._group.attrs.get("format") != _FORMAT:
            store.close()
            raise FieldFileError(
                f"{given} holds something other than samples; give another name"
            )
        version = int(store._group.attrs["version"])
        if version != _VERSION:
            store.close()
            raise FieldFileError(
                f"{given} is a store of version {version}; this release reads version "
                f"{_VERSION}: use the release that wrote it"
            )
        return store

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._group, h5py.File):
            self._group.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, name: str) -> bool:
        return name in self._group

    def __getitem__(self, name: str) -> Any:
        """An array of the store, on disk."""
        return self._group[name]

    @property
    def description(self) -> dict[str, Any]:
        """What is in it."""
        return dict(json.loads(self._group.attrs["description"]))

    @property
    def table(self) -> QTable:
        """One row per sample."""
        names = self.description["columns"]
        return QTable({name: self._group[f"table/{name}"][...] for name in names})

    def keep(self, number: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write one sample, and only then that it is complete.

        Parameters
        ----------
        number
            Of the sample.
        arrays
            All arrays of the sample, by name.

        Raises
        ------
        FieldFileError
            If it cannot be written; samples that were complete stay so.
        """
        try:
            ordered = {name: self._as_stored(name, arrays[name]) for name in arrays}
            for name, values in ordered.items():
                self._group[name][number] = values
            self._flush()
            self._group["complete"][number] = _checksum(ordered)
            self._flush()
        except OSError as error:
            raise FieldFileError(
                f"cannot write sample {number} to {self.path}: "
                f"{error.strerror or error}; finished samples are kept, so start "
                "again once this is put right"
            ) from error

    def marks(self) -> NDArray[np.int64]:
        """The records of all samples, 0 for those that are not there."""
        try:
            return np.asarray(self._group["complete"][...])
        except _DAMAGE:
            # Each is a file of its own, and one that is damaged marks nothing.
            numbers = range(self._group["complete"].shape[0])
            return np.array([self._mark(number) for number in numbers])

    def finished(self) -> NDArray[np.bool_]:
        """Which samples are there and undamaged, shape ``(n_samples,)``.

        Every sample is read once.
        """
        marks = self.marks()
        good = np.zeros(len(marks), dtype=bool)
        for number in np.flatnonzero(marks):
            good[number] = self._read(int(number), marks[number]) is not None
        return good

    def has(self, number: int) -> bool:
        """Whether a sample is there and undamaged."""
        mark = self._mark(number)
        return mark != 0 and self._read(number, mark) is not None

    def _mark(self, number: int) -> int:
        """The record of one sample, 0 if there is none that can be read."""
        with contextlib.suppress(*_DAMAGE):
            return int(self._group["complete"][number])
        return 0

    def _read(self, number: int, mark: Any) -> dict[str, NDArray[Any]] | None:
        """The arrays of a sample, or nothing if they are not as they were written."""
        with contextlib.suppress(*_DAMAGE):
            stored = {
                name: np.asarray(self._group[name][number])
                for name in self.description["arrays"]
            }
            if _checksum(stored) == mark:
                return stored
        return None

    def _as_stored(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(values, dtype=_dtype(name))

    def _flush(self) -> None:
        if isinstance(self._group, h5py.File):
            self._group.flush()


def write_zarr(batch: Any, path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Compute a `FieldBatch` into a zarr store; see its `to_zarr`."""
    import dask.array as da

    target = SampleStore.check_name(path)
    if target.suffix in _HDF5:
        raise FieldFileError(f"to_zarr writes zarr, and {target} is an HDF5 name")
    if target.exists():
        if not overwrite:
            raise FieldFileError(f"{target} exists; pass overwrite=True to replace it")
        # Only a store is replaced: a folder may hold anything.
        SampleStore.open(target).close()
    data = batch.data
    if not isinstance(data, da.Array):
        data = da.from_array(data, chunks=(1, *data.shape[1:]))
    with _new_folder(target, overwrite=overwrite) as part:
        SampleStore.create(
            part,
            {
                "fields": list(batch.fields),
                "units": {name: str(unit) for name, unit in batch.units.items()},
                "n_cells": batch.grid.n_cells,
                "box_size": batch.grid.box_size,
                "model": batch.model,
                "parameters": list(batch.parameter_names),
                "columns": list(batch.table.colnames),
                "arrays": ["fields"],
            },
            batch.table,
            {"fields": batch.shape[1:]},
            {},
        )
        data.map_blocks(
            _keep_block,
            path=str(part.absolute()),
            drop_axis=list(range(1, data.ndim)),
            dtype=np.int64,
            meta=np.empty(0, dtype=np.int64),
        ).compute()


def read_zarr(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Keywords of the `FieldBatch` in a store; see its `from_zarr`."""
    import dask.array as da

    with SampleStore.open(path) as store:
        description = store.description
        if "fields" not in store:
            raise FieldFileError(
                f"{store.path} holds statistics without fields; open it with zarr"
            )
        marks = store.marks()
        n_finished = np.count_nonzero(marks)
        if n_finished < len(marks):
            raise FieldFileError(
                f"only {n_finished} of {len(marks)} samples of "
                f"{store.path} are finished; start generate again to go on"
            )
        # A token of what is read, beside its number.
        rows = np.stack([np.arange(len(marks)), marks], axis=1)
        shape = store["fields"].shape
        return {
            "data": da.map_blocks(
                _read_block,
                da.from_array(rows, chunks=(1, 2)),
                path=str(store.path.absolute()),
                drop_axis=1,
                new_axis=list(range(1, len(shape))),
                chunks=((1,) * shape[0], *((size,) for size in shape[1:])),
                dtype=np.float32,
                meta=np.empty((0,) * len(shape), dtype=np.float32),
            ),
            "table": store.table,
            "fields": description["fields"],
            "units": {k: as_unit(v) for k, v in description["units"].items()},
            "grid": GridSpec(description["n_cells"], description["box_size"]),
            "model": description["model"],
            "parameter_names": description["parameters"],
        }


def _read_block(rows: NDArray[np.int64], *, path: str) -> NDArray[np.float32]:
    """Read samples, and make sure that they are as they were written."""
    found = []
    with SampleStore.open(path) as store:
        for number, mark in rows:
            stored = store._read(int(number), mark)
            if stored is None:
                raise FieldFileError(
                    f"sample {number} of {path} is damaged; start generate again as "
                    "before, which makes it anew"
                )
            found.append(stored["fields"])
    return np.stack(found)


def _keep_block(
    values: NDArray[np.float32], *, path: str, block_info: Any = None
) -> NDArray[np.int64]:
    """Write one chunk of a batch; runs on the workers."""
    first, last = block_info[0]["array-location"][0]
    with SampleStore.open(path, write=True) as store:
        for number, one in zip(range(first, last), values, strict=True):
            store.keep(number, {"fields": one})
    return np.arange(first, last)


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype("<f4" if name == "fields" else "<f8")


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> int:
    """One number for a sample, never 0."""
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), value)
    return value + 1


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    """Make a dataset whose place in the file is settled at once.

    Writing to it later then changes nothing but its own bytes, so that a process that
    is killed cannot leave the file's structure half changed.
    """
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    h5py.h5d.create(
        file.id,
        name.encode(),
        h5py.h5t.py_create(_dtype(name)),
        h5py.h5s.create_simple(shape),
        plan,
    )


@contextlib.contextmanager
def _new_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Make a folder in one step: there as a whole, or not at all."""
    temporary = target.with_name(f".{secrets.token_hex(8)}.{target.name}")
    old = target.with_name(f".{secrets.token_hex(8)}.{target.name}")
    try:
        yield temporary
        if overwrite and target.exists():
            os.rename(target, old)
        try:
            os.rename(temporary, target)
        except OSError as error:
            raise FieldFileError(
                f"{target} exists, or cannot be made: {error.strerror}"
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
