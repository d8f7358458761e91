"""How close a generator comes to held-out simulations: numbers and a picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._files import atomic_path
from .batches import draw_noise, one_sample
from .generators import FieldGenerator
from .statistics import correlation_coefficient, power_spectrum
from .training_data import TrainingData

__all__ = ["total_score", "validation_scores", "write_picture"]


def validation_scores(
    generator: FieldGenerator,
    data: TrainingData,
    split: str,
    *,
    limit: int | None = None,
) -> dict[str, float]:
    """How close a generator comes to simulations of the same phases.

    Parameters
    ----------
    generator
        On any device.
    data
        The training set.
    split
        Which samples.
    limit
        Use at most so many samples, spread over the split.

    Returns
    -------
    dict
        For each field: the largest departure of the mean power ratio from 1 up to half
        the Nyquist frequency (``power``), the mean correlation coefficient at a quarter
        and at half of it (``r_quarter``, ``r_half``), the ratio of means (``mean``);
        for conserved ones the same of the base (``base_power``, ...).
    """
    indices = data.indices(split)
    if limit:
        indices = indices[:: max(1, len(indices) // limit)][:limit]
    device = next(generator.parameters()).device
    curves: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    means: dict[str, list[float]] = {name: [] for name in data.fields}
    k = np.zeros(0)
    for index in indices:
        batch = one_sample(data, int(index), device)
        base, target = (each[0].cpu().numpy() for each in (batch.base, batch.target))
        with torch.no_grad():
            noise = draw_noise(generator, batch, (7, int(index)))
            made = generator(batch.base, batch.conditions, noise)[0].cpu().numpy()
        pairs = [(n, made[i], target[i]) for i, n in enumerate(data.fields)]
        if data.units[data.fields[0]] == "":
            pairs.append(("base", base[0], target[0]))
        for name, first, second in pairs:
            k, ratio, r = _compare(first, second, data.box_size)
            curves.setdefault(name, []).append((ratio, r))
            if name in means:
                means[name].append(float(first.mean() / max(second.mean(), 1e-30)))
    half = k <= np.pi / data.cell_size / 2
    middle = int(np.argmin(np.abs(k - k[half][-1] / 2)))
    scores = {}
    for name, both in curves.items():
        ratio = np.nanmean([ratio for ratio, _ in both], 0)
        r = np.nanmean([r for _, r in both], 0)
        scores[f"{name}_power"] = float(np.nanmax(np.abs(ratio[half] - 1)))
        scores[f"{name}_r_quarter"] = float(r[middle])
        scores[f"{name}_r_half"] = float(r[half][-1])
        if name in means:
            scores[f"{name}_mean"] = float(np.mean(means[name]))
    return scores


def _compare(first: Any, second: Any, box_size: float) -> tuple[Any, Any, Any]:
    """Wavenumbers, power ratio and correlation coefficient of two fields."""
    power = [
        np.asarray(power_spectrum(f, box_size=box_size, relative=False).power)
        for f in (first, second)
    ]
    k, r = correlation_coefficient(first, second, box_size=box_size)[:2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(k), power[0] / power[1], np.asarray(r)


def total_score(scores: Mapping[str, float], fields: tuple[str, ...]) -> float:
    """One number for a model, smaller is better.

    Parameters
    ----------
    scores
        From `validation_scores`.
    fields
        Which fields count.

    Returns
    -------
    float
        Mean over fields of the power's departure and of 1 - r.
    """
    return float(
        np.mean(
            [
                scores[f"{name}_power"] + 1 - scores[f"{name}_r_quarter"]
                for name in fields
            ]
        )
    )


def write_picture(
    generator: FieldGenerator, data: TrainingData, split: str, path: Path, title: str
) -> None:
    """Draw emulated and simulated slices of a sample beside each other.

    Parameters
    ----------
    generator
        On any device.
    data, split
        The last sample of the split is drawn.
    path
        PNG file to write.
    title
        Of the picture.
    """
    from matplotlib.figure import Figure

    index = int(data.indices(split)[-1])
    batch = one_sample(data, index, next(generator.parameters()).device)
    with torch.no_grad():
        noise = draw_noise(generator, batch, (7, index))
        made = generator(batch.base, batch.conditions, noise)
        rows = [
            generator.to_latent(each)[0].cpu().numpy() for each in (made, batch.target)
        ]
    figure = Figure(figsize=(8, 4 * len(data.fields)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(data.fields), 2, squeeze=False)
    for (i, name), (j, label) in itertools.product(
        enumerate(data.fields), enumerate(("emulated", "simulated"))
    ):
        image = rows[j][i]
        image = image[..., 0] if image.ndim == 3 else image
        high = float(rows[1][i].max())
        axes[i, j].imshow(image.T, origin="lower", vmin=0, vmax=high, cmap="cividis")
        axes[i, j].set_title(f"{name}, {label}")
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png")
