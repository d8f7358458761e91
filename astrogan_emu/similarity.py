"""Whether fields repeat each other: memorised training data, and lack of variety.

Fields are compared over every periodic shift, by Fourier transform, and every mirror
image, as a network that has learnt these symmetries could hide a copy behind one. Give
fields in which no few cells dominate, such as the logarithm of a density.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations, permutations
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import GridError
from .periodic import Field, PeriodicField

__all__ = ["Diversity", "Neighbours", "diversity", "nearest_neighbour_distance"]


class Neighbours(NamedTuple):
    """The reference most like each sample.

    Parameters
    ----------
    distance
        Root of the summed squared difference of the two fields, divided by that of
        unrelated ones: 0 for a copy, about 1 for no likeness. Shape ``(n_samples,)``.
    reference
        Number of that reference, shape ``(n_samples,)``.
    """

    distance: NDArray[np.float64]
    reference: NDArray[np.int64]


class Diversity(NamedTuple):
    """How much samples differ from each other.

    Parameters
    ----------
    mean
        Mean distance of all pairs, as in `Neighbours`.
    minimum
        Distance of the most similar pair; 0 if a sample occurs twice.
    pairs
        Distance of each pair (0, 1), (0, 2), ..., (1, 2), ...
    """

    mean: float
    minimum: float
    pairs: NDArray[np.float64]


def nearest_neighbour_distance(
    samples: Field,
    references: Field,
    *,
    transposed: bool = False,
    n_dim: int | None = None,
) -> Neighbours:
    """Find the reference most like each sample, over shifts and mirror images.

    Compare the distances of emulated fields to the training set and to a test set of
    equal size: a ratio well below one says that training data were memorised.

    Parameters
    ----------
    samples
        Shape ``(n_samples, n, n[, n])``; one alone may leave out the first axis.
    references
        Shape ``(n_references, n, n[, n])``.
    transposed
        Compare with the axes in every order too, six times as many images in three
        dimensions.
    n_dim
        Two or three, needed only for a stack of n maps of n x n cells.

    Returns
    -------
    Neighbours
        `distance`, `reference`; always as arrays.

    Raises
    ------
    GridError
        If fields are no periodic squares or cubes, have more than one leading axis,
        differ in their number of cells, or are constant.
    """
    own, other = _stack(samples, n_dim), _stack(references, n_dim)
    if own.shape[1:] != other.shape[1:]:
        raise GridError(
            f"samples of shape {tuple(own.shape[1:])} cannot be compared with "
            f"references of shape {tuple(other.shape[1:])}"
        )
    distances = torch.stack([_distances(own, field, transposed) for field in other])
    nearest = distances.min(dim=0)
    return Neighbours(
        nearest.values.cpu().double().numpy(), nearest.indices.cpu().numpy()
    )


def diversity(
    samples: Field, *, transposed: bool = False, n_dim: int | None = None
) -> Diversity:
    """Distances between all pairs of samples, over shifts and mirror images.

    Parameters
    ----------
    samples
        At least two, shape ``(n_samples, n, n[, n])``.
    transposed, n_dim
        As in `nearest_neighbour_distance`.

    Returns
    -------
    Diversity
        `mean`, `minimum`, `pairs`.

    Raises
    ------
    GridError
        As `nearest_neighbour_distance`, and if there is only one sample.
    """
    fields = _stack(samples, n_dim)
    if len(fields) < 2:
        raise GridError("diversity needs at least two samples, got one")
    pairs = torch.cat(
        [
            _distances(fields[i + 1 :], fields[i], transposed)
            for i in range(len(fields) - 1)
        ]
    )
    distances = pairs.cpu().double().numpy()
    return Diversity(float(distances.mean()), float(distances.min()), distances)


def _stack(fields: Field, n_dim: int | None) -> Tensor:
    """Contrasts of unit summed square, shape ``(n_fields, n, n[, n])``."""
    # The size of the box does not matter to likeness.
    opened = PeriodicField.of(fields, None if hasattr(fields, "grid") else 1.0, n_dim)
    leading = opened.values.ndim - opened.n_dim
    if leading > 1:
        raise GridError(
            f"fields of shape {tuple(opened.values.shape)} have {leading} leading "
            "axes; give one, the number of the field"
        )
    contrast = opened.contrast(relative=False).detach()
    if leading == 0:
        contrast = contrast[None]
    if bool((contrast.flatten(1).square().sum(1) == 0).any()):
        raise GridError("a constant field has no likeness to any other; leave it out")
    return contrast


def _distances(fields: Tensor, reference: Tensor, transposed: bool) -> Tensor:
    """Distance of each field to the closest image of a reference."""
    axes = tuple(range(1, fields.ndim))
    size = tuple(reference.shape)
    modes = torch.fft.rfftn(fields, dim=axes)
    best = torch.full(fields.shape[:1], -torch.inf).to(fields)
    for image in _images(reference, transposed):
        likeness = modes * torch.fft.rfftn(image).conj()
        overlap = torch.fft.irfftn(likeness, s=size, dim=axes).flatten(1).amax(1)
        best = torch.maximum(best, overlap)
    squares = fields.square().sum(axes) + reference.square().sum()
    return (1 - 2 * best / squares).clamp(min=0).sqrt()


def _images(field: Tensor, transposed: bool) -> Iterator[Tensor]:
    """The field and its mirror images, with its axes in every order if asked."""
    axes = range(field.ndim)
    flips = list(
        chain.from_iterable(combinations(axes, r) for r in range(len(axes) + 1))
    )
    for order in permutations(axes) if transposed else [tuple(axes)]:
        turned = field.permute(order)
        for flip in flips:
            yield turned.flip(flip)
