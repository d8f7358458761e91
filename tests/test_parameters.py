"""Parameters mean the same whatever form they come in, and know their ranges."""

import dataclasses
import io
import json
import math
import re

import astropy.units as u
import numpy as np
import pytest
from astropy.cosmology import (
    WMAP9,
    FlatLambdaCDM,
    Flatw0waCDM,
    LambdaCDM,
    Planck18,
    w0wzCDM,
    wCDM,
)
from astropy.table import QTable, Table
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from astrogan_emu.errors import (
    ExtrapolationWarning,
    MissingParameterError,
    ParameterError,
    ParameterRangeError,
    UnknownParameterError,
)
from astrogan_emu.parameters import (
    ALIASES,
    COSMOLOGICAL,
    Parameter,
    ParameterSpace,
    as_parameter_table,
    as_parameters,
    to_cosmology,
)

PARAMS = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 0.96, "sigma_8": 0.8}
META = {"sigma8": 0.8, "n_s": 0.96}


def universe(meta: dict[str, object] | None = META, ob0: float = 0.05) -> FlatLambdaCDM:
    """The same parameters as an astropy cosmology."""
    return FlatLambdaCDM(H0=70, Om0=0.3, Ob0=ob0, meta=meta)


SPACE = ParameterSpace(
    (
        Parameter("omega_m", 0.1, 0.5),
        Parameter("sigma_8", 0.6, 1.0),
        Parameter("a_agn", 0.25, 4.0, log=True, default=1.0),
    )
)


def structured_row() -> np.void:
    """The parameters as one row of a structured array, among other columns."""
    dtype = [("run", int), *((name, float) for name in PARAMS)]
    return np.array([(7, *PARAMS.values())], dtype=dtype)[0]


