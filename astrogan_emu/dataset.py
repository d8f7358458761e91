"""The training set: one HDF5 file of base and target fields, with their parameters.

`write_training_set` lays the file out, and `TrainingSet` opens it, checks it whole and
hands out samples. How fields are made from snapshots is the task of `preparation`.

================== ============================ ====================================
in the file        shape                        meaning
================== ============================ ====================================
samples/base       (samples, channels, n, n, n) base fields, where there are any
samples/target     (samples, fields, n, n, n)   target fields, in their units
samples/parameters (samples, parameters)        in the order of the space
samples/redshift   (samples,)                   of each sample
samples/run, split (samples,)                   simulation, and what it is used for
runs/name, sha256  (runs,)                      fingerprint of each run's samples
attributes                                      see `Description`; JSON but for numbers
================== ============================ ====================================

Maps have one ``n`` less.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from ._files import atomic_path
from .errors import AstroganError, DatasetError
from .training_data import SPLITS, Description, Sample, TrainingData

__all__ = ["FORMAT", "RunSamples", "TrainingSet", "VERSION", "write_training_set"]

FORMAT = "astrogan_emu dataset"
VERSION = 1

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RunSamples:
    """The samples of one simulation.

    Parameters
    ----------
    run
        Its name.
    split
        One of `SPLITS`.
    parameters
        In the order of the space, shape ``(n_parameters,)``.
    redshifts
        Shape ``(n_samples,)``.
    target
        Shape ``(n_samples, n_fields, n, ...)``.
    base
        Shape ``(n_samples, n_channels, n, ...)``; needed if paired.
    """

    run: str
    split: str
    parameters: NDArray[np.float64]
    redshifts: NDArray[np.float64]
    target: Floats
    base: Floats | None = None

    def sha256(self) -> str:
        """Fingerprint of the samples; the split is no part of it."""
        digest = hashlib.sha256()
        parameters = np.asarray(self.parameters, np.float64)
        for index, redshift in enumerate(self.redshifts):
            base = None if self.base is None else self.base[index]
            _add(digest, (base, self.target[index], parameters, float(redshift)))
        return digest.hexdigest()


def _add(digest: Any, sample: Sample) -> None:
    """Feed one sample to the fingerprint of its run."""
    base, target, parameters, redshift = sample
    for values in (base, target):
        if values is not None:
            digest.update(np.ascontiguousarray(values, "<f4").data)
    digest.update(np.array([*parameters, redshift], "<f8").data)


def write_training_set(
    path: str | os.PathLike[str],
    description: Description,
    runs: Iterable[RunSamples],
    *,
    overwrite: bool = True,
) -> str:
    """Write a training set, run by run; the same samples give the same bytes.

    Parameters
    ----------
    path
        The file to make; it appears whole or not at all.
    description
        What all samples have in common.
    runs
        The samples, one simulation at a time; only one is held in memory.
    overwrite
        Whether an existing file may be replaced.

    Returns
    -------
    sha256
        Fingerprint of the content.

    Raises
    ------
    DatasetError
        If there are no samples, their shapes are not those of the description, or
        values are not finite.
    FileError
        If the file exists and `overwrite` is false, or its folder does not.
    """
    side = (description.n_cells,) * description.n_dim
    columns: dict[str, list[Any]] = {
        name: [] for name in ("parameters", "redshift", "run", "split")
    }
    prints: dict[str, str] = {}
    with atomic_path(path, overwrite) as partial, h5py.File(partial, "w") as file:
        samples = file.create_group("samples")
        for run in runs:
            _check_run(run, description, side)
            arrays = {"target": run.target, "base": run.base}
            for name, values in arrays.items():
                if values is not None:
                    _append(samples, name, values)
            if (run.base is not None) != ("base" in samples):
                raise DatasetError(
                    f"run {run.run} {'lacks' if run.base is None else 'has'} a base, "
                    "unlike those before it"
                )
            n = len(run.redshifts)
            columns["parameters"] += [np.asarray(run.parameters, np.float64)] * n
            columns["redshift"] += [float(z) for z in run.redshifts]
            columns["run"] += [run.run.encode()] * n
            columns["split"] += [run.split.encode()] * n
            prints[run.run] = run.sha256()
        if not prints:
            raise DatasetError(f"there are no samples to write to {os.fspath(path)}")
        for name, column in columns.items():
            samples.create_dataset(name, data=np.array(column))
        table = file.create_group("runs")
        table["name"] = np.array([run.encode() for run in prints])
        table["sha256"] = np.array([each.encode() for each in prints.values()])
        sha256 = _fingerprint(description, prints)
        file.attrs.update({"format": FORMAT, "version": VERSION})
        file.attrs.update(description.attributes())
        file.attrs["sha256"] = sha256
    return sha256


def _check_run(
    run: RunSamples, description: Description, side: tuple[int, ...]
) -> None:
    n = len(run.redshifts)
    shapes = {
        "target": (run.target.shape, (n, len(description.fields), *side)),
        "parameters": (np.shape(run.parameters), (len(description.space),)),
    }
    if description.paired and run.base is None:
        raise DatasetError(f"run {run.run} lacks a base, which a paired set needs")
    if run.base is not None:
        shapes["base"] = (run.base.shape, (n, *run.base.shape[1:2], *side))
    for name, (shape, wanted) in shapes.items():
        if shape != wanted:
            raise DatasetError(
                f"{name} of run {run.run} has shape {shape}, not {wanted}"
            )
    if run.split not in SPLITS:
        raise DatasetError(
            f"run {run.run} is of the split {run.split!r}; it must be one of "
            f"{', '.join(SPLITS)}"
        )
    for name in ("base", "target", "parameters", "redshifts"):
        values = getattr(run, name)
        if values is not None and not np.isfinite(values).all():
            raise DatasetError(f"{name} of run {run.run} are not all finite")


def _append(samples: h5py.Group, name: str, values: Floats) -> None:
    """Add samples to a dataset, which is made with the first."""
    if name not in samples:
        shape = values.shape[1:]
        samples.create_dataset(
            name,
            (0, *shape),
            np.float32,
            maxshape=(None, *shape),
            chunks=(1, *shape),
            fletcher32=True,
        )
    stored = samples[name]
    start = len(stored)
    stored.resize(start + len(values), axis=0)
    stored[start:] = values


def _fingerprint(description: Description, prints: Mapping[str, str]) -> str:
    """Fingerprint of the content: what the samples are, and those of all runs."""
    facts = {**description.attributes(), "runs": sorted(prints.items())}
    del facts["provenance"]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class TrainingSet(TrainingData):
    """A training set on disk, read sample by sample.

    Made by `TrainingSet.open`. It survives pickling, by which it is opened again.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        attributes = file.attrs
        if attributes.get("format") != FORMAT:
            raise DatasetError(
                f"{path} is an HDF5 file, but not a training set of this package"
            )
        if attributes.get("version") != VERSION:
            raise DatasetError(
                f"{path} has version {attributes.get('version')}; this release reads "
                f"{VERSION}: prepare it again"
            )
        self.description = Description.of(attributes)
        self.sha256 = str(attributes["sha256"])
        samples = file["samples"]
        self._target = samples["target"]
        self._base = samples["base"] if self.paired or "base" in samples else None
        self.parameters = _small(samples["parameters"])
        self.redshifts = _small(samples["redshift"])
        self.runs = np.char.decode(_small(samples["run"]), "utf-8")
        self.splits = np.char.decode(_small(samples["split"]), "utf-8")
        names = np.char.decode(_small(file["runs/name"]), "utf-8")
        prints = np.char.decode(_small(file["runs/sha256"]), "utf-8")
        self._prints = dict(zip(names.tolist(), prints.tolist(), strict=True))
        self._check()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Self:
        """Open a training set.

        Parameters
        ----------
        path
            A file made by `prepare`.
        verify
            Whether every sample is read once and compared with its fingerprint, at
            about a gigabyte per second. Without, samples are checked for damage and
            for values that are not finite when they are asked for.

        Returns
        -------
        TrainingSet
            Open until `close`.

        Raises
        ------
        DatasetError
            If the file does not exist, is truncated, is no training set, its parts do
            not fit each other, or its content is not what was written.
        """
        path = Path(path)
        if not path.is_file():
            raise DatasetError(f"{path} does not exist or is not a file")
        try:
            file = h5py.File(path, "r")
        except (OSError, RuntimeError) as error:
            raise DatasetError(
                f"{path} is not a complete HDF5 file: {error}"
            ) from error
        try:
            with _understood(path):
                data = cls(path, file)
                if verify:
                    data._verify()
        except DatasetError:
            file.close()
            raise
        return data

    def _check(self) -> None:
        n = len(self.redshifts)
        side = (self.n_cells,) * self.n_dim
        if n == 0:
            raise DatasetError(f"{self.path} holds no samples")
        shapes = {
            "target": (self._target.shape, (n, len(self.fields), *side)),
            "parameters": (self.parameters.shape, (n, len(self.space))),
            "redshift": (self.redshifts.shape, (n,)),
            "run": (self.runs.shape, (n,)),
            "split": (self.splits.shape, (n,)),
        }
        if self._base is not None:
            channels = self._base.shape[1:2]
            shapes["base"] = (self._base.shape, (n, *channels, *side))
        for name, (shape, wanted) in shapes.items():
            if shape != wanted:
                raise DatasetError(
                    f"{name} of {self.path} has shape {shape}, not {wanted}"
                )
        for values in (self._target, self._base):
            if values is not None:
                _check_stored(values, self.path)
        for name in ("parameters", "redshifts"):
            if not np.isfinite(getattr(self, name)).all():
                raise DatasetError(f"{self.path} has {name} that are not finite")
        if not self.space.contains(self.parameters).all():
            raise DatasetError(
                f"{self.path} has parameters outside the ranges that it says it covers"
            )
        self._check_runs()

    def _check_runs(self) -> None:
        if unknown := set(self.splits.tolist()) - set(SPLITS):
            raise DatasetError(
                f"{self.path} has the split {sorted(unknown)[0]!r}; only "
                f"{', '.join(SPLITS)} are known"
            )
        split_of: dict[str, str] = {}
        for run, split in zip(self.runs.tolist(), self.splits.tolist(), strict=True):
            if split_of.setdefault(run, split) != split:
                raise DatasetError(
                    f"run {run} of {self.path} is in several splits; the samples of "
                    "one simulation must stay together"
                )
        wanted = _fingerprint(self.description, self._prints)
        if set(split_of) != set(self._prints) or wanted != self.sha256:
            raise DatasetError(
                f"{self.path} is not as it was written: its description and its list "
                "of runs do not give its fingerprint; prepare it again"
            )

    def _verify(self) -> None:
        """Compare all samples with the fingerprints of their runs."""
        digests = {run: hashlib.sha256() for run in self._prints}
        for index, run in enumerate(self.runs.tolist()):
            _add(digests[run], self.sample(index))
        for run, digest in digests.items():
            if digest.hexdigest() != self._prints[run]:
                raise DatasetError(
                    f"the samples of run {run} in {self.path} are not as they were "
                    "written; prepare the set again"
                )

    @property
    def base_channels(self) -> int:
        """Number of base channels; 1, the matter density, where there is no base."""
        return 1 if self._base is None else int(self._base.shape[1])

    def sample(self, index: int) -> Sample:
        """One sample; see `TrainingData.sample`."""
        index = int(index)
        try:
            target = self._target[index]
            base = None if self._base is None else self._base[index]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise DatasetError(
                f"sample {index} of {self.path} cannot be read: {error}"
            ) from error
        for values in (base, target):
            if values is not None and not np.isfinite(values).all():
                raise DatasetError(
                    f"sample {index} of {self.path} (run {self.runs[index]}) holds "
                    "values that are not finite"
                )
        return base, target, self.parameters[index], float(self.redshifts[index])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.path,)


