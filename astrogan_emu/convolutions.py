"""Convolutions on a torus, in the memory layout and with the memory that they like.

Kernels of an odd number of cells, and changes of the resolution by two. Where gradients
are wanted all is differentiable, twice; where not, a large field is worked through slab
by slab.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Operation", "channels_last", "convolve", "double", "halve", "slabs"]

Operation = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Of field, weight, bias and number of groups of channels."""

# Cells that are made at once where no gradient is wanted.
_SLAB = 1 << 19


def channels_last(x: Tensor) -> Tensor:
    """Memory layout in which convolutions are fast."""
    if x.ndim == 5:
        return x.contiguous(memory_format=torch.channels_last_3d)
    return x.contiguous(memory_format=torch.channels_last)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    return cast(Tensor, function.apply(*arguments))


def _padded(x: Tensor, reach: int, first: int, last: int) -> Tensor:
    """Planes of a periodic field, with more around them, as far as a kernel reaches."""
    x = channels_last(x)
    length, planes = last - first + 2 * reach, x.shape[2]
    shape = [*x.shape[:2], length, *(n + 2 * reach for n in x.shape[3:])]
    layout = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
    result = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    inner = result
    for axis in range(3, x.ndim):
        inner = inner.narrow(axis, reach, x.shape[axis])
    done = 0
    while done < length:
        start = (first - reach + done) % planes
        count = min(planes - start, length - done)
        inner.narrow(2, done, count).copy_(x.narrow(2, start, count))
        done += count
    for axis in range(3, x.ndim):
        n = x.shape[axis]
        low, high = (result.narrow(axis, at, reach) for at in (0, n + reach))
        low.copy_(result.narrow(axis, n, reach))
        high.copy_(result.narrow(axis, reach, reach))
    return result


class _Wrap(torch.autograd.Function):
    """Periodic padding of all spatial axes by a number of cells.

    The result lies in memory as convolutions want it, which that of PyTorch's own does
    not.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, reach: int) -> Tensor:
        ctx.reach = reach
        return _padded(x, reach, 0, x.shape[2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _apply(_Fold, gradient, ctx.reach), None


class _Fold(torch.autograd.Function):
    """The transpose of `_Wrap`: what lies beyond a face is added where it came from."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, reach: int) -> Tensor:
        ctx.reach = reach
        result = padded
        for axis in range(2, padded.ndim):
            n = padded.shape[axis] - 2 * reach
            inner = result.narrow(axis, reach, n).clone()
            inner.narrow(axis, n - reach, reach).add_(result.narrow(axis, 0, reach))
            inner.narrow(axis, 0, reach).add_(result.narrow(axis, n + reach, reach))
            result = inner
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _apply(_Wrap, gradient, ctx.reach), None


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1
) -> Tensor:
    """Convolution on a torus, with an odd kernel."""
    reach = weight.shape[-1] // 2
    operation = F.conv3d if x.ndim == 5 else F.conv2d
    x = channels_last(x)

    def planes(first: int, last: int) -> Tensor:
        own = x.narrow(2, first, last - first)
        if reach:
            own = _padded(x, reach, first, last)
        return operation(own, weight, bias, groups=groups)

    if torch.is_grad_enabled():
        wrapped = _apply(_Wrap, x, reach) if reach else x
        return operation(wrapped, weight, bias, groups=groups)
    return _in_slabs(planes, x.shape[2], x.shape[2:])


def slabs(length: int, sides: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last plane of pieces of a field, in units of which there are `length`.

    Parameters
    ----------
    length
        Of the field along its first axis.
    sides
        Cells that the field has along each axis.
    """
    step = max(1, _SLAB * length // math.prod(sides))
    for first in range(0, length, step):
        yield first, min(first + step, length)


def _in_slabs(
    planes: Callable[[int, int], Tensor], length: int, sides: Sequence[int]
) -> Tensor:
    """Make a field piece by piece, so that little is copied at once.

    Without it there would be the whole field, padded, and what the convolution itself
    puts aside.
    """
    pieces = list(slabs(length, sides))
    if len(pieces) == 1:
        return planes(*pieces[0])
    whole: Tensor | None = None
    for first, last in pieces:
        part = planes(first, last)
        # Of the result, for each of what the pieces are counted in.
        depth = part.shape[2] // (last - first)
        if whole is None:
            shape = [*part.shape[:2], length * depth, *part.shape[3:]]
            layout = torch.channels_last_3d if part.ndim == 5 else torch.channels_last
            whole = torch.empty(
                shape, dtype=part.dtype, device=part.device, memory_format=layout
            )
        whole.narrow(2, first * depth, part.shape[2]).copy_(part)
    return cast(Tensor, whole)


def halve(x: Tensor, weight: Tensor, bias: Tensor, groups: int = 1) -> Tensor:
    """Each block of 2 cells a side to one cell, with a kernel of 2 cells a side."""
    operation = F.conv3d if x.ndim == 5 else F.conv2d
    x = channels_last(x)

    def planes(first: int, last: int) -> Tensor:
        own = x.narrow(2, 2 * first, 2 * (last - first))
        return operation(own, weight, bias, stride=2, groups=groups)

    if torch.is_grad_enabled():
        return planes(0, x.shape[2] // 2)
    return _in_slabs(planes, x.shape[2] // 2, x.shape[2:])


def double(x: Tensor, weight: Tensor, bias: Tensor, groups: int = 1) -> Tensor:
    """Each cell to a block of 2 cells a side, the transpose of `halve`."""
    operation = F.conv_transpose3d if x.ndim == 5 else F.conv_transpose2d
    # A transposed convolution has its channels the other way round.
    parts = weight.chunk(groups)
    turned = torch.cat([part.transpose(0, 1) for part in parts])
    x = channels_last(x)

    def planes(first: int, last: int) -> Tensor:
        own = x.narrow(2, first, last - first)
        return operation(own, turned, bias, stride=2, groups=groups)

    if torch.is_grad_enabled():
        return planes(0, x.shape[2])
    return _in_slabs(planes, x.shape[2], [2 * n for n in x.shape[2:]])
