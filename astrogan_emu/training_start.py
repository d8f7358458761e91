"""What a generator starts from: shapes, scales and regressions of a training set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .bases import BaseSettings
from .batches import base_of
from .conditioning import condition_length, condition_names, conditions
from .dataset import TrainingSet
from .errors import TrainingError
from .generators import FieldHead, GeneratorConfig, InputScale
from .networks import NetworkConfig
from .training_config import TrainingConfig
from .trends import LevelFit, TrendFit

__all__ = ["generator_shapes", "with_levels"]

# Stars take less than this from the gas of a universe of one baryon density.
_SAME_MEAN = 0.02
# Of the logarithm of the density, as a ratio to its mean.
_SCALE = 0.2


def _free_head(
    name: str,
    values: NDArray[np.float32],
    base: NDArray[np.float32],
    channels: Sequence[str],
) -> FieldHead:
    """How a field with a unit starts, from samples of it and of the transformed base.

    One that fills space and has the same mean in all boxes, such as gas, starts as a
    share of the matter; one whose mean is free follows it as well as a power law can.
    One of scattered objects starts as the galaxies of the base, in units of the mean,
    or even if that has none.
    """
    low = float(np.quantile(values, 0.05))
    if low <= 0:
        scale = float(values.mean()) or 1.0
        if "galaxies" in channels:
            follows = channels.index("galaxies")
            return FieldHead(name, scale, conserved=False, slope=1.0, follows=follows)
        start = float(np.log1p(values / scale).mean())
        return FieldHead(name, scale, conserved=False, start=start)
    means = values.mean(tuple(range(1, values.ndim)), dtype=np.float64)
    if np.ptp(means) < _SAME_MEAN * means.mean():
        mean = float(means.mean())
        return FieldHead(name, _SCALE * mean, conserved=False, slope=1.0, mean=mean)
    own = np.log1p(values / low)
    slope, start = np.polyfit(base.ravel(), own.ravel(), 1)
    return FieldHead(name, low, conserved=False, start=float(start), slope=float(slope))


def _samples(
    data: TrainingSet,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Fields and conditions of every training sample."""
    for index in data.indices("train"):
        _, target, parameters, redshift = data.sample(int(index))
        yield target, conditions(data.space, parameters[None], redshift)[0].numpy()


def _with_trends(
    heads: Sequence[FieldHead], data: TrainingSet, config: TrainingConfig
) -> list[FieldHead]:
    """The heads, those of ``config.trends`` with what all training samples say."""
    names = condition_names(data.space)
    told = [names.index(name) for name in config.trend_conditions]
    fits = {own: TrendFit(other, told) for own, other in config.trends.items()}
    for target, true in _samples(data) if fits else ():
        latent = {
            head.name: np.log1p(values / head.scale)
            for head, values in zip(heads, target, strict=True)
        }
        for own, fit in fits.items():
            fit.add(latent[fit.field], latent[own], true)
    return [
        replace(head, trend=fits[head.name].solve()) if head.name in fits else head
        for head in heads
    ]


def with_levels(
    heads: Sequence[FieldHead], data: TrainingSet, config: TrainingConfig
) -> tuple[FieldHead, ...]:
    """Heads with means that fit the training samples, where those are regressions.

    Parameters
    ----------
    heads
        Of a fresh generator or of one that the training starts from. A level that one
        has already keeps its changes with the conditions; its constant becomes that of
        these samples.
    data
        The training set.
    config
        The choices; fields of its levels get a regression of these samples alone.

    Returns
    -------
    tuple of FieldHead
        As many, in the same order.

    Raises
    ------
    TrainingError
        If such a field is conserved, or no sample has any of it.
    """
    names = condition_names(data.space)
    told = [names.index(name) for name in config.level_conditions]
    fits = {
        head.name: LevelFit(head.name)
        for head in heads
        if head.level is not None or head.name in config.levels
    }
    for target, true in _samples(data) if fits else ():
        for head, values in zip(heads, target, strict=True):
            if head.name in fits:
                fits[head.name].add(float(values.mean(dtype=np.float64)), true)
    levelled = []
    for head in heads:
        if head.name in config.levels:
            level = fits[head.name].solve(told)
            head = replace(head, mean=0.0, level=level)
        elif head.level is not None:
            head = replace(head, level=fits[head.name].moved(head.level))
        levelled.append(head)
    return tuple(levelled)


def generator_shapes(data: TrainingSet, config: TrainingConfig) -> GeneratorConfig:
    """Shapes and scales that follow from the data, from a few of its samples.

    Parameters
    ----------
    data
        The training set.
    config
        The choices; its levels are left to `with_levels`.

    Returns
    -------
    GeneratorConfig
        Of a fresh generator.

    Raises
    ------
    TrainingError
        If the boxes cannot be halved as often as the networks want to.
    """
    chosen = data.indices("train")
    chosen = chosen[:: max(1, len(chosen) // 16)]
    samples = [data.sample(i) for i in chosen]
    bases = np.stack([base_of(base) for base, *_ in samples])
    # As the head of a field that is in the base, so that it can start from it.
    scales = [
        _SCALE,
        *(float(base.mean()) or 1.0 for base in bases[:, 1:].swapaxes(0, 1)),
    ]
    latent = [np.log1p(bases[:, i] / scale) for i, scale in enumerate(scales)]
    inputs = [
        InputScale(scale, float(x.mean()), float(x.std()) or 1.0)
        for scale, x in zip(scales, latent, strict=True)
    ]
    channels = BaseSettings.from_dict(data.base_settings).channels
    heads = [
        FieldHead(name, _SCALE, conserved=True)
        if data.units[name] == ""
        else _free_head(
            name,
            np.stack([target[channel] for _, target, *_ in samples]),
            latent[0],
            channels,
        )
        for channel, name in enumerate(data.fields)
    ]
    network = NetworkConfig(
        n_dim=data.n_dim,
        in_channels=data.base_channels,
        out_channels=len(data.fields),
        n_conditions=condition_length(data.space),
        widths=config.widths,
        critic_widths=config.critic_widths,
    )
    if data.n_cells % network.multiple:
        raise TrainingError(
            f"the boxes have {data.n_cells} cells a side, which {len(config.widths)} "
            f"levels cannot halve; n_cells must be a multiple of {network.multiple}"
        )
    if data.n_cells % network.critic_multiple:
        raise TrainingError(
            f"the boxes have {data.n_cells} cells a side, which the "
            f"{len(config.critic_widths)} levels of the critic cannot halve; n_cells "
            f"must be a multiple of {network.critic_multiple}, or give fewer "
            "critic_widths"
        )
    return GeneratorConfig(
        network,
        tuple(_with_trends(heads, data, config)),
        base_mean=inputs[0].mean,
        base_std=inputs[0].std,
        more_inputs=tuple(inputs[1:]),
        keep_scale=config.keep_scale / data.cell_size,
    )
