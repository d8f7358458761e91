"""The command line: each command does its work, and errors are one line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from astrogan_emu.checkpoints import model_path, read_model
from astrogan_emu.cli import main
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.fields import GalaxyField

TOY_RUNS = [
    *("--n-particles", "16", "--box-size", "12.5", "--n-mesh", "16"),
    *("--n-steps", "4", "--redshifts", "1", "0", "--workers", "1"),
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Commands write into the current folder."""
    monkeypatch.chdir(tmp_path)


def test_the_main_job(tmp_path, capsys):
    """A field, a picture, and what was made: parameters, range, mean and time."""
    assert main(["emulate", "--seed", "1", "--n-cells", "32"]) == 0
    said = capsys.readouterr().out
    for part in (
        "galaxies at redshift 0, seed 1",
        "omega_m = 0.30966",
        "32^3 cells in a periodic box of 25 Mpc/h",
        "mean",
        "the simulation it stands in for takes about",
        "wrote galaxies.h5",
        "wrote galaxies.png",
    ):
        assert part in said
    field = GalaxyField.read(tmp_path / "galaxies.h5")
    assert field.data.shape == (32, 32, 32)
    assert field.seed == 1
    assert (tmp_path / "galaxies.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_file_of_the_user_is_not_overwritten_unless_asked(tmp_path, capsys):
    """The name that is chosen by the program may be; one that was given may not."""
    command = ["emulate", "--seed", "1", "--n-cells", "16", "--no-picture"]
    own = [*command, "--field", "matter", "--output", "mine.fits"]
    assert main(own) == 0
    before = (tmp_path / "mine.fits").read_bytes()
    assert main(own) == 1
    assert "mine.fits" in capsys.readouterr().err
    assert (tmp_path / "mine.fits").read_bytes() == before
    assert main([*own, "--overwrite"]) == 0


def test_a_reader_that_stops_is_no_error():
    """As with ``astrogan-emu info | head -1``: nothing is said."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "astrogan_emu", "info"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--omega-m", "0.9"], "omega_m = 0.9 is outside"),
        (["--redshift", "7"], "redshift = 7 is outside the trained range"),
        (["--field", "magic"], "no model makes 'magic'; hydro makes"),
        (["--n-cells", "30"], "n_cells must be a multiple of"),
        (["--model", "none"], "there is no model 'none'"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys, tmp_path):
    """They name the value, and nothing is written."""
    assert main(["emulate", "--seed", "1", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_extrapolation_is_a_choice():
    """It is done with a warning."""
    with pytest.warns(UserWarning, match=r"sigma_8 = 1\.1 is outside"):
        assert (
            main(
                [
                    *("emulate", "--seed", "1", "--n-cells", "16", "--no-picture"),
                    *("--sigma-8", "1.1", "--extrapolate"),
                ]
            )
            == 0
        )


def test_the_chain(tmp_path, capsys):
    """From nothing to a field of one's own model, with the commands of the README."""
    assert main(["simulate", "suite", "--runs", "3", "--seed", "1", *TOY_RUNS]) == 0
    assert main(["prepare", "suite", "-o", "train.h5", "--n-cells", "16"]) == 0
    choices = ["paired_steps=2", "adversarial_steps=1", "widths=[4,6]", "name=7"]
    choices += ["critic_widths=4", "unheard=h,n_s"]
    options = [text for choice in choices for text in ("--set", choice)]
    assert main(["train", "train.h5", "-o", "run", *options]) == 0
    chosen = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert chosen["widths"] == [4, 6]
    assert chosen["critic_widths"] == [4]
    assert chosen["unheard"] == ["h", "n_s"]
    model = tmp_path / "run" / "model.safetensors"
    capsys.readouterr()
    assert main(["info", str(model)]) == 0
    assert "<Emulator 7: matter, galaxies" in capsys.readouterr().out
    status = main(
        [
            *("emulate", "--model", str(model), "--field", "matter", "--seed", "2"),
            *("--n-cells", "16", "--no-picture", "--sigma-8", "0.8"),
        ]
    )
    assert status == 0
    field = GalaxyField.read(tmp_path / "matter.h5")
    assert np.asarray(field).mean() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["nbody", "hydro"])
def test_a_model_is_fine_tuned_on_a_base_like_its_own(tmp_path, name):
    """Cells, fields and base of the model, unless something else is asked for."""
    card = read_model(model_path(name)).card
    assert card.preparation.base == card.base
    assert card.preparation.fields == tuple(card.units)
    assert main(["simulate", "suite", "--runs", "3", "--seed", "1", *TOY_RUNS]) == 0
    cells = ("--n-cells", "16", "--fields", "matter,galaxies")
    assert main(["prepare", "suite", "-o", "train.h5", "--like", name, *cells]) == 0
    with TrainingSet.open(tmp_path / "train.h5") as data:
        assert data.base_settings == card.base.to_dict()
        assert data.n_cells == 16
    options = ["--init-from", name, "--set", "critic_widths=[4]"]
    for choice in ("paired_steps=1", "adversarial_steps=0"):
        options += ["--set", choice]
    assert main(["train", "train.h5", "-o", "run", *options]) == 0
    tuned = read_model(tmp_path / "run" / "model.safetensors")
    assert tuned.card.base == card.base


def test_a_choice_that_does_not_exist_is_named(capsys):
    """The message lists those that do."""
    assert main(["train", "train.h5", "-o", "run", "--set", "depth=3"]) == 1
    assert "--set depth=3 is no choice" in capsys.readouterr().err


def test_maps_need_their_parameters(capsys):
    """The Multifield Dataset keeps them in a file of their own."""
    assert main(["prepare", "Maps_Mtot_X_LH_z=0.00.npy", "-o", "train.h5"]) == 1
    assert "--parameters FILE" in capsys.readouterr().err
    dry = ["prepare", "Maps_Mtot_X_LH_z=0.00.npy", "-o", "train.h5", "--dry-run"]
    assert main([*dry, "--parameters", "params_LH_X.txt"]) == 1
    assert "no --dry-run" in capsys.readouterr().err
    like = ["prepare", "Maps_Mtot_X_LH_z=0.00.npy", "-o", "train.h5", "--like", "nbody"]
    assert main([*like, "--parameters", "params_LH_X.txt"]) == 1
    assert "no --like" in capsys.readouterr().err


def test_the_module_is_the_program():
    """``python -m astrogan_emu`` says what there is."""
    done = subprocess.run(
        [sys.executable, "-m", "astrogan_emu", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for command in ("emulate", "simulate", "prepare", "train", "info"):
        assert command in done.stdout
