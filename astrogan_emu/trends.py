"""How fields follow each other and the parameters, from regressions on simulations.

Gas is hotter where it is denser, by a relation that few numbers describe and that
changes with cosmology and time. A handful of runs fix those few numbers better than
they train a network, which then has the scatter about the relation left to learn. So
it is with how many stars there are, of which the network makes the places alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import TrainingError

__all__ = ["Level", "LevelFit", "Trend", "TrendFit"]

# Of the regression, chosen by cross-validation on the runs of the model `hydro`: powers
# of the logarithm of the other field; bins of equally many cells, of which medians are
# taken; share of cells at either end where the relation is followed no further; and how
# many samples' worth of belief there is that nothing depends on the conditions.
_DEGREE = 2
_BINS = 32
_BEYOND = 0.001
_BELIEF = 1.2
# Deviations smaller than this count by their squares, larger ones by their sizes, so
# that a run like no other does not decide.
_SMALL = 0.05
_ROUNDS = 30


def _linear(coefficients: Sequence[float], conditions: Tensor) -> Tensor:
    """A constant and one factor for each condition, applied; shape ``(batch,)``."""
    constant, *factors = coefficients
    # No matrix product, which training may do in bf16.
    return constant + (conditions * conditions.new_tensor(factors)).sum(1)


@dataclass(frozen=True)
class Level:
    """Mean of a field over a box: its logarithm is linear in the conditions.

    Parameters
    ----------
    coefficients
        A constant and one factor for each condition.

    Raises
    ------
    TrainingError
        If there are none, or a number is not finite.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.coefficients or not all(map(math.isfinite, self.coefficients)):
            raise TrainingError(
                f"a level needs finite coefficients, got {self.coefficients}"
            )

    @property
    def n_conditions(self) -> int:
        """Number of conditions."""
        return len(self.coefficients) - 1

    def __call__(self, conditions: Tensor) -> Tensor:
        """The mean, in the field's unit.

        Parameters
        ----------
        conditions
            Shape ``(batch, n_conditions)``.

        Returns
        -------
        Tensor
            Shape ``(batch,)``.
        """
        return torch.exp(_linear(self.coefficients, conditions))


