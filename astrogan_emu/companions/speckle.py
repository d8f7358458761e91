"""Speckle noise that can be drawn at will: a Gaussian model, and a GAN on top of it.

`GaussianSpeckle` has the means and covariances of patches at five ranges of
separation. `SpeckleGAN` starts from its samples and learns what is not Gaussian in
them, with the generator, critic and losses of the galaxy fields. Its samples are only
for use where they pass `check_speckles`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..adversarial import critic_update, critic_verdict, follow
from ..checkpoints import check_weights, read_tensors, write_tensors
from ..errors import CheckpointError, TrainingDivergedError, TrainingError
from ..networks import Critic, NetworkConfig, UNet
from ..torch_threads import one_thread
from .speckle_checks import check_speckles
from .templates import Speckles

__all__ = [
    "GaussianSpeckle",
    "SpeckleGAN",
    "SpeckleGANConfig",
    "noise_pool",
]

_FORMAT = "astrogan_emu speckles"
_ZONES = 5
NOISES = ("real", "gaussian", "gan", "gan+real")


class GaussianSpeckle:
    """Patches with the mean and covariance of those of about the same separation.

    Parameters
    ----------
    separation
        Least condition of each zone but the first, shape ``(n_zones - 1,)``.
    mean
        Shape ``(n_zones, *patch)``.
    factor
        The covariance is its square, and `rest` squared on the diagonal; shape
        ``(n_zones, n_components, size of patch)``.
    rest
        Standard deviation of what the components leave, shape ``(n_zones, size)``.
    """

    def __init__(
        self,
        separation: NDArray[np.float32],
        mean: NDArray[np.float32],
        factor: NDArray[np.float32],
        rest: NDArray[np.float32],
    ) -> None:
        self.separation, self.mean = separation, mean
        self.factor, self.rest = factor, rest

    @classmethod
    def fit(cls, speckles: Speckles, n_components: int = 150) -> GaussianSpeckle:
        """Learn from patches.

        Parameters
        ----------
        speckles
            The patches.
        n_components
            Directions of each zone that are kept with their correlations.

        Raises
        ------
        TrainingError
            If there are fewer than ten patches for a zone.
        """
        told, patches = speckles.conditions[:, 0], speckles.patches
        if len(patches) < 10 * _ZONES:
            raise TrainingError(
                f"{len(patches)} patches are too few for a model of speckles; at "
                f"least {10 * _ZONES} are needed"
            )
        edges = np.quantile(told, np.arange(1, _ZONES) / _ZONES).astype(np.float32)
        zone = np.searchsorted(edges, told, side="right")
        means, factors, rests = [], [], []
        for i in range(_ZONES):
            own = patches[zone == i]
            # Both ways along the circle around the star are alike.
            own = np.concatenate([own, own[..., ::-1]]).reshape(2 * len(own), -1)
            mean = own.mean(0)
            centred = (own - mean).astype(float) / np.sqrt(len(own) - 1)
            values, vectors = np.linalg.eigh(centred.T @ centred)
            kept = min(n_components, len(own) // 4, len(values))
            factor = (vectors[:, -kept:] * np.sqrt(values[-kept:].clip(0))).T
            total = (centred**2).sum(0)
            rest = np.sqrt((total - (factor**2).sum(0)).clip(0))
            full = np.zeros((min(n_components, len(values)), len(values)))
            full[:kept] = factor
            means.append(mean.reshape(patches.shape[1:]))
            factors.append(full)
            rests.append(rest)
        stacked = (np.stack(v).astype(np.float32) for v in (means, factors, rests))
        return cls(edges, *stacked)

    def sample(
        self, conditions: NDArray[np.float32], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """One patch for each row of conditions, shape ``(n, *patch)``."""
        zone = np.searchsorted(self.separation, conditions[:, 0], side="right")
        shape = self.mean.shape[1:]
        result = np.empty((len(conditions), *shape), dtype=np.float32)
        size = self.factor.shape[1]
        common = rng.standard_normal((len(conditions), size), dtype=np.float32)
        own = rng.standard_normal((len(conditions), self.rest.shape[1]), dtype="f4")
        for i in np.unique(zone):
            here = zone == i
            drawn = common[here] @ self.factor[i] + own[here] * self.rest[i]
            result[here] = self.mean[i] + drawn.reshape(-1, *shape)
        return result

    def tensors(self) -> dict[str, Tensor]:
        """All that `sample` needs, by name."""
        names = ("separation", "mean", "factor", "rest")
        return {name: torch.from_numpy(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class SpeckleGANConfig:
    """Choices of a GAN's training.

    Parameters
    ----------
    steps, batch
        Updates of generator and critic, and patches in each.
    widths, critic_widths
        Channels at each resolution; see `NetworkConfig`.
    learning_rate, critic_rate
        Of generator and critic.
    penalty, penalty_every
        Gradient penalty, and how many steps lie between two.
    moment_weight
        In the generator's loss, of the misfit of each rank's standard deviation and
        of the correlations between ranks.
    ema
        Decay of the average of weights that becomes the generator.
    """

    steps: int = 150
    batch: int = 48
    widths: tuple[int, ...] = (16, 24)
    critic_widths: tuple[int, ...] = (16, 24)
    learning_rate: float = 2e-3
    critic_rate: float = 2e-3
    penalty: float = 0.1
    penalty_every: int = 4
    moment_weight: float = 1.0
    ema: float = 0.96

    def __post_init__(self) -> None:
        if min(self.steps, self.penalty_every) < 1 or self.batch < 2:
            raise TrainingError(
                "steps and penalty_every must be at least 1 and batch at least 2, got "
                f"{self.steps}, {self.penalty_every} and {self.batch}"
            )
        if not 0 <= self.ema < 1:
            raise TrainingError(f"ema must be in [0, 1), got {self.ema}")


class SpeckleGAN:
    """Patches of speckles from a conditional GAN that corrects a Gaussian model.

    Parameters
    ----------
    gaussian
        What samples start from.
    generator, critic
        Networks of the shapes of `network_configs`.
    """

    def __init__(
        self, gaussian: GaussianSpeckle, generator: UNet, critic: Critic
    ) -> None:
        self.gaussian = gaussian
        self.generator = generator.eval().requires_grad_(False)
        self.critic = critic.eval().requires_grad_(False)

    @classmethod
    @one_thread()
    def fit(
        cls,
        speckles: Speckles,
        *,
        seed: int,
        config: SpeckleGANConfig | None = None,
        gaussian: GaussianSpeckle | None = None,
    ) -> SpeckleGAN:
        """Learn from patches.

        Parameters
        ----------
        speckles
            The patches.
        seed
            Of everything random.
        config
            The choices.
        gaussian
            What to start from; fitted to the patches if not given.

        Raises
        ------
        TrainingError
            If there are too few patches.
        TrainingDivergedError
            If the losses are no longer finite.
        """
        config = config or SpeckleGANConfig()
        gaussian = gaussian or GaussianSpeckle.fit(speckles)
        shapes = network_configs(speckles, config)
        rng = np.random.default_rng((seed, 2))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator, critic = UNet(shapes[0]), Critic(shapes[1])
        average = UNet(shapes[0])
        average.load_state_dict(generator.state_dict())
        steps = (
            torch.optim.Adam(generator.parameters(), config.learning_rate, (0.0, 0.99)),
            torch.optim.Adam(critic.parameters(), config.critic_rate, (0.0, 0.99)),
        )
        for step in range(config.steps):
            chosen = rng.integers(len(speckles.patches), size=config.batch)
            patches = speckles.patches[chosen]
            if rng.random() < 0.5:
                patches = np.ascontiguousarray(patches[..., ::-1])
            real, told = map(torch.from_numpy, (patches, speckles.conditions[chosen]))
            base = torch.from_numpy(gaussian.sample(speckles.conditions[chosen], rng))
            fake = base + generator(base, told, _noise(generator, len(base), rng))
            blind = torch.zeros_like(real[:, :1])
            every = config.penalty_every
            penalty = config.penalty * every * (step % every == 0)
            critic_update(critic, steps[1], real, fake, blind, told, penalty=penalty)
            loss = critic_verdict(critic, real, fake, blind, told)
            loss = loss + config.moment_weight * _moment_misfit(real, fake)
            if not bool(torch.isfinite(loss)):
                raise TrainingDivergedError(
                    f"the loss of step {step} is {float(loss)}; lower learning_rate"
                )
            steps[0].zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
            steps[0].step()
            follow(average, generator, min(config.ema, (1 + step) / (10 + step)))
        return cls(gaussian, average, critic)

    @one_thread()
    def sample(
        self, conditions: NDArray[np.float32], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """One patch for each row of conditions, shape ``(n, *patch)``."""
        base = self.gaussian.sample(conditions, rng)
        parts = []
        with torch.inference_mode():
            for i in range(0, len(base), 512):
                start = torch.from_numpy(base[i : i + 512])
                told = torch.from_numpy(conditions[i : i + 512])
                noise = _noise(self.generator, len(start), rng)
                parts.append((start + self.generator(start, told, noise)).numpy())
        return np.concatenate(parts)

    @one_thread()
    def score(
        self, patches: NDArray[np.float32], conditions: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """How unlike speckles patches are to the critic, shape ``(n,)``."""
        parts = [np.empty(0)]
        with torch.inference_mode():
            for i in range(0, len(patches), 1024):
                x = torch.from_numpy(np.ascontiguousarray(patches[i : i + 1024]))
                told = torch.from_numpy(conditions[i : i + 1024])
                blind = torch.zeros_like(x[:, :1])
                both = [self.critic(v, blind, told).mean(1) for v in (x, x.flip(-1))]
                parts.append(-(both[0] + both[1]).double().numpy() / 2)
        return np.concatenate(parts)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write to one safetensors file, replacing it."""
        parts = {
            "gaussian": self.gaussian.tensors(),
            "generator": self.generator.state_dict(),
            "critic": self.critic.state_dict(),
        }
        tensors = {f"{a}/{b}": t for a, part in parts.items() for b, t in part.items()}
        shapes = {
            "generator": asdict(self.generator.config),
            "critic": asdict(self.critic.config),
        }
        write_tensors(path, tensors, {"format": _FORMAT, "shapes": shapes})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> SpeckleGAN:
        """Read what `write` wrote.

        Raises
        ------
        CheckpointError
            If the file is damaged or of another kind.
        """
        name = os.fspath(path)
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != _FORMAT:
            raise CheckpointError(f"{name} is not a model of speckles")
        try:
            shapes = {k: _shapes(v) for k, v in metadata["shapes"].items()}
            generator, critic = UNet(shapes["generator"]), Critic(shapes["critic"])
        except (KeyError, TypeError, AttributeError, TrainingError) as error:
            raise CheckpointError(
                f"the settings of {name} cannot be understood: {error!r}"
            ) from error
        for part, network in (("generator", generator), ("critic", critic)):
            own = _below(tensors, part)
            check_weights(f"{name} ({part})", own, network.state_dict())
            network.load_state_dict(own)
        gaussian = _below(tensors, "gaussian")
        expected = ("separation", "mean", "factor", "rest")
        if set(gaussian) != set(expected):
            raise CheckpointError(f"{name} lacks its Gaussian model")
        values = (gaussian[key].numpy() for key in expected)
        return cls(GaussianSpeckle(*values), generator, critic)


