"""A network that tells companions from speckles in patches of many ranks.

It follows SODINN (Gomez Gonzalez et al. 2018): a patch shows how what is at a place
changes with the number of principal components that are taken away. Here a patch is
seen outwards from the star, so that all azimuths look alike, keeps its amplitude, in
units of the noise, and comes with its separation. What the network says is a score,
not a probability: `calibration` makes it one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import TrainingError
from ..torch_threads import one_thread
from .templates import Templates

__all__ = ["CompanionDetector", "DetectorConfig"]

# Patches and what the network is told of them, at a step of the training.
Noise = Callable[
    [int, np.random.Generator], tuple[NDArray[np.float32], NDArray[np.float32]]
]


@dataclass(frozen=True)
class DetectorConfig:
    """Choices of a detector's training.

    Parameters
    ----------
    steps, batch
        Updates, and patches in each, half of them with a companion.
    faintest, brightest
        Ratios of signal to noise that companions are given.
    width
        Channels of the first layer.
    learning_rate
        At its highest.
    """

    steps: int = 500
    batch: int = 64
    faintest: float = 0.5
    brightest: float = 6.0
    width: int = 16
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.width) < 1 or self.batch % 2:
            raise TrainingError(
                "steps and width must be at least 1 and batch even, got "
                f"{self.steps}, {self.width} and {self.batch}"
            )
        if not 0 < self.faintest < self.brightest:
            raise TrainingError(
                "faintest and brightest must be positive and increase, got "
                f"{self.faintest} and {self.brightest}"
            )


class _Network(nn.Module):
    """Three convolutions, each scaled and shifted by what is known of the place."""

    def __init__(self, n_ranks: int, n_conditions: int, width: int) -> None:
        super().__init__()
        widths = (width, width * 3 // 2, width * 2)
        before = (n_ranks, *widths[:-1])
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(before, widths, strict=True)
        )
        self.told = nn.ModuleList(nn.Linear(n_conditions, 2 * b) for b in widths)
        for layer in self.told:
            nn.init.zeros_(cast(Tensor, layer.weight))
            nn.init.zeros_(cast(Tensor, layer.bias))
        self.head = nn.Sequential(
            nn.Linear(widths[-1] * 4, 48), nn.LeakyReLU(0.1), nn.Linear(48, 1)
        )

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        for i, (layer, told) in enumerate(zip(self.layers, self.told, strict=True)):
            scale, shift = told(conditions)[..., None, None].chunk(2, 1)
            x = F.leaky_relu(layer(x) * (1 + scale) + shift, 0.1)
            if i < 2:
                x = F.avg_pool2d(x, 2)
        return self.head(x.flatten(1))[:, 0]


class CompanionDetector:
    """Scores of patches, higher where a companion is more likely.

    Parameters
    ----------
    network
        Trained, as `train` makes it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    @classmethod
    @one_thread()
    def train(
        cls,
        noise: Noise,
        templates: Templates,
        *,
        seed: int,
        config: DetectorConfig | None = None,
    ) -> CompanionDetector:
        """Learn from patches of noise, with and without a template on them.

        Parameters
        ----------
        noise
            Gives a number of patches, and what is known of them.
        templates
            Companions to add.
        seed
            Of everything random.
        config
            The choices.
        """
        config = config or DetectorConfig()
        rng = np.random.default_rng((seed, 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            n_ranks = templates.patches.shape[1]
            network = _Network(n_ranks, templates.conditions.shape[1], config.width)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=1e-2
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, config.learning_rate, total_steps=config.steps
        )
        order = np.argsort(templates.conditions[:, 0], kind="stable")
        sorted_separation = templates.conditions[order, 0]
        half = config.batch // 2
        labels = torch.cat([torch.ones(half), torch.zeros(half)])
        for _ in range(config.steps):
            patches, conditions = noise(config.batch, rng)
            # Of about the same separation: what a companion loses depends on it.
            near = np.searchsorted(sorted_separation, conditions[:half, 0])
            near = near + rng.integers(-8, 9, half)
            chosen = order[np.clip(near, 0, len(order) - 1)]
            ratio = rng.uniform(config.faintest, config.brightest, half)
            added = templates.patches[chosen] * ratio[:, None, None, None]
            patches = patches.copy()
            patches[:half] += added.astype(np.float32)
            # Along the circle around the star both ways are alike.
            flipped = rng.random(len(patches)) < 0.5
            patches[flipped] = patches[flipped][..., ::-1]
            scores = network(torch.from_numpy(patches), torch.from_numpy(conditions))
            loss = F.binary_cross_entropy_with_logits(scores, labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        return cls(network)

    @one_thread()
    def score(
        self, patches: NDArray[np.float32], conditions: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Scores, the mean over both ways along the circle around the star.

        Parameters
        ----------
        patches
            In units of the noise, shape ``(n, n_ranks, PATCH, PATCH)``.
        conditions
            Shape ``(n, 3)``.

        Returns
        -------
        ndarray
            Shape ``(n,)``.
        """
        parts = [np.empty(0)]
        with torch.inference_mode():
            for i in range(0, len(patches), 1024):
                x = torch.from_numpy(np.ascontiguousarray(patches[i : i + 1024]))
                told = torch.from_numpy(conditions[i : i + 1024])
                both = self.network(x, told) + self.network(x.flip(-1), told)
                parts.append(both.double().numpy() / 2)
        return np.concatenate(parts)
