import copy
import gc
import pickle
import weakref

import astropy.cosmology.units as cu
import astropy.units as u
import dask.array as da
import numpy as np
import pytest
import unyt
from astropy.cosmology import Cosmology
from astropy.nddata import CCDData, NDData, StdDevUncertainty
from astropy.utils.masked import Masked

from astrogan_emu.errors import GridError, MissingParameterError, UnknownFieldError
from astrogan_emu.fields import FIELDS, FieldSpec, GalaxyField, as_box_length, as_unit
from astrogan_emu.grids import GridSpec

PARAMETERS = {
    "omega_m": 0.3,
    "omega_b": 0.05,
    "h": 0.5,
    "n_s": 0.96,
    "sigma_8": 0.8,
    "a_sn1": 2.0,
}


def make(name="galaxies", data=None, n=8, **changes):
    """A lognormal field of n cells in 20 Mpc/h, with h = 0.5 to tell h from none."""
    if data is None:
        data = np.random.default_rng(1).lognormal(size=(n, n, n)).astype(np.float32)
    given = {
        "grid": GridSpec(n, 20.0),
        "parameters": PARAMETERS,
        "redshift": 1.0,
        "seed": 7,
        "model": {"name": "nbody", "sha256": "abc"},
        "meta": {"note": "kept"},
    }
    return GalaxyField(data, name=name, **(given | changes))


@pytest.fixture
def field():
    return make()


# The registry.


def test_an_unknown_field_name_lists_the_known_ones():
    """The message is the list of what could have been meant."""
    with pytest.raises(UnknownFieldError, match="galaxies, gas_density"):
        FIELDS["mater"]


def test_the_registry_names_each_field_by_its_key():
    """A key and its spec agree, and labels are there for pictures."""
    assert all(spec.name == key and spec.label for key, spec in FIELDS.items())


def test_fields_have_different_names_in_yt():
    """All fields of a model fit into one dataset."""
    assert len({spec.yt_name[1] for spec in FIELDS.values()}) == len(FIELDS)


def test_a_field_of_ones_own_needs_no_registration():
    """A spec works wherever a name does."""
    spec = FieldSpec("ne", "electron density", u.cm**-3, ("stream", "ne"), "n_e")
    assert make(spec).unit == u.cm**-3


def test_registering_refuses_to_change_a_known_field():
    """Models and files rely on what a name means."""
    changed = FieldSpec("matter", "other", u.K, ("stream", "matter"), "x")
    with pytest.raises(UnknownFieldError, match="choose another name"):
        FIELDS.register(changed)


def test_a_field_name_must_be_an_identifier():
    """Names become parts of file paths, keywords and yt names."""
    with pytest.raises(UnknownFieldError, match="letters, digits"):
        FieldSpec("a/b", "x", u.K, ("stream", "x"), "x")


# Making one.


def test_values_are_float32_and_plain_arrays_convert(field):
    """np.asarray of a bare NDData would be an object array."""
    assert field.data.dtype == np.float32
    assert np.asarray(field).dtype == np.float32
    assert np.asarray(field, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.log(field), np.log(field.data))


def test_a_copy_of_the_array_is_a_copy(field):
    """``np.array(field)`` does not share memory."""
    assert not np.shares_memory(np.array(field), field.data)


def test_a_quantity_is_converted_to_the_unit_of_the_field():
    """A unit that comes with the data is never dropped."""
    assert make("gas_temperature", np.full((8, 8, 8), 2.0) * u.kK).max() == 2000 * u.K


def test_a_quantity_of_another_kind_is_refused():
    """Kelvin are no density."""
    with pytest.raises(u.UnitConversionError):
        make("gas_density", np.ones((8, 8, 8)) * u.K)


@pytest.mark.parametrize(
    "carry",
    [
        lambda f: f.quantity.to(u.kpc**-3),
        lambda f: f.to("littleh3 / Mpc3").quantity,
        lambda f: f.to(u.kpc**-3),
        lambda f: NDData(f.to("littleh3 / Mpc3").data, unit=cu.littleh**3 / u.Mpc**3),
        lambda f: CCDData(f.to(u.kpc**-3).data, unit=u.kpc**-3),
        lambda f: NDData(da.from_array(f.data) * 1e-9, unit=u.kpc**-3),
        lambda f: Masked(f.to(u.kpc**-3).quantity),
    ],
)
def test_a_field_made_from_values_with_a_unit_converts_them(field, carry):
    """Whatever carries it, and with the field's own h where the unit has one."""
    again = make(data=carry(field))
    assert again.unit == field.unit
    # A rounding of float32 each way.
    np.testing.assert_allclose(np.asarray(again), field.data, rtol=3e-7)


