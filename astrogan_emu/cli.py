"""The command line: ``astrogan-emu emulate | generate | simulate | prepare | ...``.

Each command is one call of the package's functions; errors of ours become one line.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .companions.command import add_detect
from .errors import AstroganError
from .training_commands import add_prepare, add_train, add_validate

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        Without the program's name; those of the process if not given.

    Returns
    -------
    int
        Exit status: 0, 1 after an error that was explained, 130 if interrupted, 141 if
        whoever reads what is printed has stopped.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Or the interpreter would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except AstroganError as error:
        print(f"astrogan-emu: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("astrogan-emu: interrupted; start again to go on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astrogan-emu",
        description="Galaxy fields from cosmological parameters, by a conditional GAN.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_emulate(commands)
    _add_generate(commands)
    _add_simulate(commands)
    add_prepare(commands)
    add_train(commands)
    add_validate(commands)
    add_detect(commands)
    info = commands.add_parser("info", help="what a model is, and how good")
    info.add_argument("model", nargs="?", default="nbody")
    info.set_defaults(run=_info)
    return parser


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("parameters (Planck 2018 if not given)")
    for name in ("omega_m", "omega_b", "h", "n_s", "sigma_8"):
        group.add_argument(f"--{name.replace('_', '-')}", type=float, dest=name)


def _parameters(options: argparse.Namespace) -> dict[str, float]:
    """Planck 2018, with what was given in its place."""
    from astropy.cosmology import Planck18

    from .parameters import COSMOLOGICAL, as_parameters

    given = {name: getattr(options, name) for name in COSMOLOGICAL}
    known = {name: value for name, value in given.items() if value is not None}
    return {**as_parameters(Planck18), **known}


# Strengths of feedback, as the model `hydro` and CAMELS know them.
_FEEDBACK = ("a_sn1", "a_sn2", "a_agn")


def _add_emulate(commands: Any) -> None:
    parser = commands.add_parser(
        "emulate", help="emulate a field; write a file and a picture"
    )
    _add_parameters(parser)
    for name in _FEEDBACK:
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=float, dest=name, help="1 if not given"
        )
    parser.add_argument("--redshift", "-z", type=float, default=0.0)
    parser.add_argument("--field", default="galaxies")
    parser.add_argument("--n-cells", type=int, default=64, help="cells per side")
    parser.add_argument("--seed", type=int, help="drawn and printed if not given")
    parser.add_argument(
        "--model",
        help="name or .safetensors file; the one that makes the field if not given",
    )
    parser.add_argument("--extrapolate", action="store_true")
    parser.add_argument(
        "--output", "-o", type=Path, help="file to write (.h5 or .fits); FIELD.h5"
    )
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--no-picture", action="store_true")
    parser.set_defaults(run=_emulate)


def _emulate(options: argparse.Namespace) -> None:
    import logging

    from ._model_input import choose_model
    from .emulator import Emulator

    # What a large box needs is said before it is made.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output = options.output or Path(f"{options.field}.h5")
    feedback = {
        name: getattr(options, name)
        for name in _FEEDBACK
        if getattr(options, name) is not None
    }
    emulator = Emulator.load(choose_model(options.model, options.field, feedback))
    start = time.perf_counter()
    field = emulator.emulate(
        _parameters(options) | feedback,
        redshift=options.redshift,
        fields=[options.field],
        n_cells=options.n_cells,
        seed=options.seed,
        extrapolate=options.extrapolate,
    )[options.field]
    taken = time.perf_counter() - start
    values = field.data
    print(f"{options.field} at redshift {options.redshift:g}, seed {field.seed}")
    print("  " + ", ".join(f"{k} = {v:.5g}" for k, v in field.parameters.items()))
    side = field.grid.box_size
    print(
        f"  {options.n_cells}^3 cells in a periodic box of {side:g} Mpc/h "
        f"({side / field.parameters['h']:.4g} Mpc)"
    )
    unit = str(field.unit) or "ratio to the mean"
    print(
        f"  from {values.min():.4g} to {values.max():.4g}, mean {values.mean():.4g} "
        f"[{unit}]"
    )
    said = f"  made in {taken:.2f} s by model {emulator.card.name}"
    ratio = emulator.card.provenance.get("simulation_over_emulation")
    if ratio:
        said += f"; the simulation it stands in for takes about {ratio:.0f} times that"
    print(said)
    replace = options.overwrite or options.output is None
    field.write(output, overwrite=replace)
    print(f"wrote {output}")
    if not options.no_picture:
        print(f"wrote {_picture(field, output)}")


def _picture(field: Any, output: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from ._files import atomic_path
    from .plotting import plot_projection

    axes = plot_projection(field, axis="z", depth=field.grid.box_size / 4)
    figure: Any = axes.figure
    path = output.with_suffix(".png")
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=150, bbox_inches="tight")
    return path


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate", help="emulate many samples into a zarr group; go on if begun"
    )
    parser.add_argument(
        "design",
        type=Path,
        help="table of parameters, one set per row, in any format that astropy reads; "
        "may have a column redshift",
    )
    parser.add_argument(
        "--output", "-o", type=Path, required=True, help=".zarr; .h5 for one process"
    )
    parser.add_argument("--fields", help="comma-separated; all if not given")
    parser.add_argument("--n-cells", type=int, default=64, help="cells per side")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--redshift", "-z", type=float, help="0 if in no column")
    parser.add_argument("--realizations", type=int, default=1, help="of each set")
    parser.add_argument(
        "--model",
        help="name or .safetensors file; the one that makes the fields if not given",
    )
    parser.add_argument("--extrapolate", action="store_true")
    parser.add_argument("--fixed", action="store_true", help="fix the amplitudes")
    parser.add_argument("--paired", action="store_true", help="pairs of flipped phases")
    parser.add_argument("--same-phases", action="store_true", help="for every set")
    parser.add_argument("--statistics", default="", help="comma-separated: power, pdf")
    parser.add_argument("--no-fields", action="store_true", help="statistics only")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--workers", type=int, help="processes on this machine")
    group.add_argument("--scheduler", help="of a dask cluster, such as tcp://host:8786")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.set_defaults(run=_generate)


def _generate(options: argparse.Namespace) -> None:
    from astropy.io.registry import IORegistryError
    from astropy.table import QTable

    from .errors import FileError
    from .generation import generate

    try:
        design = QTable.read(options.design)
    except (OSError, ValueError, TypeError, IORegistryError) as error:
        # Astropy explains at length which formats there are.
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(
            f"cannot read the design {options.design}: {said}; give a table with a "
            "column per parameter, such as an .ecsv file"
        ) from error
    path = generate(
        design,
        options.output,
        fields=options.fields.split(",") if options.fields else None,
        n_cells=options.n_cells,
        seed=options.seed,
        redshift=options.redshift,
        n_realizations=options.realizations,
        model=options.model,
        extrapolate=options.extrapolate,
        fixed=options.fixed,
        paired=options.paired,
        same_phases=options.same_phases,
        statistics=[name for name in options.statistics.split(",") if name],
        keep_fields=not options.no_fields,
        workers=options.workers,
        scheduler=options.scheduler,
        device=options.device,
    )
    print(f"wrote {path}")


def _add_simulate(commands: Any) -> None:
    parser = commands.add_parser(
        "simulate", help="run a suite of particle-mesh simulations"
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--design",
        choices=("sobol", "latin-hypercube", "point", "pairs"),
        default="sobol",
        help="over the whole range, seeds at one point, or low-high pairs around it",
    )
    parser.add_argument("--runs", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", default="LH", dest="name", help="name of the set")
    _add_parameters(parser)
    parser.add_argument("--n-particles", type=int, default=128, help="per side")
    parser.add_argument("--box-size", type=float, default=50.0, help="Mpc/h")
    parser.add_argument("--n-mesh", type=int, default=256)
    parser.add_argument("--n-steps", type=int, default=50)
    parser.add_argument(
        "--redshifts", type=float, nargs="+", default=[2.0, 1.0, 0.5, 0.0]
    )
    parser.add_argument("--start-redshift", type=float, default=49.0)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dry-run", action="store_true")
    parser.set_defaults(run=_simulate)


def _simulate(options: argparse.Namespace) -> None:
    from .simulations import (
        SimulationConfig,
        design_at_point,
        design_over_space,
        design_pairs,
        simulate,
    )

    config = SimulationConfig(
        n_particles=options.n_particles,
        box_size=options.box_size,
        n_mesh=options.n_mesh,
        n_steps=options.n_steps,
        redshifts=tuple(options.redshifts),
        start_redshift=options.start_redshift,
    )
    seed, name = options.seed, options.name
    if options.design == "point":
        design = design_at_point(
            _parameters(options), options.runs, seed=seed, name=name
        )
    elif options.design == "pairs":
        design = design_pairs(_parameters(options), seed=seed, name=name)
    else:
        method = options.design.replace("-", "_")
        design = design_over_space(options.runs, seed=seed, name=name, method=method)
    if options.dry_run:
        print(config)
        design.pprint(max_lines=-1, max_width=-1)
    path = simulate(
        design,
        options.folder,
        config=config,
        workers=options.workers,
        device=options.device,
        dry_run=options.dry_run,
    )
    print(f"{'would write' if options.dry_run else 'wrote'} {path}")


def _info(options: argparse.Namespace) -> None:
    from .emulator import Emulator

    emulator = Emulator.load(options.model)
    card = emulator.card
    print(emulator)
    for parameter in card.space.parameters:
        print(f"  {parameter.name:10s} {parameter.low:g} to {parameter.high:g}")
    print(f"  {'redshift':10s} {card.redshifts[0]:g} to {card.redshifts[1]:g}")
    print("scores on held-out simulations:")
    for name, value in card.scores.items():
        print(f"  {name:52s} {value}")
    print(f"sha256 {emulator.identity['sha256']}")