FORMS = {
    "mapping": PARAMS,
    "aliases": {"Om0": 0.3, "Omega_b": 0.05, "H0": 70, "ns": 0.96, "sigma8": 0.8},
    "quantities": {
        "Om0": 0.3 * u.one,
        "Ob0": 5 * u.percent,
        "H0": 7e4 * u.m / u.s / u.Mpc,
        "n": np.float64(0.96),
        "sigma_8": np.array(0.8),
    },
    "cosmology": universe(),
    "cosmology with n": universe({"sigma8": 0.8, "n": 0.96}),
    "cosmology with ns": universe({"sigma_8": 0.8, "ns": 0.96, "tau": 0.06}),
    "QTable row": QTable(
        {"run": [3], "file": ["a"], **{k: [v] for k, v in PARAMS.items()}}
    )[0],
    "QTable row with units": QTable(
        {
            **{k: [v] for k, v in PARAMS.items() if k != "h"},
            "H0": [70] * u.km / u.s / u.Mpc,
        }
    )[0],
    "Table row": Table({k: [v] for k, v in PARAMS.items()})[0],
    "structured row": structured_row(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_parameters(form):
    """A dict, a cosmology and a table row of one universe are one set of numbers."""
    values = as_parameters(form)
    assert tuple(values) == COSMOLOGICAL
    # H0 / 100 costs a rounding.
    assert values == pytest.approx(PARAMS, rel=1e-14)
    assert all(type(value) is float for value in values.values())


def test_keywords_alone_are_enough():
    """No container is needed to give parameters."""
    assert as_parameters(**PARAMS) == PARAMS


@pytest.mark.parametrize("alias", ALIASES)
def test_every_alias_stands_for_its_name(alias):
    """Each spelling of the table is understood as mapping key and as keyword."""
    name = ALIASES[alias]
    value = PARAMS[name] * (100 if alias == "H0" else 1)
    rest = {key: PARAMS[key] for key in PARAMS if key != name}
    assert as_parameters({**rest, alias: value}) == pytest.approx(PARAMS, rel=1e-14)
    assert as_parameters(rest, **{alias: value}) == pytest.approx(PARAMS, rel=1e-14)


def test_keywords_complete_a_cosmology():
    """What a cosmology cannot hold comes from keywords."""
    assert as_parameters(universe(meta=None), sigma8=0.8, n_s=0.96) == pytest.approx(
        PARAMS
    )


def test_keywords_win_over_the_meta_of_a_cosmology():
    """Meta is a note on the side; a keyword is what the user asks for."""
    assert as_parameters(Planck18, sigma8=0.9)["sigma_8"] == 0.9


def test_cosmologies_that_astropy_calls_equal_keep_their_own_sigma8():
    """``==`` ignores meta, so that nothing may be remembered by it."""
    one, other = universe(), universe({"sigma8": 0.9, "n_s": 0.96})
    assert one == other
    assert [as_parameters(each)["sigma_8"] for each in (one, other)] == [0.8, 0.9]
    one.meta["sigma8"] = 0.7
    assert as_parameters(one)["sigma_8"] == 0.7


def test_zero_baryons_count_as_not_given():
    """Astropy's default Ob0 = 0 is a gap that a keyword fills."""
    cosmology = universe(ob0=0)
    with pytest.raises(MissingParameterError, match=r"^missing omega_b; .*Ob0"):
        as_parameters(cosmology)
    assert as_parameters(cosmology, omega_b=0.05) == pytest.approx(PARAMS)


def test_a_cosmology_without_sigma8_and_n_s_names_both():
    """Both gaps are named at once, with where they could come from."""
    with pytest.raises(MissingParameterError, match=r"^missing n_s, sigma_8; .*meta"):
        as_parameters(universe(meta=None))


def test_none_counts_as_not_given():
    """Keywords passed on from optional arguments may be None."""
    assert as_parameters(PARAMS, sigma_8=None) == PARAMS


def test_defaults_fill_gaps_only():
    """A default yields to a given value."""
    names = (*COSMOLOGICAL, "a_agn", "a_sn1")
    values = as_parameters(
        PARAMS, names=names, defaults={"a_agn": 1.0, "a_sn1": 1.0}, a_sn1=2.0
    )
    assert values == {**PARAMS, "a_agn": 1.0, "a_sn1": 2.0}


def test_names_set_the_order():
    """The order of the result is that of the names, not that of the input."""
    names = ("sigma_8", "omega_m")
    assert tuple(as_parameters({"omega_m": 0.3, "sigma_8": 0.8}, names=names)) == names


def test_an_unknown_key_is_named_with_the_nearest_name():
    """A typo is answered with what was probably meant."""
    with pytest.raises(
        UnknownParameterError,
        match=r"unknown parameter 'omega_n', perhaps omega_[mb] was meant; allowed are "
        "omega_m, omega_b, h, n_s, sigma_8",
    ):
        as_parameters({**PARAMS, "omega_n": 0.3})


def test_a_parameter_that_is_not_wanted_is_unknown():
    """A model without h refuses it, rather than ignore what the user asked for."""
    with pytest.raises(UnknownParameterError, match="unknown parameter 'H0'"):
        as_parameters({"Om0": 0.3, "H0": 70}, names=("omega_m",))


def test_all_missing_names_are_listed():
    """One message is enough to complete the input."""
    with pytest.raises(MissingParameterError, match="missing omega_b, n_s, sigma_8;"):
        as_parameters(omega_m=0.3, h=0.7)


def test_conflicting_values_are_refused():
    """The same parameter twice with different values is a question, not an answer."""
    with pytest.raises(
        ParameterError, match=re.escape("omega_m is given twice with different values")
    ):
        as_parameters(PARAMS, Om0=0.31)
    with pytest.raises(ParameterError, match=re.escape("0.3 and 0.32; give it once")):
        as_parameters(universe(), omega_m=0.32)
    with pytest.raises(ParameterError, match="h is given twice"):
        as_parameters({**PARAMS, "H0": 67})


def test_agreeing_values_are_accepted():
    """Saying the same thing twice is no conflict, even through a unit."""
    assert as_parameters(PARAMS, H0=70 * u.km / u.s / u.Mpc, Om0=0.3)["h"] == 0.7


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "omega_m must be finite, got nan"),
        (np.inf, "omega_m must be finite, got inf"),
        ("0.3", "omega_m must be a number, got '0.3'"),
        (True, "omega_m must be a number, got True"),
        (0.3 + 0j, "omega_m must be a number"),
        pytest.param(object(), "omega_m must be a number", id="object"),
        ([0.3, 0.4], r"omega_m must be one number, got an array of shape \(2,\)"),
        (0.3 * u.m, "omega_m has the unit m, it must be a plain number"),
        (np.ma.masked, "omega_m is masked"),
    ],
    ids=str,
)
def test_a_value_that_is_no_number_names_its_parameter(value, message):
    """Each unusable value is named, never turned into something else."""
    with pytest.raises(ParameterError, match=message):
        as_parameters({**PARAMS, "omega_m": value})


