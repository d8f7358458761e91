"""Few simulations and many emulated fields, combined into one unbiased mean.

The emulated fields of the same phases as the simulations share their chance
fluctuations. What the emulator's own mean over many more fields shows to be chance is
taken off the mean of the simulations. Any bias of the emulator cancels; what it gets
wrong only makes the gain smaller. Nothing here knows about fields: statistics come in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ParameterError

__all__ = ["CarpoolEstimate", "carpool"]

FloatArray = NDArray[np.float64]

# With fewer pairs the slope of a line through the others has no finite variance.
_LEAST_PAIRS = 5


@dataclass(frozen=True)
class CarpoolEstimate:
    """A mean by control variates.

    Parameters
    ----------
    mean
        Unbiased estimate of the mean over simulations, of the statistic's shape.
    error
        Its standard error.
    variance_reduction
        Variance of the plain mean of the simulations over `error` squared: how many
        times more simulations the plain mean would need.
    coefficient
        The control coefficient: the statistic's shape, or ``(n, n)`` if it is full.
    simulation_mean, simulation_error
        Plain mean of the simulations, and its standard error.
    n_simulations, n_emulated
        Number of pairs, and of further emulated fields.
    """

    mean: FloatArray
    error: FloatArray
    variance_reduction: FloatArray
    coefficient: FloatArray
    simulation_mean: FloatArray
    simulation_error: FloatArray
    n_simulations: int
    n_emulated: int


def carpool(
    simulated: ArrayLike,
    emulated: ArrayLike,
    emulated_more: ArrayLike,
    *,
    coefficient: Literal["diagonal", "full"] | ArrayLike = "diagonal",
) -> CarpoolEstimate:
    """Mean of a statistic over simulations, by control variates (CARPOOL).

    Estimates ``<y> = mean(y - beta (c - mean(c')))`` for statistics y of simulations, c
    of emulated fields of the same phases, and c' of further emulated fields (Chartier
    et al. 2021, MNRAS 503, 1897, equations 6 to 13). The diagonal coefficient is
    ``cov(y, c) / var(c) * M / (M + N)``, which is the best one when the mean of c' has
    an error of its own.

    Parameters
    ----------
    simulated
        Statistic of N simulations, shape ``(N, ...)``.
    emulated
        The same statistic of emulated fields with the same initial conditions and
        parameters, in the same order and shape.
    emulated_more
        The same statistic of M more emulated fields, shape ``(M, ...)``, of other
        seeds: none may be among `emulated`.
    coefficient
        ``"diagonal"``: one per number of the statistic, from the pairs. ``"full"``: a
        matrix over all of them, which needs many more pairs than numbers. Or given: a
        number or an array of the statistic's shape, such as 1, which needs only two
        pairs.

    Returns
    -------
    CarpoolEstimate
        Mean, standard error, variance reduction.

    Raises
    ------
    ParameterError
        If the shapes do not belong together, a number is not finite, or there are too
        few pairs or further fields.

    Notes
    -----
    A coefficient fitted to the same pairs that it corrects would bias the mean where
    the statistic is not Gaussian. Each pair is therefore corrected with the coefficient
    of the others, which leaves no bias for any distribution.
    """
    y, c, more, shape = _checked(simulated, emulated, emulated_more)
    n, m = len(y), len(more)
    shrink = m / (m + n)
    each: FloatArray
    full = False
    if isinstance(coefficient, str):
        if coefficient not in ("diagonal", "full"):
            raise ParameterError(
                f"coefficient = {coefficient!r} is unknown; give 'diagonal', 'full', "
                "a number or an array"
            )
        full = coefficient == "full"
        least = max(_LEAST_PAIRS, y.shape[1] + 4 if full else 0)
        if n < least:
            raise ParameterError(
                f"a {coefficient} coefficient needs at least {least} pairs, got {n}; "
                "give more, or a coefficient such as 1"
            )
        beta, each = _fit_full(y, c) if full else _fit_diagonal(y, c)
        beta, each = shrink * beta, shrink * each
    else:
        beta = _given(coefficient, shape)
        each = np.broadcast_to(beta, y.shape)

    # The standard error has two sources: the pairs, and the mean of the further fields.
    off = c - more.mean(axis=0)
    by_pair = np.einsum("ijk,ik->ij", each, off) if full else each * off
    corrected = y - by_pair
    spread = more @ beta.T if full else more * beta
    variance = corrected.var(axis=0, ddof=1) / n + spread.var(axis=0, ddof=1) / m
    plain = y.var(axis=0, ddof=1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where nothing varies there is nothing to reduce.
        reduction = np.where(plain == variance, 1.0, plain / variance)
    return CarpoolEstimate(
        mean=corrected.mean(axis=0).reshape(shape),
        error=np.sqrt(variance).reshape(shape),
        variance_reduction=reduction.reshape(shape),
        coefficient=beta if full else beta.reshape(shape),
        simulation_mean=y.mean(axis=0).reshape(shape),
        simulation_error=np.sqrt(plain).reshape(shape),
        n_simulations=n,
        n_emulated=m,
    )


def _checked(
    simulated: ArrayLike, emulated: ArrayLike, emulated_more: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[int, ...]]:
    """The three statistics as matrices, and the shape of one."""
    given = {
        "simulated": simulated,
        "emulated": emulated,
        "emulated_more": emulated_more,
    }
    arrays: dict[str, Any] = {}
    for name, values in given.items():
        try:
            arrays[name] = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"{name} must be an array of numbers") from error
        if arrays[name].ndim == 0 or len(arrays[name]) < 2:
            raise ParameterError(
                f"{name} must hold the statistic of at least two fields, got shape "
                f"{arrays[name].shape}"
            )
        if not np.isfinite(arrays[name]).all():
            raise ParameterError(
                f"{name} holds values that are not finite; leave empty bins out"
            )
    y, c, more = arrays.values()
    if y.shape != c.shape:
        raise ParameterError(
            "simulated and emulated are pairs and must have the same shape, got "
            f"{y.shape} and {c.shape}"
        )
    if more.shape[1:] != y.shape[1:]:
        raise ParameterError(
            "emulated_more must hold the same statistic as the pairs, of shape "
            f"{y.shape[1:]}, got {more.shape[1:]}"
        )
    shape = y.shape[1:]
    return (
        y.reshape(len(y), -1),
        c.reshape(len(c), -1),
        more.reshape(len(more), -1),
        shape,
    )


def _given(coefficient: Any, shape: tuple[int, ...]) -> FloatArray:
    try:
        beta = np.broadcast_to(np.asarray(coefficient, dtype=np.float64), shape)
    except (TypeError, ValueError) as error:
        raise ParameterError(
            "coefficient must be 'diagonal', 'full', a number, or an array of the "
            f"statistic's shape {shape}, got {coefficient!r}"
        ) from error
    if not np.isfinite(beta).all():
        raise ParameterError("coefficient must be finite, got a value that is not")
    return beta.reshape(-1)


def _fit_diagonal(y: FloatArray, c: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slope of each number of y against its own control, shape ``(n_y,)``.

    And the slopes without each of the pairs in turn, shape ``(N, n_y)``.
    """
    dy, dc = y - y.mean(axis=0), c - c.mean(axis=0)
    # Without pair i, a sum of products about the mean is less by this share of its own.
    share = len(y) / (len(y) - 1)
    product, square = (dy * dc).sum(axis=0), (dc * dc).sum(axis=0)
    products, squares = product - share * dy * dc, square - share * dc * dc
    return _ratio(product, square, square), _ratio(products, squares, square)


def _ratio(above: FloatArray, below: FloatArray, whole: FloatArray) -> FloatArray:
    # A control that does not vary, to rounding, says nothing.
    varies = below > 1e-12 * np.broadcast_to(whole, below.shape)
    return np.divide(above, below, out=np.zeros_like(above), where=varies)


def _fit_full(y: FloatArray, c: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Regression of all numbers of y on all controls, shape ``(n_y, n_c)``.

    And the regressions without each of the pairs in turn, shape ``(N, n_y, n_c)``.
    """
    each = [
        _regression(np.delete(y, i, axis=0), np.delete(c, i, axis=0))
        for i in range(len(y))
    ]
    return _regression(y, c), np.stack(each)


def _regression(y: FloatArray, c: FloatArray) -> FloatArray:
    dy, dc = y - y.mean(axis=0), c - c.mean(axis=0)
    return np.asarray(np.linalg.lstsq(dc, dy, rcond=None)[0].T)
