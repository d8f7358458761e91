"""Training the conditional GAN: one loop, from a training set to a model file.

First the generator learns from pairs of the same phases, then the critic joins. Each
step draws its samples, symmetries and noise from the seed and its own number, so a run
that was killed goes on exactly as if it had not been. Shapes follow from the data.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ._files import atomic_path
from .checkpoints import (
    BaseSettings,
    ModelCard,
    check_weights,
    read_model,
    read_tensors,
    write_model,
    write_tensors,
)
from .conditioning import condition_length, conditions
from .dataset import TrainingSet
from .errors import CheckpointError, TrainingDivergedError, TrainingError
from .generators import FieldGenerator, FieldHead, GeneratorConfig
from .losses import (
    gradient_penalty,
    paired_loss,
    relativistic_loss,
    spectral_losses,
)
from .networks import Critic, NetworkConfig
from .statistics import correlation_coefficient, power_spectrum

__all__ = ["TrainingConfig", "train", "validation_scores"]

_LOG = logging.getLogger(__name__)


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
    widths, critic_widths
        Channels at each resolution; see `NetworkConfig`.
    keep_scale
        Scale above which the base's density is kept [Mpc/h]; see `GeneratorConfig`.
    learning_rate, adversarial_rate, critic_rate
        Of the generator in either stage, and of the critic.
    cell_weight, power_weight, phase_weight, adversarial_weight
        Of the cell-by-cell loss, the power spectrum, the correlation coefficient and
        the critic's verdict in the generator's loss.
    penalty, penalty_every
        Gradient penalty of the critic, and how many steps lie between two.
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
    """

    name: str = "model"
    paired_steps: int = 1000
    adversarial_steps: int = 350
    batch_size: int = 1
    widths: tuple[int, ...] = (16, 32, 64)
    critic_widths: tuple[int, ...] = (8, 16, 32, 64)
    keep_scale: float = 5.0
    learning_rate: float = 3e-3
    adversarial_rate: float = 5e-4
    critic_rate: float = 1e-3
    cell_weight: float = 1.0
    power_weight: float = 0.5
    phase_weight: float = 2.0
    adversarial_weight: float = 0.05
    penalty: float = 0.1
    penalty_every: int = 8
    ema: float = 0.99
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    validate_every: int = 100
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        if self.paired_steps < 0 or self.adversarial_steps < 0 or self.steps == 0:
            raise TrainingError(
                "paired_steps and adversarial_steps must not be negative, nor both 0"
            )
        for name in ("batch_size", "penalty_every", "validate_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, got {getattr(self, name)}")
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


@dataclass
class _Batch:
    base: Tensor
    target: Tensor
    conditions: Tensor


