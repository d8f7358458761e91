"""The emulator with the model that the package ships."""

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.cosmology import Planck18

from astrogan_emu.checkpoints import model_names
from astrogan_emu.cli import main
from astrogan_emu.emulation import emulate_galaxy_field
from astrogan_emu.emulator import Emulator
from astrogan_emu.errors import (
    ExtrapolationWarning,
    GridError,
    MissingParameterError,
    ParameterRangeError,
    UnknownFieldError,
    UnknownModelError,
)
from astrogan_emu.fields import GalaxyField
from astrogan_emu.initial_conditions import linear_field
from astrogan_emu.statistics import correlation_coefficient

CENTRE = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 1.0, "sigma_8": 0.8}


@pytest.fixture(scope="module")
def emulator():
    return Emulator.load("nbody")


def make(emulator, **keywords):
    """Matter of a small box, by default at the centre of the range."""
    options = {"n_cells": 16, "seed": 1, "fields": ["matter"], **keywords}
    return emulator.emulate(options.pop("params", CENTRE), **options)["matter"]


def test_the_default_is_in_the_package():
    """A fresh install has a model to run."""
    assert "nbody" in model_names()


def test_a_field_knows_where_it_comes_from():
    """Data, unit, grid, parameters, redshift, seed and model are all there."""
    field = emulate_galaxy_field(
        Planck18, redshift=0.5, field="galaxies", n_cells=32, seed=1
    )
    assert field.shape == (32, 32, 32)
    assert field.unit.is_equivalent(u.Mpc**-3)
    assert field.grid.box_size == 25.0
    assert field.redshift == 0.5
    assert field.seed == 1
    assert field.model["name"] == "nbody"
    assert field.parameters["sigma_8"] == Planck18.meta["sigma8"]


def test_values_are_finite_and_not_negative():
    """Densities cannot be negative."""
    data = emulate_galaxy_field(CENTRE, n_cells=32, seed=2).data
    assert np.isfinite(data).all()
    assert data.min() >= 0


def test_mean_density_is_exact(emulator):
    """Matter is conserved, to the rounding of float32."""
    assert make(emulator, n_cells=32).data.mean(dtype=float) == pytest.approx(
        1, abs=1e-5
    )


def test_one_seed_gives_one_field(emulator):
    """The same call gives the same field, another seed another."""
    first, again = make(emulator), make(emulator)
    np.testing.assert_array_equal(first.data, again.data)
    assert not np.allclose(first.data, make(emulator, seed=2).data)


def test_parameters_share_the_phases_of_a_seed(emulator):
    """Structure is in the same places, and stronger for a larger sigma_8."""
    low = make(emulator, n_cells=32, params={**CENTRE, "sigma_8": 0.7})
    high = make(emulator, n_cells=32, params={**CENTRE, "sigma_8": 0.9})
    r = correlation_coefficient(low.data, high.data, box_size=25.0).value
    assert r[0] > 0.95
    assert high.data.std() > low.data.std()


def test_a_fresh_seed_is_recorded(emulator):
    """A field made without a seed can be made again."""
    first = make(emulator, seed=None)
    np.testing.assert_array_equal(first.data, make(emulator, seed=first.seed).data)


def test_the_users_initial_conditions_are_followed(emulator):
    """Given the field that a seed draws, the result is that of the seed."""
    delta = linear_field(CENTRE, n_cells=16, box_size=12.5, seed=1)
    given = make(emulator, initial_conditions=delta.numpy())
    np.testing.assert_allclose(given.data, make(emulator).data, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_seed_gives_the_same_realisation_on_the_accelerator(emulator):
    """Phases, noise and network: all but the rounding of other convolutions."""
    options = {"n_cells": 32, "seed": 5}
    here = emulator.emulate(CENTRE, **options)
    there = Emulator.load("nbody", device="cuda").emulate(CENTRE, **options)
    for name, least in (("matter", 0.9999), ("galaxies", 0.99)):
        # A particle may join another halo, so galaxies are not compared one by one.
        both = np.stack([each[name].data.ravel() for each in (here, there)])
        assert np.corrcoef(np.log1p(both / both.mean()))[0, 1] > least


def test_fields_of_one_call_are_one_realisation(emulator):
    """Galaxies sit where the matter is."""
    made = emulator.emulate(CENTRE, n_cells=32, seed=3)
    matter, galaxies = made["matter"].data, made["galaxies"].data
    assert isinstance(made["matter"], GalaxyField)
    assert np.corrcoef(matter.ravel(), galaxies.ravel())[0, 1] > 0.3


def test_noise_can_be_left_out(emulator):
    """Without noise the field still follows the phases."""
    quiet = make(emulator, stochastic=False)
    np.testing.assert_array_equal(quiet.data, make(emulator, stochastic=False).data)


def test_parameters_outside_the_range_are_refused(emulator):
    """The message names the parameter and its range."""
    with pytest.raises(ParameterRangeError, match=r"omega_m = 0.6 .*\[0.1, 0.5\]"):
        make(emulator, params={**CENTRE, "omega_m": 0.6})
    with pytest.raises(ParameterRangeError, match=r"redshift = 3 .*\[0, 2\]"):
        make(emulator, redshift=3)


def test_extrapolation_warns(emulator):
    """Who insists gets a field and a warning."""
    with pytest.warns(ExtrapolationWarning, match="redshift = 2.5"):
        make(emulator, redshift=2.5, extrapolate=True)


def test_mistakes_are_named(emulator):
    """Each mistake is answered by what is allowed."""
    with pytest.raises(UnknownFieldError, match="matter, galaxies"):
        emulator.emulate(CENTRE, fields=["light"])
    with pytest.raises(UnknownModelError, match="nbody"):
        Emulator.load("camels")
    with pytest.raises(GridError, match="multiple of 4"):
        make(emulator, n_cells=30)
    with pytest.raises(MissingParameterError, match="sigma_8"):
        emulator.emulate({k: v for k, v in CENTRE.items() if k != "sigma_8"})
    with pytest.raises(GridError, match="not finite"):
        make(emulator, initial_conditions=np.full((16,) * 3, np.nan))


def test_the_command_writes_a_file_and_a_picture(tmp_path, monkeypatch, capsys):
    """The main job from the command line, read back."""
    monkeypatch.chdir(tmp_path)
    assert main(["emulate", "--seed", "1", "--n-cells", "16"]) == 0
    said = capsys.readouterr().out
    assert "seed 1" in said
    assert "mean" in said
    field = GalaxyField.read(tmp_path / "galaxies.h5")
    assert field.seed == 1
    assert (tmp_path / "galaxies.png").stat().st_size > 1000


def test_the_command_explains_errors(capsys):
    """An error is one line, and the exit status says so."""
    assert main(["emulate", "--omega-m", "0.9", "--n-cells", "16"]) == 1
    assert "omega_m = 0.9 is outside" in capsys.readouterr().err


def test_the_command_tells_about_the_model(capsys):
    """Ranges and scores are shown."""
    assert main(["info"]) == 0
    assert "sigma_8    0.6 to 1" in capsys.readouterr().out
