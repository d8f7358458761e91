"""The examples run as a reader would run them, in a small box."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from astropy.io import fits
from astropy.table import QTable

import astrogan_emu
from astrogan_emu import GalaxyField

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(tmp_path):
    """Run one example in an empty folder, and give what it printed."""

    def call(name):
        environment = os.environ | {
            "ASTROGAN_EXAMPLE_CELLS": "16",
            "MPLBACKEND": "agg",
            "PYTHONPATH": str(Path(astrogan_emu.__file__).parents[1]),
        }
        done = subprocess.run(
            [sys.executable, EXAMPLES / name],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_parameters_to_catalogue(run, tmp_path):
    """Every step leaves what it promises: pictures, a field and a catalogue."""
    said = run("parameters_to_catalogue.py")
    assert "<GalaxyField 'matter', shape (16, 16, 16)" in said
    for name in ("matter.png", "correlation.png"):
        assert (tmp_path / name).stat().st_size > 5000
    field = GalaxyField.read(tmp_path / "galaxies.fits")
    with fits.open(tmp_path / "galaxies.fits") as hdus:
        hdus.verify("exception")
    catalogue = QTable.read(tmp_path / "catalogue.fits")
    assert len(catalogue) > 0
    assert set(catalogue.colnames) >= {"x", "v_x", "s_x"}
    assert catalogue.meta["SEED"] == field.seed == 1
    assert catalogue.meta["SIGMA_8"] == field.parameters["sigma_8"]


@pytest.mark.slow
def test_carpool(run):
    """It simulates boxes of its own, and the error of the mean becomes smaller."""
    said = run("carpool.py")
    assert "8 simulations, 24 more emulated fields" in said
    assert "times more simulations" in said