def test_a_wrong_unit_of_h0_is_refused():
    """H0 converts from any expansion rate and from nothing else."""
    rest = {key: PARAMS[key] for key in PARAMS if key != "h"}
    with pytest.raises(ParameterError, match="H0 has the unit km / s, it must be in"):
        as_parameters(rest, H0=70 * u.km / u.s)


@pytest.mark.parametrize("value", ["Planck18", [0.3, 0.05], 0.3])
def test_numbers_without_names_are_refused(value):
    """The accepted forms are listed where something else is given."""
    with pytest.raises(ParameterError, match="must be a mapping, an astropy cosmology"):
        as_parameters(value)


def test_planck18_is_accepted_with_its_light_neutrinos():
    """Astropy's own Planck cosmology works as it is; omega_m is its Om0."""
    values = as_parameters(Planck18)
    assert values["omega_m"] == Planck18.Om0
    assert values["sigma_8"] == Planck18.meta["sigma8"]
    assert as_parameters(WMAP9)["n_s"] == WMAP9.meta["n"]


@pytest.mark.parametrize("mass", [[0, 0, 0.07], [0.03, 0.03, 0.03]], ids=str)
def test_heavier_neutrinos_are_refused(mass):
    """Neutrinos that would show in the power spectrum are named with their mass."""
    heavy = Planck18.clone(m_nu=mass * u.eV)
    with pytest.raises(ParameterError, match=r"neutrinos of .* weigh 0\.0[79] eV"):
        as_parameters(heavy)


def test_light_neutrinos_do_little_to_the_linear_power():
    """The error that is documented for Planck18's neutrinos is the measured one."""
    camb = pytest.importorskip("camb")
    k = np.geomspace(0.015, 10, 12)

    def power(mass):
        h = Planck18.h
        setup = camb.set_params(
            H0=100 * h,
            ombh2=Planck18.Ob0 * h**2,
            omch2=(Planck18.Om0 - Planck18.Ob0) * h**2,
            mnu=mass,
            num_massive_neutrinos=1 if mass else 0,
            ns=0.9665,
            redshifts=[0.0],
            kmax=15,
            WantCls=False,
        )
        results = camb.get_results(setup)
        spectrum = results.get_matter_power_interpolator(nonlinear=False)
        return spectrum.P(0.0, k) / results.get_sigma8_0() ** 2

    error = np.abs(power(0.0) / power(0.06) - 1)
    assert error.max() < 0.01
    assert error[k > 0.05].max() < 0.003
    assert error[k > 0.15].max() < 0.001


@pytest.mark.parametrize("ode", [0.6, 0.75])
def test_curvature_is_refused(ode):
    """A curved universe is named with its Ok0."""
    curved = LambdaCDM(H0=70, Om0=0.3, Ode0=ode, Ob0=0.05, meta=META)
    with pytest.raises(ParameterError, match=r"LambdaCDM is curved, Ok0 = -?0\.\d+"):
        as_parameters(curved)


