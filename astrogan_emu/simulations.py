"""Particle-mesh simulation suites, written as Gadget snapshots.

A design is a table of runs: a name, a set, a seed and the parameters. `simulate` runs
each of them and writes its initial conditions, its outputs and ``suite.ecsv``, one row
for each snapshot, which `prepare` reads like the suite of any other code. Analysis of
the snapshots is not done here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from tqdm import tqdm

from ._files import atomic_path
from .errors import SimulationError
from .gadget import write_gadget
from .halos import particle_mass
from .kept_memory import kept_memory
from .parameters import COSMOLOGICAL, Parameter, ParameterSpace
from .worker_processes import in_processes, refuse_while_importing

__all__ = [
    "LCDM_SPACE",
    "SimulationConfig",
    "design_at_point",
    "design_over_space",
    "design_pairs",
    "simulate",
]

LCDM_SPACE = ParameterSpace(
    (
        Parameter("omega_m", 0.1, 0.5),
        Parameter("omega_b", 0.03, 0.07),
        Parameter("h", 0.5, 0.9),
        Parameter("n_s", 0.8, 1.2),
        Parameter("sigma_8", 0.6, 1.0),
    )
)
"""The range of the default suite, that of the Quijote Latin hypercube."""


@dataclass(frozen=True)
class SimulationConfig:
    """Numerical settings of a particle-mesh run.

    Parameters
    ----------
    n_particles
        Particles along one side of the box.
    box_size
        Comoving side [Mpc/h].
    n_mesh
        Cells along one side of the force mesh.
    n_steps
        Time steps from the start to the last output.
    redshifts
        Outputs, decreasing.
    start_redshift
        Of the second-order Lagrangian initial conditions.

    Raises
    ------
    SimulationError
        If a value is not possible.
    """

    n_particles: int = 128
    box_size: float = 50.0
    n_mesh: int = 256
    n_steps: int = 50
    redshifts: tuple[float, ...] = (2.0, 1.0, 0.5, 0.0)
    start_redshift: float = 49.0

    def __post_init__(self) -> None:
        for name in ("n_particles", "n_mesh", "n_steps"):
            value = getattr(self, name)
            if value < 2 or value != int(value):
                raise SimulationError(
                    f"{name} must be a whole number of at least 2, got {value}"
                )
        number = not hasattr(self.box_size, "unit") and np.isfinite(self.box_size)
        if not (number and self.box_size > 0):
            raise SimulationError(
                f"box_size must be positive and finite [Mpc/h], got {self.box_size}"
            )
        times = (self.start_redshift, *self.redshifts)
        decreasing = all(x > y for x, y in pairwise(times))
        if not self.redshifts or not decreasing or times[-1] < 0:
            raise SimulationError(
                "redshifts must decrease from below start_redshift to at least 0, got "
                f"{self.redshifts} from {self.start_redshift:g}"
            )
        if self.n_steps < len(self.redshifts):
            raise SimulationError(
                f"n_steps must be at least the number of outputs, "
                f"{len(self.redshifts)}, got {self.n_steps}"
            )

    def particle_mass(self, omega_m: float) -> float:
        """Mass of one particle [Msun/h]."""
        return particle_mass(omega_m, self.box_size, self.n_particles**3)


def _run_seeds(seed: int, n: int) -> list[int]:
    """Independent seeds; longer lists begin with the shorter ones."""
    return [
        int(np.random.SeedSequence(seed, spawn_key=(i,)).generate_state(1)[0])
        for i in range(n)
    ]


def design_over_space(
    n_runs: int,
    *,
    seed: int,
    name: str = "LH",
    space: ParameterSpace = LCDM_SPACE,
    method: str = "sobol",
) -> Table:
    """Runs spread over a parameter space, each with its own phases.

    Parameters
    ----------
    n_runs
        Number of runs.
    seed
        Of the design and of the runs' phases.
    name
        The set; runs are called ``{name}_0``, ``{name}_1``, ...
    space
        Which parameters, and their ranges.
    method
        ``"sobol"`` or ``"latin_hypercube"``.

    Returns
    -------
    Table
        Columns run, set, seed and the parameters.

    Raises
    ------
    SimulationError
        If `method` is not known.
    """
    draws = {"sobol": space.sobol, "latin_hypercube": space.latin_hypercube}
    if method not in draws:
        raise SimulationError(f"method must be one of {sorted(draws)}, got {method!r}")
    points = draws[method](n_runs, seed)
    return _design(name, _run_seeds(seed, n_runs), points)


def design_at_point(
    parameters: Mapping[str, float], n_runs: int, *, seed: int, name: str = "CV"
) -> Table:
    """Runs at one point that differ in their phases alone.

    Parameters
    ----------
    parameters
        The point.
    n_runs, seed, name
        As for `design_over_space`.

    Returns
    -------
    Table
        Columns run, set, seed and the parameters.
    """
    points = Table({key: [float(value)] * n_runs for key, value in parameters.items()})
    return _design(name, _run_seeds(seed, n_runs), points)


def design_pairs(
    parameters: Mapping[str, float],
    *,
    seed: int,
    step: float = 0.1,
    name: str = "1P",
    space: ParameterSpace = LCDM_SPACE,
) -> Table:
    """The point itself and a low and a high run of each parameter, all of one seed.

    Parameters
    ----------
    parameters
        The point.
    seed
        Of the phases of all these runs.
    step
        Change of a parameter to either side, in units of its range.
    name, space
        As for `design_over_space`; runs are called ``{name}_fiducial``,
        ``{name}_omega_m_low``, ``{name}_omega_m_high``, ...

    Returns
    -------
    Table
        Columns run, set, seed and the parameters.
    """
    centre = {key: float(parameters[key]) for key in space.names}
    rows, names = [centre], ["fiducial"]
    for parameter in space.parameters:
        change = step * (parameter.high - parameter.low)
        for side, sign in (("low", -1), ("high", 1)):
            value = centre[parameter.name] + sign * change
            rows.append({**centre, parameter.name: value})
            names.append(f"{parameter.name}_{side}")
    design = _design(name, [seed] * len(rows), Table(rows))
    design["run"] = [f"{name}_{each}" for each in names]
    return design


def _design(name: str, seeds: Sequence[int], points: Table) -> Table:
    table = Table()
    table["run"] = [f"{name}_{i}" for i in range(len(points))]
    table["set"] = name
    table["seed"] = np.array(seeds, dtype=np.int64)
    for column in points.colnames:
        table[column] = np.array(points[column], dtype=float)
    return table


def _checked_design(design: Table) -> Table:
    needed = ("run", "set", "seed", *COSMOLOGICAL)
    if missing := [name for name in needed if name not in design.colnames]:
        raise SimulationError(
            f"the design has no column {', '.join(missing)}; it needs "
            f"{', '.join(needed)}"
        )
    if len(design) == 0:
        raise SimulationError("the design has no runs")
    names = [str(name) for name in design["run"]]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise SimulationError(f"the design has several runs called {repeated[0]!r}")
    if bad := [name for name in names if Path(name).name != name or name in ("", "..")]:
        raise SimulationError(f"run name {bad[0]!r} cannot be the name of a folder")
    return design


def _files(row: Mapping[str, Any], config: SimulationConfig) -> list[tuple[float, str]]:
    """Redshift and file, relative to the suite, of each snapshot; first the start."""
    run = str(row["run"])
    outputs = [(z, f"{run}/snap_{i:03d}.hdf5") for i, z in enumerate(config.redshifts)]
    return [(config.start_redshift, f"{run}/ics.hdf5"), *outputs]


def _run_one(
    row: dict[str, Any],
    config: SimulationConfig,
    folder: str,
    threads: int,
    device: str,
) -> str:
    """Run one simulation and write its snapshots; the body of a worker process."""
    import torch

    from .initial_conditions import linear_field
    from .machine_memory import available_memory
    from .particle_mesh import evolve, memory_to_evolve

    torch.set_num_threads(threads)
    parameters = {name: float(row[name]) for name in COSMOLOGICAL}
    (Path(folder) / str(row["run"])).mkdir(parents=True, exist_ok=True)
    needed = memory_to_evolve(config.n_particles, config.n_mesh)
    with torch.no_grad(), kept_memory(needed, available_memory(device)):
        delta = linear_field(
            parameters,
            n_cells=config.n_particles,
            box_size=config.box_size,
            seed=int(row["seed"]),
            device=device,
        )
        states = evolve(
            delta,
            parameters,
            box_size=config.box_size,
            redshifts=[config.start_redshift, *config.redshifts],
            n_steps=config.n_steps,
            n_mesh=config.n_mesh,
            start_redshift=config.start_redshift,
        )
        for state, (redshift, file) in zip(states, _files(row, config), strict=True):
            write_gadget(
                Path(folder) / file,
                positions=state.positions.cpu().numpy(),
                velocities=state.velocities.cpu().numpy(),
                particle_mass=config.particle_mass(parameters["omega_m"]),
                box_size=config.box_size,
                redshift=redshift,
                omega_m=parameters["omega_m"],
                omega_b=parameters["omega_b"],
                h=parameters["h"],
                attributes={
                    "n_s": parameters["n_s"],
                    "sigma_8": parameters["sigma_8"],
                    "seed": int(row["seed"]),
                    "run": str(row["run"]),
                    "pm_n_mesh": config.n_mesh,
                    "pm_n_steps": config.n_steps,
                    "pm_start_redshift": config.start_redshift,
                },
            )
    return str(row["run"])


def _explained_run(row: dict[str, Any], *others: Any) -> None:
    """The same, with the name of the run in any error."""
    try:
        _run_one(row, *others)
    except Exception as error:
        raise SimulationError(f"run {row['run']} failed: {error}") from error


def _suite_rows(design: Table, config: SimulationConfig, folder: Path) -> Table:
    """One row for each snapshot of every run that is complete."""
    rows = []
    for row in design:
        (_, start), *outputs = _files(row, config)
        if not _complete(row, config, folder):
            continue
        parameters = {name: float(row[name]) for name in COSMOLOGICAL}
        for redshift, file in outputs:
            rows.append(
                {
                    "run": str(row["run"]),
                    "set": str(row["set"]),
                    "redshift": redshift,
                    "file": file,
                    "initial_conditions": start,
                    **parameters,
                    "seed": int(row["seed"]),
                    "box_size": config.box_size,
                }
            )
    return Table(rows) if rows else Table()


def _complete(row: Mapping[str, Any], config: SimulationConfig, folder: Path) -> bool:
    return all((folder / file).is_file() for _, file in _files(row, config))


def _write_suite(design: Table, config: SimulationConfig, folder: Path) -> Path:
    """Write ``suite.ecsv``; runs of other designs in it are kept."""
    path = folder / "suite.ecsv"
    rows = _suite_rows(design, config, folder)
    if path.is_file():
        known = Table.read(path, format="ascii.ecsv")
        ours = set(design["run"])
        others = (
            known[[run not in ours for run in known["run"]]] if len(known) else known
        )
        rows = (
            vstack([others, rows], metadata_conflicts="silent") if len(others) else rows
        )
    if len(rows):
        rows.meta = {"code": "astrogan_emu particle mesh"}
        rows["box_size"].description = "comoving Mpc/h"
        with atomic_path(path) as partial:
            rows.write(partial, format="ascii.ecsv", overwrite=True)
    return path


def _check_same(design: Table, config: SimulationConfig, folder: Path) -> None:
    """Refuse to continue a run that was begun with other settings; record these."""
    path = folder / "runs.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    settings = json.loads(json.dumps(asdict(config)))
    for row in design:
        entry = {
            **settings,
            "seed": int(row["seed"]),
            **{name: float(row[name]) for name in COSMOLOGICAL},
        }
        before = known.get(str(row["run"]), entry)
        if changed := [key for key in entry if before.get(key) != entry[key]]:
            key = changed[0]
            raise SimulationError(
                f"run {row['run']} in {folder} was begun with {key} = "
                f"{before.get(key)}, not {entry[key]}; give another folder or set "
                "name, or the same settings"
            )
        known[str(row["run"])] = entry
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(known, indent=1, sort_keys=True))


def simulate(
    design: Table,
    folder: str | os.PathLike[str],
    *,
    config: SimulationConfig | None = None,
    workers: int | None = None,
    device: str = "cpu",
    dry_run: bool = False,
    progress: bool = True,
) -> Path:
    """Run the simulations of a design and write their snapshots.

    A run is deterministic, its files appear whole or not at all, and complete runs are
    never repeated: started again after an interruption, it goes on and ends with the
    same bytes. Every run uses one thread, so that the number of workers has no effect
    on the result either. A GPU adds in any order: its runs repeat to rounding, as those
    of chaotic orbits do.

    Parameters
    ----------
    design
        Columns run, set, seed, omega_m, omega_b, h, n_s, sigma_8; see the design
        functions of this module.
    folder
        Where the suite is; other sets there are kept.
    config
        Numerical settings.
    workers
        Runs at a time, each in a process of its own; as many as cores if not given. On
        a GPU a few are best: while one writes its snapshots, another computes.
    device
        ``"cpu"`` or ``"cuda"``.
    dry_run
        Say what would be run, and do nothing.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        The suite's table, ``suite.ecsv``, with one row for each snapshot.

    Raises
    ------
    SimulationError
        If the design is not usable, a run of that name was begun with other settings,
        or a run fails.
    BatchError
        If a process is lost, or a script that calls this has no
        ``if __name__ == "__main__":``.
    """
    refuse_while_importing()
    if device not in ("cpu", "cuda"):
        raise SimulationError(f"device must be cpu or cuda, got {device!r}")
    config = config or SimulationConfig()
    design = _checked_design(design)
    folder = Path(folder)
    todo = [row for row in design if not _complete(row, config, folder)]
    if dry_run:
        return folder / "suite.ecsv"
    folder.mkdir(parents=True, exist_ok=True)
    _check_same(design, config, folder)
    workers = min(workers or os.cpu_count() or 1, max(len(todo), 1))
    with tqdm(
        total=len(design),
        initial=len(design) - len(todo),
        desc="simulate",
        unit="run",
        disable=not progress,
    ) as bar:

        def after() -> None:
            _write_suite(design, config, folder)
            bar.update()

        values = [{name: row[name] for name in design.colnames} for row in todo]
        tasks = [(one, config, os.fspath(folder), 1, device) for one in values]
        in_processes(_explained_run, tasks, workers, after)
    return _write_suite(design, config, folder)
