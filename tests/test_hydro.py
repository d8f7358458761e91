"""The model of gas that the package ships, and how it is found."""

import numpy as np
import pytest
from astropy import units as u
from astropy.cosmology import Planck18

from astrogan_emu import _model_input
from astrogan_emu._model_input import choose_model
from astrogan_emu.batch import emulate_batch
from astrogan_emu.cli import main
from astrogan_emu.emulation import emulate_galaxy_field
from astrogan_emu.emulator import Emulator
from astrogan_emu.errors import (
    ExtrapolationWarning,
    ParameterRangeError,
    UnknownFieldError,
    UnknownModelError,
    UnknownParameterError,
)

POINT = {"omega_m": 0.3, "sigma_8": 0.8}
N = 16


@pytest.fixture(scope="module")
def hydro():
    return Emulator.load("hydro")


@pytest.fixture(scope="module")
def made(hydro):
    """Everything that it offers, of one realisation."""
    return hydro.emulate(POINT, fields=hydro.offers, n_cells=N, seed=1)


# Which model.


def test_a_field_of_gas_finds_its_model():
    """Nobody need know what the model is called."""
    field = emulate_galaxy_field(
        POINT, field="gas_temperature", a_sn1=2.0, n_cells=N, seed=1
    )
    assert field.model["name"] == "hydro"
    assert field.unit == u.K
    assert field.parameters["a_sn1"] == 2.0
    assert field.parameters["a_agn"] == 1.0


@pytest.mark.parametrize(
    ("field", "parameters", "model"),
    [
        ("matter", {"sigma_8"}, "nbody"),
        ("galaxies", {"Om0"}, "nbody"),
        ("matter", {"omega_m", "a_sn1"}, "hydro"),
        (["matter", "gas_density"], (), "hydro"),
        ("electron_pressure", (), "hydro"),
        (None, (), "nbody"),
    ],
)
def test_the_model_is_the_one_that_can(field, parameters, model):
    """The default one before others."""
    assert choose_model(None, field, parameters) == model


def test_a_model_that_is_named_wins():
    """Also where it cannot do what is asked, which it says itself."""
    assert choose_model("nbody", "gas_density", {"a_sn1"}) == "nbody"
    with pytest.raises(UnknownFieldError, match="nbody does not make 'gas_density'"):
        emulate_galaxy_field(Planck18, field="gas_density", model="nbody", n_cells=N)


def test_what_no_model_can_do_is_said():
    """With what there is instead."""
    with pytest.raises(UnknownFieldError, match="no model makes 'light'; hydro makes"):
        emulate_galaxy_field(POINT, field="light", n_cells=N)
    with pytest.raises(UnknownFieldError, match="'galaxies' and 'gas_density'"):
        choose_model(None, ["galaxies", "gas_density"])
    with pytest.raises(UnknownParameterError, match="'a_sn9', perhaps a_sn"):
        emulate_galaxy_field(POINT, field="matter", a_sn9=1.0, n_cells=N)
    with pytest.raises(UnknownParameterError, match="a_sn1"):
        emulate_galaxy_field(POINT, field="galaxies", a_sn1=1.0, n_cells=N)


def test_several_models_that_can_are_a_question(monkeypatch):
    """Which only the user can answer."""
    load = _model_input.load_model
    names = ("hydro", "nbody", "other")
    monkeypatch.setattr(_model_input, "model_names", lambda: names)
    monkeypatch.setattr(
        _model_input, "load_model", lambda n: load("hydro" if n == "other" else n)
    )
    with pytest.raises(UnknownModelError, match="hydro, other; choose one with model="):
        choose_model(None, "gas_density")
    assert choose_model(None, "matter") == "nbody"


def test_a_batch_and_the_command_find_it_too(tmp_path, monkeypatch):
    """By the field that is asked for."""
    batch = emulate_batch(POINT, fields=["gas_fraction"], n_cells=N, seed=1)
    assert batch.model["name"] == "hydro"
    assert np.isfinite(batch.data.compute()).all()
    monkeypatch.chdir(tmp_path)
    command = ["emulate", "--seed", "1", "--field", "gas_density", "--a-sn1", "2"]
    assert main([*command, "--n-cells", "16", "--no-picture"]) == 0
    assert (tmp_path / "gas_density.h5").is_file()


# What it makes.


def test_values_are_finite_and_positive(made):
    """All fields, derived ones too."""
    for field in made.values():
        assert np.isfinite(field.data).all()
        assert field.data.min() >= 0


def test_masses_are_those_of_the_universe(made):
    """Matter exactly; gas all but what became stars and black holes."""
    assert made["matter"].data.mean(dtype=float) == pytest.approx(1, abs=1e-5)
    critical = 2.77536627e11 * 0.6711**2
    gas = made["gas_density"].data.mean(dtype=float) / (0.049 * critical)
    assert 0.99 < gas < 1.0
    fraction = np.average(made["gas_fraction"].data, weights=made["matter"].data)
    assert fraction == pytest.approx(gas * 0.049 / 0.3, rel=1e-3)


def test_fields_of_one_call_are_one_realisation(hydro, made):
    """Gas lies where matter lies, and asking for more changes nothing."""
    matter, gas = (np.log(made[n].data).ravel() for n in ("matter", "gas_density"))
    assert np.corrcoef(matter, gas)[0, 1] > 0.8
    alone = hydro.emulate(POINT, fields="gas_density", n_cells=N, seed=1)
    np.testing.assert_array_equal(alone["gas_density"].data, made["gas_density"].data)


def test_dense_gas_is_hot(made):
    """Shocks heat what collapses: median temperatures rise with density."""
    gas, temperature = made["gas_density"].data, made["gas_temperature"].data
    dense = gas > np.quantile(gas, 0.95)
    thin = gas < np.quantile(gas, 0.5)
    assert np.median(temperature[dense]) > 5 * np.median(temperature[thin])


@pytest.mark.parametrize("n_cells", [12, 20])
def test_boxes_of_other_sizes_are_of_the_same_cells(hydro, n_cells):
    """Any multiple of four."""
    field = hydro.emulate(POINT, fields="gas_density", n_cells=n_cells, seed=1)
    assert field["gas_density"].grid.cell_size == pytest.approx(25 / 32)
    assert np.isfinite(field["gas_density"].data).all()


# Parameters that the suite held fixed.


def test_planck_is_close_enough():
    """h, n_s and omega_b as they are go to the base."""
    field = emulate_galaxy_field(Planck18, field="gas_density", n_cells=N, seed=1)
    assert field.parameters["h"] == Planck18.h


def test_far_values_of_them_are_refused(hydro):
    """Nothing was learnt about them; who insists is warned."""
    options = {"fields": "gas_density", "n_cells": N, "seed": 1}
    with pytest.raises(ParameterRangeError, match=r"h = 0.8 is outside"):
        hydro.emulate(POINT, h=0.8, **options)
    with pytest.warns(ExtrapolationWarning, match=r"h = 0.8 is outside"):
        hydro.emulate(POINT, h=0.8, extrapolate=True, **options)


def test_gas_is_proportional_to_the_baryons(hydro):
    """Though the suite has one baryon density only."""
    options = {"fields": "gas_density", "n_cells": N, "seed": 1}
    few = hydro.emulate(POINT, omega_b=0.045, **options)["gas_density"]
    many = hydro.emulate(POINT, omega_b=0.053, **options)["gas_density"]
    assert few.data.mean() / many.data.mean() == pytest.approx(45 / 53, rel=1e-4)
