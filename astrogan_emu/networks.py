"""Generator and critic: periodic, fully convolutional, in two or three dimensions.

The generator is a small U-Net whose every convolution is modulated by an embedding of
the conditions (Karras et al. 2020), with noise added layer by layer; the critic scores
patches of (fields, base) at several scales and is told the conditions by projection
(Miyato & Koyama 2018). Both work on transformed fields: physical units, the residual
on the base and the conservation of mass are `generators`' part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convolutions import (
    Operation,
    channels_last,
    convolve,
    cut,
    double,
    halve,
    parts,
)
from .errors import TrainingError

__all__ = ["Critic", "NetworkConfig", "UNet"]

_SLOPE = 0.2
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))
# Cells of a field up to which a batch is convolved at once.
_SMALL = 64


@dataclass(frozen=True)
class NetworkConfig:
    """Shapes of the networks; all but the widths follow from the training set.

    Parameters
    ----------
    n_dim
        Dimensions of the fields, 2 or 3.
    in_channels
        Channels of the base.
    out_channels
        Number of fields.
    n_conditions
        Length of the condition vector.
    widths
        Channels of the generator at each resolution, finest first; each level halves
        the resolution. The finest is best kept narrow: its cells are many.
    critic_widths
        Channels of the critic at each resolution; the first is half that of the
        fields.
    style
        Length of the embedding of the conditions.

    Raises
    ------
    TrainingError
        If a value is not possible.
    """

    n_dim: int
    in_channels: int
    out_channels: int
    n_conditions: int
    widths: tuple[int, ...] = (16, 48, 96)
    critic_widths: tuple[int, ...] = (24, 48, 64)
    style: int = 64

    def __post_init__(self) -> None:
        if self.n_dim not in (2, 3):
            raise TrainingError(f"n_dim must be 2 or 3, got {self.n_dim}")
        for name in ("in_channels", "out_channels", "n_conditions", "style"):
            if getattr(self, name) < 1:
                raise TrainingError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        for name in ("widths", "critic_widths"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise TrainingError(f"{name} must be positive numbers, got {values}")

    @property
    def multiple(self) -> int:
        """Cells per side must be a multiple of this."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def critic_multiple(self) -> int:
        """Cells per side that the critic sees must be a multiple of this."""
        return int(2 ** len(self.critic_widths))


def _normal(weight: Tensor, std: float = 1.0) -> Tensor:
    """Fill with normal numbers; a tensor without memory (device meta) stays as it is.

    PyTorch would load its compiler for that, which takes seconds.
    """
    return weight if weight.is_meta else nn.init.normal_(weight, std=std)


class _Embedding(nn.Sequential):
    """Conditions to style."""

    def __init__(self, n_conditions: int, style: int) -> None:
        super().__init__(
            nn.Linear(n_conditions, style),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(style, style),
            nn.LeakyReLU(_SLOPE),
        )

    def forget(self, conditions: Sequence[int]) -> None:
        """Hear nothing of these conditions any more."""
        hears = cast(nn.Linear, self[0]).weight
        with torch.no_grad():
            hears[:, list(conditions)] = 0


