"""Batches of a training step: samples, symmetries and noise from its number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .conditioning import condition_names, conditions
from .errors import TrainingError
from .generators import FieldGenerator
from .parameters import ParameterSpace
from .training_data import TrainingData

__all__ = [
    "Batch",
    "SampleReader",
    "blur_conditions",
    "draw_batch",
    "draw_noise",
    "hide_conditions",
    "one_sample",
]


@dataclass
class Batch:
    """Samples as tensors: base, target, conditions; the first axis counts them.

    Base and target are of the same phases if they are paired. ``truth`` are the
    conditions as they are, ``conditions`` what the networks are told of them.
    """

    base: Tensor
    target: Tensor
    conditions: Tensor
    truth: Tensor
    paired: bool

    def twice(self) -> Batch:
        """Every sample once more, after the last."""
        base, target, told, truth = (
            torch.cat([part, part])
            for part in (self.base, self.target, self.conditions, self.truth)
        )
        return Batch(base, target, told, truth, self.paired)


class SampleReader:
    """Samples of a training set as tensors on a device.

    A GPU would wait for the file, so what was read stays in its memory, up to a half of
    what is free there; for a CPU the system keeps what was read.

    Parameters
    ----------
    data
        The training set.
    device
        Where the tensors are.
    """

    def __init__(self, data: TrainingData, device: torch.device) -> None:
        self.data, self.device = data, device
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._room = 0
        if device.type == "cuda":
            self._room = torch.cuda.mem_get_info(device)[0] // 2

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Base and target of a sample, shape ``(channels, n, ...)``.

        Raises
        ------
        TrainingError
            If the sample has no base.
        """
        if index in self._kept:
            return self._kept[index]
        base, target, *_ = self.data.sample(index)
        sample = (
            torch.from_numpy(base_of(base)).to(self.device),
            torch.from_numpy(target).to(self.device),
        )
        size = sum(part.numel() * part.element_size() for part in sample)
        if size <= self._room:
            self._kept[index] = sample
            self._room -= size
        return sample


@dataclass(frozen=True)
class _Symmetry:
    """A random element of the symmetries of the cube, and a shift by a few cells."""

    order: list[int]
    flips: list[int]
    shift: list[int]

    @classmethod
    def draw(cls, rng: np.random.Generator, n_dim: int) -> _Symmetry:
        order = rng.permutation(n_dim)
        flips = np.flatnonzero(rng.integers(0, 2, n_dim))
        return cls(order.tolist(), flips.tolist(), rng.integers(0, 8, n_dim).tolist())

    def __call__(self, values: Tensor) -> Tensor:
        values = values.permute(0, *(1 + axis for axis in self.order))
        values = values.flip([1 + axis for axis in self.flips])
        return values.roll(self.shift, list(range(1, values.ndim)))


def draw_batch(
    samples: SampleReader, indices: Any, seed: tuple[int, ...], size: int
) -> Batch:
    """The samples of one step, which its number alone decides.

    Parameters
    ----------
    samples
        Of the training set.
    indices
        Samples to choose from.
    seed
        Of the choice and of the symmetries.
    size
        How many.

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
    data = samples.data
    chosen = rng.choice(indices, size)
    bases, targets = [], []
    for index in chosen:
        symmetry = _Symmetry.draw(rng, data.n_dim)
        base, target = samples.read(int(index))
        bases.append(symmetry(base))
        targets.append(symmetry(target))
    told = conditions(data.space, data.parameters[chosen], data.redshifts[chosen])
    told = told.to(samples.device)
    return Batch(torch.stack(bases), torch.stack(targets), told, told, data.paired)


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


def hide_conditions(batch: Batch, space: ParameterSpace, hidden: Sequence[str]) -> None:
    """Tell the networks nothing of some conditions, which are 0 then.

    Parameters
    ----------
    batch
        Its conditions are changed.
    space
        Of the parameters.
    hidden
        Of `conditioning.condition_names`.
    """
    told = [name not in hidden for name in condition_names(space)]
    batch.conditions = batch.conditions * torch.tensor(told).to(batch.conditions)


def draw_noise(
    generator: FieldGenerator, batch: Batch, seed: tuple[int, ...], draws: int = 1
) -> list[Tensor]:
    """Noise maps for a batch, which the seed and the kind of device decide.

    Parameters
    ----------
    generator
        The network that will hear them.
    batch
        For its size and device.
    seed
        Whole numbers.
    draws
        For each sample: the first of every sample, then the second.

    Returns
    -------
    list of Tensor
        As `FieldGenerator.draw_noise`.
    """
    source = torch.Generator(batch.base.device)
    source.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return generator.draw_noise(draws * len(batch.base), batch.base.shape[-1], source)


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
    told = conditions(data.space, parameters[None], redshift).to(device)
    return Batch(
        torch.from_numpy(base_of(base)[None]).to(device),
        torch.from_numpy(target[None]).to(device),
        told,
        told,
        data.paired,
    )


def base_of(base: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """The base of a sample, which must have one."""
    if base is None:
        raise TrainingError("this training set has no bases; prepare it again")
    return base