def test_units_of_yt_are_refused_not_dropped():
    """``np.asarray`` of a unyt array drops its unit, and physical is not comoving."""
    values = unyt.unyt_array(np.ones((8, 8, 8)), "g/cm**3")
    with pytest.raises(
        GridError, match=r"unit g/cm\*\*3 of unyt_array; give an astropy"
    ):
        make("gas_density", values)
    assert make("matter", unyt.unyt_array(np.ones((8, 8, 8)), "")).mean() == 1


@pytest.mark.parametrize(
    "masked",
    [
        np.ma.masked_array,
        lambda data, mask: Masked(data * u.Mpc**-3, mask=mask),
        lambda data, mask: NDData(data, mask=mask),
    ],
)
def test_masks_come_with_the_values(field, masked):
    """A plain array made of them would have lost the mask."""
    mask = field.data > 1
    made = make(data=masked(field.data, mask=mask))
    np.testing.assert_array_equal(made.mask, mask)
    expected = field.data[~mask].astype(float).mean()
    assert made.mean().value == pytest.approx(expected, rel=1e-6)


def test_uncertainties_come_with_the_values(field):
    """In their own unit, so that they convert along."""
    data = NDData(
        field.data, uncertainty=StdDevUncertainty(0.1 * field.data), unit=u.kpc**-3
    )
    made = make(data=data)
    relative = (made * 2).uncertainty.array / (made * 2).data
    np.testing.assert_allclose(relative, 0.1, rtol=1e-5)


def test_tensors_become_arrays():
    """NDData would keep a torch tensor as it is, of no use to astropy."""
    torch = pytest.importorskip("torch")
    made = make("matter", torch.ones(8, 8, 8, dtype=torch.float64))
    assert type(made.data) is np.ndarray
    assert made.data.dtype == np.float32


def test_data_that_do_not_fit_the_grid_are_refused():
    """The message names both shapes."""
    with pytest.raises(GridError, match=r"\(8, 8, 4\) do not fit .* \(8, 8, 8\)"):
        make(data=np.ones((8, 8, 4)))


@pytest.mark.parametrize("shape", [(8,), (8, 8, 8, 8)])
def test_data_without_two_or_three_axes_are_refused(shape):
    """A field is a map or a cube."""
    with pytest.raises(GridError, match="2 or 3 axes"):
        make(data=np.ones(shape))


def test_complex_data_are_refused():
    """Fourier modes are no field."""
    with pytest.raises(GridError, match="complex"):
        make(data=np.ones((8, 8, 8), dtype=complex))


def test_a_field_needs_its_own_hubble_constant():
    """Otherwise a default one would creep into conversions."""
    with pytest.raises(MissingParameterError, match="needs the parameter h"):
        make(parameters={"omega_m": 0.3})


def test_meta_holds_what_made_the_field(field):
    """Parameters, redshift, seed, model and the user's own entries."""
    assert field.meta["note"] == "kept"
    assert field.parameters == PARAMETERS
    assert (field.redshift, field.seed, field.model["name"]) == (1.0, 7, "nbody")


def test_the_users_meta_cannot_contradict_the_field():
    """What the arguments say wins over a stale entry."""
    assert make(meta={"seed": 99}).seed == 7


def test_the_cosmology_in_meta_is_one_astropy_understands(field):
    """The mapping gives back the cosmology with sigma8 and n_s in its meta."""
    cosmology = Cosmology.from_format(
        field.meta["cosmology"], format="mapping", move_to_meta=True
    )
    assert cosmology == field.cosmology
    assert cosmology.meta == {"sigma8": 0.8, "n_s": 0.96}


def test_the_cosmology_has_a_name_so_that_it_can_be_cloned(field):
    """Astropy 8 cannot clone an unnamed cosmology."""
    assert field.cosmology.clone(Om0=0.4).Om0 == 0.4