class LevelFit:
    """Regression of a field's mean over samples, which are added one by one.

    Parameters
    ----------
    field
        Name of the field.
    """

    def __init__(self, field: str) -> None:
        self.field = field
        self._logs: list[float] = []
        self._conditions: list[NDArray[np.float64]] = []

    def add(self, mean: float, conditions: NDArray[np.floating[Any]]) -> None:
        """Add a sample; one without any of the field says nothing.

        Parameters
        ----------
        mean
            Of the field, in its unit.
        conditions
            Of this sample, one-dimensional.
        """
        if mean > 0:
            self._logs.append(math.log(mean))
            self._conditions.append(np.asarray(conditions, np.float64))

    def solve(self, told: Sequence[int]) -> Level:
        """The level of all samples, by ridge regression (Hoerl & Kennard 1970).

        Parameters
        ----------
        told
            Which of the conditions it may change with.

        Raises
        ------
        TrainingError
            If no sample has any of the field.
        """
        y, conditions = self._samples()
        centre, spread = conditions.mean(0), conditions.std(0)
        own = [i for i in told if spread[i] > 0]
        slopes = np.zeros(conditions.shape[1])
        if own:
            x = (conditions[:, own] - centre[own]) / spread[own]
            doubted = x.T @ x + _BELIEF * np.eye(len(own))
            slopes[own] = np.linalg.solve(doubted, x.T @ (y - y.mean())) / spread[own]
        return Level((float(y.mean() - slopes @ centre), *map(float, slopes)))

    def moved(self, level: Level) -> Level:
        """A level with the constant that these samples ask for.

        Parameters
        ----------
        level
            Of other simulations; how it changes with the conditions is kept.

        Raises
        ------
        TrainingError
            If no sample has any of the field.
        """
        y, conditions = self._samples()
        _, *slopes = level.coefficients
        return Level((float(np.mean(y - conditions @ np.array(slopes))), *slopes))

    def _samples(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logarithms of the means, and the conditions."""
        if not self._logs:
            raise TrainingError(
                f"no training sample has any {self.field}, whose mean is asked for"
            )
        return np.array(self._logs), np.array(self._conditions)


@dataclass(frozen=True)
class Trend:
    """A polynomial in the logarithm of another field, linear in the conditions.

    Parameters
    ----------
    field
        Name of the other field.
    mean, std
        Of its logarithm, as its head has it, over the training set.
    low, high
        Where the polynomial ends, in standard deviations from the mean; beyond them it
        keeps its value.
    coefficients
        For each power, from 0, a constant and one factor for each condition.

    Raises
    ------
    TrainingError
        If a number is not finite, `std` not positive or the range empty.
    """

    field: str
    mean: float
    std: float
    low: float
    high: float
    coefficients: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        numbers = (self.mean, self.std, self.low, self.high)
        rows = self.coefficients
        if not all(map(math.isfinite, (*numbers, *(x for row in rows for x in row)))):
            raise TrainingError(f"the trend with {self.field} has numbers not finite")
        if not (self.std > 0 and self.low < self.high):
            raise TrainingError(
                f"the trend with {self.field} needs std > 0 and low < high, got "
                f"{self.std}, {self.low} and {self.high}"
            )
        if not rows or len({len(row) for row in rows}) > 1 or not rows[0]:
            raise TrainingError(
                f"the trend with {self.field} needs as many coefficients of each power"
            )

    @property
    def n_conditions(self) -> int:
        """Number of conditions."""
        return len(self.coefficients[0]) - 1

    def __call__(self, latent: Tensor, conditions: Tensor) -> Tensor:
        """Logarithm of the field from that of the other.

        Parameters
        ----------
        latent
            Of the other field, shape ``(batch, n, ...)``.
        conditions
            Shape ``(batch, n_conditions)``.

        Returns
        -------
        Tensor
            The shape of `latent`.
        """
        x = ((latent - self.mean) / self.std).clamp(self.low, self.high)
        value = torch.zeros_like(x)
        for row in reversed(self.coefficients):
            own = _linear(row, conditions)
            value = value * x + own.view(-1, *(1,) * (x.ndim - 1))
        return value


class TrendFit:
    """A regression over samples, which are added one by one.

    Parameters
    ----------
    field
        Name of the other field.
    told
        Which of the conditions the relation may change with.
    """

    def __init__(self, field: str, told: Sequence[int]) -> None:
        self.field, self._told = field, list(told)
        self._medians: list[NDArray[np.float64]] = []
        self._conditions: list[NDArray[np.float64]] = []
        self._moments: list[NDArray[np.float64]] = []

    def add(
        self,
        other: NDArray[np.floating[Any]],
        own: NDArray[np.floating[Any]],
        conditions: NDArray[np.floating[Any]],
    ) -> None:
        """Add a sample.

        Parameters
        ----------
        other, own
            Logarithms of the other field and of the one that follows it, as their
            heads have them, of the same shape.
        conditions
            Of this sample, one-dimensional.
        """
        x, y = (np.asarray(values, np.float64).ravel() for values in (other, own))
        bins = np.array_split(np.argsort(x, kind="stable"), _BINS)
        both = [(np.median(x[cells]), np.median(y[cells])) for cells in bins]
        self._medians.append(np.array(both))
        self._conditions.append(np.asarray(conditions, np.float64))
        ends = np.quantile(x, [_BEYOND, 1 - _BEYOND])
        self._moments.append(np.array([x.mean(), (x**2).mean(), *ends]))

    def solve(self) -> Trend:
        """The trend through the medians of all samples.

        By least absolute deviations, as weighted least squares whose weights follow
        from the deviations before (Schlossmacher 1973).
        """
        first, second, *ends = np.mean(self._moments, 0)
        mean, std = float(first), float(np.sqrt(second - first**2)) or 1.0
        low, high = (float(end - mean) / std for end in ends)
        told = np.array(self._conditions)
        centre, spread = told.mean(0), told.std(0)
        own = [i for i in self._told if spread[i] > 0]
        features = np.ones((len(told), 1 + len(own)))
        features[:, 1:] = ((told - centre) / np.where(spread > 0, spread, 1))[:, own]
        x, wanted = np.array(self._medians).transpose(2, 0, 1)
        powers = ((x - mean) / std).clip(low, high)[..., None] ** np.arange(_DEGREE + 1)
        matrix = np.einsum("sf,sbp->sbfp", features, powers).reshape(wanted.size, -1)
        belief = np.zeros((features.shape[1], _DEGREE + 1))
        belief[1:] = _BELIEF * (powers**2).sum((0, 1)) / len(told)
        weight = np.ones(wanted.size)
        for _ in range(_ROUNDS):
            weighted = (matrix * weight[:, None]).T
            doubted = weighted @ matrix + weight.mean() * np.diag(belief.ravel())
            right = weighted @ wanted.ravel()
            solution = np.linalg.lstsq(doubted, right, rcond=None)[0]
            off = np.abs(wanted.ravel() - matrix @ solution)
            weight = _SMALL / np.maximum(off, _SMALL)
        constants, *slopes = solution.reshape(belief.shape)
        rows = np.zeros((_DEGREE + 1, 1 + told.shape[1]))
        for i, slope in zip(own, slopes, strict=True):
            rows[:, 1 + i] = slope / spread[i]
        rows[:, 0] = constants - rows[:, 1:] @ centre
        coefficients = tuple(tuple(map(float, row)) for row in rows)
        return Trend(self.field, mean, std, low, high, coefficients)
