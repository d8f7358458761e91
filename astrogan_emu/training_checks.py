"""Checks that need the training set: that parameters are right, nothing memorised.

A regressor learns parameters from simulations alone and then reads them off made
fields. Likeness to the training fields, beside that of simulations that were never
trained on, tells whether any was memorised, and likeness among themselves whether made
fields repeat each other.
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from .dataset import TrainingSet
from .errors import DatasetError
from .morphology import gaussian_smooth
from .scorecard import Score
from .similarity import diversity, nearest_neighbour_distance
from .statistics import power_spectrum

__all__ = ["ParameterRegressor", "TrainingChecks", "summary"]

Array = NDArray[np.float64]

_LEVELS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
# The emptiest cells of a simulation hold less than a particle.
_SMOOTHING = 1.0  # Mpc/h
_BANDS = 10
_RIDGES = np.geomspace(1e-3, 1e3, 25)
# Of the parameters, those that one box of tens of Mpc/h can tell.
_READ = ("omega_m", "sigma_8")
_FEWEST = 5
# Likeness is of large structures; and its cost grows with the number of cells.
_COARSE = 32


def summary(field: Array, box_size: float) -> Array:
    """Numbers that tell the parameters of a density.

    Parameters
    ----------
    field
        Density over its mean, shape ``(n, n, n)``.
    box_size
        Comoving side [Mpc/h].

    Returns
    -------
    ndarray
        ln P in bands up to half the Nyquist frequency, and logarithms of quantiles of
        the density smoothed with a Gaussian of 1 Mpc/h.
    """
    measured = power_spectrum(field, box_size=box_size, relative=False)
    k, power = np.asarray(measured.k), np.asarray(measured.power)
    half = np.pi * len(field) / box_size / 2
    edges = np.geomspace(k[0] * 0.99, half, _BANDS + 1)
    bands = [power[(k > a) & (k <= b)] for a, b in itertools.pairwise(edges)]
    ln_power = [np.log(band.mean()) for band in bands if len(band)]
    smooth = np.asarray(gaussian_smooth(field, _SMOOTHING, box_size=box_size))
    quantiles = np.log(np.maximum(np.quantile(smooth, _LEVELS), 0.01))
    return np.concatenate([ln_power, quantiles])


class ParameterRegressor:
    """Ridge regression of parameters on summaries of simulated fields.

    The strength of the ridge is that of the least error of leaving one simulation out
    (Golub, Heath & Wahba 1979), for each parameter.

    Parameters
    ----------
    summaries
        One for each simulation, shape ``(n_runs, n_summaries)``.
    parameters
        Shape ``(n_runs, n_parameters)``.
    """

    def __init__(self, summaries: Array, parameters: Array) -> None:
        self._mean, self._std = summaries.mean(0), summaries.std(0) + 1e-12
        self._centre = parameters.mean(0)
        x = (summaries - self._mean) / self._std
        y = parameters - self._centre
        left, sizes, right = np.linalg.svd(x, full_matrices=False)
        weights, errors = [], []
        for column in y.T:
            best = (np.inf, np.zeros(x.shape[1]))
            for ridge in _RIDGES:
                shrunk = sizes / (sizes**2 + ridge)
                hat = (left * (sizes * shrunk)) @ left.T
                left_out = (column - hat @ column) / (1 - np.diag(hat))
                error = float(np.sqrt(np.mean(left_out**2)))
                if error < best[0]:
                    best = (error, right.T @ (shrunk * (left.T @ column)))
            errors.append(best[0])
            weights.append(best[1])
        self._weights = np.array(weights).T
        self.errors = np.array(errors)

    def __call__(self, summaries: Array) -> Array:
        """Parameters that summaries tell.

        Parameters
        ----------
        summaries
            Shape ``(..., n_summaries)``.

        Returns
        -------
        ndarray
            Shape ``(..., n_parameters)``.
        """
        told = (summaries - self._mean) / self._std @ self._weights + self._centre
        return np.asarray(told)


class TrainingChecks:
    """Collects made fields and simulations, and scores them against a training set.

    Parameters
    ----------
    training_set
        What the model was trained on.
    method
        Whose fields.

    Raises
    ------
    DatasetError
        If the training set is not usable or holds no matter in boxes.
    """

    def __init__(self, training_set: str | os.PathLike[str], method: str) -> None:
        self.method = method
        with TrainingSet.open(training_set, verify=False) as data:
            if "matter" not in data.fields or data.n_dim != 3:
                raise DatasetError(f"{training_set} holds no boxes of matter")
            self.box_size, self.n_cells = data.box_size, data.n_cells
            channel = data.fields.index("matter")
            self.names = [name for name in _READ if name in data.space.names]
            columns = [data.space.names.index(name) for name in self.names]
            summaries, values = defaultdict(list), defaultdict(list)
            fields = defaultdict(list)
            for index in data.indices("train"):
                _, target, parameters, _ = data.sample(int(index))
                z = round(float(data.redshifts[index]), 4)
                field = np.asarray(target[channel], float)
                summaries[z].append(summary(field, self.box_size))
                values[z].append(parameters[columns])
                fields[z].append(_coarse_log(field))
        self._regressors = {
            z: ParameterRegressor(np.array(rows), np.array(values[z]))
            for z, rows in summaries.items()
            if len(rows) > _FEWEST
        }
        self._lowest = min(fields)
        self._references = np.array(fields[self._lowest])
        self._told: dict[float, list[tuple[str, Array, Array]]] = defaultdict(list)
        self._likened: dict[str, tuple[Array, Array]] = {}

    def add(
        self, run: str, redshift: float, truth: Array, made: Array, box_size: float
    ) -> None:
        """Take in one snapshot.

        Parameters
        ----------
        run
            The simulation.
        redshift
            Of the snapshot.
        truth, made
            Matter density over its mean, shape ``(n, n, n)``.
        box_size
            Comoving side [Mpc/h]; boxes of another size than the training set's are
            left out.
        """
        if len(truth) != self.n_cells or abs(box_size / self.box_size - 1) > 1e-4:
            return
        z = round(redshift, 4)
        if z in self._regressors:
            true, own = (
                self._regressors[z](summary(np.asarray(each, float), box_size))
                for each in (truth, made)
            )
            self._told[z].append((run, true, own))
        if z == self._lowest:
            self._likened[run] = (_coarse_log(truth), _coarse_log(made))

    def scores(self) -> list[Score]:
        """Numbers of the scorecard.

        Returns
        -------
        list of Score
            For each redshift and parameter how far the slope of what is read off made
            fields, against what is read off the simulations of the same phases, is from
            1; the largest bias over the regressor's own error; how far the ratio of the
            distances to the nearest training field, made over simulated, is from 1, and
            that of the distances of all pairs.
        """
        result = []
        for z, rows in self._told.items():
            if len(rows) < _FEWEST:
                continue
            true, made = (np.array([row[i] for row in rows]) for i in (1, 2))
            for i, name in enumerate(self.names):
                slope = np.polyfit(true[:, i], made[:, i], 1)[0]
                bias = (made[:, i] - true[:, i]).mean() / self._regressors[z].errors[i]
                off = abs(float(slope) - 1)
                result.append(self._score(f"M9 slope of {name}", z, off, 0.05))
                result.append(
                    self._score(f"M9 bias of {name} / error", z, abs(float(bias)), None)
                )
        if len(self._likened) >= _FEWEST:
            result += self._likeness()
        return result

    def _likeness(self) -> list[Score]:
        true, made = (
            np.array([pair[i] for pair in self._likened.values()]) for i in (0, 1)
        )
        nearest = [
            nearest_neighbour_distance(each, self._references).distance.mean()
            for each in (made, true)
        ]
        spread = [diversity(each).mean for each in (made, true)]
        return [
            self._score(
                "M12 distance to training, made / true",
                self._lowest,
                abs(float(nearest[0] / nearest[1]) - 1),
                0.05,
            ),
            self._score(
                "M11 distance of pairs, made / true",
                self._lowest,
                abs(float(spread[0] / spread[1]) - 1),
                0.05,
            ),
        ]

    def _score(self, metric: str, z: float, value: float, bar: float | None) -> Score:
        count = len(self._told.get(z, ())) or len(self._likened)
        return Score.judged(metric, (self.method, "matter", z), value, bar, count)


def _coarse_log(field: Array) -> Array:
    """Logarithm of the density, averaged over cells to a grid of at most 32^3."""
    field = np.asarray(field, float)
    n = len(field)
    step = max(1, n // _COARSE)
    if n % step == 0 and step > 1:
        m = n // step
        field = field.reshape(m, step, m, step, m, step).mean((1, 3, 5))
    return np.log(np.maximum(field / field.mean(), 0.01))
