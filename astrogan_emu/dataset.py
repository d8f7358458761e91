"""The training set: one HDF5 file of base and target fields, with their parameters.

`TrainingSet` opens what `preparation` wrote, checks it whole, and hands out samples.
How fields are made from snapshots is not known here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from .errors import AstroganError, DatasetError
from .parameters import ParameterSpace

__all__ = ["FORMAT", "SPLITS", "VERSION", "TrainingSet"]

FORMAT = "astrogan_emu dataset"
VERSION = 1
SPLITS = ("train", "validation", "test")

Sample = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64], float]


class TrainingSet:
    """A training set on disk, read sample by sample.

    Use `TrainingSet.open`, as a context manager or until `close`.

    Attributes
    ----------
    path
        The file.
    fields
        Names of the target fields, in order.
    units
        Unit of each field, as a string.
    space
        Parameters, their order and ranges.
    n_dim, n_cells, cell_size
        Geometry of every sample; cell_size in comoving Mpc/h.
    base_settings
        How the base was made.
    provenance
        Where the samples come from.
    sha256
        Of the content.
    parameters
        In the order of `space`, shape ``(n_samples, n_parameters)``.
    redshifts
        Shape ``(n_samples,)``.
    runs, splits
        Simulation and split of each sample.
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
        self.n_dim = int(attributes["n_dim"])
        self.n_cells = int(attributes["n_cells"])
        self.cell_size = float(attributes["cell_size"])
        self.fields: tuple[str, ...] = tuple(json.loads(attributes["fields"]))
        self.units: Mapping[str, str] = json.loads(attributes["units"])
        self.space = ParameterSpace.from_dict(json.loads(attributes["space"]))
        self.base_settings: Mapping[str, Any] = json.loads(attributes["base"])
        self.provenance: Mapping[str, Any] = json.loads(attributes["provenance"])
        self.sha256 = str(attributes["sha256"])
        samples = file["samples"]
        self._base, self._target = samples["base"], samples["target"]
        self.parameters: NDArray[np.float64] = samples["parameters"][()]
        self.redshifts: NDArray[np.float64] = samples["redshift"][()]
        self.runs = np.char.decode(samples["run"][()], "utf-8")
        self.splits = np.char.decode(samples["split"][()], "utf-8")
        self._check()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a training set.

        Parameters
        ----------
        path
            A file made by `prepare`.

        Returns
        -------
        TrainingSet
            Open until `close`.

        Raises
        ------
        DatasetError
            If the file does not exist, is truncated, is no training set, or its parts
            do not fit each other.
        """
        path = Path(path)
        if not path.is_file():
            raise DatasetError(f"{path} does not exist or is not a file")
        try:
            file = h5py.File(path, "r")
        except (OSError, RuntimeError) as error:
            raise DatasetError(f"{path} is not a complete HDF5 file: {error}") from error
        try:
            return cls(path, file)
        except DatasetError:
            file.close()
            raise
        except (AstroganError, KeyError, ValueError, TypeError, OSError) as error:
            file.close()
            raise DatasetError(f"{path} cannot be understood: {error}") from error

    def _check(self) -> None:
        n = len(self.redshifts)
        side = (self.n_cells,) * self.n_dim
        if n == 0:
            raise DatasetError(f"{self.path} holds no samples")
        expected = {
            "target": (self._target.shape, (n, len(self.fields), *side)),
            "base": (self._base.shape, (n, *self._base.shape[1:2], *side)),
            "parameters": (self.parameters.shape, (n, len(self.space))),
            "run": (self.runs.shape, (n,)),
            "split": (self.splits.shape, (n,)),
        }
        for name, (shape, wanted) in expected.items():
            if shape != wanted:
                raise DatasetError(
                    f"{name} of {self.path} has shape {shape}, not {wanted}"
                )
        if unknown := set(self.splits) - set(SPLITS):
            raise DatasetError(
                f"{self.path} has the split {sorted(unknown)[0]!r}; only "
                f"{', '.join(SPLITS)} are known"
            )
        if not (np.isfinite(self.parameters).all() and np.isfinite(self.redshifts).all()):
            raise DatasetError(f"{self.path} has parameters that are not finite")
        for run in set(self.runs):
            if len(set(self.splits[self.runs == run])) > 1:
                raise DatasetError(
                    f"run {run} of {self.path} is in several splits; slices of one "
                    "simulation must stay together"
                )

    def __len__(self) -> int:
        return len(self.redshifts)

    @property
    def base_channels(self) -> int:
        """Number of base channels."""
        return int(self._base.shape[1])

    @property
    def box_size(self) -> float:
        """Comoving side of every sample [Mpc/h]."""
        return self.n_cells * self.cell_size

    def indices(self, split: str) -> NDArray[np.int64]:
        """Samples of a split, in order.

        Parameters
        ----------
        split
            ``"train"``, ``"validation"`` or ``"test"``.

        Returns
        -------
        ndarray
            Sample numbers.

        Raises
        ------
        DatasetError
            If there is no such split.
        """
        if split not in SPLITS:
            raise DatasetError(
                f"there is no split {split!r}; choose one of {', '.join(SPLITS)}"
            )
        return np.flatnonzero(self.splits == split)

    def sample(self, index: int) -> Sample:
        """One sample.

        Parameters
        ----------
        index
            Sample number.

        Returns
        -------
        base
            Shape ``(base_channels, n, ...)``.
        target
            Physical fields, shape ``(n_fields, n, ...)``.
        parameters
            Shape ``(n_parameters,)``.
        redshift
            Of the sample.

        Raises
        ------
        DatasetError
            If the values cannot be read or are not finite.
        """
        index = int(index)
        try:
            base, target = self._base[index], self._target[index]
        except (OSError, ValueError, IndexError) as error:
            raise DatasetError(
                f"sample {index} of {self.path} cannot be read: {error}"
            ) from error
        if not (np.isfinite(base).all() and np.isfinite(target).all()):
            raise DatasetError(
                f"sample {index} of {self.path} (run {self.runs[index]}) holds values "
                "that are not finite"
            )
        return base, target, self.parameters[index], float(self.redshifts[index])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
