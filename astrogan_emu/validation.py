"""Validation: a model against simulations that it never saw, and against baselines.

`validate` follows each simulation from its own initial conditions with the model and
with everything that a user could have instead, and writes what `scorecard` measures as
a JSON file and as a report.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ._files import atomic_path
from .checkpoints import read_model, write_model
from .emulator import Emulator
from .ensembles import (
    REALISATIONS,
    error_table,
    response_scores,
    responses,
    scatter_scores,
    scatters,
)
from .errors import CornerWarning, DatasetError
from .expected_errors import at_edge
from .field_specs import as_unit
from .grids import GridSpec, paint
from .linear_theory import growth_factor
from .metrics import score
from .particle_mesh import evolve
from .preparation_plan import Plan, Row, plan_training_set
from .report import write_report
from .scorecard import Comparison, Results, Score, by_method, compare
from .snapshots import read_snapshot
from .targets import TARGETS, linear_field_of, snapshot_fields
from .training_checks import TrainingChecks

__all__ = ["score_table", "validate"]

Array = NDArray[np.float64]

_SLICES = 2
_SLICE_DEPTH = 4  # cells

MODEL, WITHOUT_CRITIC = "model", "without critic"
WITHOUT_NOISE = "without noise"


def _second_order(delta: Tensor, omega_m: float, box_size: float, z: float) -> Tensor:
    """Matter density in second-order Lagrangian perturbation theory."""
    (particles,) = evolve(
        delta,
        {"omega_m": omega_m},
        box_size=box_size,
        redshifts=[z],
        n_steps=1,
        start_redshift=z,
    )
    return paint(particles.positions, len(delta), box_size)


def _lognormal(delta: Tensor, omega_m: float, z: float) -> Tensor:
    """Matter density as the exponential of the linear field (Coles & Jones 1991)."""
    grown = delta * float(growth_factor(1 / (1 + z), omega_m))
    density = torch.exp(grown - grown.var() / 2)
    return density / density.mean()


def _chosen(plan: Plan, sets: Sequence[str] | None) -> dict[str, Sequence[Row]]:
    """Rows of the runs to validate on."""
    if sets is None:
        chosen = {
            run: rows for run, rows in plan.rows.items() if plan.splits[run] == "test"
        }
    else:
        of_run = {run: str(rows[0].get("set", "")) for run, rows in plan.rows.items()}
        if unknown := set(sets) - set(of_run.values()):
            raise DatasetError(
                f"the suite has no set {sorted(unknown)[0]!r}; it has "
                f"{', '.join(sorted(set(of_run.values())))}"
            )
        chosen = {run: rows for run, rows in plan.rows.items() if of_run[run] in sets}
    if not chosen:
        raise DatasetError("the suite has no runs for testing; name the sets to use")
    if not plan.paired:
        raise DatasetError(
            "validation follows each run from its initial conditions, which this suite "
            "does not have"
        )
    return chosen


class _Follower:
    """Makes the fields of a run with every method."""

    def __init__(
        self, emulators: Mapping[str, Emulator], seed: int, baselines: bool
    ) -> None:
        self.emulators, self.seed, self.baselines = emulators, seed, baselines
        emulator = emulators[MODEL]
        self.fields = tuple(name for name in emulator.fields if name in TARGETS)
        if "matter" not in self.fields:
            raise DatasetError(
                f"model {emulator.card.name} makes no matter, which all else is "
                "measured against"
            )
        if emulator.card.base.depth is not None:
            raise DatasetError(
                f"model {emulator.card.name} makes maps; validation is for models of "
                "boxes"
            )
        self.config = emulator.card.preparation
        self.recipe = self.config.galaxies

    def grid(self, box_size: float) -> GridSpec:
        """Of the fields of a box."""
        cell = self.emulators[MODEL].card.cell_size
        n_cells = round(box_size / cell)
        if n_cells < 1 or abs(n_cells * cell / box_size - 1) > 1e-4:
            raise DatasetError(
                f"a box of {box_size:g} Mpc/h is no whole number of the model's cells "
                f"of {cell:g} Mpc/h"
            )
        return GridSpec(n_cells, box_size)

    def snapshots(
        self, rows: Sequence[Row], parameters: Mapping[str, float]
    ) -> Iterable[tuple[float, float, dict[str, Array], dict[str, dict[str, Array]]]]:
        """Redshift, box size, true fields and made fields of each snapshot."""
        start = read_snapshot(rows[0]["initial_conditions"])
        grid = self.grid(start.box_size)
        omega_m = parameters["omega_m"]
        with torch.no_grad():
            delta = linear_field_of(start, omega_m, grid.n_cells)
        for row in rows:
            z = float(row["redshift"])
            values = snapshot_fields(
                read_snapshot(row["file"]), grid, self.fields, self.recipe
            )
            truth = dict(zip(self.fields, values, strict=True))
            made: dict[str, dict[str, Any]] = {}
            for method, emulator in self.emulators.items():
                made[method] = self._emulated(emulator, delta, parameters, z, grid)
            if self.baselines:
                made |= self._baselines(delta, parameters, z, grid)
            yield z, grid.box_size, truth, made

    def _baselines(
        self, delta: Tensor, parameters: Mapping[str, float], z: float, grid: GridSpec
    ) -> dict[str, dict[str, Any]]:
        """What a user could have instead, and the model with its noise switched off."""
        emulator, omega_m = self.emulators[MODEL], parameters["omega_m"]
        with torch.no_grad():
            base = emulator.base(delta, dict(parameters), z, grid.box_size)
            second = _second_order(delta, omega_m, grid.box_size, z)
            lognormal = _lognormal(delta, omega_m, z)
        return {
            WITHOUT_NOISE: self._emulated(
                emulator, delta, parameters, z, grid, stochastic=False
            ),
            "base": dict(zip(emulator.card.base.channels, base.numpy(), strict=True)),
            "2LPT": {"matter": second.numpy()},
            "lognormal": {"matter": lognormal.numpy()},
        }

    def _emulated(
        self,
        emulator: Emulator,
        delta: Tensor,
        parameters: Mapping[str, float],
        z: float,
        grid: GridSpec,
        *,
        stochastic: bool = True,
    ) -> dict[str, Any]:
        with warnings.catch_warnings():
            # Corners are what a validation is for.
            warnings.simplefilter("ignore", CornerWarning)
            fields = emulator.emulate(
                dict(parameters),
                redshift=z,
                fields=self.fields,
                n_cells=grid.n_cells,
                seed=self.seed,
                initial_conditions=delta.numpy(),
                stochastic=stochastic,
            )
        result = {}
        for name, field in fields.items():
            # Back to the unit of the simulation's field.
            result[name] = field.to(as_unit(TARGETS[name].unit)).data
        return result


def validate(
    suite: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "nbody",
    without_critic: str | os.PathLike[str] | None = None,
    sets: Sequence[str] | None = None,
    training_set: str | os.PathLike[str] | None = None,
    baselines: bool = True,
    write_card: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Results:
    """Hold a model to simulations of the same phases, beside the baselines.

    Parameters
    ----------
    suite
        ``suite.ecsv`` or its folder, with initial conditions.
    output
        Folder for ``scores.json`` and ``report.html``; made if needed, replaced if
        there.
    model
        Name or file.
    without_critic
        A model that was trained without the critic, to show what the critic is worth,
        such as ``paired.safetensors`` of a training run.
    sets
        Sets of the suite to use; by default the runs that training sets of it keep for
        testing. Runs of one point with different seeds give the scatter, runs of one
        seed that differ in one parameter the response.
    training_set
        What the model was trained on: then parameters are read off its fields by a
        regressor that knows simulations only, and likeness to training fields is
        measured; see `training_checks`.
    baselines
        Show the model without its noise, its base alone, second-order Lagrangian
        perturbation theory and a lognormal field beside it.
    write_card
        Keep the scores and the errors by scale in the model's card, from where they
        reach the ``meta`` of the fields that it makes. `model` must be a file; it is
        replaced.
    seed
        Of the generator's noise.
    progress
        Show a progress bar.

    Returns
    -------
    Results
        Everything that was measured.

    Raises
    ------
    SuiteError
        If the suite is not usable.
    DatasetError
        If it has no runs to test on or no initial conditions, its boxes do not fit the
        model, the model makes no matter, or a card is to be written into a model that
        is not a file of your own.
    ParameterRangeError
        If a run lies outside the model's range.
    """
    if write_card and not Path(model).is_file():
        raise DatasetError(
            f"a card can only be written into a model file, and {model} is none; give "
            "the path of a .safetensors file"
        )
    plan = plan_training_set(suite)
    chosen = _chosen(plan, sets)
    emulators = {MODEL: Emulator.load(model)}
    if without_critic is not None:
        emulators[WITHOUT_CRITIC] = Emulator.load(without_critic)
    follower = _Follower(emulators, seed, baselines)
    checks = TrainingChecks(training_set, MODEL) if training_set else None
    space = emulators[MODEL].card.space
    comparisons: list[Comparison] = []
    slices: dict[tuple[str, float, str], dict[str, Array]] = {}
    side = 0.0
    for run in tqdm(chosen, desc="validate", unit="run", disable=not progress):
        parameters = plan.parameters(run)
        edge = at_edge(space, parameters)
        for z, box_size, truth, made in follower.snapshots(chosen[run], parameters):
            comparisons += compare(
                made,
                truth,
                box_size=box_size,
                run=run,
                redshift=z,
                parameters=parameters,
                edge=edge,
            )
            if checks is not None:
                own = made[MODEL]["matter"]
                checks.add(run, z, truth["matter"], own, box_size)
            if len({name for name, *_ in slices} | {run}) <= _SLICES:
                side = box_size
                for name in truth:
                    drawn = {"simulation": truth[name]}
                    drawn |= {m: f[name] for m, f in made.items() if name in f}
                    slices[run, z, name] = {
                        m: np.asarray(values)[..., :_SLICE_DEPTH].mean(-1)
                        for m, values in drawn.items()
                    }
    groups = by_method(comparisons)
    seeds = {run: own[0].get("seed") for run, own in chosen.items()}
    scores = [each for group in groups.values() for each in score(group, seeds)]
    found, changes = scatters(groups), responses(groups, seeds)
    half = comparisons[0].nyquist / 2
    for key, values in found.items():
        scores += scatter_scores(key, values, len(groups[key]))
    scores += [response_scores(*pair, half) for pair in changes.items()]
    if checks is not None:
        scores += checks.scores()
    missing = []
    if not found:
        missing.append(
            f"M2, M3 scatter and correlation matrix: no point has {REALISATIONS} runs"
        )
    if not changes:
        missing.append("M8 response: no runs of one seed differ in one parameter alone")
    if checks is None:
        missing.append("M9 regressor, M11 and M12 likeness: no training set was given")
    results = Results(
        model=emulators[MODEL].identity,
        suite=f"{len(chosen)} runs of {Path(suite).absolute().name}",
        comparisons=comparisons,
        scores=scores,
        scatters=found,
        responses=changes,
        slices=slices,
        slice_side=side,
        missing=missing,
    )
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "scores.json") as partial:
        partial.write_text(json.dumps(_as_json(results), indent=1))
    write_report(folder / "report.html", results)
    if write_card:
        _write_card(Path(model), results)
    return results


def _write_card(path: Path, results: Results) -> None:
    """Scores and errors of the model into its file."""
    model = read_model(path)
    scores = {
        f"{each.field}: {each.metric}, z = {each.redshift:g}": _short(each.value)
        for each in results.scores
        if each.method == MODEL
    }
    errors = error_table(results.comparisons, MODEL)
    card = replace(
        model.card,
        scores={"suite": results.suite, **scores},
        errors={"suite": results.suite, **errors},
    )
    write_model(path, model.generator, card)


def _short(value: float) -> float | None:
    """Three digits, which JSON can hold."""
    return float(f"{value:.3g}") if np.isfinite(value) else None


def _as_json(results: Results) -> dict[str, Any]:
    """Scores, mean curves, scatter and response in plain types."""
    curves = []
    for (method, field, z), group in by_method(results.comparisons).items():
        ratio = np.array([c.ratio("power") for c in group])
        curves.append(
            {
                "method": method,
                "field": field,
                "redshift": z,
                "runs": [c.run for c in group],
                "k": group[0].k.tolist(),
                "power_ratio": _numbers(np.nanmean(ratio, 0)),
                "power_ratio_std": _numbers(np.nanstd(ratio, 0)),
                "r": _numbers(np.nanmean([c.values["r"] for c in group], 0)),
            }
        )
    return {
        "model": dict(results.model),
        "suite": results.suite,
        "scores": [each.to_dict() for each in results.scores],
        "curves": curves,
        "scatter": [
            {"method": m, "field": f, "redshift": z, **_listed(values)}
            for (m, f, z), values in results.scatters.items()
        ],
        "response": [
            {"method": m, "field": f, "redshift": z, "parameter": p, **_listed(values)}
            for (m, f, z, p), values in results.responses.items()
        ],
        "not_measured": list(results.missing),
    }


def _numbers(values: Array) -> list[float | None]:
    """JSON has no word for what is not a number."""
    return [float(v) if np.isfinite(v) else None for v in np.ravel(values)]


def _listed(values: Mapping[str, Array]) -> dict[str, Any]:
    return {
        name: [_numbers(row) for row in each] if each.ndim == 2 else _numbers(each)
        for name, each in values.items()
    }


def score_table(scores: Sequence[Score], method: str = MODEL) -> str:
    """The scorecard as text, a line for each metric and a column for each redshift.

    Parameters
    ----------
    scores
        From `validate`.
    method
        Of which method.

    Returns
    -------
    str
        With the sampling error of a number where it is known, a tick where the bar is
        reached and a cross where it is missed.
    """
    own = [each for each in scores if each.method == method]
    redshifts = sorted({each.redshift for each in own})
    width = 2 + max((len(f"{e.field}: {e.metric}") for e in own), default=0)
    lines = [" " * width + "".join(f"z = {z:<17g}" for z in redshifts) + "bar"]
    for field in dict.fromkeys(each.field for each in own):
        for metric in dict.fromkeys(e.metric for e in own if e.field == field):
            line = f"{field + ': ' + metric:{width}s}"
            bar = None
            for z in redshifts:
                found = [
                    e
                    for e in own
                    if (e.field, e.metric, e.redshift) == (field, metric, z)
                ]
                if not found:
                    line += f"{'-':21s}"
                    continue
                bar = found[0].bar
                mark = {True: "✓", False: "✗", None: ""}[found[0].passed]
                line += f"{found[0]!s:18s} {mark:2s}"
            lines.append(line + ("" if bar is None else f"{bar:g}"))
    return "\n".join(lines)
