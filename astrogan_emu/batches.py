"""Batches of a training step: samples, symmetries and noise from its number alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .conditioning import conditions
from .errors import TrainingError
from .generators import FieldGenerator
from .parameters import ParameterSpace
from .training_data import TrainingData

__all__ = ["Batch", "blur_conditions", "draw_batch", "draw_noise", "one_sample"]


@dataclass
class Batch:
    """Samples as tensors: base, target, conditions; the first axis counts them.

    Base and target are of the same phases if they are paired.
    """

    base: Tensor
    target: Tensor
    conditions: Tensor
    paired: bool

    def twice(self) -> Batch:
        """Every sample once more, after the last."""
        base, target, told = (
            torch.cat([part, part])
            for part in (self.base, self.target, self.conditions)
        )
        return Batch(base, target, told, self.paired)


def _symmetry(rng: np.random.Generator, n_dim: int) -> tuple[Any, Any, Any]:
    """A random element of the cube's symmetries, and a shift by a few cells."""
    order = rng.permutation(n_dim)
    flips = np.flatnonzero(rng.integers(0, 2, n_dim))
    return order, flips, rng.integers(0, 8, n_dim)


def _transformed(values: NDArray[np.float32], symmetry: tuple[Any, Any, Any]) -> Any:
    order, flips, shift = symmetry
    values = values.transpose(0, *(1 + order))
    values = np.flip(values, tuple(1 + flips))
    axes = tuple(range(1, values.ndim))
    return np.roll(values, tuple(shift), axes)


def draw_batch(
    data: TrainingData, indices: Any, seed: tuple[int, ...], size: int, device: Any
) -> Batch:
    """The samples of one step, which its number alone decides.

    Parameters
    ----------
    data
        The training set.
    indices
        Samples to choose from.
    seed
        Of the choice and of the symmetries.
    size
        How many.
    device
        Where to put them.

    Returns
    -------
    Batch
        Each sample in a random orientation of the cube, shifted by a few cells.

    Raises
    ------
    TrainingError
        If the samples have no base.
    """
    rng = np.random.default_rng(seed)
    columns: list[list[Any]] = [[], [], [], []]
    for index in rng.choice(indices, size):
        base, target, parameters, redshift = data.sample(index)
        symmetry = _symmetry(rng, data.n_dim)
        parts = (
            _transformed(base_of(base), symmetry),
            _transformed(target, symmetry),
            parameters,
            redshift,
        )
        for column, part in zip(columns, parts, strict=True):
            column.append(part)
    stacked = [np.stack(column) for column in columns]
    told = conditions(data.space, stacked[2], stacked[3])
    return Batch(
        torch.from_numpy(stacked[0]).to(device),
        torch.from_numpy(stacked[1]).to(device),
        told.to(device),
        data.paired,
    )


def blur_conditions(
    batch: Batch, space: ParameterSpace, size: float, seed: tuple[int, ...]
) -> None:
    """Add noise to the parameters that the networks are told, and to nothing else.

    Parameters
    ----------
    batch
        Its conditions are changed.
    space
        Of the parameters.
    size
        Standard deviation, in half ranges of the parameters; 0 changes nothing.
    seed
        Whole numbers.
    """
    if size == 0:
        return
    n_varied = int((space.high > space.low).sum())
    noise = np.zeros(tuple(batch.conditions.shape), np.float32)
    shape = (len(noise), n_varied)
    noise[:, :n_varied] = size * np.random.default_rng(seed).standard_normal(shape)
    batch.conditions = batch.conditions + torch.from_numpy(noise).to(
        batch.conditions.device
    )


def draw_noise(
    generator: FieldGenerator, batch: Batch, seed: tuple[int, ...]
) -> list[Tensor]:
    """Noise maps for a batch, which the seed alone decides.

    Parameters
    ----------
    generator
        The network that will hear them.
    batch
        For its size and device.
    seed
        Whole numbers.

    Returns
    -------
    list of Tensor
        As `FieldGenerator.draw_noise`.
    """
    source = torch.Generator()
    source.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    maps = generator.draw_noise(len(batch.base), batch.base.shape[-1], source)
    return [each.to(batch.base.device) for each in maps]


def one_sample(data: TrainingData, index: int, device: torch.device) -> Batch:
    """A sample as it is, as a batch of one.

    Parameters
    ----------
    data
        The training set.
    index
        Sample number.
    device
        Where to put it.

    Returns
    -------
    Batch
        Of length 1.
    """
    base, target, parameters, redshift = data.sample(index)
    told = conditions(data.space, parameters[None], redshift)
    return Batch(
        torch.from_numpy(base_of(base)[None]).to(device),
        torch.from_numpy(target[None]).to(device),
        told.to(device),
        data.paired,
    )


def base_of(base: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """The base of a sample, which must have one."""
    if base is None:
        raise TrainingError("this training set has no bases; prepare it again")
    return base
