"""Networks and optimisers of a training run, and how they go to disk and back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoints import check_weights, read_tensors, write_tensors
from .errors import CheckpointError, TrainingError
from .generators import FieldGenerator, GeneratorConfig
from .networks import Critic
from .training_config import TrainingConfig

__all__ = ["TrainingState"]

# Layers that hear the conditions, by a part of the names of their weights.
_HEAR = ("embed", "affine", "shift")


class TrainingState:
    """Networks and optimisers, and how they are saved.

    Parameters
    ----------
    config
        The choices.
    shapes
        Of the generator.
    """

    def __init__(self, config: TrainingConfig, shapes: GeneratorConfig) -> None:
        self.device = device_named(config.device)
        if self.device.type == "cuda":
            # Shapes stay the same, so that trying kinds of convolutions pays.
            torch.backends.cudnn.benchmark = True
        torch.manual_seed(config.seed)
        self.generator = FieldGenerator(shapes).to(self.device)
        self.average = FieldGenerator(shapes).to(self.device).requires_grad_(False)
        self.average.load_state_dict(self.generator.state_dict())
        self.critic = Critic(shapes.network).to(self.device)
        self.generator_optimiser = torch.optim.AdamW(
            _groups(self.generator, config),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
        )
        self.critic_optimiser = torch.optim.Adam(
            self.critic.parameters(), lr=config.critic_rate, betas=(0.0, 0.99)
        )
        self.step = 0
        self.best = float("inf")

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "generator": self.generator,
            "average": self.average,
            "critic": self.critic,
        }

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "generator_optimiser": self.generator_optimiser,
            "critic_optimiser": self.critic_optimiser,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes, by name."""
        result = {
            f"{name}/{key}": value
            for name, module in self._modules().items()
            for key, value in module.state_dict().items()
        }
        for name, optimiser in self._optimisers().items():
            for index, slots in optimiser.state_dict()["state"].items():
                for key, value in slots.items():
                    result[f"{name}/{index}/{key}"] = torch.as_tensor(value)
        return result

    def load(self, path: Path, config: TrainingConfig) -> None:
        """Go on from a saved state."""
        tensors, metadata = read_tensors(path)
        saved = metadata.get("config")
        if saved != json.loads(json.dumps(asdict(config))):
            raise CheckpointError(
                f"{path} was begun with another configuration; give another folder, or "
                "the same settings"
            )
        for name, module in self._modules().items():
            own = _below(tensors, name)
            check_weights(f"{path} ({name})", own, module.state_dict())
            module.load_state_dict(own)
        for name, optimiser in self._optimisers().items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(tensors, name).items():
                index, slot = key.split("/")
                state.setdefault(int(index), {})[slot] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.best = int(metadata["step"]), float(metadata["best"])

    def save(self, path: Path, config: TrainingConfig) -> None:
        """Save all that `load` needs."""
        best = self.best if np.isfinite(self.best) else 1e30
        metadata = {"step": self.step, "best": best, "config": asdict(config)}
        write_tensors(path, self.tensors(), metadata)


def _groups(generator: FieldGenerator, config: TrainingConfig) -> list[dict[str, Any]]:
    """Weights by how fast they learn, as multiples (``times``) of a step's rate."""
    hear: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in generator.named_parameters():
        own = any(part in _HEAR for part in name.split("."))
        hear[own].append(parameter)
    return [
        {"params": hear[False], "times": 1.0},
        {"params": hear[True], "times": config.condition_rate},
    ]


def _below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    start = name + "/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def device_named(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError("device 'cuda' was asked for, but torch finds no GPU")
    if name.startswith("cuda"):
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return torch.device(name)
