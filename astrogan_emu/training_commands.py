"""The commands that make a training set, train a model on it, and score it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

__all__ = ["add_prepare", "add_train", "add_validate"]


def add_prepare(commands: Any) -> None:
    """Making a training set."""
    parser = commands.add_parser(
        "prepare", help="make a training set from a suite of snapshots"
    )
    parser.add_argument(
        "suite",
        type=Path,
        nargs="+",
        help="suite.ecsv or its folder, or Maps_*.npy or Grids_*.npy of the CAMELS "
        "Multifield Dataset, one for each field",
    )
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument(
        "--like",
        metavar="MODEL",
        help="cells, fields and base of a model, to fine-tune it; name or file",
    )
    parser.add_argument("--n-cells", type=int, help="along one side; 64 if not given")
    parser.add_argument(
        "--fields", help="comma-separated; matter,galaxies if not given"
    )
    parser.add_argument("--base-steps", type=int, help="20 if not given")
    parser.add_argument(
        "--parameters",
        type=Path,
        metavar="FILE",
        help="params_*.txt or CosmoAstroSeed_*.txt of .npy files",
    )
    parser.add_argument("--workers", type=int)
    parser.add_argument("--dry-run", action="store_true")
    parser.set_defaults(run=_prepare)


def _prepare(options: argparse.Namespace) -> None:
    from .checkpoints import model_path, read_model
    from .errors import DatasetError
    from .multifield import is_multifield, prepare_multifield
    from .preparation import PreparationConfig, prepare

    chosen = {"n_cells": options.n_cells, "base_steps": options.base_steps}
    given: dict[str, Any] = {k: v for k, v in chosen.items() if v is not None}
    if any(map(is_multifield, options.suite)):
        if options.parameters is None:
            raise DatasetError("give the parameter file of the maps: --parameters FILE")
        for option in ("dry_run", "like", "fields"):
            if getattr(options, option):
                flag = "--" + option.replace("_", "-")
                raise DatasetError(f"maps and grids have no {flag}; leave it out")
        path = prepare_multifield(
            options.suite, options.parameters, options.output, **given
        )
        print(f"wrote {path}")
        return
    if len(options.suite) > 1:
        raise DatasetError(f"give one suite, got {len(options.suite)}")
    config = PreparationConfig()
    if options.like is not None:
        config = read_model(model_path(options.like)).card.preparation
    if options.fields is not None:
        given["fields"] = tuple(options.fields.split(","))
    config = replace(config, **given)
    path = prepare(
        options.suite[0],
        options.output,
        config=config,
        workers=options.workers,
        dry_run=options.dry_run,
    )
    print(f"{'would write' if options.dry_run else 'wrote'} {path}")


def add_train(commands: Any) -> None:
    """Training a model."""
    parser = commands.add_parser("train", help="train a model, or go on training it")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True, help="folder")
    parser.add_argument(
        "--init-from", metavar="MODEL", help="model to fine-tune, name or file"
    )
    parser.add_argument("--dry-run", action="store_true")
    parser.set_defaults(run=_train)
    group = parser.add_argument_group(
        "choices, as NAME=VALUE or NAME=A,B,C; see TrainingConfig"
    )
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")


def _train(options: argparse.Namespace) -> None:
    import json
    import logging

    from .errors import TrainingError
    from .training import TrainingConfig, train

    choices: dict[str, Any] = {}
    for text in options.set:
        name, _, value = text.partition("=")
        if name not in TrainingConfig.__dataclass_fields__ or not value:
            raise TrainingError(
                f"--set {text} is no choice; give NAME=VALUE with a NAME of "
                f"{', '.join(TrainingConfig.__dataclass_fields__)}"
            )
        default = getattr(TrainingConfig, name, None)
        several = isinstance(default, tuple)
        if several and not value.startswith("["):
            value = f"[{value}]"
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            parsed = value.strip("[]").split(",") if several else value
        if isinstance(default, str) and not isinstance(parsed, str):
            parsed = value  # a name such as 7
        choices[name] = tuple(parsed) if several else parsed
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = train(
        options.dataset,
        options.output,
        TrainingConfig(**choices),
        initial=options.init_from,
        dry_run=options.dry_run,
    )
    print(f"{'would write' if options.dry_run else 'wrote'} {path}")


def add_validate(commands: Any) -> None:
    """Scoring a model."""
    parser = commands.add_parser(
        "validate", help="hold a model to simulations, and write a report"
    )
    parser.add_argument("suite", type=Path, help="suite.ecsv or its folder")
    parser.add_argument("--output", "-o", type=Path, required=True, help="folder")
    parser.add_argument("--model", default="nbody", help="name or .safetensors file")
    parser.add_argument(
        "--without-critic",
        type=Path,
        metavar="MODEL",
        help="the model before the critic joined, to compare with",
    )
    parser.add_argument(
        "--sets", nargs="+", metavar="SET", help="sets of the suite; those for testing"
    )
    parser.add_argument(
        "--training-set",
        type=Path,
        metavar="FILE",
        help="what it was trained on: also check parameters and memorisation",
    )
    parser.add_argument(
        "--no-baselines",
        action="store_true",
        help="leave out the base, 2LPT, lognormal and the model without noise",
    )
    parser.add_argument(
        "--write-card",
        action="store_true",
        help="keep scores and errors in the model file",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generator's noise")
    parser.set_defaults(run=_validate)


def _validate(options: argparse.Namespace) -> None:
    from .validation import score_table, validate

    results = validate(
        options.suite,
        options.output,
        model=options.model,
        without_critic=options.without_critic,
        sets=options.sets,
        training_set=options.training_set,
        baselines=not options.no_baselines,
        write_card=options.write_card,
        seed=options.seed,
    )
    print(score_table(results.scores))
    for each in results.missing:
        print(f"not measured: {each}")
    print(f"wrote {options.output / 'report.html'}")