def test_the_cosmology_is_the_users_own_copy(field):
    """Its meta can be changed, and the field stays what it is."""
    field.cosmology.meta["sigma8"] = 0.1
    assert field.cosmology.meta["sigma8"] == 0.8
    assert field == make()


def test_a_field_without_all_parameters_still_works():
    """Data from elsewhere may know only h; asking for the cosmology names the rest."""
    field = make(parameters={"h": 0.5})
    assert field.meta["cosmology"] is None
    with pytest.raises(MissingParameterError, match="omega_m"):
        _ = field.cosmology


# Units.


def test_littleh_means_the_fields_own_h(field):
    """1 / Mpc^3 is h^-3 littleh^3 / Mpc^3, with h = 0.5, not Planck's."""
    converted = field.to(cu.littleh**3 / u.Mpc**3)
    # A rounding of float32 each way.
    np.testing.assert_allclose(converted.data, field.data / 0.5**3, rtol=2e-7)


def test_units_with_littleh_parse_from_strings(field):
    """Astropy alone does not parse its own ``littleh`` back."""
    assert field.to("littleh3 / Mpc3").unit == cu.littleh**3 / u.Mpc**3
    assert as_unit(str(cu.littleh**2 * u.Msun / u.kpc**3)).is_equivalent(
        cu.littleh**2 * u.Msun / u.kpc**3
    )


def test_converting_keeps_name_meta_and_uncertainty(field):
    """Only numbers and unit change; an uncertainty scales along."""
    field.uncertainty = StdDevUncertainty(0.1 * field.data)
    converted = field.to(u.kpc**-3)
    assert converted.spec == field.spec
    assert converted.meta == field.meta
    np.testing.assert_allclose(
        converted.uncertainty.array, 0.1 * converted.data, rtol=1e-5
    )


def test_a_field_does_not_convert_to_another_kind(field):
    """A number density is no temperature."""
    with pytest.raises(u.UnitConversionError):
        field.to(u.K)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (10.0, 10.0),
        (10 * u.Mpc, 5.0),
        (10_000 * u.kpc, 5.0),
        (10 * u.Mpc / cu.littleh, 10.0),
        (np.float32(10), 10.0),
    ],
)
def test_lengths_come_in_any_unit(length, expected):
    """Plain numbers are Mpc/h, and quantities convert with the h that is given."""
    assert as_box_length(length, 0.5) == pytest.approx(expected)


@pytest.mark.parametrize(
    "length", [0, -1.0, np.nan, np.inf, 3 * u.K, [1.0, 2.0], "ten", None]
)
def test_what_is_no_length_is_refused(length):
    """One clear error for each kind of nonsense."""
    with pytest.raises(GridError, match="length"):
        as_box_length(length, 0.5)


# Arithmetic.


@pytest.mark.parametrize(
    "operate",
    [
        lambda f: f + f,
        lambda f: f * 2,
        lambda f: 2 * f,
        lambda f: f / 3,
        lambda f: -f,
        lambda f: f - 1 * u.Mpc**-3,
        lambda f: 1 / f,
        lambda f: np.float64(2) * f,
        lambda f: np.ones(8) * f,
        lambda f: (2 * u.Mpc**3) * f,
        lambda f: f.add(f),
        lambda f: GalaxyField.add(f, f),
    ],
)
def test_arithmetic_keeps_type_meta_and_place(field, operate):
    """NDArithmeticMixin alone drops the meta data."""
    result = operate(field)
    assert isinstance(result, GalaxyField)
    assert result.meta == field.meta
    assert (result.grid, result.axes) == (field.grid, field.axes)
    assert result.data.dtype == np.float32


def test_arithmetic_is_that_of_the_arrays(field):
    """The numbers and the unit are what Quantity arithmetic gives."""
    result = 2 - 3 * field * u.Mpc**3 / field.mean().value
    expected = 2 - 3 * field.data / field.mean().value
    # A few roundings of float32, on numbers of order one to ten.
    np.testing.assert_allclose(result.data, expected, rtol=1e-5, atol=1e-5)
    assert result.unit == u.dimensionless_unscaled
    assert (1 / field).unit == u.Mpc**3


def test_units_are_respected_in_arithmetic(field):
    """A number without unit cannot be added to a density."""
    with pytest.raises(u.UnitConversionError):
        _ = field + 1
    assert (field + 1e-9 * u.kpc**-3).unit == u.Mpc**-3


