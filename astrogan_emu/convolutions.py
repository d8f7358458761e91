"""Convolutions on a torus, in the memory layout and with the memory that they like.

Kernels of an odd number of cells, and changes of the resolution by two. Where gradients
are wanted all is differentiable, twice; where not, a large field is worked through part
by part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .stencils import even_pieces

__all__ = ["Operation", "channels_last", "convolve", "cut", "double", "halve", "parts"]

Operation = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Of field, weight, bias and number of groups of channels."""

# Cells that are made at once where no gradient is wanted.
_PART = 1 << 18


def channels_last(x: Tensor) -> Tensor:
    """Memory layout in which convolutions are fast."""
    return x.contiguous(memory_format=_layout(x))


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last_3d if x.ndim == 5 else torch.channels_last


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """A field that is not yet filled, in that layout."""
    return torch.empty(
        tuple(shape), dtype=like.dtype, device=like.device, memory_format=_layout(like)
    )


def cut(x: Tensor, part: Sequence[slice]) -> Tensor:
    """A view of part of a field of shape ``(batch, channels, n, ...)``."""
    where: Any = (..., *part)
    return x[where]


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    return cast(Tensor, function.apply(*arguments))


class _Halves:
    """Parts of a field that are convolved as if they were samples of a batch.

    A single sample is two: of one with few channels PyTorch's convolution takes ten
    times as long on a processor. Two halves along the first axis lie in memory as one
    sample does, so that taking them together costs nothing.
    """

    def __init__(self, part: Sequence[slice], batch: int) -> None:
        self.batch = batch
        first, *others = part
        length = first.stop - first.start
        middle = first.start + length // 2
        self.parts = [(first, *others)]
        if batch == 1 and length % 2 == 0:
            self.parts = [
                (slice(first.start, middle), *others),
                (slice(middle, first.stop), *others),
            ]

    @classmethod
    def of(cls, x: Tensor) -> _Halves:
        """Those of a whole field."""
        return cls([slice(0, n) for n in x.shape[2:]], len(x))

    def padded(self, x: Tensor, reach: int) -> Tensor:
        """They, with more around each, as far as a kernel reaches on the torus."""
        size = [own.stop - own.start + 2 * reach for own in self.parts[0]]
        result = _empty((len(self.parts) * self.batch, x.shape[1], *size), x)
        for one, there, here in self._pieces(result, x, reach):
            cut(one, there).copy_(cut(x, here))
        return result

    def folded(self, padded: Tensor, reach: int, sides: Sequence[int]) -> Tensor:
        """The transpose of `padded`: what lies beyond is added where it came from."""
        result = _empty((self.batch, padded.shape[1], *sides), padded).zero_()
        for one, there, here in self._pieces(padded, result, reach):
            cut(result, here).add_(cut(one, there))
        return result

    def _pieces(self, padded: Tensor, x: Tensor, reach: int) -> Iterator[Any]:
        """A half in `padded`, and where a run of its cells is in that and in `x`."""
        for one, part in zip(padded.split(self.batch), self.parts, strict=True):
            runs = [
                _runs(own, reach, n) for own, n in zip(part, x.shape[2:], strict=True)
            ]
            for pieces in product(*runs):
                yield one, *zip(*pieces, strict=True)

    def together(self, made: Tensor) -> Tensor:
        """What was made of the halves, as of the whole."""
        if len(self.parts) == 1:
            return made
        last = channels_last(made).movedim(1, -1)
        return last.reshape(self.batch, -1, *last.shape[2:]).movedim(-1, 1)


def _runs(own: slice, reach: int, n: int) -> list[tuple[slice, slice]]:
    """Where runs of cells go to, and where they are on a torus of n cells."""
    runs = []
    at, end = own.start - reach, own.stop + reach
    while at < end:
        start = at % n
        count = min(n - start, end - at)
        to = at - own.start + reach
        runs.append((slice(to, to + count), slice(start, start + count)))
        at += count
    return runs