def _opened_again(path: Path) -> TrainingSet:
    """Open a set that was verified in another process."""
    return TrainingSet.open(path, verify=False)


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Turn whatever a strange file sets off into one error of ours."""
    try:
        yield
    except DatasetError as error:
        if str(path) in str(error):
            raise
        raise DatasetError(f"{path} is damaged: {error}") from error
    except (AstroganError, *_STRANGE) as error:
        reason = str(error).strip("'\"") or type(error).__name__
        raise DatasetError(f"{path} cannot be understood: {reason}") from error


# What h5py, NumPy and JSON raise for content of the wrong kind.
_STRANGE = (
    *(AttributeError, LookupError, OSError, OverflowError, RuntimeError),
    *(TypeError, UnicodeError, ValueError),
)


def _small(dataset: h5py.Dataset) -> NDArray[Any]:
    """Read a column whole, if it is there whole."""
    _check_stored(dataset, dataset.file.filename)
    values: NDArray[Any] = dataset[()]
    return values


def _check_stored(dataset: h5py.Dataset, name: object) -> None:
    """Refuse a dataset that claims more values than the file holds.

    HDF5 makes up what was never written, however large the shape.
    """
    if dataset.chunks is None:
        whole = dataset.id.get_storage_size() >= dataset.size * dataset.dtype.itemsize
    else:
        counts = [
            -(-length // chunk)
            for length, chunk in zip(dataset.shape, dataset.chunks, strict=True)
        ]
        whole = dataset.id.get_num_chunks() == math.prod(counts)
    if not whole or dataset.dtype.kind not in "fS":
        raise DatasetError(
            f"{dataset.name} of {name} is incomplete or holds no plain numbers"
        )