@pytest.mark.parametrize(
    "other",
    [
        lambda f: f.to("littleh3 / Mpc3"),
        lambda f: f.to("littleh3 / Mpc3").quantity,
        lambda f: make(data=da.from_array(f.data)).to("littleh3 / Mpc3"),
    ],
)
def test_summands_with_littleh_are_converted_with_the_fields_own_h(field, other):
    """With h = 0.5: with Planck's, or without any, the sum would be another."""
    total = field + other(field)
    assert total.unit == field.unit
    np.testing.assert_allclose(np.asarray(total), 2 * field.data, rtol=1e-6)


def test_arithmetic_follows_uncertainties(field):
    """As NDData: absolute errors scale with a factor."""
    field.uncertainty = StdDevUncertainty(0.1 * field.data)
    np.testing.assert_allclose(
        (field * 3).uncertainty.array, 0.3 * field.data, rtol=1e-6
    )


def test_results_are_named_for_what_they_are():
    """A difference of one kind keeps its name; a quotient of two does not."""
    matter, gas = make("matter"), make("gas_density")
    assert (matter - matter).name == "matter"
    assert (gas / matter).name == "gas_density_over_matter"
    assert (gas / matter).spec.unit == gas.unit


def test_a_difference_may_be_negative():
    """The overdensity is not a positive field any more, and says so."""
    delta = make("matter") - 1
    assert not delta.spec.positive
    assert delta.spec.label == "matter density / mean - 1"


def test_fields_on_different_cells_do_not_mix(field):
    """Same shape, other box: the message says where each lies."""
    other = make(grid=GridSpec(8, 30.0))
    with pytest.raises(GridError, match="needs the same cells"):
        _ = field + other


def test_an_array_that_would_widen_the_field_is_refused(field):
    """Broadcasting must not add cells."""
    with pytest.raises(GridError, match="does not fit"):
        _ = field[0] * np.ones((8, 8, 8))


def test_sums_are_in_double_precision():
    """float32 sums of 10^7 cells would drift; the mean is exact to rounding."""
    field = make("matter", np.full((8, 8, 8), 0.1, np.float32))
    assert field.mean().value == pytest.approx(float(np.float32(0.1)), rel=1e-14)
    assert field.sum().value == pytest.approx(512 * float(np.float32(0.1)), rel=1e-14)


def test_sums_run_along_an_axis_where_asked():
    """As arrays do, and as numpy's functions ask for, with the unit."""
    field = make("gas_density")
    np.testing.assert_allclose(
        field.mean(axis=(0, 1)).value, field.data.mean((0, 1)), rtol=1e-5
    )
    assert field.max(axis=2).shape == (8, 8)
    assert np.mean(field) == field.mean()
    assert np.sum(field).unit == field.unit


# Slicing.


def test_slices_know_where_they_lie(field):
    """World coordinates are comoving Mpc at cell centres, in h-free units."""
    part = field[2:4, :, 5]
    assert part.shape == (2, 8)
    # 2.5 Mpc/h per cell and h = 0.5: cells of 5 Mpc, the third has its centre at 12.5.
    y, x = part.wcs.array_index_to_world(0, 0)
    assert x.to_value(u.Mpc) == pytest.approx(12.5)
    assert y.to_value(u.Mpc) == pytest.approx(2.5)
    assert [axis.name for axis in part.axes] == ["x", "y"]
    assert part.collapsed[0].start == pytest.approx(12.5)


def test_world_coordinates_name_their_axes(field):
    """The last array axis is the first of the WCS, as in FITS, and is called z."""
    assert list(field.wcs.wcs.cname) == ["z", "y", "x"]
    assert field.wcs.array_shape == field.shape


def test_slices_of_slices_agree(field):
    """Cutting twice is cutting once."""
    assert field[2:][1] == field[3]
    assert field[..., 3] == field[:, :, 3]
    assert field[-1].axes == field[7].axes


def test_a_slice_is_a_view_with_all_meta(field):
    """No copy of the data; the parent box stays known."""
    part = field[1:3]
    assert np.shares_memory(part.data, field.data)
    assert part.meta == field.meta
    assert part.grid == field.grid
    assert part.periodic == (False, True, True)