class _State:
    """Networks and optimisers, and how they are saved."""

    def __init__(self, config: TrainingConfig, shapes: GeneratorConfig) -> None:
        self.device = _device(config.device)
        torch.manual_seed(config.seed)
        self.generator = FieldGenerator(shapes).to(self.device)
        self.average = FieldGenerator(shapes).to(self.device).requires_grad_(False)
        self.average.load_state_dict(self.generator.state_dict())
        self.critic = Critic(shapes.network).to(self.device)
        self.generator_optimiser = torch.optim.Adam(
            self.generator.parameters(), lr=config.learning_rate, betas=(0.9, 0.99)
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


def _below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    start = name + "/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError("device 'cuda' was asked for, but torch finds no GPU")
    if name.startswith("cuda"):
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return torch.device(name)


def _shapes(data: TrainingSet, config: TrainingConfig) -> GeneratorConfig:
    """Shapes and scales that follow from the data, from a few of its samples."""
    chosen = data.indices("train")
    chosen = chosen[:: max(1, len(chosen) // 16)]
    samples = [data.sample(i) for i in chosen]
    latent = np.log1p(np.stack([base for base, *_ in samples]) / 0.2)
    heads = []
    for channel, name in enumerate(data.fields):
        values = np.stack([target[channel] for _, target, *_ in samples])
        if data.units[name] == "":
            heads.append(FieldHead(name, 0.2, conserved=True))
        else:
            scale = float(values.mean()) or 1.0
            start = float(np.log1p(values / scale).mean())
            heads.append(FieldHead(name, scale, conserved=False, start=start))
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
            f"the boxes have {data.n_cells} cells a side, which the {len(config.widths)} "
            f"levels cannot halve; n_cells must be a multiple of {network.multiple}"
        )
    return GeneratorConfig(
        network,
        tuple(heads),
        base_mean=float(latent.mean()),
        base_std=float(latent.std()),
        keep_scale=config.keep_scale / data.cell_size,
    )


def _symmetry(rng: np.random.Generator, n_dim: int) -> tuple[Any, Any, Any]:
    """A random element of the cube's symmetries, and a shift by a few cells."""
    order = rng.permutation(n_dim)
    flips = np.flatnonzero(rng.integers(0, 2, n_dim))
    return order, flips, rng.integers(0, 8, n_dim)


def _transformed(values: NDArray[np.float32], symmetry: tuple[Any, Any, Any]) -> Any:
    order, flips, shift = symmetry
    values = values.transpose(0, *(1 + order))
    values = np.flip(values, tuple(1 + flips))
    axes = tuple(range(1, values.ndim))
    return np.roll(values, tuple(shift), axes)


def _batch(
    data: TrainingSet, indices: Any, seed: tuple[int, ...], size: int, device: Any
) -> _Batch:
    """The samples of one step, which its number alone decides."""
    rng = np.random.default_rng(seed)
    columns: list[list[Any]] = [[], [], [], []]
    for index in rng.choice(indices, size):
        base, target, parameters, redshift = data.sample(index)
        symmetry = _symmetry(rng, data.n_dim)
        parts = (
            _transformed(base, symmetry),
            _transformed(target, symmetry),
            parameters,
            redshift,
        )
        for column, part in zip(columns, parts, strict=True):
            column.append(part)
    base, target, parameters, redshift = (np.stack(column) for column in columns)
    told = conditions(data.space, parameters, redshift)
    return _Batch(
        torch.from_numpy(base).to(device),
        torch.from_numpy(target).to(device),
        told.to(device),
    )


def _noise(
    generator: FieldGenerator, batch: _Batch, seed: tuple[int, ...]
) -> list[Tensor]:
    source = torch.Generator()
    source.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    maps = generator.draw_noise(len(batch.base), batch.base.shape[-1], source)
    return [each.to(batch.base.device) for each in maps]


def _generator_losses(
    state: _State, batch: _Batch, config: TrainingConfig, rank: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Losses of the generator against its pair, and the fields it made."""
    noise = _noise(state.generator, batch, (config.seed, state.step, rank, 1))
    bf16 = config.precision == "bf16"
    with torch.autocast(batch.base.device.type, torch.bfloat16, enabled=bf16):
        fields = state.generator(batch.base, batch.conditions, noise)
    fields = fields.float()
    to_latent = state.generator.to_latent
    power, phase = spectral_losses(fields, batch.target)
    losses = {
        "cell": paired_loss(to_latent(fields), to_latent(batch.target)),
        "power": power,
        "phase": phase,
    }
    axes = tuple(range(2, fields.ndim))
    free = [i for i, head in enumerate(state.generator.config.heads) if not head.conserved]
    if free:
        ratio = fields[:, free].mean(axes) / (batch.target[:, free].mean(axes) + 1e-30)
        losses["power"] = losses["power"] + torch.log(ratio + 1e-3).square().mean()
    return losses, fields


def _critic_step(
    state: _State, batch: _Batch, fields: Tensor, config: TrainingConfig
) -> dict[str, float]:
    """One update of the critic: the simulated should outscore the generated."""
    to_latent = state.generator.to_latent
    base = torch.log1p(batch.base / state.generator.config.base_scale)
    penalised = state.step % config.penalty_every == 0
    real = to_latent(batch.target).requires_grad_(penalised)
    fake = to_latent(fields.detach()).requires_grad_(penalised)
    score_real = state.critic(real, base, batch.conditions)
    score_fake = state.critic(fake, base, batch.conditions)
    loss = relativistic_loss(score_real, score_fake)
    report = {"critic": float(loss), "margin": float((score_real - score_fake).mean())}
    if penalised:
        size = gradient_penalty(score_real, real) + gradient_penalty(score_fake, fake)
        loss = loss + 0.5 * config.penalty * config.penalty_every * size
        report["penalty"] = float(size)
    state.critic_optimiser.zero_grad(set_to_none=True)
    loss.backward()
    _synchronise(state.critic)
    nn.utils.clip_grad_norm_(state.critic.parameters(), 5.0)
    state.critic_optimiser.step()
    return report


def _synchronise(module: nn.Module) -> None:
    """Average gradients over processes, when there are several."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
        for parameter in module.parameters():
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= world


def _rate(step: int, config: TrainingConfig) -> float:
    """Learning rate of the generator: warm-up and cosine decay in each stage."""
    if step < config.paired_steps:
        start, length, peak = 0, config.paired_steps, config.learning_rate
    else:
        start, length = config.paired_steps, config.adversarial_steps
        peak = config.adversarial_rate
    done = (step - start) / max(1, length)
    rising = min(1.0, (step - start + 1) / 30)
    return peak * rising * (0.05 + 0.95 * 0.5 * (1 + float(np.cos(np.pi * done))))


def _step(
    state: _State, batch: _Batch, config: TrainingConfig, rank: int
) -> dict[str, float]:
    """One update of everything; the numbers that matter."""
    rate = _rate(state.step, config)
    for group in state.generator_optimiser.param_groups:
        group["lr"] = rate
    losses, fields = _generator_losses(state, batch, config, rank)
    report: dict[str, float] = {}
    total = (
        config.cell_weight * losses["cell"]
        + config.power_weight * losses["power"]
        + config.phase_weight * losses["phase"]
    )
    if state.step >= config.paired_steps:
        report |= _critic_step(state, batch, fields, config)
        state.critic.requires_grad_(False)
        base = torch.log1p(batch.base / state.generator.config.base_scale)
        to_latent = state.generator.to_latent
        verdict = relativistic_loss(
            state.critic(to_latent(fields), base, batch.conditions),
            state.critic(to_latent(batch.target), base, batch.conditions),
        )
        state.critic.requires_grad_(True)
        total = total + config.adversarial_weight * verdict
        report["adversarial"] = float(verdict.detach())
    state.generator_optimiser.zero_grad(set_to_none=True)
    total.backward()
    _synchronise(state.generator)
    nn.utils.clip_grad_norm_(state.generator.parameters(), 1.0)
    state.generator_optimiser.step()
    # A short memory at first, so that the average forgets the untrained network.
    decay = min(config.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for mean, value in zip(
            state.average.parameters(), state.generator.parameters(), strict=True
        ):
            mean.lerp_(value, 1 - decay)
    state.step += 1
    report |= {name: float(loss.detach()) for name, loss in losses.items()}
    return report | {"loss": float(total.detach()), "rate": rate}


def validation_scores(
    generator: FieldGenerator, data: TrainingSet, split: str, *, limit: int | None = None
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
        base, target, parameters, redshift = data.sample(index)
        told = conditions(data.space, parameters[None], redshift)
        batch = _Batch(torch.from_numpy(base)[None].to(device), told, told.to(device))
        with torch.no_grad():
            noise = _noise(generator, batch, (7, int(index)))
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


def _total_score(scores: Mapping[str, float], fields: tuple[str, ...]) -> float:
    """One number, smaller is better."""
    return float(
        np.mean(
            [scores[f"{name}_power"] + 1 - scores[f"{name}_r_quarter"] for name in fields]
        )
    )


def train(
    dataset: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    config: TrainingConfig | None = None,
    *,
    initial: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    progress: bool = True,
) -> Path:
    """Train a model, or go on with a training that was interrupted.

    The folder gets ``config.json``, ``log.csv``, ``validation.csv``, sample pictures,
    ``state.safetensors`` (to go on) and ``model.safetensors`` (to use), and
    ``paired.safetensors``, the model before the critic joined. Started by ``torchrun``
    it runs on several devices.

    Parameters
    ----------
    dataset
        Made by `prepare`.
    folder
        Where the run is kept; made if needed.
    config
        The choices.
    initial
        A model file to start from, of the same shapes (fine-tuning).
    dry_run
        Print and save the configuration only.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        The model file.

    Raises
    ------
    DatasetError
        If the training set is not usable.
    TrainingError
        If the configuration does not fit it.
    TrainingDivergedError
        If losses are no longer finite or the validation gets far worse than it was;
        the last good model stays.
    CheckpointError
        If the folder holds a run with another configuration, or `initial` does not fit.
    """
    config = config or TrainingConfig()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rank = _join_processes()
    with TrainingSet.open(dataset) as data:
        indices = data.indices("train")
        if len(indices) == 0:
            raise TrainingError(f"{dataset} has no training samples")
        shapes = read_model(initial).generator.config if initial else _shapes(data, config)
        resolved = {
            "training": asdict(config),
            "generator": asdict(shapes),
            "training_set": data.sha256,
            "samples": len(indices),
        }
        if rank == 0:
            with atomic_path(folder / "config.json") as partial:
                partial.write_text(json.dumps(resolved, indent=1))
            _LOG.info("%s", json.dumps(resolved))
        if dry_run:
            return folder / "model.safetensors"
        state = _State(config, shapes)
        if initial:
            weights = read_model(initial).generator.state_dict()
            state.generator.load_state_dict(weights)
            state.average.load_state_dict(weights)
        if (folder / "state.safetensors").is_file():
            state.load(folder / "state.safetensors", config)
            _truncate_logs(folder, state.step)
        _loop(state, data, indices, config, folder, rank, progress)
        path = folder / "model.safetensors"
        if rank == 0:
            scores = validation_scores(state.average, data, _held_out(data))
            write_model(path, state.average, _card(data, config, scores))
    return path


def _loop(
    state: _State,
    data: TrainingSet,
    indices: NDArray[np.int64],
    config: TrainingConfig,
    folder: Path,
    rank: int,
    progress: bool,
) -> None:
    bar = tqdm(
        total=config.steps,
        initial=state.step,
        desc="train",
        unit="step",
        disable=not progress or rank > 0,
    )
    reports: list[dict[str, float]] = []
    with bar:
        while state.step < config.steps:
            seed = (config.seed, state.step, rank)
            batch = _batch(data, indices, seed, config.batch_size, state.device)
            report = _step(state, batch, config, rank)
            if not np.isfinite(report["loss"]):
                raise TrainingDivergedError(
                    f"the loss of step {state.step} is {report['loss']}; the last state "
                    f"in {folder} is good: lower the learning rate"
                )
            reports.append({"step": state.step, **report})
            bar.update()
            bar.set_postfix({k: f"{report[k]:.3g}" for k in ("cell", "power", "phase")})
            if rank > 0:
                continue
            if state.step == config.paired_steps and config.adversarial_steps:
                scores = validation_scores(state.average, data, _held_out(data))
                card = _card(data, config, scores)
                write_model(folder / "paired.safetensors", state.average, card)
            if state.step % config.validate_every == 0:
                _validate(state, data, config, folder)
            if state.step % config.checkpoint_every == 0 or state.step == config.steps:
                _append(folder / "log.csv", reports)
                reports = []
                state.save(folder / "state.safetensors", config)


def _held_out(data: TrainingSet) -> str:
    """The validation split, or where there is none the training samples."""
    return "validation" if len(data.indices("validation")) else "train"


def _validate(
    state: _State, data: TrainingSet, config: TrainingConfig, folder: Path
) -> None:
    """Score, picture and model of this moment; stop a run that has gone astray."""
    split = _held_out(data)
    scores = validation_scores(state.average, data, split, limit=8)
    total = _total_score(scores, data.fields)
    _append(folder / "validation.csv", [{"step": state.step, "score": total, **scores}])
    _picture(state, data, split, folder)
    write_model(folder / "model.safetensors", state.average, _card(data, config, scores))
    if not np.isfinite(total) or total > 5 * state.best + 0.5:
        raise TrainingDivergedError(
            f"the validation score of step {state.step} is {total:.3g}, after "
            f"{state.best:.3g} before; lower the learning rate or the adversarial weight"
        )
    state.best = min(state.best, total)


def _card(
    data: TrainingSet, config: TrainingConfig, scores: Mapping[str, float]
) -> ModelCard:
    from . import __version__

    return ModelCard(
        name=config.name,
        space=data.space,
        redshifts=(float(data.redshifts.min()), float(data.redshifts.max())),
        cell_size=data.cell_size,
        n_cells=data.n_cells,
        base=BaseSettings(**data.base_settings),
        units=dict(data.units),
        training_set=data.sha256,
        scores=dict(scores),
        provenance={
            "version": __version__,
            "training": asdict(config),
            "preparation": dict(data.provenance),
            "runs": len(set(data.runs[data.indices("train")])),
        },
    )


def _picture(state: _State, data: TrainingSet, split: str, folder: Path) -> None:
    """Base, generated and simulated slices of one held-out sample."""
    from matplotlib.figure import Figure

    index = int(data.indices(split)[-1])
    base, target, parameters, redshift = data.sample(index)
    told = conditions(data.space, parameters[None], redshift).to(state.device)
    batch = _Batch(torch.from_numpy(base)[None].to(state.device), told, told)
    with torch.no_grad():
        noise = _noise(state.average, batch, (7, index))
        made = state.average(batch.base, told, noise)
        rows = [
            F.pad(state.average.to_latent(each), (0, 0)).cpu().numpy()[0]
            for each in (made, torch.from_numpy(target)[None].to(state.device))
        ]
    figure = Figure(figsize=(8, 4 * len(data.fields)), layout="constrained")
    axes = figure.subplots(len(data.fields), 2, squeeze=False)
    for (i, name), (j, label) in itertools.product(
        enumerate(data.fields), enumerate(("emulated", "simulated"))
    ):
        image = rows[j][i]
        image = image[..., 0] if image.ndim == 3 else image
        high = float(rows[1][i].max())
        axes[i, j].imshow(image.T, origin="lower", vmin=0, vmax=high, cmap="cividis")
        axes[i, j].set_title(f"{name}, {label}, step {state.step}")
    with atomic_path(folder / "samples.png") as partial:
        figure.savefig(partial, format="png")


def _append(path: Path, rows: list[dict[str, float]]) -> None:
    """Add rows to a table, keeping the columns of all."""
    if not rows:
        return
    known = list(_read_rows(path))
    columns = list(dict.fromkeys(key for row in [*known, *rows] for key in row))
    with atomic_path(path) as partial, partial.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows([*known, *rows])


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open(newline="") as stream:
            yield from csv.DictReader(stream)


def _truncate_logs(folder: Path, step: int) -> None:
    """Drop what was logged after the state from which the run goes on."""
    for name in ("log.csv", "validation.csv"):
        rows = [row for row in _read_rows(folder / name) if int(row["step"]) <= step]
        if rows:
            (folder / name).unlink()
            _append(folder / name, rows)


def _join_processes() -> int:
    """Join the processes that torchrun started; the rank of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0
    if not torch.distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend)
    return int(torch.distributed.get_rank())