class _ModulatedConvolution(nn.Module):
    """Convolution whose input channels are weighted by the style, and demodulated.

    Karras et al. (2020, section 2.2).
    """

    def __init__(
        self,
        n_dim: int,
        n_in: int,
        n_out: int,
        style: int,
        *,
        kernel: int = 3,
        noisy: bool = False,
        operation: Operation = convolve,
    ) -> None:
        super().__init__()
        self.operation = operation
        self.weight = nn.Parameter(
            _normal(torch.empty(n_out, n_in, *(kernel,) * n_dim))
        )
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.affine = nn.Linear(style, n_in)
        self.shift = nn.Linear(style, n_out)
        for layer in (self.affine, self.shift):
            _normal(layer.weight, 0.1 / math.sqrt(style))
            nn.init.zeros_(layer.bias)
        # A small but living strength: from zero the noise would be slow to be heard.
        self.strength = nn.Parameter(torch.full((n_out,), 0.05)) if noisy else None
        # Per value of its channel, so that noise can be where something is uncertain.
        self.gain = nn.Parameter(torch.zeros(n_out)) if noisy else None
        # In a doubling, each output cell hears one cell of the kernel alone.
        self.heard = kernel**n_dim if operation is double else 1

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        kernel = (1,) * (self.weight.ndim - 2)
        scale = (1 + self.affine(style)).view(len(style), 1, -1, *kernel)
        weight = self.weight * scale
        norm = torch.rsqrt(weight.flatten(2).square().sum(-1) / self.heard + 1e-8)
        bias = self.bias + self.shift(style)
        operation = self.operation
        low = torch.is_autocast_enabled(x.device.type)
        if len(x) > 1 and (low or x[0, 0].numel() <= _SMALL):
            # Weights that differ by factors of their channels are the same weights
            # between scaled fields, quicker in bf16 and where fields are small.
            x = x * scale[:, 0].to(x.dtype)
            x = operation(x, self.weight * _GAIN, torch.zeros_like(self.bias), 1)
            x = x * norm.view(len(style), -1, *kernel)
            x = x + bias.view(len(style), -1, *kernel)
        else:
            # The weights differ between samples, which are therefore groups of channels
            # of one. On small grids that also is three to six times faster, per sample,
            # than PyTorch's convolution of a single sample on one thread.
            weight = weight * norm.view(len(style), -1, 1, *kernel)
            n, side = len(x), x.shape[2:]
            x = operation(
                x.reshape(1, -1, *side),
                (weight * _GAIN).flatten(0, 1),
                bias.flatten(),
                n,
            )
            x = x.reshape(n, -1, *x.shape[2:])
        if self.strength is not None and self.gain is not None and noise is not None:
            strength = self.strength.view(1, -1, *kernel).to(x.dtype)
            gain = self.gain.view(1, -1, *kernel).to(x.dtype)
            x = _noisy(x, noise.to(x.dtype), strength, gain)
        x = F.leaky_relu(channels_last(x), _SLOPE, inplace=True)
        if x.requires_grad:
            # Where layouts differ, the gradient below takes thirty times as long.
            x.register_hook(channels_last)
        return x


def _noisy(x: Tensor, noise: Tensor, strength: Tensor, gain: Tensor) -> Tensor:
    """Add noise times (strength + gain x); in place, unless gradients need the old."""
    if torch.is_grad_enabled():
        return torch.addcmul(x, noise, strength + gain * x)
    for part in parts(x.shape[2:]):
        own, heard = cut(x, part), cut(noise, part)
        own.add_((gain * own).add_(strength).mul_(heard))
    return x