@pytest.mark.parametrize(
    "index",
    [
        slice(None, None, 2),
        slice(None, None, -1),
        [0, 1],
        None,
        True,
        np.ones((8, 8, 8), bool),
    ],
)
def test_slices_that_lose_the_place_are_refused(field, index):
    """field.data is there for those."""
    with pytest.raises(IndexError, match=r"field\.data"):
        _ = field[index]


def test_indices_outside_are_refused(field):
    """As for any array."""
    with pytest.raises(IndexError):
        _ = field[8]
    with pytest.raises(IndexError, match="4 indices"):
        _ = field[0, 0, 0, 0]


# Equality, copies, text.


def test_equality_looks_at_everything(field):
    """Values, unit, place and meta; astropy's cosmologies ignore sigma_8, we do not."""
    assert field == make()
    assert field != make(data=field.data + 1)
    assert field != make(seed=8)
    assert field != make(parameters={**PARAMETERS, "sigma_8": 0.9})
    assert field != make(grid=GridSpec(8, 30.0))
    assert field != field.to(u.kpc**-3)
    assert field != "field"


@pytest.mark.parametrize("uncertain", [False, True])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, copy.copy, lambda f: pickle.loads(pickle.dumps(f))]
)
def test_copies_and_pickles_are_equal(field, duplicate, uncertain):
    """Fields cross processes, slices and uncertainties included."""
    if uncertain:
        field.uncertainty = StdDevUncertainty(field.data)
    assert duplicate(field) == field
    assert duplicate(field[2]) == field[2]


def test_the_text_says_what_matters(field):
    """Name, shape, unit, box, redshift, seed, model."""
    for word in (
        "galaxies",
        "(8, 8, 8)",
        "1 / Mpc3",
        "20 Mpc/h",
        "z = 1",
        "7",
        "nbody",
    ):
        assert word in repr(field)


def test_a_field_is_an_nddata(field):
    """So that it works wherever astropy takes one."""
    assert isinstance(field, NDData)
    assert NDData(field).unit == field.unit


# Projecting, smoothing, measuring.


@pytest.mark.parametrize("axis", ["x", "y", "z", 0, -1])
def test_projections_of_densities_conserve_the_total(axis):
    """Sum of column times area is sum of density times volume."""
    field = make("gas_density")
    column = field.project(axis)
    side = 5.0 * u.Mpc
    assert column.unit == u.Msun / u.Mpc**2
    total = (column.sum() * side**2).to_value(u.Msun)
    # The columns are rounded to float32.
    assert total == pytest.approx((field.sum() * side**3).to_value(u.Msun), rel=1e-6)


def test_projections_of_ratios_are_means():
    """Column density over mean column density is the mean of the ratio."""
    field = make("matter")
    projected = field.project("y")
    np.testing.assert_allclose(projected.data, field.data.mean(1), rtol=1e-6)
    assert projected.unit == u.dimensionless_unscaled


def test_a_depth_need_not_be_whole_cells(field):
    """Cells of 2.5 Mpc/h: 5 Mpc/h are two of them, 6.25 are two and a half."""
    two = field.data[:2].sum(0)
    half = two + 0.5 * field.data[2]
    np.testing.assert_allclose(field.project("x", depth=5.0).data, two * 5, rtol=1e-6)
    np.testing.assert_allclose(
        field.project("x", depth=12.5 * u.Mpc).data, half * 5, rtol=1e-6
    )


def test_weighted_projections_are_weighted_means():
    """A temperature seen through the gas that has it."""
    temperature, gas = make("gas_temperature"), make("gas_density", n=8)
    weights = 1 + gas * u.Mpc**3 / u.Msun
    expected = np.average(temperature.data, axis=2, weights=weights.data)
    seen = temperature.project("z", weights=weights)
    np.testing.assert_allclose(seen.data, expected, rtol=1e-6)
    assert seen.unit == u.K


def test_projections_refuse_nonsense(field):
    """Depths beyond the box, unknown axes, weights from elsewhere."""
    with pytest.raises(GridError, match="exceeds the 20 Mpc/h"):
        field.project(depth=21.0)
    with pytest.raises(GridError, match="no axis 'w'; the axes are x, y, z"):
        field.project("w")
    with pytest.raises(GridError, match="must cover the same cells"):
        field.project(weights=make(grid=GridSpec(8, 30.0)))


