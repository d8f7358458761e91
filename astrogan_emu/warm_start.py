"""Starting a training from a model that was trained on something else.

What the two have in common is copied: the layers of the network, the field's own
output channels, and the way it hears each condition, by name. What is new starts as in
a fresh network that does nothing yet, so the first step makes the old fields as the old
model did. Nothing here trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .checkpoints import Model
from .conditioning import condition_names
from .errors import CheckpointError
from .generators import FieldGenerator, FieldHead, GeneratorConfig
from .parameters import Parameter, ParameterSpace
from .trends import Level

__all__ = ["WarmStart", "warm_start"]

_HEARS = "network.embed.0.weight"
_HEARS_BIAS = "network.embed.0.bias"
_HEADS = ("network.head", "network.head_bias")
# What has an entry for each channel of the base, and along which axis.
_FIRST = {
    "network.encoder.0.0.weight": 1,
    "network.encoder.0.0.affine.weight": 0,
    "network.encoder.0.0.affine.bias": 0,
}


@dataclass(frozen=True)
class WarmStart:
    """A generator to start from.

    Parameters
    ----------
    config
        Of the generator.
    weights
        Its state.
    report
        What was copied and what is new, in plain types that JSON can hold.
    """

    config: GeneratorConfig
    weights: Mapping[str, Tensor]
    report: Mapping[str, list[str]]


def warm_start(
    model: Model,
    config: GeneratorConfig,
    space: ParameterSpace,
    units: Mapping[str, str],
) -> WarmStart:
    """Fit a model to other fields and other conditions.

    Parameters
    ----------
    model
        The model to start from. Its widths are kept.
    config
        Shapes and scales of a fresh generator for the new data.
    space
        Parameters of the new data.
    units
        Unit of each field of the new data, as a string.

    Returns
    -------
    WarmStart
        Fields of the same name and unit keep their scales and channels; other channels
        are zero. Channels of the base that the model does not know are not heard yet,
        and those that the data do not have are forgotten. A parameter of both is heard
        as before, also if its range is another; one that the new data hold fixed is
        heard at that value; one that is new is not heard yet.

    Raises
    ------
    CheckpointError
        If the model is for another number of dimensions, or starts from the base
        a field that has a trend in `config`.
    """
    old, own = model.generator.config, config.network
    if old.network.n_dim != own.n_dim:
        raise CheckpointError(
            f"{model.path} has n_dim = {old.network.n_dim} and the data {own.n_dim}; "
            "start from a model of the same kind"
        )
    wanted = {head.name: head for head in config.heads}
    shared = {
        head.name: head
        for head in old.heads
        if head.name in wanted
        and units[head.name] == model.card.units[head.name]
        and head.conserved == wanted[head.name].conserved
    }
    known = {
        name: head
        for name, head in shared.items()
        if head.trend is None or head.trend.field in shared
    }
    for name, head in known.items():
        if wanted[name].trend is not None and head.trend is None:
            raise CheckpointError(
                f"{model.path} makes {name} from the base, which a training goes on "
                "with; leave it out of trends"
            )
    heads = tuple(
        _head(known[head.name], head, own.in_channels, model.card.space, space)
        if head.name in known
        else head
        for head in config.heads
    )
    network = replace(
        old.network,
        in_channels=own.in_channels,
        out_channels=own.out_channels,
        n_conditions=own.n_conditions,
        critic_widths=own.critic_widths,
    )
    fitted = replace(
        config,
        network=network,
        heads=heads,
        base_scale=old.base_scale,
        base_mean=old.base_mean,
        base_std=old.base_std,
        more_inputs=(*old.more_inputs, *config.more_inputs[len(old.more_inputs) :])[
            : own.in_channels - 1
        ],
    )
    before = model.generator.state_dict()
    weights = dict(before)
    hears, bias, told = _conditions(before, model.card.space, space)
    weights[_HEARS], weights[_HEARS_BIAS] = hears, bias
    with torch.device("meta"):
        shapes = FieldGenerator(fitted).state_dict()
    for key, axis in _FIRST.items():
        weights[key] = _resized(before[key], axis, own.in_channels)
    for key in _HEADS:
        weights[key] = torch.zeros(shapes[key].shape)
        for channel, head in enumerate(heads):
            if head.name in known:
                weights[key][channel] = before[key][old.fields.index(head.name)]
    names = [head.name for head in heads]
    report = {
        "layers_copied": sorted(set(before) - {_HEARS, _HEARS_BIAS, *_HEADS}),
        "fields_copied": [name for name in names if name in known],
        "fields_new": [name for name in names if name not in known],
        **told,
    }
    return WarmStart(fitted, weights, report)


def _head(
    old: FieldHead,
    new: FieldHead,
    in_channels: int,
    old_space: ParameterSpace,
    new_space: ParameterSpace,
) -> FieldHead:
    """The old head; if the channel that it started from is gone, with the new start."""
    # A mean that all boxes have needs no regression.
    head = replace(old, mean=new.mean, level=None)
    if old.level is not None and not new.mean:
        (row,) = _rows_heard([old.level.coefficients], old_space, new_space)
        head = replace(head, level=Level(row))
    if head.trend is not None:
        rows = _rows_heard(head.trend.coefficients, old_space, new_space)
        head = replace(head, trend=replace(head.trend, coefficients=rows))
    if head.follows < in_channels:
        return head
    return replace(head, start=new.start, slope=new.slope, follows=new.follows)


def _resized(weight: Tensor, axis: int, size: int) -> Tensor:
    """As many entries along an axis as there are channels; new ones are zero."""
    kept = weight.narrow(axis, 0, min(size, weight.shape[axis]))
    shape = list(weight.shape)
    shape[axis] = size - kept.shape[axis]
    return torch.cat([kept, weight.new_zeros(shape)], axis)


def _conditions(
    before: Mapping[str, Tensor], old: ParameterSpace, new: ParameterSpace
) -> tuple[Tensor, Tensor, dict[str, list[str]]]:
    """First layer of the embedding for other conditions, and what became of each."""
    was, names = condition_names(old), condition_names(new)
    hears, bias = _heard(before[_HEARS], before[_HEARS_BIAS], old, new)
    told = {
        "conditions_copied": [name for name in names if name in was],
        "conditions_new": [name for name in names if name not in was],
        "conditions_fixed": [name for name in was if name not in names],
    }
    return hears, bias, told


def _heard(
    weights: Tensor, bias: Tensor, old: ParameterSpace, new: ParameterSpace
) -> tuple[Tensor, Tensor]:
    """A linear function of the old conditions as one of the new."""
    was, names = condition_names(old), condition_names(new)
    hears, bias = weights.new_zeros(len(weights), len(names)), bias.clone()
    for column, name in enumerate(was):
        own = weights[:, column]
        if name not in old.names:
            # Growth of structure; its numbers mean the same everywhere.
            if name in names:
                hears[:, names.index(name)] = own
            continue
        low, high = _as_heard(old[name], new)
        if name in names:
            hears[:, names.index(name)] = own * (high - low) / 2
        bias = bias + own * (high + low) / 2
    return hears, bias


def _rows_heard(
    rows: Sequence[Sequence[float]], old: ParameterSpace, new: ParameterSpace
) -> tuple[tuple[float, ...], ...]:
    """The same for rows of a constant and one factor for each condition."""
    table = torch.tensor(rows, dtype=torch.float64)
    factors, constants = _heard(table[:, 1:], table[:, 0], old, new)
    heard: list[list[float]] = torch.cat([constants[:, None], factors], 1).tolist()
    return tuple(map(tuple, heard))


def _as_heard(parameter: Parameter, new: ParameterSpace) -> tuple[float, float]:
    """What an old network hears at the ends of the new range; 0 if there is none."""
    if parameter.name not in new:
        return 0.0, 0.0
    other = new[parameter.name]
    unit = ParameterSpace((parameter,)).to_unit(np.array([[other.low], [other.high]]))
    return float(2 * unit[0, 0] - 1), float(2 * unit[1, 0] - 1)