def _sum(x: Tensor, y: Tensor) -> Tensor:
    """The sum; in the place of the first, unless gradients need the old."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


class UNet(nn.Module):
    """Conditional U-Net on a torus.

    Parameters
    ----------
    config
        The shapes.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.embed = _Embedding(config.n_conditions, config.style)
        self.encoder = nn.ModuleList()
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        before = config.in_channels
        for level, width in enumerate(widths):
            self.encoder.append(self._stage(level, before))
            if level + 1 < len(widths):
                before = widths[level + 1]
                self.down.append(self._change(width, before, halve))
                self.up.append(self._change(before, width, double))
                self.decoder.append(self._stage(level, width, noisy=True))
        self.head = nn.Parameter(
            torch.zeros(config.out_channels, widths[0], *(1,) * config.n_dim)
        )
        self.head_bias = nn.Parameter(torch.zeros(config.out_channels))

    def _stage(self, level: int, n_in: int, *, noisy: bool = False) -> nn.ModuleList:
        """Convolutions at one resolution: one where cells are many, else two."""
        config, width = self.config, self.config.widths[level]
        last = len(config.widths) - 1
        inputs = [n_in] if level == 0 < last else [n_in, width]
        # The coarsest stage has no way back in which noise could enter.
        noises = [noisy or level == last] * len(inputs)
        return nn.ModuleList(
            _ModulatedConvolution(config.n_dim, n, width, config.style, noisy=heard)
            for n, heard in zip(inputs, noises, strict=True)
        )

    def _change(
        self,
        n_in: int,
        n_out: int,
        operation: Operation,
    ) -> _ModulatedConvolution:
        """Change of the resolution by two."""
        config = self.config
        return _ModulatedConvolution(
            config.n_dim, n_in, n_out, config.style, kernel=2, operation=operation
        )

    @property
    def noise_levels(self) -> tuple[int, ...]:
        """How often the grid was halved where each noise map enters, in order."""
        last = len(self.encoder) - 1
        inner = [
            level
            for level in reversed(range(last))
            for _ in cast(nn.ModuleList, self.decoder[level])
        ]
        return (*[last] * len(cast(nn.ModuleList, self.encoder[last])), *inner)

    def forward(
        self, x: Tensor, conditions: Tensor, noise: list[Tensor] | None
    ) -> Tensor:
        """Corrections to the transformed base.

        Parameters
        ----------
        x
            Transformed base, shape ``(batch, in_channels, n, ...)``; n a multiple of
            ``config.multiple``.
        conditions
            Shape ``(batch, n_conditions)``.
        noise
            One map of shape ``(batch, 1, n / 2^level, ...)`` for each of
            `noise_levels`; none for a network without noise. Their batch may be a
            multiple of that of `x`, which then is gone through several times.

        Returns
        -------
        Tensor
            Shape ``(batch, out_channels, n, ...)``, with the batch of the noise.
        """
        style = self.embed(conditions)
        maps: Iterator[Tensor | None] = iter(
            noise if noise is not None else [None] * len(self.noise_levels)
        )

        def through(stage: nn.Module, x: Tensor) -> Tensor:
            for layer in cast(nn.ModuleList, stage):
                noisy = layer.strength is not None
                x = layer(x, style, next(maps) if noisy else None)
            return x

        skips = []
        for stage, down in zip(self.encoder, self.down, strict=False):
            x = through(stage, x)
            skips.append(x)
            x = down(x, style, None)
        # Up to here no noise was heard.
        draws = len(noise[0]) // len(x) if noise else 1
        if draws > 1:
            x, style, *skips = (
                torch.cat([each] * draws) for each in (x, style, *skips)
            )
        x = through(self.encoder[-1], x)
        for stage, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            x = through(stage, _sum(up(x, style, None), skips.pop()))
        return convolve(x, self.head, self.head_bias)


class Critic(nn.Module):
    """Patch scores of fields, given their base and conditions, at several scales.

    Parameters
    ----------
    config
        The shapes; it sees fields and base as channels.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        d = config.n_dim
        self.embed = _Embedding(config.n_conditions, config.style)
        self.levels = nn.ModuleList()
        self.scores = nn.ModuleList()
        self.projections = nn.ModuleList()
        before = config.in_channels + config.out_channels
        for width in config.critic_widths:
            self.levels.append(
                nn.ParameterList(
                    [
                        _he(torch.empty(width, before, *(2,) * d)),
                        torch.zeros(width),
                        _he(torch.empty(width, width, *(3,) * d)),
                        torch.zeros(width),
                    ]
                )
            )
            self.scores.append(nn.Linear(width, 1))
            self.projections.append(nn.Linear(config.style, width, bias=False))
            before = width

    def forward(self, fields: Tensor, base: Tensor, conditions: Tensor) -> Tensor:
        """Scores, higher for fields that look real.

        Parameters
        ----------
        fields, base
            Transformed, shape ``(batch, channels, n, ...)``.
        conditions
            Shape ``(batch, n_conditions)``.

        Returns
        -------
        Tensor
            Mean score of the patches at each scale, shape ``(batch, n_scales)``.
        """
        style = self.embed(conditions)
        x = torch.cat([fields, base], 1)
        results: list[Tensor] = []
        for level, score, projection in zip(
            self.levels, self.scores, self.projections, strict=True
        ):
            w1, b1, w2, b2 = cast(nn.ParameterList, level)
            x = F.leaky_relu(halve(x, w1, b1), _SLOPE)
            x = F.leaky_relu(convolve(x, w2, b2), _SLOPE)
            direction = cast(Tensor, score.weight) + projection(style) / math.sqrt(
                x.shape[1]
            )
            patches = torch.einsum("bc...,bc->b...", x, direction)
            # Squash each patch, so that a few extreme ones do not decide the mean.
            patches = 4 * torch.tanh((patches + cast(Tensor, score.bias)) / 4)
            results.append(patches.flatten(1).mean(1))
        return torch.stack(results, 1)


def _he(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(nn.init.kaiming_normal_(weight, a=_SLOPE))
