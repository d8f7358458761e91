"""Generator and critic: periodic, fully convolutional, in two or three dimensions.

The generator is a small U-Net whose every convolution is modulated by an embedding of
the conditions (Karras et al. 2020), with noise added layer by layer; the critic scores
patches of (fields, base) at several scales and is told the conditions by projection
(Miyato & Koyama 2018). Both work on transformed fields: physical units, the residual
on the base and the conservation of mass are `generators`' part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import TrainingError

__all__ = ["Critic", "NetworkConfig", "UNet"]

_SLOPE = 0.2
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))


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
        the resolution.
    critic_widths
        Channels of the critic at each resolution.
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
    widths: tuple[int, ...] = (16, 32, 64)
    critic_widths: tuple[int, ...] = (16, 32, 64)
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


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution on a torus, with an odd kernel."""
    n_dim = x.ndim - 2
    reach = weight.shape[-1] // 2
    if reach:
        x = F.pad(x, (reach,) * (2 * n_dim), mode="circular")
    if n_dim == 3:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        return F.conv3d(x, weight, bias)
    return F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, bias)


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool3d(x, 2) if x.ndim == 5 else F.avg_pool2d(x, 2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class _Embedding(nn.Sequential):
    """Conditions to style."""

    def __init__(self, n_conditions: int, style: int) -> None:
        super().__init__(
            nn.Linear(n_conditions, style),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(style, style),
            nn.LeakyReLU(_SLOPE),
        )


class _ModulatedConvolution(nn.Module):
    """Convolution whose input channels are weighted by the style, and demodulated.

    Karras et al. (2020, section 2.2).
    """

    def __init__(
        self, n_dim: int, n_in: int, n_out: int, style: int, *, noisy: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, *(3,) * n_dim))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.affine = nn.Linear(style, n_in)
        self.shift = nn.Linear(style, n_out)
        for layer in (self.affine, self.shift):
            nn.init.normal_(layer.weight, std=0.1 / math.sqrt(style))
            nn.init.zeros_(layer.bias)
        # A small but living strength: from zero the noise would be slow to be heard.
        self.strength = nn.Parameter(torch.full((n_out,), 0.05)) if noisy else None

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        kernel = (1,) * (self.weight.ndim - 2)
        scale = (1 + self.affine(style)).view(len(style), 1, -1, *kernel)
        weight = self.weight * scale
        norm = torch.rsqrt(weight.flatten(2).square().sum(-1) + 1e-8)
        weight = weight * norm.view(len(style), -1, 1, *kernel)
        bias = self.bias + self.shift(style)
        # One convolution for each sample: the weights differ, and fields are large.
        x = torch.cat(
            [_convolve(x[i : i + 1], weight[i] * _GAIN, bias[i]) for i in range(len(x))]
        )
        if self.strength is not None and noise is not None:
            x = x + noise * self.strength.view(1, -1, *kernel)
        return F.leaky_relu(x, _SLOPE, inplace=True)


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
        d, widths, style = config.n_dim, config.widths, config.style
        self.embed = _Embedding(config.n_conditions, style)
        self.encoder = nn.ModuleList()
        before = config.in_channels
        for width in widths[:-1]:
            self.encoder.append(
                nn.ModuleList(
                    [
                        _ModulatedConvolution(d, before, width, style),
                        _ModulatedConvolution(d, width, width, style),
                    ]
                )
            )
            before = width
        self.middle = nn.ModuleList(
            [
                _ModulatedConvolution(d, before, widths[-1], style),
                _ModulatedConvolution(d, widths[-1], widths[-1], style, noisy=True),
            ]
        )
        self.decoder = nn.ModuleList()
        below = widths[-1]
        for width in reversed(widths[:-1]):
            self.decoder.append(
                nn.ModuleList(
                    [
                        # Narrowed at the coarse level, where it is cheap.
                        _ModulatedConvolution(d, below, width, style),
                        _ModulatedConvolution(d, width, width, style, noisy=True),
                        _ModulatedConvolution(d, width, width, style, noisy=True),
                    ]
                )
            )
            below = width
        self.head = nn.Parameter(torch.zeros(config.out_channels, below, *(1,) * d))
        self.head_bias = nn.Parameter(torch.zeros(config.out_channels))

    @property
    def noise_levels(self) -> tuple[int, ...]:
        """How often the grid was halved where each noise map enters, in order."""
        depth = len(self.config.widths) - 1
        inner = [level for level in range(depth - 1, -1, -1) for _ in range(2)]
        return (depth, *inner)

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
            `noise_levels`; none for a network without noise.

        Returns
        -------
        Tensor
            Shape ``(batch, out_channels, n, ...)``.
        """
        style = self.embed(conditions)
        maps: Iterator[Tensor | None] = iter(
            noise if noise is not None else [None] * len(self.noise_levels)
        )
        skips = []
        for stage in self.encoder:
            first, second = cast(nn.ModuleList, stage)
            x = second(first(x, style, None), style, None)
            skips.append(x)
            x = _halve(x)
        first, second = self.middle
        x = second(first(x, style, None), style, next(maps))
        for stage in self.decoder:
            narrow, first, second = cast(nn.ModuleList, stage)
            x = _double(narrow(x, style, None)) + skips.pop()
            x = first(x, style, next(maps))
            x = second(x, style, next(maps))
        return _convolve(x, self.head, self.head_bias)


class Critic(nn.Module):
    """Patch scores of fields, given their base and conditions, at several scales.

    Parameters
    ----------
    config
        The shapes; it sees fields and base as channels.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
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
                        _he(torch.empty(width, before, *(3,) * d)),
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
            if results:
                x = _halve(x)
            w1, b1, w2, b2 = cast(nn.ParameterList, level)
            x = F.leaky_relu(_convolve(x, w1, b1), _SLOPE)
            x = F.leaky_relu(_convolve(x, w2, b2), _SLOPE)
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