def test_a_flat_universe_of_a_curved_class_is_accepted():
    """Flatness is judged by the numbers; forgotten radiation is no curvature."""
    flat = LambdaCDM(H0=70, Om0=0.3, Ode0=0.7, Ob0=0.05, Tcmb0=2.7255, meta=META)
    assert as_parameters(flat) == pytest.approx(PARAMS)


@pytest.mark.parametrize(
    "cosmology",
    [
        wCDM(H0=70, Om0=0.3, Ode0=0.7, w0=-0.9, Ob0=0.05),
        Flatw0waCDM(H0=70, Om0=0.3, w0=-1, wa=0.2, Ob0=0.05),
        w0wzCDM(H0=70, Om0=0.3, Ode0=0.7, w0=-1, wz=0.1, Ob0=0.05),
    ],
    ids=lambda cosmology: type(cosmology).__name__,
)
def test_dark_energy_other_than_a_constant_is_refused(cosmology):
    """An equation of state that is not -1, today or later, is named."""
    with pytest.raises(ParameterError, match=r"dark energy of \w+ has w = -"):
        as_parameters(cosmology, sigma8=0.8, n_s=0.96)


def test_a_cosmological_constant_of_another_class_is_accepted():
    """w0 = -1 is a cosmological constant whatever the class."""
    cosmology = wCDM(H0=70, Om0=0.3, Ode0=0.7, w0=-1, Ob0=0.05, meta=META)
    assert as_parameters(cosmology) == pytest.approx(PARAMS)


def test_cosmology_round_trip():
    """Parameters become an astropy cosmology and come back."""
    cosmology = to_cosmology({**PARAMS, "a_agn": 1.0})
    assert cosmology.is_flat
    assert cosmology.name == "astrogan_emu"
    assert cosmology.h == 0.7
    # Without radiation, as in the simulations.
    assert cosmology.Om0 + cosmology.Ode0 == 1
    assert as_parameters(cosmology) == pytest.approx(PARAMS, rel=1e-14)


def test_to_cosmology_names_what_is_missing():
    """A partial set cannot become a cosmology."""
    with pytest.raises(MissingParameterError, match="missing sigma_8"):
        to_cosmology({key: PARAMS[key] for key in PARAMS if key != "sigma_8"})


TABLES = {
    "columns": {key: [value] * 3 for key, value in PARAMS.items()},
    "column and numbers": {**PARAMS, "omega_m": np.full(3, 0.3)},
    "QTable": QTable({key: [value] * 3 for key, value in PARAMS.items()}),
    "Table with more columns": Table(
        {"file": ["a", "b", "c"], **{key: [value] * 3 for key, value in PARAMS.items()}}
    ),
    "structured array": np.array([structured_row()] * 3),
    "array": np.array([list(PARAMS.values())] * 3),
    "list of lists": [list(PARAMS.values())] * 3,
    "list of mappings": [PARAMS] * 3,
    "mixed list": [PARAMS, universe(), structured_row()],
    "generator": (PARAMS for _ in range(3)),
}


@pytest.mark.parametrize("form", TABLES.values(), ids=TABLES)
def test_every_form_of_many_sets_gives_the_same_table(form):
    """Three universes are three rows in canonical order, however they are given."""
    table = as_parameter_table(form)
    assert isinstance(table, QTable)
    assert tuple(table.colnames) == COSMOLOGICAL
    assert len(table) == 3
    for name, value in PARAMS.items():
        assert table[name].dtype == np.float64
        np.testing.assert_allclose(table[name], value, rtol=1e-14)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_one_set_is_a_table_of_one_row(form):
    """Code for many sets works for one."""
    table = as_parameter_table(form)
    assert len(table) == 1
    assert as_parameters(table[0]) == pytest.approx(PARAMS, rel=1e-14)