class _Wrap(torch.autograd.Function):
    """Periodic padding of all spatial axes by a number of cells, of `_Halves`.

    The result lies in memory as convolutions want it, which that of PyTorch's own does
    not.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, reach: int) -> Tensor:
        ctx.reach, ctx.sides, ctx.halves = reach, x.shape[2:], _Halves.of(x)
        return cast(Tensor, ctx.halves.padded(x, reach))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _apply(_Fold, gradient, ctx.reach, ctx.sides, ctx.halves), None


class _Fold(torch.autograd.Function):
    """The transpose of `_Wrap`."""

    @staticmethod
    def forward(
        ctx: Any, padded: Tensor, reach: int, sides: Sequence[int], halves: _Halves
    ) -> Tensor:
        ctx.reach = reach
        return halves.folded(padded, reach, sides)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _apply(_Wrap, gradient, ctx.reach), None, None, None


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1
) -> Tensor:
    """Convolution on a torus, with an odd kernel."""
    reach = weight.shape[-1] // 2
    x = channels_last(x)
    if reach == 0 and groups == 1:
        # A quarter of a convolution's time.
        return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
    operation = F.conv3d if x.ndim == 5 else F.conv2d
    if torch.is_grad_enabled():
        made = operation(_apply(_Wrap, x, reach), weight, bias, groups=groups)
        return _Halves.of(x).together(made)

    def make(part: Sequence[slice]) -> Tensor:
        halves = _Halves(part, len(x))
        padded = halves.padded(x, reach)
        return halves.together(operation(padded, weight, bias, groups=groups))

    return _in_parts(make, x.shape[2:])


def parts(sides: Sequence[int], cells: int = 1) -> Iterator[tuple[slice, ...]]:
    """Parts of a field that are best worked through one after the other.

    They are long along the first axis and alike along the others, so that little lies
    around them, and so small that what is made of them stays in a processor's cache.

    Parameters
    ----------
    sides
        Of the field along each axis.
    cells
        That are made of each of its cells.
    """
    room = _PART // cells
    first, *others = sides
    most = list(sides)
    if math.prod(sides) > room:
        side = max(1, int((room / first) ** (1 / len(others))))
        most = [first] + [side] * len(others)
    return product(*map(even_pieces, sides, most))


def _in_parts(
    make: Callable[[Sequence[slice]], Tensor], sides: Sequence[int], finer: int = 1
) -> Tensor:
    """Make a field part by part, so that little is copied at once.

    Without it there would be the whole field, padded, and what the convolution itself
    puts aside. For each cell of these sides the result has `finer` along each axis.
    """
    pieces = list(parts(sides, finer ** len(sides)))
    if len(pieces) == 1:
        return make(pieces[0])
    whole: Tensor | None = None
    for piece in pieces:
        made = make(piece)
        if whole is None:
            whole = _empty((*made.shape[:2], *(finer * n for n in sides)), made)
        cut(whole, _scaled(piece, finer)).copy_(made)
    return cast(Tensor, whole)


def _scaled(part: Sequence[slice], times: int) -> list[slice]:
    """The same part of a field with that many times the cells along each axis."""
    return [slice(times * own.start, times * own.stop) for own in part]


def halve(x: Tensor, weight: Tensor, bias: Tensor, groups: int = 1) -> Tensor:
    """Each block of 2 cells a side to one cell, with a kernel of 2 cells a side."""
    operation = F.conv3d if x.ndim == 5 else F.conv2d
    x = channels_last(x)

    if torch.is_grad_enabled():
        return operation(x, weight, bias, stride=2, groups=groups)

    def make(part: Sequence[slice]) -> Tensor:
        own = channels_last(cut(x, _scaled(part, 2)))
        return operation(own, weight, bias, stride=2, groups=groups)

    return _in_parts(make, [n // 2 for n in x.shape[2:]])


def double(x: Tensor, weight: Tensor, bias: Tensor, groups: int = 1) -> Tensor:
    """Each cell to a block of 2 cells a side, the transpose of `halve`."""
    x = channels_last(x)
    if torch.is_grad_enabled():
        operation = F.conv_transpose3d if x.ndim == 5 else F.conv_transpose2d
        # A transposed convolution has its channels the other way round.
        turned = torch.cat([part.transpose(0, 1) for part in weight.chunk(groups)])
        return operation(x, turned, bias, stride=2, groups=groups)

    def make(part: Sequence[slice]) -> Tensor:
        fields, kernels, shifts = (
            each.chunk(groups, channels)
            for each, channels in ((cut(x, part), 1), (weight, 0), (bias, 0))
        )
        return torch.cat(list(map(_blocks, fields, kernels, shifts)), 1)

    return _in_parts(make, x.shape[2:], finer=2)


def _blocks(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A block of each cell, by a product of matrices.

    Without gradients that is a third of the time of a transposed convolution.
    """
    n_dim, n_out = x.ndim - 2, len(bias)
    matrix = weight.movedim((0, 1), (-2, -1)).flatten(0, -2)
    made = F.linear(x.movedim(1, -1), matrix, bias.repeat(2**n_dim))
    made = made.unflatten(-1, (*(2,) * n_dim, n_out))
    # Cells of a block beside the block's own place, axis by axis.
    order = [axis for i in range(1, 1 + n_dim) for axis in (i, i + n_dim)]
    made = made.permute(0, *order, -1)
    shape = (len(x), *(2 * n for n in x.shape[2:]), n_out)
    return made.reshape(shape).movedim(-1, 1)
