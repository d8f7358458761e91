"""Losses of the conditional GAN on Fourier modes: power, phases, triangles of modes.

All of them, and smoothed fields besides, are made from one transform of a field. As in
`losses`, several draws of each sample may be compared with it at once: the first draw
of every sample, then the second, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from .generators import gaussian_window

__all__ = [
    "Modes",
    "bispectrum_loss",
    "cross_loss",
    "decorrelation_loss",
    "mode_score",
    "power_loss",
]

# Of the square of a mode, so that an empty field has a logarithm and a root.
_TINY = 1e-30
# Partial sums of each shell: GPU threads that add to one number wait for each other.
_PARTS = 64
# Of the Nyquist frequency. Beyond it power is left alone: it would be bought with
# errors where the power is used.
_USEFUL = 0.75
# Skewness of a filtered field above which the bispectrum is judged by its logarithm.
_SKEW = 0.1
# Fundamentals in a shell of triangles, and steps in which all shells have had a turn.
_WIDTH, _TURNS = 2, 3


@dataclass(frozen=True)
class Modes:
    """Fourier modes of fields on a torus.

    Parameters
    ----------
    values
        Shape ``(batch, channels, n, ..., n // 2 + 1)``.
    n
        Cells per side.
    """

    values: Tensor
    n: int

    @classmethod
    def of(cls, fields: Tensor) -> Modes:
        """Those of physical fields of shape ``(batch, channels, n, ...)``."""
        axes = tuple(range(2, fields.ndim))
        return cls(torch.fft.rfftn(fields.float(), dim=axes), fields.shape[-1])

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def power(self) -> Tensor:
        """Mean square in each shell up to the Nyquist frequency, not normalised.

        Shape ``(batch, channels, shells)``; shells are one fundamental wide.
        """
        return self.average(self.values.real**2 + self.values.imag**2)

    def average(self, values: Tensor) -> Tensor:
        """Shell averages of something real that each mode has."""
        n_dim = self.values.ndim - 2
        part, weight, count = _shells(self.n, n_dim, str(values.device))
        values = values.flatten(-n_dim)
        parts = values.new_zeros(*values.shape[:2], len(count) * _PARTS)
        parts = parts.index_add(2, part, values * weight)
        sums = parts.unflatten(2, (len(count), _PARTS)).sum(3)
        used = slice(1, self.n // 2 + 1)
        return sums[..., used] / count[used]

    def channels(self, chosen: Sequence[int]) -> Modes:
        """Those of some of the fields."""
        return Modes(self.values[:, list(chosen)], self.n)

    def smoothed(self, scale: float) -> Tensor:
        """The fields, smoothed by a Gaussian of this standard deviation [cells]."""
        sides = (self.n,) * (self.values.ndim - 2)
        return self.filtered(gaussian_window(sides, scale, self.values.real))

    def filtered(self, window: Tensor) -> Tensor:
        """The fields with their modes multiplied by a window."""
        n_dim = self.values.ndim - 2
        axes = tuple(range(2, 2 + n_dim))
        return torch.fft.irfftn(self.values * window, s=(self.n,) * n_dim, dim=axes)


def _by_draw(values: Tensor, target: Modes) -> Tensor:
    """With an axis of draws before that of the samples of a target."""
    return values.unflatten(0, (-1, len(target)))


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve in training too
def _shells(n: int, n_dim: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Part of a bin for each `rfftn` mode, its weight, and modes per bin.

    Bins are one fundamental wide, up to Nyquist; modes beyond it share a last bin that
    is not used.
    """
    full = torch.fft.fftfreq(n, 1 / n, device=device)
    half = torch.arange(n // 2 + 1, device=device, dtype=full.dtype)
    squared = half**2
    for _ in range(n_dim - 1):
        squared = full.view(-1, *(1,) * squared.ndim) ** 2 + squared
    shell = torch.clamp(torch.sqrt(squared).round().long(), max=n // 2 + 1)
    weight = torch.where((half > 0) & (half < n / 2), 2.0, 1.0).expand_as(squared)
    shell, weight = shell.reshape(-1), weight.reshape(-1).contiguous()
    count = torch.zeros(n // 2 + 2, device=device).index_add_(0, shell, weight)
    part = torch.arange(len(shell), device=device) % _PARTS
    return shell * _PARTS + part, weight, count


def _weights(modes: Modes, limit: float = 1.0) -> Tensor:
    """Of each shell up to a share of the Nyquist frequency, with a sum of 1.

    They fall as k^(-1/2): between even in k, where the many shells near the Nyquist
    frequency decide, and even in ln k, where the few long modes do, which are right by
    construction.
    """
    shells = torch.arange(1, modes.n // 2 + 1, device=modes.values.device)
    used = shells <= max(1, limit * modes.n / 2)
    weight = torch.where(used, 1 / torch.sqrt(shells), 0)
    return weight / weight.sum()


def _robust(x: Tensor) -> Tensor:
    """Absolute value of what is small, logarithm of what is large.

    A small error that all samples share is pushed on as hard as the scatter that hides
    it; a field without power still learns, but does not decide a step alone.
    """
    return torch.log1p(x.abs())


def _floor(target: Modes) -> Tensor:
    """A power beside that of the target: a field may be empty, and then has none."""
    tiny = torch.finfo(target.power.dtype).tiny
    return 1e-12 * target.power.mean(-1, keepdim=True) + tiny


def power_loss(made: Modes, target: Modes) -> Tensor:
    """Misfit of the power spectrum.

    Parameters
    ----------
    made, target
        Of physical fields of the same phases or of others, of ``draws batch`` samples
        and of ``batch``.

    Returns
    -------
    Tensor
        ln(1 + abs(x)) with x = ln(P / P_target), mean over samples and shells up to
        three quarters of the Nyquist frequency with weights falling as k^(-1/2), shape
        ``(channels,)``.
    """
    floor = _floor(target)
    # Not the logarithm of the ratio: with an empty field that leaves float32.
    power = torch.log(_by_draw(made.power, target) + floor)
    misfit = _robust(power - torch.log(target.power + floor))
    return (misfit * _weights(target, _USEFUL)).sum(-1).mean((0, 1))


def decorrelation_loss(made: Modes, target: Modes) -> Tensor:
    """One less the correlation coefficient with the target.

    Parameters
    ----------
    made, target
        Of physical fields of the same phases, of ``draws batch`` samples and of
        ``batch``.

    Returns
    -------
    Tensor
        1 - r(k), mean over samples and shells up to the Nyquist frequency with weights
        falling as k^(-1/2), shape ``(channels,)``.
    """
    a, b = _by_draw(made.values, target), target.values
    cross = made.average((a.real * b.real + a.imag * b.imag).flatten(0, 1))
    floor = _floor(target)
    # Not the root of the product: with an empty field that leaves float32.
    size = torch.sqrt(_by_draw(made.power, target) + floor)
    r = _by_draw(cross, target) / (size * torch.sqrt(target.power + floor))
    return ((1 - r) * _weights(target)).sum(-1).mean((0, 1))


def mode_score(made: Modes, target: Modes) -> Tensor:
    """Fair energy score of two draws, Fourier mode by Fourier mode.

    Like `losses.energy_score`, with distances in the complex plane, in units of the
    root of the powers of draw and target in the mode's shell. No gradient goes through
    the unit, so that it vanishes for draws from the distribution of the target.

    Parameters
    ----------
    made, target
        Of physical fields of the same phases, of ``2 batch`` samples and of ``batch``.

    Returns
    -------
    Tensor
        Mean over samples and shells up to the Nyquist frequency with weights falling as
        k^(-1/2), shape ``(channels,)``.
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        c = a - b
        # Smooth where two modes are equal.
        return made.average(torch.sqrt(c.real**2 + c.imag**2 + 1e-6 * _TINY))

    first, second = made.values.chunk(2)
    off = distance(first, target.values) + distance(second, target.values)
    with torch.no_grad():
        # Of either, so that a field without power in the target does not decide.
        both = _by_draw(made.power, target) + target.power
        size = torch.sqrt(both + _TINY).mean(0)
    misfit = 0.5 * (off - distance(first, second)) / size
    return (misfit * _weights(target)).sum(-1).mean(0)


def cross_loss(made: Modes, target: Modes) -> Tensor:
    """Misfit of the cross-power of the first field with each of the others.

    Parameters
    ----------
    made, target
        Of at least two physical fields, of ``draws batch`` samples and of ``batch``.

    Returns
    -------
    Tensor
        ``ln(1 + |x|)``, with x the difference of the cross-power over the geometric
        mean of the target's auto-powers (those of the fields made where the target is
        empty); mean over samples and shells up to three quarters of the Nyquist
        frequency with weights falling as k^(-1/2). Shape ``(channels - 1,)``.
    """

    def cross(modes: Modes) -> Tensor:
        first, other = modes.values[:, :1], modes.values[:, 1:]
        return modes.average(first.real * other.real + first.imag * other.imag)

    with torch.no_grad():
        power, own = target.power, _by_draw(made.power, target)
        # A field may be empty; then its power is 0 and tells nothing.
        empty = power.mean(-1, keepdim=True) <= 1e-12 * own.mean(-1, keepdim=True)
        power = torch.where(empty, own, power)
        power = power + 1e-12 * power.mean(-1, keepdim=True)
        size = power[:, :, :1].sqrt() * power[:, :, 1:].sqrt()
        size = size + torch.finfo(size.dtype).tiny
    misfit = (_by_draw(cross(made), target) - cross(target)) / size
    return (_robust(misfit) * _weights(target, _USEFUL)).sum(-1).mean((0, 1))


def bispectrum_loss(made: Modes, target: Modes, turn: int) -> Tensor:
    """Misfit of the bispectrum of equilateral and squeezed triangles.

    Two draws are judged by the fair energy score, as in `losses.energy_score`; one by
    its distance from the target. Shells are those of `bispectrum`, two fundamentals
    wide, up to two thirds of the Nyquist frequency; squeezed triangles have their third
    side in the first.

    Parameters
    ----------
    made, target
        Of physical fields of the same phases or of others, of ``draws batch`` samples
        and of ``batch``.
    turn
        Number of the update: a third of the shells is compared in each.

    Returns
    -------
    Tensor
        Distance of ``asinh(S / 0.1)``, where S is the mean product of the three
        filtered fields over the cube of their dispersions in the target (their
        skewness if the power is right): a difference of logarithms for all but nearly
        symmetric fields. Mean over triangles and samples, shape ``(channels,)``.
        Samples whose target is empty count 0.
    """
    n_shells = max(1, int((target.n / 3 - 0.5) / _WIDTH))
    shells = range(turn % min(_TURNS, n_shells), n_shells, _TURNS)
    first, n_dim = _window(target, 0), target.values.ndim - 2
    cells = tuple(range(2, 2 + n_dim))
    long = [modes.filtered(first) for modes in (made, target)]
    distances = []
    for shell in shells:
        short = long
        if shell > 0:
            window = _window(target, shell)
            short = [modes.filtered(window) for modes in (made, target)]
        with torch.no_grad():
            variance, long_variance = (
                each[1].square().mean(cells) for each in (short, long)
            )
        thirds = [(short, variance)]
        if shell > 0:
            thirds.append((long, long_variance))
        for third, third_variance in thirds:
            size = _SKEW * variance * third_variance.sqrt()
            known = size > 0
            unit = torch.where(known, size, 1)
            found, wanted = (
                torch.asinh(_by_draw((a * a * b).mean(cells), target) / unit)
                for a, b in zip(short, third, strict=True)
            )
            off = (found - wanted).abs().mean(0)
            if len(found) == 2:
                off = off - 0.5 * (found[0] - found[1]).abs()
            distances.append((off * known).mean(0))
    return torch.stack(distances).mean(0)


def _window(modes: Modes, shell: int) -> Tensor:
    """1 for the modes of a shell of triangles, else 0."""
    n_dim = modes.values.ndim - 2
    part, _, _ = _shells(modes.n, n_dim, str(modes.values.device))
    number = part // _PARTS - 1 - _WIDTH * shell
    inside = (number >= 0) & (number < _WIDTH)
    return inside.view(modes.values.shape[2:]).to(modes.values.real.dtype)
