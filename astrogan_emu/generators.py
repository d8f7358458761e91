"""From base density to physical fields: what surrounds the U-Net.

A `FieldGenerator` transforms the base, lets the network correct it, returns to
physical units, keeps the base's large scales and makes the mean of conserved fields
exact. Everything needed to rebuild it is its `GeneratorConfig` and its weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import GridError, TrainingError
from .networks import NetworkConfig, UNet
from .trends import Level, Trend

__all__ = [
    "FieldGenerator",
    "FieldHead",
    "GeneratorConfig",
    "gaussian",
    "gaussian_window",
]

# Sharpness of the soft floor that keeps fields positive, in transformed units.
_FLOOR = 10.0
# Of a correction, as a logarithm; an untrained network may not leave float32.
_MOST = 12.0
# Of the density, as a ratio to the mean.
_LEAST = 1e-6
# Measured on the power of the longest mode of 50 Mpc/h boxes: 2.4 % low after one
# round, 1 % after four.
_KEEPINGS = 4


@dataclass(frozen=True)
class FieldHead:
    """How one field leaves the network.

    The network works on log(1 + value / scale).

    Parameters
    ----------
    name
        The field.
    scale
        Of the logarithm, in the field's unit.
    conserved
        The field is a ratio to the mean: it starts from the base, keeps the base's
        large scales, and its mean is exactly that of the base, which is 1 in a box.
    start, slope
        A field that is not conserved starts from ``start + slope x``, on its own
        logarithmic scale, with x the base on its.
    follows
        Channel of the base that a field that is not conserved starts from.
    trend
        How a field that is not conserved starts from another that was made, instead of
        from the base.
    mean
        Mean that every box of a field that is not conserved has, such as that of the
        gas where the suite has one baryon density; 0 if it is free.
    level
        Mean of a field that is not conserved, where it changes with the conditions.

    Raises
    ------
    TrainingError
        If `scale` is not positive, `mean` negative, a number not finite, or the mean
        is given twice.
    """

    name: str
    scale: float
    conserved: bool
    start: float = 0.0
    slope: float = 0.0
    mean: float = 0.0
    follows: int = 0
    trend: Trend | None = None
    level: Level | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise TrainingError(
                f"the scale of {self.name} must be positive, got {self.scale}"
            )
        for name in ("start", "slope", "mean"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise TrainingError(
                    f"the {name} of {self.name} must be finite, got {value}"
                )
        if self.mean < 0:
            raise TrainingError(
                f"the mean of {self.name} must be positive or 0, got {self.mean}"
            )
        if self.level is not None and (self.conserved or self.mean > 0):
            raise TrainingError(
                f"{self.name} cannot have a level: its mean is that of "
                + ("the base" if self.conserved else f"every box, {self.mean:g}")
            )


@dataclass(frozen=True)
class InputScale:
    """How a channel of the base goes into the network.

    Parameters
    ----------
    scale
        Of the logarithm, in the channel's unit.
    mean, std
        Of log(1 + value / scale) over the training set.

    Raises
    ------
    TrainingError
        If `scale` or `std` is not positive, or a number not finite.
    """

    scale: float
    mean: float
    std: float

    def __post_init__(self) -> None:
        for name in ("scale", "std"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise TrainingError(f"{name} of an input must be positive, got {value}")
        if not math.isfinite(self.mean):
            raise TrainingError(f"mean of an input must be finite, got {self.mean}")


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything that turns weights into a generator.

    Parameters
    ----------
    network
        Shapes of the networks.
    heads
        One for each field, in the order of the channels.
    base_scale
        Scale of the logarithm of the base's density.
    base_mean, base_std
        Of the transformed density over the training set.
    keep_scale
        Standard deviation of the Gaussian above which the base's density is kept, in
        cells; 0 keeps nothing but the mean.
    more_inputs
        How the channels of the base after the first, the density, go in.

    Raises
    ------
    TrainingError
        If the heads do not match the channels, or a scale is not possible.
    """

    network: NetworkConfig
    heads: tuple[FieldHead, ...]
    base_scale: float = 0.2
    base_mean: float = 0.0
    base_std: float = 1.0
    keep_scale: float = 6.4
    version: int = field(default=1)
    more_inputs: tuple[InputScale, ...] = ()

    def __post_init__(self) -> None:
        if len(self.heads) != self.network.out_channels:
            raise TrainingError(
                f"{len(self.heads)} heads cannot serve "
                f"{self.network.out_channels} output channels"
            )
        if 1 + len(self.more_inputs) != self.network.in_channels:
            raise TrainingError(
                f"{1 + len(self.more_inputs)} scales cannot serve "
                f"{self.network.in_channels} channels of the base"
            )
        for head in self.heads:
            if not 0 <= head.follows < self.network.in_channels:
                raise TrainingError(
                    f"{head.name} cannot follow channel {head.follows} of a base of "
                    f"{self.network.in_channels}"
                )
        told = self.network.n_conditions
        leading = {head.name for head in self.heads if head.trend is None}
        for head in self.heads:
            for what, fit in (("trend", head.trend), ("level", head.level)):
                if fit is not None and fit.n_conditions != told:
                    raise TrainingError(
                        f"the {what} of {head.name} takes {fit.n_conditions} "
                        f"conditions; the network is told {told}"
                    )
            if head.trend is None:
                continue
            if head.trend.field not in leading or head.conserved:
                raise TrainingError(
                    f"{head.name} cannot follow {head.trend.field}: only a field that "
                    f"is not conserved may, and one of {', '.join(sorted(leading))}"
                )
        for name in ("base_scale", "base_std"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise TrainingError(f"{name} must be positive, got {value}")
        if not math.isfinite(self.base_mean):
            raise TrainingError(f"base_mean must be finite, got {self.base_mean}")
        if not (math.isfinite(self.keep_scale) and self.keep_scale >= 0):
            raise TrainingError(
                f"keep_scale must be 0 or positive, got {self.keep_scale}"
            )

    @property
    def inputs(self) -> tuple[InputScale, ...]:
        """How each channel of the base goes in."""
        density = InputScale(self.base_scale, self.base_mean, self.base_std)
        return (density, *self.more_inputs)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, in the order of the channels."""
        return tuple(head.name for head in self.heads)


class FieldGenerator(nn.Module):
    """The conditional generator in physical units.

    Parameters
    ----------
    config
        Its shapes and scales.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.network = UNet(config.network)

    def forward(
        self,
        base: Tensor,
        conditions: Tensor,
        noise: list[Tensor] | None,
        truth: Tensor | None = None,
    ) -> Tensor:
        """Fields for a base.

        Parameters
        ----------
        base
            Shape ``(batch, in_channels, n, ...)``; channel 0 is the matter density, as
            a ratio to its mean, that conserved fields start from.
        conditions
            Shape ``(batch, n_conditions)``.
        noise
            As `draw_noise` makes it, or none for a network without noise. For a
            multiple of the batch, the whole batch is drawn several times.
        truth
            The conditions that trends and levels hear, where the network is told
            others.

        Returns
        -------
        Tensor
            Physical values, shape ``(batch, n_fields, n, ...)``, the batch that of the
            noise.

        Raises
        ------
        GridError
            If the cells per side are not a multiple of ``network.multiple``.
        """
        correction = self.correction(base, conditions, noise)
        draws = len(correction) // len(base)
        truth = conditions if truth is None else truth
        base, truth = (torch.cat([each] * draws) for each in (base, truth))
        return self.physical(base, correction, truth)

    def correction(
        self, base: Tensor, conditions: Tensor, noise: list[Tensor] | None
    ) -> Tensor:
        """What the network adds to the base, on its own scale; local.

        Parameters
        ----------
        base, conditions, noise
            As for `forward`; sides may differ.

        Returns
        -------
        Tensor
            Shape ``(batch, n_fields, n, ...)``.

        Raises
        ------
        GridError
            If the cells per side are not a multiple of ``network.multiple``.
        """
        for n_cells in base.shape[2:]:
            self.check_size(n_cells)
        channels = zip(
            self.latent_base(base).unbind(1), self.config.inputs, strict=True
        )
        x = torch.stack([(x - scale.mean) / scale.std for x, scale in channels], 1)
        corrected: Tensor = self.network(x, conditions, noise)
        return corrected

    def physical(self, base: Tensor, correction: Tensor, conditions: Tensor) -> Tensor:
        """Fields from a base and its correction; conserved ones need the whole box.

        Parameters
        ----------
        base, correction, conditions
            As for and from `correction`; one of each for every field to be made.

        Returns
        -------
        Tensor
            Physical values, shape ``(batch, n_fields, n, ...)``.
        """
        heads = {head.name: head for head in self.config.heads}
        made: dict[str, Tensor] = {}
        # A field with a trend comes after the one that it follows, which has none.
        for head in sorted(heads.values(), key=lambda head: head.trend is not None):
            channel = self.config.fields.index(head.name)
            if head.conserved:
                start = torch.log1p(base[:, 0] / head.scale)
            elif head.trend is not None:
                other = heads[head.trend.field]
                latent = torch.log1p(made[other.name] / other.scale)
                start = head.trend(latent, conditions)
            else:
                start = head.start + head.slope * self._latent_base(base, head.follows)
            change = correction[:, channel].clamp(-_MOST, _MOST)
            value = F.softplus(start + change, beta=_FLOOR)
            value = head.scale * torch.expm1(value)
            if head.conserved:
                value = self._conserve(value, base[:, 0])
            elif head.level is not None or head.mean > 0:
                mean = value.mean(tuple(range(1, value.ndim)))
                wanted = head.mean if head.level is None else head.level(conditions)
                value = value * (wanted / mean).view(-1, *(1,) * (value.ndim - 1))
            made[head.name] = value
        return torch.stack([made[name] for name in self.config.fields], 1)

    def latent_base(self, base: Tensor) -> Tensor:
        """The base on the logarithmic scales of its channels, of the same shape."""
        channels = [self._latent_base(base, i) for i in range(base.shape[1])]
        return torch.stack(channels, 1)

    def _latent_base(self, base: Tensor, channel: int) -> Tensor:
        """A channel on its logarithmic scale, shape ``(batch, n, ...)``."""
        return torch.log1p(base[:, channel] / self.config.inputs[channel].scale)

    def check_size(self, n_cells: int) -> None:
        """Refuse a grid that the network cannot halve often enough."""
        multiple = self.config.network.multiple
        if n_cells < 1 or n_cells % multiple:
            below = max(n_cells, 0) // multiple * multiple
            near = f"are {below} and" if below else "is"
            raise GridError(
                f"n_cells must be a multiple of {multiple} for this model, got "
                f"{n_cells}; the nearest {near} {below + multiple}"
            )

    def _conserve(self, value: Tensor, base: Tensor) -> Tensor:
        """Keep the base's large scales, and exactly its mean."""
        # A region that the network emptied can still be given its mass.
        value = value + _LEAST
        if self.config.keep_scale > 0:
            wanted = gaussian(base[:, None], self.config.keep_scale)
            # Smoothing a product is not the product of the smooth; it converges.
            for _ in range(_KEEPINGS):
                smooth = gaussian(value[:, None], self.config.keep_scale)
                value = value * (wanted / smooth.clamp(min=_LEAST))[:, 0]
        axes = tuple(range(1, value.ndim))
        return value * (base.mean(axes, keepdim=True) / value.mean(axes, keepdim=True))

    def to_latent(self, fields: Tensor) -> Tensor:
        """Physical fields on the network's logarithmic scale, as the critic sees them.

        Parameters
        ----------
        fields
            Shape ``(batch, n_fields, n, ...)``.

        Returns
        -------
        Tensor
            The same shape.
        """
        scales = fields.new_tensor([head.scale for head in self.config.heads])
        return torch.log1p(fields / scales.view(1, -1, *(1,) * (fields.ndim - 2)))

    def draw_noise(
        self, batch: int, n_cells: int, generator: torch.Generator
    ) -> list[Tensor]:
        """Fresh noise maps for training, float32 on the device of `generator`.

        Parameters
        ----------
        batch, n_cells
            Of the fields to make.
        generator
            Source of the numbers.

        Returns
        -------
        list of Tensor
            One for each of ``network.noise_levels``.
        """
        n_dim = self.config.network.n_dim
        return [
            torch.randn(
                (batch, 1, *(n_cells >> level,) * n_dim),
                generator=generator,
                device=generator.device,
            )
            for level in self.network.noise_levels
        ]


def gaussian(values: Tensor, scale: float) -> Tensor:
    """Gaussian smoothing on a torus.

    Parameters
    ----------
    values
        Shape ``(batch, channels, n, ...)``.
    scale
        Standard deviation, in cells.

    Returns
    -------
    Tensor
        The same shape.
    """
    sides: Sequence[int] = values.shape[2:]
    axes = tuple(range(2, values.ndim))
    modes = torch.fft.rfftn(values, dim=axes) * gaussian_window(sides, scale, values)
    return torch.fft.irfftn(modes, s=tuple(sides), dim=axes)


def gaussian_window(sides: Sequence[int], scale: float, like: Tensor) -> Tensor:
    """What smoothing by a Gaussian multiplies Fourier modes by.

    Parameters
    ----------
    sides
        Cells along each axis.
    scale
        Standard deviation, in cells.
    like
        A tensor of the type and on the device that is wanted.

    Returns
    -------
    Tensor
        On the grid of `torch.fft.rfftn`.
    """
    window = like.new_ones(())
    for axis, side in enumerate(sides):
        make = torch.fft.rfftfreq if axis == len(sides) - 1 else torch.fft.fftfreq
        k = 2 * math.pi * make(side, device=like.device, dtype=like.dtype)
        shape = [1] * len(sides)
        shape[axis] = -1
        window = window * torch.exp(-0.5 * (k * scale) ** 2).view(shape)
    return window
