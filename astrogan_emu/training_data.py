"""What training is done on: samples of fields, their parameters and their split.

`TrainingData` is what `training` asks for; `dataset` keeps it in one HDF5 file, and
`multifield` finds it in the public CAMELS maps. Nothing here reads a file.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .errors import DatasetError
from .field_specs import as_unit
from .parameters import ParameterSpace

__all__ = ["Description", "SPLITS", "Sample", "TrainingData"]

SPLITS = ("train", "validation", "test")
"""What a simulation may be used for; all its samples go together."""

Floats = NDArray[np.float32]
Sample = tuple[Floats | None, Floats, NDArray[np.float64], float]
"""Base (or None), target, parameters and redshift of one sample."""

_BASE_SETTINGS = ("n_steps", "mesh_factor", "start_redshift")


@dataclass(frozen=True)
class Description:
    """What all samples of a training set have in common.

    Parameters
    ----------
    fields
        Names of the target fields, in order.
    units
        Unit of each field, as a string.
    space
        Parameters, their order and ranges.
    n_cells, cell_size
        Geometry of every sample; cell_size in comoving Mpc/h.
    base_settings
        How the base is made: ``n_steps``, ``mesh_factor`` and ``start_redshift``; for
        maps the ``depth`` over which it is averaged [Mpc/h], and for a base with
        galaxies how they are made, ``galaxies``. See `bases.BaseSettings`.
    provenance
        Where the samples come from; anything that JSON can hold.
    n_dim
        2 for maps, 3 for grids.
    paired
        Whether each target comes with a base of the same phases. Without, its base is
        another realisation of the same parameters, or missing.

    Raises
    ------
    DatasetError
        If a value is not possible.
    """

    fields: tuple[str, ...]
    units: Mapping[str, str]
    space: ParameterSpace
    n_cells: int
    cell_size: float
    base_settings: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    n_dim: int = 3
    paired: bool = True

    def __post_init__(self) -> None:
        names = self.fields
        if not names or len(set(names)) < len(names) or not all(map(_is_name, names)):
            raise DatasetError(f"fields must be distinct names, got {names!r}")
        if set(self.units) != set(names):
            raise DatasetError(
                f"units are needed for {', '.join(names)}, got {dict(self.units)!r}"
            )
        for unit in self.units.values():
            try:
                as_unit(unit)
            except (TypeError, ValueError) as error:
                raise DatasetError(f"{unit!r} is no unit of a field") from error
        if self.n_dim not in (2, 3) or self.n_cells < 2:
            raise DatasetError(
                "n_dim must be 2 or 3 and n_cells at least 2, got "
                f"{self.n_dim} and {self.n_cells}"
            )
        if not (math.isfinite(self.cell_size) and self.cell_size > 0):
            raise DatasetError(
                f"cell_size must be positive and finite [Mpc/h], got {self.cell_size}"
            )
        if set(self.base_settings) - {"depth", "galaxies"} != set(_BASE_SETTINGS):
            raise DatasetError(
                f"the settings of the base are {', '.join(_BASE_SETTINGS)}, got "
                f"{', '.join(map(str, self.base_settings)) or 'none'}"
            )

    def attributes(self) -> dict[str, Any]:
        """The attributes of the file; numbers as they are, the rest as JSON."""
        return {
            "n_dim": self.n_dim,
            "n_cells": self.n_cells,
            "cell_size": self.cell_size,
            "paired": self.paired,
            "fields": json.dumps(self.fields),
            "units": json.dumps(dict(self.units)),
            "base": json.dumps(dict(self.base_settings)),
            "space": json.dumps(self.space.to_dict()),
            "provenance": json.dumps(dict(self.provenance), sort_keys=True),
        }

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Self:
        """Undo `attributes`."""
        return cls(
            fields=tuple(json.loads(attributes["fields"])),
            units=dict(json.loads(attributes["units"])),
            space=ParameterSpace.from_dict(json.loads(attributes["space"])),
            n_cells=int(attributes["n_cells"]),
            cell_size=float(attributes["cell_size"]),
            base_settings=dict(json.loads(attributes["base"])),
            provenance=dict(json.loads(attributes["provenance"])),
            n_dim=int(attributes["n_dim"]),
            paired=bool(attributes["paired"]),
        )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()


class TrainingData(ABC):
    """What training needs of its data, wherever they are kept.

    Use it as a context manager, or until `close`.

    Attributes
    ----------
    description
        What all samples have in common; its entries are properties as well.
    parameters
        In the order of the space, shape ``(n_samples, n_parameters)``.
    redshifts
        Shape ``(n_samples,)``.
    runs, splits
        Simulation and split of each sample, shape ``(n_samples,)``.
    sha256
        Fingerprint of the content.
    """

    description: Description
    parameters: NDArray[np.float64]
    redshifts: NDArray[np.float64]
    runs: NDArray[np.str_]
    splits: NDArray[np.str_]
    sha256: str

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """One sample.

        Parameters
        ----------
        index
            Sample number.

        Returns
        -------
        base
            Shape ``(base_channels, n, ...)``; of the target's own phases if the data
            are paired, else of others, or None.
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

    @abstractmethod
    def close(self) -> None:
        """Close the file or files."""

    def __len__(self) -> int:
        return len(self.redshifts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the target fields, in order."""
        return self.description.fields

    @property
    def units(self) -> Mapping[str, str]:
        """Unit of each field, as a string."""
        return self.description.units

    @property
    def space(self) -> ParameterSpace:
        """Parameters, their order and ranges."""
        return self.description.space

    @property
    def base_settings(self) -> Mapping[str, Any]:
        """How the base is made."""
        return self.description.base_settings

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the samples come from."""
        return self.description.provenance

    @property
    def paired(self) -> bool:
        """Whether each target comes with a base of the same phases."""
        return self.description.paired

    @property
    def n_dim(self) -> int:
        """2 for maps, 3 for grids."""
        return self.description.n_dim

    @property
    def n_cells(self) -> int:
        """Cells along one side of every sample."""
        return self.description.n_cells

    @property
    def cell_size(self) -> float:
        """Comoving side of a cell [Mpc/h]."""
        return self.description.cell_size

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
