"""The command ``astrogan-emu detect``: three FITS files in, one out, and a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_detect"]


def add_detect(commands: Any) -> None:
    """Add the command to those of the program.

    Parameters
    ----------
    commands
        Subparsers of `argparse`.
    """
    parser = commands.add_parser(
        "detect", help="look for companions of a star in an ADI sequence"
    )
    parser.add_argument("cube", type=Path, help="FITS, frames x rows x columns")
    parser.add_argument("angles", type=Path, help="FITS, degrees, one per frame")
    parser.add_argument("psf", type=Path, help="FITS, the star without a mask")
    parser.add_argument(
        "--pixel-scale", type=float, required=True, help="arcsec per pixel"
    )
    parser.add_argument(
        "--center",
        nargs="+",
        required=True,
        metavar="X Y",
        help="of the star, in pixels from 0; or the word fit",
    )
    parser.add_argument("--fwhm", type=float, help="pixels; fitted if not given")
    parser.add_argument("--psf-center", type=float, nargs=2, metavar=("X", "Y"))
    parser.add_argument(
        "--star-flux", type=float, help="within one FWHM; that of the psf if not given"
    )
    parser.add_argument(
        "--angle-convention",
        choices=("parallactic", "clockwise"),
        default="parallactic",
    )
    parser.add_argument(
        "--north-offset",
        type=float,
        default=0.0,
        help="position angle of the y axis of turned frames, degrees",
    )
    parser.add_argument(
        "--noise", choices=("real", "gaussian", "gan", "gan+real"), default="real"
    )
    parser.add_argument("--score", choices=("cnn", "critic", "snr"), default="cnn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--max-fap", type=float, default=0.01, help="false alarms per map of candidates"
    )
    parser.add_argument(
        "--known",
        type=float,
        nargs=2,
        action="append",
        default=[],
        metavar=("SEPARATION", "ANGLE"),
        help="a known companion, arcsec and degrees",
    )
    parser.add_argument("--output", "-o", type=Path, required=True, help=".fits")
    parser.add_argument("--overwrite", action="store_true")
    parser.set_defaults(run=_detect)


def _detect(options: argparse.Namespace) -> None:
    from ..errors import FileError
    from .adi import ADISequence
    from .detection import detect_companions

    # Before the work rather than after it.
    if not options.output.parent.is_dir():
        raise FileError(f"the folder of {options.output} does not exist; make it first")
    if options.output.exists() and not options.overwrite:
        raise FileError(f"{options.output} exists; give --overwrite to replace it")
    sequence = ADISequence.read(
        options.cube,
        options.angles,
        options.psf,
        pixel_scale=options.pixel_scale,
        center="fit" if options.center == ["fit"] else options.center,
        fwhm=options.fwhm,
        psf_center=options.psf_center,
        star_flux=options.star_flux,
        angle_convention=options.angle_convention,
        north_offset=options.north_offset,
    )
    print(sequence)
    found = detect_companions(
        sequence,
        noise=options.noise,
        score=options.score,
        seed=options.seed,
        max_fap=options.max_fap,
        known_sources=options.known,
    )
    low, high = found.meta["separations"]
    print(f"searched from {low:.3f} to {high:.3f} arcsec")
    if not len(found.candidates):
        print(f"no candidate of a false-alarm probability below {options.max_fap:g}")
    for row in found.candidates:
        print(
            f"candidate at {row['separation'].value:.3f} arcsec, position angle "
            f"{row['position_angle'].value:.1f} deg: false alarm {row['fap_map']:.1e} "
            f"per map, S/N {row['snr']:.1f}, contrast {row['contrast']:.2e} +- "
            f"{row['contrast_error']:.1e}"
            + (f" ({row['flags']})" if row["flags"] else "")
        )
    found.write(options.output, overwrite=options.overwrite)
    print(f"wrote {options.output}")