def test_the_table_is_the_users_own_copy():
    """Changing the result does not change what was given."""
    given_table = QTable({key: [value] for key, value in PARAMS.items()})
    as_parameter_table(given_table)["omega_m"][0] = 0.9
    assert given_table["omega_m"][0] == 0.3


def test_table_defaults_fill_columns():
    """A parameter the suite did not vary gets its default in every row."""
    table = as_parameter_table(
        {"omega_m": [0.2, 0.3]}, names=("omega_m", "a_agn"), defaults={"a_agn": 1.0}
    )
    np.testing.assert_array_equal(table["a_agn"], [1, 1])


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"omega_m": [0.1, 0.2], "h": [0.6, 0.7, 0.8]}, r"shapes omega_m \(2,\), h"),
        (np.zeros((2, 3)), r"last axis of 2 \(omega_m, h\), got shape \(2, 3\)"),
        (np.zeros((2, 2, 2)), "do not form a table"),
        ([{"omega_m": 0.1, "h": 0.7}, {"omega_m": 0.1}], "set 1: missing h"),
        ([], "last axis of 2"),
        (Table({"Om0": [0.3]}), "missing h"),
        (
            Table({"omega_m": np.ma.array([0.3, 0.4], mask=[0, 1]), "h": [0.7, 0.7]}),
            "omega_m is masked",
        ),
        ([[0.3, 0.7], [np.nan, 0.7]], "must be finite"),
    ],
)
def test_what_is_no_table_is_refused(form, message):
    """Ragged, short, masked and nameless input each gives its reason."""
    with pytest.raises(ParameterError, match=message):
        as_parameter_table(form, names=("omega_m", "h"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("omega m", 0, 1), "plain identifier, got 'omega m'"),
        (("lambda", 0, 1), "plain identifier, got 'lambda'"),
        (("Om0", 0, 1), "Om0 is an alias; call the parameter omega_m"),
        (("x", 1, 0), "range of x is empty: low = 1 is above high = 0"),
        (("x", 0, np.inf), r"range of x must be finite, got \[0, inf\]"),
        (("x", 0, 1, True), "low must be positive"),
        (("x", 1, 2, "no"), "log of x must be true or false, got 'no'"),
        (("x", 0, 1, False, 2), r"default of x, 2, is outside its range \[0, 1\]"),
    ],
)
def test_an_impossible_parameter_is_refused(arguments, message):
    """A range is checked where it is written down."""
    with pytest.raises(ParameterError, match=message):
        Parameter(*arguments)


def test_a_space_holds_each_name_once():
    """Doubles and emptiness are refused."""
    with pytest.raises(ParameterError, match="omega_m twice"):
        ParameterSpace((Parameter("omega_m", 0, 1), Parameter("omega_m", 0, 2)))
    with pytest.raises(ParameterError, match="at least one"):
        ParameterSpace(())


