"""Scalings between physical values and the numbers that a network sees.

Every transform is a pair of inverse functions, applied to arrays and tensors alike,
that return new ones. Transforms are values: they compare, and `to_dict` and
`from_dict` carry them through JSON, so a model keeps the ones it was trained with.
Which field gets which transform is decided in `training`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import ParameterError

__all__ = [
    "Affine",
    "Asinh",
    "Compose",
    "Log10",
    "Log1p",
    "TRANSFORMS",
    "Transform",
    "from_dict",
]

Values = TypeVar("Values", NDArray[Any], Tensor)


class Transform(ABC):
    """A function of single values and its inverse.

    Both take an array or a tensor of any shape and return a new one of that shape.
    Values outside the domain give NaN or infinity, by the rules of NumPy or torch.
    """

    @abstractmethod
    def forward(self, values: Values) -> Values:
        """Physical values to what the network sees."""

    @abstractmethod
    def inverse(self, latent: Values) -> Values:
        """Undo `forward`, up to rounding."""

    def to_dict(self) -> dict[str, Any]:
        """Describe the transform in plain types that JSON can hold.

        Returns
        -------
        description
            What `from_dict` takes.
        """
        numbers = {f.name: float(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return {"name": type(self).__name__, **numbers}


def _check(transform: Transform, *, positive: tuple[str, ...]) -> None:
    for name, value in vars(transform).items():
        number = isinstance(value, (int, float, np.floating, np.integer))
        if not number or not math.isfinite(value):
            raise ParameterError(
                f"{name} of {type(transform).__name__} must be a finite number, "
                f"got {value!r}"
            )
        if name in positive and value <= 0:
            raise ParameterError(
                f"{name} of {type(transform).__name__} must be positive, got {value:g}"
            )


def _functions(values: Any) -> Any:
    return torch if isinstance(values, Tensor) else np


@dataclass(frozen=True)
class Log1p(Transform):
    """x -> ln(1 + x / scale), for densities: linear near 0, logarithmic above scale.

    Parameters
    ----------
    scale
        Where the one goes over into the other; positive, in the unit of x. The domain
        is x > -scale.

    Raises
    ------
    ParameterError
        If the scale is not positive and finite.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check(self, positive=("scale",))

    def forward(self, values: Values) -> Values:
        """Physical values to what the network sees."""
        return _functions(values).log1p(values / self.scale)

    def inverse(self, latent: Values) -> Values:
        """Undo `forward`, up to rounding; never below ``-scale``."""
        return self.scale * _functions(latent).expm1(latent)


@dataclass(frozen=True)
class Log10(Transform):
    """x -> log10(x / scale), for values that span decades and are never 0.

    Parameters
    ----------
    scale
        What becomes 0; positive, in the unit of x. The domain is x > 0.

    Raises
    ------
    ParameterError
        If the scale is not positive and finite.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check(self, positive=("scale",))

    def forward(self, values: Values) -> Values:
        """Physical values to what the network sees."""
        return _functions(values).log10(values / self.scale)

    def inverse(self, latent: Values) -> Values:
        """Undo `forward`, up to rounding; never below 0."""
        # A single power of e: 10 ** x in float32 is no more exact, and slower.
        return self.scale * _functions(latent).exp(latent * math.log(10))


@dataclass(frozen=True)
class Asinh(Transform):
    """x -> asinh(x / scale), for values of either sign that span decades.

    Parameters
    ----------
    scale
        Below it the transform is linear, above it logarithmic; positive, in the unit
        of x.

    Raises
    ------
    ParameterError
        If the scale is not positive and finite.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check(self, positive=("scale",))

    def forward(self, values: Values) -> Values:
        """Physical values to what the network sees."""
        return _functions(values).arcsinh(values / self.scale)

    def inverse(self, latent: Values) -> Values:
        """Undo `forward`, up to rounding."""
        return self.scale * _functions(latent).sinh(latent)


@dataclass(frozen=True)
class Affine(Transform):
    """x -> (x - shift) / scale.

    Parameters
    ----------
    shift
        What becomes 0.
    scale
        The distance that becomes 1; not 0.

    Raises
    ------
    ParameterError
        If a number is not finite or the scale is 0.
    """

    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check(self, positive=())
        if self.scale == 0:
            raise ParameterError("scale of Affine must not be 0")

    def forward(self, values: Values) -> Values:
        """Physical values to what the network sees."""
        return (values - self.shift) / self.scale

    def inverse(self, latent: Values) -> Values:
        """Undo `forward`, up to rounding."""
        return latent * self.scale + self.shift


@dataclass(frozen=True)
class Compose(Transform):
    """Several transforms, one after the other; none is the identity.

    Parameters
    ----------
    steps
        In the order in which `forward` applies them.

    Raises
    ------
    ParameterError
        If a step is no transform.
    """

    steps: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        for step in self.steps:
            if not isinstance(step, Transform):
                raise ParameterError(f"Compose takes transforms, got {step!r}")

    def forward(self, values: Values) -> Values:
        """Physical values to what the network sees."""
        if not self.steps:
            return _functions(values).asarray(values) + 0
        for step in self.steps:
            values = step.forward(values)
        return values

    def inverse(self, latent: Values) -> Values:
        """Undo `forward`, up to rounding."""
        if not self.steps:
            return _functions(latent).asarray(latent) + 0
        for step in reversed(self.steps):
            latent = step.inverse(latent)
        return latent

    def to_dict(self) -> dict[str, Any]:
        """Describe the transform in plain types that JSON can hold."""
        return {"name": "Compose", "steps": [step.to_dict() for step in self.steps]}


TRANSFORMS: dict[str, type[Transform]] = {
    each.__name__: each for each in (Affine, Asinh, Compose, Log10, Log1p)
}
"""The transforms by name, as they are named in files."""


def from_dict(description: Mapping[str, Any]) -> Transform:
    """Make the transform that `Transform.to_dict` described.

    Parameters
    ----------
    description
        ``{"name": "Log1p", "scale": 1.0}``, or ``{"name": "Compose", "steps": [...]}``.

    Returns
    -------
    transform
        The transform.

    Raises
    ------
    ParameterError
        There is no transform of that name, or it does not take these numbers.
    """
    name = description.get("name") if isinstance(description, Mapping) else None
    if not isinstance(name, str) or name not in TRANSFORMS:
        raise ParameterError(
            "a transform is described by a name, one of "
            f"{', '.join(TRANSFORMS)}, and its numbers; got {description!r}"
        )
    numbers = {key: value for key, value in description.items() if key != "name"}
    kind = TRANSFORMS[name]
    try:
        if kind is Compose:
            numbers["steps"] = tuple(from_dict(step) for step in numbers["steps"])
        return kind(**numbers)
    except (KeyError, RecursionError, TypeError) as error:
        raise ParameterError(
            f"{description!r} does not describe a transform {name}: {error}"
        ) from error
