"""Training the conditional GAN: one loop, from a training set to a model file.

First the generator learns from pairs of the same phases, then the critic joins; data
without pairs are learned from the critic and their power spectra alone. Each step
draws its samples, symmetries and noise from the seed and its own number, so a run that
was killed goes on exactly as if it had not been. Shapes follow from the data.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ._files import atomic_path
from .adversarial import critic_update, critic_verdict, follow, synchronise
from .bases import BaseSettings
from .batches import (
    Batch,
    SampleReader,
    blur_conditions,
    draw_batch,
    hide_conditions,
)
from .checkpoints import ModelCard, model_path, read_model, write_model
from .conditioning import condition_names
from .dataset import TrainingSet
from .errors import TrainingDivergedError, TrainingError
from .generator_losses import LOSSES, generator_losses
from .kept_memory import kept_memory
from .scoring import total_score, validation_scores, write_picture
from .training_config import TrainingConfig, learning_rate
from .training_log import append_rows, log_scalars, truncate_logs
from .training_start import generator_shapes, with_levels
from .training_state import TrainingState
from .warm_start import warm_start

__all__ = ["TrainingConfig", "train"]

_LOG = logging.getLogger(__name__)


def _critic_base(state: TrainingState, batch: Batch) -> Tensor:
    """The base as the critic sees it: not at all where targets are of other phases."""
    if not batch.paired:
        return torch.zeros_like(batch.base)
    return state.generator.latent_base(batch.base)


def _critic_step(
    state: TrainingState, batch: Batch, fields: Tensor, config: TrainingConfig
) -> dict[str, Tensor]:
    """One update of the critic: the simulated should outscore the generated."""
    to_latent = state.generator.to_latent
    penalised = state.step % config.penalty_every == 0
    return critic_update(
        state.critic,
        state.critic_optimiser,
        to_latent(batch.target),
        to_latent(fields.detach()),
        _critic_base(state, batch),
        batch.conditions,
        penalty=config.penalty * config.penalty_every * penalised,
    )


def _step(
    state: TrainingState,
    batch: Batch,
    config: TrainingConfig,
    rank: int,
) -> dict[str, float]:
    """One update of everything; the numbers that matter."""
    rate = learning_rate(state.step, config)
    for group in state.generator_optimiser.param_groups:
        group["lr"] = rate * group["times"]
    losses, fields = generator_losses(state.generator, batch, config, state.step, rank)
    report: dict[str, Tensor] = {}
    weighted = [getattr(config, f"{name}_weight") * losses[name] for name in LOSSES]
    total = torch.stack(weighted).sum()
    if state.step >= config.paired_steps:
        if len(fields) > len(batch.target):
            batch = batch.twice()
        report |= _critic_step(state, batch, fields, config)
        to_latent = state.generator.to_latent
        verdict = critic_verdict(
            state.critic,
            to_latent(batch.target),
            to_latent(fields),
            _critic_base(state, batch),
            batch.conditions,
        )
        total = total + config.adversarial_weight * verdict
        report["adversarial"] = verdict
    state.generator_optimiser.zero_grad(set_to_none=True)
    total.backward()
    synchronise(state.generator)
    nn.utils.clip_grad_norm_(state.generator.parameters(), 1.0)
    state.generator_optimiser.step()
    # A short memory at first, so that the average forgets the untrained network.
    decay = min(config.ema, (1 + state.step) / (10 + state.step))
    follow(state.average, state.generator, decay)
    state.step += 1
    report |= losses | {"loss": total}
    # All at once: a GPU is waited for a single time.
    values = torch.stack([value.detach() for value in report.values()]).tolist()
    return dict(zip(report, values, strict=True)) | {"rate": rate}


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
    ``paired.safetensors``, the model before the critic joined. Where TensorBoard is
    installed, its ``tensorboard`` folder shows the same numbers. Started by
    ``torchrun`` it runs on several devices.

    Parameters
    ----------
    dataset
        Made by `prepare`.
    folder
        Where the run is kept; made if needed.
    config
        The choices.
    initial
        Model to start from (fine-tuning): a file, or the name of one in the package.
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
        if not data.paired:
            # Without pairs there is nothing to learn before the critic.
            config = replace(config, paired_steps=0, adversarial_steps=config.steps)
        _check_names(data, config)
        start = None
        shapes = generator_shapes(data, config)
        if initial:
            model = read_model(model_path(initial))
            start = warm_start(model, shapes, data.space, data.units)
            shapes = start.config
        shapes = replace(shapes, heads=with_levels(shapes.heads, data, config))
        resolved = {
            "training": asdict(config),
            "generator": asdict(shapes),
            "training_set": data.sha256,
            "samples": len(indices),
            **({"initial": dict(start.report)} if start else {}),
        }
        if rank == 0:
            with atomic_path(folder / "config.json") as partial:
                partial.write_text(json.dumps(resolved, indent=1))
            _LOG.info("%s", json.dumps(resolved))
        if dry_run:
            return folder / "model.safetensors"
        state = TrainingState(config, shapes)
        if start:
            state.generator.load_state_dict(start.weights)
            state.average.load_state_dict(start.weights)
        known = condition_names(data.space)
        for generator in (state.generator, state.average):
            # And as nothing is told of them in training, nothing is learned.
            generator.network.embed.forget(
                [i for i, name in enumerate(known) if name in config.unheard]
            )
        if (folder / "state.safetensors").is_file():
            state.load(folder / "state.safetensors", config)
            truncate_logs(folder, state.step)
        _loop(state, data, indices, config, folder, rank, progress)
        path = folder / "model.safetensors"
        if rank == 0:
            scores = validation_scores(state.average, data, _held_out(data))
            write_model(path, state.average, _card(data, config, scores))
    return path


def _check_names(data: TrainingSet, config: TrainingConfig) -> None:
    """Refuse choices that name what the data do not have."""
    conditions = condition_names(data.space)
    for option, known in (
        *(("field_weights", data.fields), ("expected", data.fields)),
        *(("trends", data.fields), ("levels", data.fields)),
        *(("trend_conditions", conditions), ("level_conditions", conditions)),
        ("unheard", conditions),
    ):
        chosen = getattr(config, option)
        names = {*chosen, *chosen.values()} if option == "trends" else set(chosen)
        if unknown := names - set(known):
            raise TrainingError(
                f"{option} names {sorted(unknown)[0]!r}; the data have "
                f"{', '.join(known)}"
            )


def _loop(
    state: TrainingState,
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
    samples = SampleReader(data, state.device)
    reports: list[dict[str, float]] = []
    with bar, kept_memory():
        while state.step < config.steps:
            seed = (config.seed, state.step, rank)
            batch = draw_batch(samples, indices, seed, config.batch_size)
            blur_conditions(batch, data.space, config.condition_noise, (*seed, 2))
            hide_conditions(batch, data.space, config.unheard)
            report = _step(state, batch, config, rank)
            if not np.isfinite(report["loss"]):
                raise TrainingDivergedError(
                    f"the loss of step {state.step} is {report['loss']}; the last "
                    f"state in {folder} is good: lower the learning rate"
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
                append_rows(folder / "log.csv", reports)
                log_scalars(folder, "training", reports)
                reports = []
                state.save(folder / "state.safetensors", config)


def _held_out(data: TrainingSet) -> str:
    """The validation split, or where there is none the training samples."""
    return "validation" if len(data.indices("validation")) else "train"


def _validate(
    state: TrainingState, data: TrainingSet, config: TrainingConfig, folder: Path
) -> None:
    """Score, picture and model of this moment; stop a run that has gone astray."""
    split = _held_out(data)
    scores = validation_scores(state.average, data, split, limit=8)
    # The power of a few scattered objects jumps; it is no sign of a bad network.
    judged = tuple(f for f in data.fields if f not in config.expected) or data.fields
    total = total_score(scores, judged)
    rows = [{"step": state.step, "score": total, **scores}]
    append_rows(folder / "validation.csv", rows)
    log_scalars(folder, "validation", rows)
    title = f"step {state.step}"
    write_picture(state.average, data, split, folder / "samples.png", title)
    if not np.isfinite(total) or total > 5 * state.best + 0.5:
        raise TrainingDivergedError(
            f"the validation score of step {state.step} is {total:.3g}, after "
            f"{state.best:.3g} before; lower the learning rate or the weight of the "
            "critic"
        )
    names = ["model"]
    if config.keep_every and state.step % config.keep_every == 0:
        names.append(f"step_{state.step}")
    for name in names:
        path = folder / f"{name}.safetensors"
        write_model(path, state.average, _card(data, config, scores))
    state.best = min(state.best, total)


def _card(
    data: TrainingSet, config: TrainingConfig, scores: Mapping[str, float]
) -> ModelCard:
    return ModelCard(
        name=config.name,
        space=data.space,
        redshifts=(float(data.redshifts.min()), float(data.redshifts.max())),
        cell_size=data.cell_size,
        n_cells=data.n_cells,
        base=BaseSettings.from_dict(data.base_settings),
        units=dict(data.units),
        training_set=data.sha256,
        scores=dict(scores),
        provenance={
            "version": version("astrogan-emu"),
            "training": asdict(config),
            "preparation": dict(data.provenance),
            "runs": len(set(data.runs[data.indices("train")])),
        },
    )


def _join_processes() -> int:
    """Join the processes that torchrun started; the rank of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0
    if not torch.distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend)
    return int(torch.distributed.get_rank())