def test_a_space_is_a_value():
    """Spaces compare, hash and cannot be changed."""
    assert ParameterSpace(list(SPACE.parameters)) == SPACE
    assert len({SPACE, ParameterSpace(list(SPACE.parameters))}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPACE.parameters = ()


def test_a_space_reads_like_a_mapping():
    """Length, membership, order and lookup go by name."""
    assert len(SPACE) == 3
    assert list(SPACE) == list(SPACE.names) == ["omega_m", "sigma_8", "a_agn"]
    assert "omega_m" in SPACE
    assert "h" not in SPACE
    assert SPACE["Om0"] is SPACE["omega_m"]
    with pytest.raises(UnknownParameterError, match="perhaps a_agn was meant"):
        SPACE["a_ag"]


def test_vector_orders_and_fills():
    """The parameter vector has the space's order and its defaults."""
    np.testing.assert_array_equal(
        SPACE.vector({"sigma8": 0.8, "omega_m": 0.3}), [0.3, 0.8, 1.0]
    )


def test_edges_are_inside_even_as_float32():
    """A stored float32 edge, which is rounded outwards, still belongs to the range."""
    edges = np.array([SPACE.low, SPACE.high])
    assert SPACE.contains(edges).all()
    assert SPACE.contains(edges.astype(np.float32)).all()


def test_contains_answers_per_set():
    """Membership keeps the shape of the sets, and takes any form."""
    sets = np.array([[[0.3, 0.8, 1.0], [0.6, 0.8, 1.0]]])
    np.testing.assert_array_equal(SPACE.contains(sets), [[True, False]])
    assert SPACE.contains({"omega_m": 0.3, "sigma_8": 0.8})
    assert not SPACE.contains({"omega_m": 0.3, "sigma_8": 1.2})


def test_check_passes_what_is_inside():
    """Nothing happens inside the ranges."""
    SPACE.check({"omega_m": 0.3, "sigma_8": 0.8})


def test_check_names_the_parameter_its_value_and_the_range():
    """The refusal says what was given, what is allowed and what to do."""
    with pytest.raises(
        ParameterRangeError,
        match=re.escape(
            "omega_m = 0.7 is outside the trained range [0.1, 0.5]; "
            "pass extrapolate=True to emulate anyway"
        ),
    ):
        SPACE.check({"omega_m": 0.7, "sigma_8": 0.8})


def test_check_of_a_table_counts():
    """A long table gives one message, with every parameter that is outside."""
    sets = [[0.7, 0.8, 1.0], [0.3, 0.8, 9.0], [0.05, 0.8, 1.0]]
    with pytest.raises(
        ParameterRangeError, match=r"omega_m = 0\.7 \(and 1 more\) .*, a_agn = 9 is"
    ):
        SPACE.check(sets)


def test_extrapolation_warns_where_asked_for():
    """extrapolate=True turns the refusal into a warning."""
    with pytest.warns(
        ExtrapolationWarning, match=r"omega_m = 0\.7 .* unknown accuracy"
    ):
        SPACE.check({"omega_m": 0.7, "sigma_8": 0.8}, extrapolate=True)


def test_unit_cube_corners_are_the_edges():
    """0 and 1 are low and high, one half the middle, logarithmic where asked."""
    unit = np.array([[0.0] * 3, [0.5] * 3, [1.0] * 3])
    expected = np.array([[0.1, 0.6, 0.25], [0.3, 0.8, 1.0], [0.5, 1.0, 4.0]])
    np.testing.assert_allclose(SPACE.from_unit(unit), expected, rtol=1e-14)
    # The middle is a difference of numbers of order one.
    np.testing.assert_allclose(SPACE.to_unit(expected), unit, atol=1e-14)


@given(arrays(np.float64, (4, 3), elements=st.floats(0, 1)))
def test_unit_cube_round_trips(unit):
    """Scaling to the ranges and back changes nothing, and stays inside."""
    values = SPACE.from_unit(unit)
    assert np.all((values >= SPACE.low) & (values <= SPACE.high))
    # to_unit subtracts low, of the size of the width: a few roundings of it remain.
    np.testing.assert_allclose(SPACE.to_unit(values), unit, atol=1e-14)


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(1e-3, 1e6),
    unit=st.floats(-0.5, 1.5),
)
def test_unit_scaling_round_trips_for_any_range(low, width, unit):
    """Any range, and values somewhat outside it, survive the round trip."""
    space = ParameterSpace((Parameter("x", low, low + width),))
    back = space.to_unit(space.from_unit([unit]))
    # Roundings of low are magnified by low / width, at most 1e9 here.
    tolerance = 1e-14 * (1 + abs(low) / width)
    np.testing.assert_allclose(back, [unit], atol=tolerance)


