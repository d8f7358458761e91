"""The examples run as a reader would run them, in a small box."""

import runpy
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
from astropy.io import fits
from astropy.table import QTable

from astrogan_emu import GalaxyField
from astrogan_emu.suites import read_suite, write_suite

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run one example in an empty folder, and give what it printed.

    In this process, as importing torch and yt again takes longer than the examples.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTROGAN_EXAMPLE_CELLS", "16")
    backend = matplotlib.get_backend()
    matplotlib.use("agg")

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capfd.readouterr().out

    yield call
    plt.close("all")
    matplotlib.use(backend)


def pictures(folder, *names):
    """Whether these pictures are there, and not empty."""
    return all((folder / f"{name}.png").stat().st_size > 5000 for name in names)


def test_parameters_to_catalogue(run, tmp_path):
    """Every step leaves what it promises: pictures, a field and a catalogue."""
    said = run("parameters_to_catalogue.py")
    assert "<GalaxyField 'matter', shape (16, 16, 16)" in said
    assert pictures(tmp_path, "matter", "correlation")
    field = GalaxyField.read(tmp_path / "galaxies.fits")
    with fits.open(tmp_path / "galaxies.fits") as hdus:
        hdus.verify("exception")
    catalogue = QTable.read(tmp_path / "catalogue.fits")
    assert len(catalogue) > 0
    assert set(catalogue.colnames) >= {"x", "v_x", "s_x"}
    assert catalogue.meta["SEED"] == field.seed == 1
    assert catalogue.meta["SIGMA_8"] == field.parameters["sigma_8"]


def test_one_field(run, tmp_path):
    """A field and its picture."""
    assert "<GalaxyField 'matter', shape (16, 16, 16)" in run("one_field.py")
    assert pictures(tmp_path, "one_field")


def test_yt_pictures(run, tmp_path):
    """Three kinds of plots of one file."""
    assert "at redshift 1.0" in run("yt_pictures.py")
    assert pictures(tmp_path, "slice", "projection", "phase")


def test_thousand_fields(run, tmp_path):
    """On small scales, gravity has made modes scatter together: more than Gaussian."""
    lines = [line for line in run("thousand_fields.py").splitlines() if "k = " in line]
    scatter, gaussian = (
        [float(line.split(f"{name} ")[1].split(",")[0]) for line in lines]
        for name in ("scatter", "Gaussian")
    )
    assert scatter[-1] > 2 * gaussian[-1] > 0
    assert pictures(tmp_path, "covariance")


def test_inference(run, tmp_path):
    """The truth is within four standard deviations of either way to find it."""
    lines = [line for line in run("inference.py").splitlines() if " = " in line]
    assert len(lines) == 4
    for line in lines:
        truth = float(line.split(" = ")[1].split(",")[0])
        found, error = line.split()[-3], line.split()[-1]
        assert abs(float(found) - truth) < 4 * float(error)
    assert pictures(tmp_path, "inference")


def test_train_on_toy_boxes(run, tmp_path):
    """Suite, training set and model are there, and the model emulates."""
    said = run("train_on_toy_boxes.py")
    assert "<Emulator toy: matter" in said
    assert (tmp_path / "toy/run/model.safetensors").is_file()
    assert pictures(tmp_path, "toy")


def test_fine_tune(run, tmp_path):
    """A length is chosen, and its model compared on the run that was kept out."""
    said = run("fine_tune.py")
    assert "on the run that was kept out of all this" in said
    assert said.count("together") == 2
    assert (tmp_path / "fine_tune/4_steps/model.safetensors").is_file()


def test_fine_tune_on_real_snapshots(run, test_data, tmp_path):
    """The model of gas meets runs of its own kind."""
    roles = {"LH_7": "LH", "LH_0": "val", "LH_12": "test"}
    suite = read_suite(test_data / "mpgadget_lh")
    suite = suite[[r in roles and z == 0 for r, z in suite["run", "redshift"]]]
    suite["set"] = [roles[name] for name in suite["run"]]
    write_suite(suite, tmp_path / "suite.ecsv")
    said = run("fine_tune.py", "suite.ecsv")
    assert said.count("gas_temperature: power within") == 5
    assert said.count("together") == 2


def test_lightcone(run, tmp_path):
    """A catalogue on the sky, in redshift."""
    run("lightcone.py")
    catalogue = QTable.read(tmp_path / "lightcone.fits")
    assert len(catalogue) > 0
    assert catalogue["z_cosmological"].max() <= 0.02
    assert pictures(tmp_path, "lightcone")


@pytest.mark.slow
def test_carpool(run):
    """It simulates boxes of its own, and the error of the mean becomes smaller."""
    said = run("carpool.py")
    assert "8 simulations, 24 more emulated fields" in said
    assert "times more simulations" in said
