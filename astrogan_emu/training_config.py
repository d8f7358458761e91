"""Every choice of a training run, and the learning rates that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real

import numpy as np

from .errors import TrainingError

__all__ = ["TrainingConfig", "learning_rate"]

# What the annotation of a choice stands for.
_KINDS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "text"),
    "tuple[int, ...]": ((tuple, list), "a list of whole numbers"),
    "tuple[str, ...]": ((tuple, list), "a list of names"),
    "Mapping[str, float]": (Mapping, "weights by the names of fields"),
    "Mapping[str, str]": (Mapping, "names of fields by the names of fields"),
}
# What is in those that hold several.
_CONTENTS: Mapping[str, type] = {
    "tuple[str, ...]": str,
    "Mapping[str, float]": Real,
    "Mapping[str, str]": str,
}


@dataclass(frozen=True)
class TrainingConfig:
    """Every choice of a training run.

    Parameters
    ----------
    name
        Of the model.
    paired_steps, adversarial_steps
        Updates of the generator without and with the critic.
    batch_size
        Boxes in one update, on each device.
    draws
        Fields made of each paired box in one update, from different noise. With 2 they
        are judged as a forecast is, by their distance from the simulation less half of
        that from each other, which is least for draws from all that simulations do with
        that base. With 1 what is judged best is the one likeliest field, and the
        generator learns to ignore its noise.
    widths, critic_widths
        Channels at each resolution; see `NetworkConfig`.
    keep_scale
        Scale above which the base's density is kept [Mpc/h]; see `GeneratorConfig`.
    learning_rate, adversarial_rate, critic_rate
        Of the generator in either stage, and of the critic.
    condition_rate
        Learning rate of the layers that hear the parameters, as a multiple of the
        generator's. They hardly hear at first; with few steps, let them learn faster.
    cell_weight, power_weight, phase_weight, distribution_weight, adversarial_weight
        Of the cell-by-cell loss, the power spectrum, the correlation coefficient (with
        two draws, the score of each Fourier mode), the one-point distributions (of
        cells and of the smoothed field) and the critic's verdict in the generator's
        loss.
    bispectrum_weight
        Of the bispectrum of equilateral and squeezed triangles.
    tail_weight
        Of the one-point distributions of the values themselves, where the few dense
        cells count.
    free_weight
        Of the fields that are not conserved beside those that are: sparse fields are
        further off, and would otherwise decide every step.
    field_weights
        The same for single fields, by name.
    expected
        Fields of scattered objects whose cells are compared as expected densities, so
        that amounts are right; see `expectation_loss`.
    cross_weight
        Of the cross-power of each field with the first, if that is conserved.
    joint_weight
        Of the distributions of the fields' values together, beside each other.
    condition_noise
        Standard deviation of noise on the parameters as the networks hear them, in
        half ranges. With few simulations it keeps the response to them smooth.
    unheard
        Conditions that the networks do not hear, of `condition_names`. A parameter
        that shapes the linear field alone is in the base already; told it as well, a
        network can use it to tell the simulations of its training set apart.
    trends
        Fields with a unit that start from another field, by name, such as
        ``{"gas_temperature": "gas_density"}``: from a regression of their logarithms
        over the training set, which the network corrects; see `Trend`.
    trend_conditions
        Conditions that these regressions hear, also where the networks do not.
    levels
        Fields with a unit whose mean over a box is not learned by the network, but
        follows from a regression of its logarithm over the training set; see `Level`.
    level_conditions
        Conditions that these regressions hear, also where the networks do not.
    penalty, penalty_every
        Gradient penalty of the critic, and how many steps lie between two.
    weight_decay
        Decay of the generator's weights (Loshchilov & Hutter 2019).
    ema
        Decay of the average of the generator's weights that becomes the model.
    seed
        Of everything random.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    precision
        ``"float32"``, or ``"bf16"`` for the convolutions.
    validate_every, checkpoint_every
        Steps between validations and between saved states.
    keep_every
        Keep the model of a validation as ``step_N.safetensors`` if its step is a
        multiple of this; 0 keeps none.
    """

    name: str = "model"
    paired_steps: int = 4200
    adversarial_steps: int = 800
    batch_size: int = 1
    draws: int = 2
    widths: tuple[int, ...] = (16, 48, 96)
    critic_widths: tuple[int, ...] = (24, 48, 64)
    keep_scale: float = 5.0
    learning_rate: float = 2e-3
    adversarial_rate: float = 4e-4
    critic_rate: float = 1e-3
    condition_rate: float = 1.0
    cell_weight: float = 1.0
    power_weight: float = 16.0
    phase_weight: float = 4.0
    bispectrum_weight: float = 0.0
    distribution_weight: float = 2.0
    tail_weight: float = 4.0
    adversarial_weight: float = 0.3
    free_weight: float = 0.3
    field_weights: Mapping[str, float] = field(default_factory=dict)
    expected: tuple[str, ...] = ()
    cross_weight: float = 1.0
    joint_weight: float = 0.0
    condition_noise: float = 0.0
    unheard: tuple[str, ...] = ()
    trends: Mapping[str, str] = field(default_factory=dict)
    trend_conditions: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    level_conditions: tuple[str, ...] = ()
    weight_decay: float = 0.0
    penalty: float = 0.003
    penalty_every: int = 8
    ema: float = 0.995
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    validate_every: int = 300
    checkpoint_every: int = 100
    keep_every: int = 0

    def __post_init__(self) -> None:
        for choice in fields(self):
            value = getattr(self, choice.name)
            kind, words = _KINDS[str(choice.type)]
            right = isinstance(value, kind) and not isinstance(value, bool)
            if right and (content := _CONTENTS.get(str(choice.type))):
                held = value.values() if isinstance(value, Mapping) else value
                right = all(isinstance(each, content) for each in held)
            if not right:
                raise TrainingError(f"{choice.name} must be {words}, got {value!r}")
        if self.paired_steps < 0 or self.adversarial_steps < 0 or self.steps == 0:
            raise TrainingError(
                "paired_steps and adversarial_steps must not be negative, nor both 0"
            )
        for name in ("widths", "critic_widths"):
            if not all(isinstance(width, int) for width in getattr(self, name)):
                raise TrainingError(
                    f"{name} must be whole numbers, got {getattr(self, name)}"
                )
        for name in ("batch_size", "penalty_every", "validate_every"):
            if getattr(self, name) < 1:
                raise TrainingError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        for name in (
            *("tail_weight", "cross_weight", "joint_weight", "bispectrum_weight"),
            *("condition_noise", "weight_decay"),
        ):
            if not getattr(self, name) >= 0:
                raise TrainingError(
                    f"{name} must not be negative, got {getattr(self, name)}"
                )
        if not self.condition_rate > 0:
            raise TrainingError(
                f"condition_rate must be positive, got {self.condition_rate}"
            )
        if self.draws not in (1, 2):
            raise TrainingError(f"draws must be 1 or 2, got {self.draws}")
        if self.precision not in ("float32", "bf16"):
            raise TrainingError(
                f"precision must be float32 or bf16, got {self.precision!r}"
            )
        if not 0 <= self.ema < 1:
            raise TrainingError(f"ema must be in [0, 1), got {self.ema}")

    @property
    def steps(self) -> int:
        """All steps."""
        return self.paired_steps + self.adversarial_steps


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Learning rate of the generator: warm-up and cosine decay in each stage.

    Parameters
    ----------
    step
        Number of the update.
    config
        The choices.

    Returns
    -------
    float
        The rate.
    """
    if step < config.paired_steps:
        start, length, peak = 0, config.paired_steps, config.learning_rate
    else:
        start, length = config.paired_steps, config.adversarial_steps
        peak = config.adversarial_rate
    done = (step - start) / max(1, length)
    rising = min(1.0, (step - start + 1) / 30)
    return peak * rising * (0.05 + 0.95 * 0.5 * (1 + float(np.cos(np.pi * done))))