def test_smoothing_keeps_mean_and_sign(field):
    """Gaussian weights are positive and sum to one, however narrow or wide."""
    for scale in (0.3, 2.0, 30.0):
        smooth = field.smooth(scale)
        # float32 rounding of the result
        assert smooth.mean().value == pytest.approx(field.mean().value, rel=1e-6)
        assert smooth.min() > 0


def test_smoothing_is_periodic():
    """A point in a corner spreads to all eight corners alike."""
    data = np.zeros((8, 8, 8))
    data[0, 0, 0] = 1
    smooth = make("matter", data).smooth(2.5).data
    assert smooth[-1, 0, 0] == pytest.approx(smooth[1, 0, 0], rel=1e-6)
    assert smooth[-1, -1, -1] == pytest.approx(smooth[1, 1, 1], rel=1e-6)


def test_smoothing_is_gaussian_in_the_given_length():
    """A wave of wavenumber k loses exp(-(k scale)^2 / 2), with the field's own h."""
    n, box = 32, 20.0
    x = (np.arange(n) + 0.5) * box / n
    wave = 1 + np.cos(2 * np.pi * x / box)[:, None, None] * np.ones((n, n, n))
    field = make("matter", wave, n=n)
    scale = 2.0
    expected = np.exp(-0.5 * (2 * np.pi / box * scale) ** 2)
    for given in (scale, 4.0 * u.Mpc):
        amplitude = np.ptp(field.smooth(given).data) / np.ptp(wave)
        # A Gaussian sampled at cells of a third of its width, cut at 6 sigma.
        assert amplitude == pytest.approx(expected, rel=1e-4)


def test_only_the_whole_box_is_smoothed_or_measured(field):
    """A part of the box is not periodic."""
    for call in (lambda f: f.smooth(1.0), lambda f: f.power_spectrum()):
        with pytest.raises(GridError, match="whole periodic box"):
            call(field[:4])


def test_power_spectra_know_the_box(field):
    """The lowest wavenumber is near 2 pi / box; maps have spectra too."""
    fundamental = 2 * np.pi / 20.0
    for one in (field, field.project(), field[3]):
        assert one.power_spectrum().k[0] == pytest.approx(fundamental, rel=0.3)


# Lazy fields.


def lazy_field(calls):
    """A field whose blocks are counted when they are computed."""

    def block(values):
        calls.append(values.shape)
        return values

    values = make().data
    array = da.from_array(values, chunks=4).map_blocks(
        block, dtype="f4", meta=np.empty((0, 0, 0), "f4")
    )
    return make(data=array)


def test_lazy_fields_stay_lazy():
    """Units, arithmetic, slices, projections and text compute nothing."""
    calls = []
    lazy = lazy_field(calls)
    results = [
        lazy.to("littleh3 / Mpc3"),
        lazy + lazy,
        2 * lazy,
        1 / lazy,
        lazy * (3 * u.Mpc**3),
        lazy[2],
        lazy.project(),
    ]
    assert repr(lazy).endswith("lazy>")
    assert not calls
    assert all(isinstance(one.data, da.Array) for one in results)


@pytest.mark.parametrize(
    "operate",
    [
        lambda f: f.to("littleh3 / Mpc3"),
        lambda f: f + 1e-9 * u.kpc**-3,
        lambda f: 2 / f,
        lambda f: f[2:5, 1],
        lambda f: f.project("x", depth=7.0),
        lambda f: f.smooth(2.0),
    ],
)
def test_lazy_equals_eager(operate):
    """The same numbers, units and meta, whether computed now or later."""
    lazy, eager = operate(lazy_field([])), operate(make())
    np.testing.assert_allclose(np.asarray(lazy), np.asarray(eager), rtol=1e-6)
    assert (lazy.unit, lazy.meta, lazy.axes) == (eager.unit, eager.meta, eager.axes)
    assert lazy.spec == eager.spec


def test_uncertainties_of_lazy_fields_are_not_dropped_silently():
    """Astropy would compute the array; we refuse."""
    lazy = lazy_field([])
    lazy.uncertainty = StdDevUncertainty(make().data)
    with pytest.raises(TypeError, match="do not follow through lazy"):
        _ = lazy + lazy


def test_a_field_that_is_not_needed_is_gone_at_once():
    """Without waiting for the garbage collector: a batch makes thousands."""
    gc.collect()
    gc.disable()
    try:
        known = weakref.ref(make())
        assert known() is None
    finally:
        gc.enable()