def network_configs(
    speckles: Speckles, config: SpeckleGANConfig
) -> tuple[NetworkConfig, NetworkConfig]:
    """Shapes of generator and critic; the critic is not shown the Gaussian sample."""
    n_ranks, n_told = speckles.patches.shape[1], speckles.conditions.shape[1]

    def shapes(n_base: int) -> NetworkConfig:
        return NetworkConfig(
            n_dim=2,
            in_channels=n_base,
            out_channels=n_ranks,
            n_conditions=n_told,
            widths=config.widths,
            critic_widths=config.critic_widths,
            style=16,
        )

    return shapes(n_ranks), shapes(1)


def _shapes(values: Mapping[str, Any]) -> NetworkConfig:
    values = dict(values)
    for key in ("widths", "critic_widths"):
        values[key] = tuple(values[key])
        if max(values[key]) > 4096 or len(values[key]) > 12:
            raise TrainingError(f"{key} {values[key]} is beyond reason")
    return NetworkConfig(**values)


def _below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    start = name + "/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def _noise(generator: UNet, batch: int, rng: np.random.Generator) -> list[Tensor]:
    size = 8
    return [
        torch.from_numpy(
            rng.standard_normal((batch, 1, size >> n, size >> n), dtype=np.float32)
        )
        for n in generator.noise_levels
    ]


