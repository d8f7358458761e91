"""Counter-based Gaussian random numbers: a value depends on its seed and place alone.

Each number is a hash of (seed, stream, index), so a field is the same for any tiling,
batch size, device or thread count, and a mode of a box is the same at any resolution.
Statistics of fields live elsewhere: everything here has unit variance.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import ParameterError

__all__ = ["cell_noise", "white_noise_modes", "whole_seed"]


def whole_seed(seed: Any) -> int:
    """A seed as a Python integer.

    Raises
    ------
    ParameterError
        If it is not a whole number.
    """
    try:
        whole = not isinstance(seed, bool) and int(seed) == seed
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ParameterError(f"seed must be a whole number, got {seed!r}")
    return int(seed)


def _signed(value: int) -> int:
    """A 64-bit pattern as torch's signed integer."""
    value = operator.index(value) & ((1 << 64) - 1)
    return value - (1 << 64) if value >> 63 else value


# Numbers made at once; a multiple of what one call of a vector unit makes.
_BLOCK = 1 << 21

# Weyl increment and finaliser multipliers of splitmix64 (Steele, Lea & Flood 2014).
_WEYL = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's own repeats the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The splitmix64 finaliser, a bijection of 64-bit integers."""
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIERS[0]
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIERS[1]
    return x ^ _shift_right(x, 31)


def _hash(seed: int, stream: int, axes: Sequence[Tensor]) -> Tensor:
    """64-bit hashes on the outer product of index axes, shape ``(len(axis), ...)``."""
    state = torch.tensor(_signed(seed), device=axes[0].device)
    for value in (torch.tensor(stream, device=axes[0].device), *axes):
        # A chain of mixes: the full grid is only touched by the last axis.
        state = _mix(state.unsqueeze(-1) + (value + 1) * _WEYL)
        state = state.squeeze(-1) if value.ndim == 0 else state
    return state


def _uniform_pair(bits: Tensor) -> tuple[Tensor, Tensor]:
    """Two uniforms in (0, 1), float64, from the halves of each hash."""
    scale = 2.0**-32
    low = bits & 0xFFFFFFFF
    return (_shift_right(bits, 32).double() + 0.5) * scale, (low.double() + 0.5) * scale


def white_noise_modes(
    seed: int,
    n_cells: int,
    *,
    fixed: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Fourier modes of real white noise, keyed on their mode numbers.

    Parameters
    ----------
    seed
        Any integer, taken modulo 2^64.
    n_cells
        Cells per side of the grid.
    fixed
        Set every amplitude to one and keep the random phases
        (Angulo & Pontzen 2016).
    dtype
        Of the real and imaginary parts; float32 rounds the values of float64.
    device
        Where the modes are made.

    Returns
    -------
    Tensor
        Complex, shape ``(n_cells, n_cells, n_cells // 2 + 1)``, laid out as by
        `torch.fft.rfftn`; each has ``<|g|^2>`` = 1 and the Hermitian symmetry of a real
        field. A mode below both Nyquist frequencies is identical at any `n_cells`.
    """
    full = torch.arange(n_cells, device=device)
    signed = torch.where(full > n_cells // 2, full - n_cells, full)
    half = torch.arange(n_cells // 2 + 1, device=device)

    def polar(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        u, v = _uniform_pair(_hash(seed, 0, (first, signed, last)))
        amplitude = torch.ones_like(u) if fixed else torch.sqrt(-torch.log(u))
        return amplitude, 2 * math.pi * v

    modes = torch.empty(
        (n_cells, n_cells, len(half)), dtype=dtype.to_complex(), device=device
    )
    at = 0
    for part in signed.split(_planes(n_cells * len(half))):
        modes[at : at + len(part)] = torch.polar(*polar(part, half))
        at += len(part)

    mirror = torch.remainder(-full, n_cells)
    key = signed[:, None] * (2 * n_cells) + signed[None, :]
    mirrored_key = key[mirror][:, mirror]
    planes = [0] if n_cells % 2 else [0, n_cells // 2]
    for plane in planes:
        values = modes[:, :, plane]
        image = values[mirror][:, mirror].conj()
        values = torch.where(key > mirrored_key, values, image)
        # Modes that are their own mirror image must be real, with unit variance.
        amplitude, phase = (x[..., 0] for x in polar(signed, half[plane : plane + 1]))
        real = math.sqrt(2) * amplitude * torch.cos(phase)
        if fixed:
            real = torch.sign(torch.cos(phase))
        own_image = key == mirrored_key
        modes[:, :, plane] = torch.where(own_image, real.to(values.dtype), values)
    return modes


def _planes(size: int) -> int:
    """How many planes of a grid, of `size` cells each, are made at once.

    The whole numbers behind them take several times the room of the result.
    """
    return max(1, _BLOCK // size)


def cell_noise(
    seed: int,
    stream: int,
    n_cells: int,
    *,
    n_dim: int = 3,
    start: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """White noise in real space, keyed on the cell, for any periodic window of a grid.

    Parameters
    ----------
    seed, stream
        The field's seed and the number of the stream within it.
    n_cells
        Cells per side of the whole periodic grid.
    n_dim
        Dimensions of the grid.
    start, shape
        First cell and size of the window per axis; the whole grid if not given.
    device
        Where the noise is made.

    Returns
    -------
    Tensor
        Float32, unit variance, of the window's shape.
    """
    start = [0] * n_dim if start is None else start
    shape = [n_cells] * n_dim if shape is None else shape
    axes = [
        torch.remainder(torch.arange(first, first + size, device=device), n_cells)
        for first, size in zip(start, shape, strict=True)
    ]
    result = torch.empty(tuple(shape), device=device)
    at = 0
    for part in axes[0].split(_planes(math.prod(shape[1:]))):
        # Streams of modes and of cells must not meet.
        u, v = _uniform_pair(_hash(seed, stream + 1, (part, *axes[1:])))
        values = torch.sqrt(-2 * torch.log(u)) * torch.cos(2 * math.pi * v)
        result[at : at + len(part)] = values
        at += len(part)
    return result