def test_a_parameter_of_no_width_scales_to_zero():
    """A parameter that a suite holds fixed neither divides by zero nor moves."""
    space = ParameterSpace((Parameter("omega_b", 0.049, 0.049),))
    assert space.to_unit([0.049]) == 0
    assert space.from_unit([0.7]) == 0.049


def test_a_logarithmic_parameter_must_be_positive():
    """No NaN comes out of a logarithm."""
    with pytest.raises(ParameterError, match="must be positive: a_agn"):
        SPACE.to_unit([0.3, 0.8, -1.0])


def test_the_wrong_number_of_values_is_refused():
    """A vector of another length is never stretched."""
    for method in (SPACE.to_unit, SPACE.from_unit, SPACE.contains):
        with pytest.raises(ParameterError, match=r"last axis of 3 .* shape \(2,\)"):
            method([0.3, 0.8])


@pytest.mark.parametrize("draw", [SPACE.sobol, SPACE.latin_hypercube])
def test_designs_lie_inside_and_repeat_with_their_seed(draw):
    """A design is a table inside the ranges that its seed determines."""
    design = draw(20, seed=1)
    assert tuple(design.colnames) == SPACE.names
    assert len(design) == 20
    assert SPACE.contains(design).all()
    assert (draw(20, seed=1) == design).all()
    assert not (draw(20, seed=2) == design).any()


@pytest.mark.parametrize("draw", [SPACE.sobol, SPACE.latin_hypercube])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_designs_work(draw, n):
    """A design may be as small as one set."""
    assert len(draw(n, seed=0)) == n


@pytest.mark.parametrize("draw", [SPACE.sobol, SPACE.latin_hypercube])
def test_empty_designs_are_refused(draw):
    """A design of nothing is a mistake."""
    with pytest.raises(ParameterError, match="at least one set of parameters, got 0"):
        draw(0, seed=1)


def test_a_longer_sobol_design_begins_with_the_shorter():
    """A suite can be extended without throwing runs away."""
    assert (SPACE.sobol(40, seed=3)[:12] == SPACE.sobol(12, seed=3)).all()


def test_a_latin_hypercube_has_one_set_in_each_slice():
    """Each of n equal slices of every range holds exactly one of n sets."""
    unit = SPACE.to_unit(SPACE.latin_hypercube(16, seed=5))
    slices = np.sort(np.floor(unit * 16), axis=0)
    np.testing.assert_array_equal(slices, np.repeat(np.arange(16)[:, None], 3, axis=1))


def test_sobol_is_more_even_than_random():
    """A power-of-two Sobol design has one set in each of n slices, too."""
    unit = SPACE.to_unit(SPACE.sobol(16, seed=5))
    slices = np.sort(np.floor(unit * 16), axis=0)
    np.testing.assert_array_equal(slices, np.repeat(np.arange(16)[:, None], 3, axis=1))


def test_space_survives_json():
    """The description is plain JSON and gives the same space."""
    assert ParameterSpace.from_dict(json.loads(json.dumps(SPACE.to_dict()))) == SPACE


def test_space_survives_a_table_on_disk():
    """The table, written as ECSV and read back, gives the same space."""
    file = io.StringIO()
    SPACE.to_table().write(file, format="ascii.ecsv")
    back = QTable.read(file.getvalue(), format="ascii.ecsv")
    assert ParameterSpace.from_table(back) == SPACE
    assert math.isnan(back["default"][0])


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"parameters": 3},
        {"parameters": [{"name": "x", "low": 0}]},
        {"parameters": [{"name": "x", "low": 0, "high": 1, "unit": "m"}]},
        {"parameters": [{"name": "x", "low": "0", "high": 1}]},
        {"parameters": [{"name": 3, "low": 0, "high": 1}]},
    ],
    ids=str,
)
def test_a_damaged_description_is_refused(description):
    """A description from a file is checked like any other input."""
    with pytest.raises(ParameterError, match="a parameter space is described by"):
        ParameterSpace.from_dict(description)