def _moment_misfit(real: Tensor, fake: Tensor) -> Tensor:
    """Of standard deviations, and of correlations between neighbouring ranks."""

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.transpose(0, 1).flatten(1)
        flat = flat - flat.mean(1, keepdim=True)
        covariance = flat @ flat.T / flat.shape[1]
        std = covariance.diagonal().clamp(min=1e-12).sqrt()
        return std.log(), covariance / (std[:, None] * std)

    pairs = zip(moments(real), moments(fake), strict=True)
    return torch.stack([(a - b).square().mean() for a, b in pairs]).sum()


def noise_pool(
    kind: str,
    speckles: Speckles,
    *,
    seed: int,
    config: SpeckleGANConfig | None = None,
    trained: SpeckleGAN | None = None,
    strict: bool = True,
) -> Speckles:
    """Patches of noise for a detector to learn from.

    Parameters
    ----------
    kind
        ``"real"``: the patches themselves; ``"gaussian"`` or ``"gan"``: three times as
        many that a model of them draws; ``"gan+real"``: both, the GAN's as many.
    speckles
        Measured patches.
    seed
        Of everything random.
    config
        Of the GAN.
    trained
        A GAN to use; one is trained on the patches if not given.
    strict
        Refuse a GAN whose samples do not pass `check_speckles`.

    Raises
    ------
    TrainingError
        If there is no such kind, or the GAN is refused.
    """
    if kind not in NOISES:
        raise TrainingError(f"noise must be one of {', '.join(NOISES)}, got {kind!r}")
    if kind == "real":
        return speckles
    rng = np.random.default_rng((seed, 3))
    model: GaussianSpeckle | SpeckleGAN
    if kind == "gaussian":
        model = GaussianSpeckle.fit(speckles)
    else:
        model = trained or SpeckleGAN.fit(speckles, seed=seed, config=config)
        checks = check_speckles(speckles, model.sample(speckles.conditions, rng))
        if strict and not checks.pop("passed"):
            said = ", ".join(f"{k} {a:.2g} of {b:g}" for k, (a, b) in checks.items())
            raise TrainingError(
                f"the GAN's samples are not like the speckles (found of allowed: "
                f"{said}); train it longer, or use noise='real' or 'gaussian'"
            )
    count = len(speckles.patches)
    parts = [np.arange(count)] * (1 if kind == "gan+real" else 3)
    index = np.concatenate(parts)
    told = speckles.conditions[index]
    drawn = Speckles(
        model.sample(told, rng), told, speckles.x[index], speckles.y[index]
    )
    if kind != "gan+real":
        return drawn
    names = ("patches", "conditions", "x", "y")
    both = [(getattr(speckles, n), getattr(drawn, n)) for n in names]
    return Speckles(*(np.concatenate(pair) for pair in both))
