import astropy.units as u
import dask.array as da
import matplotlib as mpl
import numpy as np
import pytest
import yt

from astrogan_emu.errors import GridError, MissingParameterError
from astrogan_emu.field_specs import as_unit, yt_unit
from astrogan_emu.fields import FIELDS, FieldSpec, GalaxyField
from astrogan_emu.grids import GridSpec
from astrogan_emu.yt_bridge import domain_of, to_yt

N = 16
PARAMETERS = {
    "omega_m": 0.3,
    "omega_b": 0.05,
    "h": 0.7,
    "n_s": 0.96,
    "sigma_8": 0.8,
}


def make(name="matter", data=None, **changes):
    """A lognormal field of 16 cells in 25 Mpc/h at redshift 1."""
    if data is None:
        data = np.random.default_rng(len(name)).lognormal(size=(N, N, N))
    given = {
        "grid": GridSpec(N, 25.0),
        "parameters": PARAMETERS,
        "redshift": 1.0,
        "seed": 3,
    }
    return GalaxyField(data, name=name, **(given | changes))


@pytest.fixture(autouse=True)
def _quiet_yt():
    """It reports every load."""
    yt.set_log_level(50)


@pytest.fixture(scope="module")
def gas():
    """Gas density and temperature in one dataset."""
    return to_yt([make("gas_density"), make("gas_temperature"), make("matter")])


# Units.


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("Msun / Mpc3", "Msun*Mpccm**(-3)"),
        ("littleh2 Msun / kpc3", "h**(2)*Msun*kpccm**(-3)"),
        ("g / cm3", "g*cmcm**(-3)"),
        ("km / s", "km*s**(-1)"),
        ("K", "K"),
        ("", "dimensionless"),
        ("1000 K", "1000.0*K"),
        ("km / h", "km*hr**(-1)"),
        ("littleh km / d", "km*h*day**(-1)"),
        ("G", "gauss"),
    ],
)
def test_units_are_written_as_yt_reads_them(unit, expected):
    """Lengths are comoving, except in velocities; littleh is yt's h."""
    assert yt_unit(as_unit(unit)) == expected


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_every_field_has_its_unit_in_yt(name):
    """Neither dropped nor taken for code units."""
    field = make(name)
    ds = to_yt(field)
    values = ds.all_data()["stream", field.spec.yt_name[1]]
    np.testing.assert_allclose(
        values.to(yt_unit(field.unit)).d, field.data.ravel(), rtol=1e-6
    )


def test_ratios_stay_ratios_under_a_name_that_yt_knows():
    """An empty unit would turn an overdensity into a density in code units."""
    unit = u.dimensionless_unscaled
    spec = FieldSpec("contrast", "contrast", unit, ("stream", "density"), "x")
    field = make(spec, make().data)
    values = field.to_yt().all_data()["stream", "density"]
    assert values.units.is_dimensionless
    np.testing.assert_array_equal(values.d, field.data.ravel())


def test_units_with_littleh_mean_the_same_in_yt():
    """To astropy, yt's h would be an hour."""
    field = make("gas_density")
    plain = to_yt(field).all_data()["gas", "density"].to("g/cm**3")
    with_h = to_yt(field.to("littleh2 Msun / Mpc3"))
    np.testing.assert_allclose(
        with_h.all_data()["gas", "density"].to("g/cm**3").d, plain.d, rtol=1e-6
    )


def test_comoving_densities_are_physical_in_yt(gas):
    """(1 + z)^3 = 8 times the comoving number."""
    expected = 8 * make("gas_density").data.ravel()
    values = gas.all_data()["gas", "density"].to("Msun/Mpc**3")
    np.testing.assert_allclose(values.d, expected, rtol=1e-6)


def test_masses_come_out_right(gas):
    """The total of yt's cell masses is density times comoving volume."""
    total = float(gas.all_data()["gas", "cell_mass"].sum().to("Msun"))
    volume = (25 / 0.7) ** 3
    expected = make("gas_density").mean().value * volume
    # yt's solar mass is that of astropy to 1e-4.
    assert total == pytest.approx(expected, rel=2e-4)


# Cosmology.


def test_the_dataset_is_cosmological(gas):
    """Yt's own in-memory loaders leave all of this out."""
    assert gas.cosmological_simulation == 1
    assert gas.current_redshift == 1.0
    assert (gas.omega_matter, gas.omega_lambda, gas.hubble_constant) == (0.3, 0.7, 0.7)
    assert gas.parameters["CosmologyCurrentRedshift"] == 1.0
    assert gas.parameters["CosmologyHubbleConstantNow"] == 0.7
    assert gas.parameters["sigma_8"] == 0.8


def test_comoving_lengths_and_h_work(gas):
    """Without cosmology, Mpc/h to Mpc would be 1, and Mpccm unknown."""
    np.testing.assert_allclose(gas.domain_width.to("Mpccm/h").d, 25.0)
    np.testing.assert_allclose(gas.domain_width.to("Mpc").d, 25 / 0.7 / 2)
    assert float(gas.quan(1, "Mpc/h").to("Mpc")) == pytest.approx(1 / 0.7)


def test_the_time_is_that_of_the_redshift(gas):
    """The age of the universe, by astropy."""
    expected = make().cosmology.age(1.0).to_value(u.Gyr)
    assert float(gas.current_time.to("Gyr")) == pytest.approx(expected, rel=1e-6)
    redshift = gas.cosmology.z_from_t(gas.current_time)
    # yt finds it in a table.
    assert float(redshift) == pytest.approx(1.0, rel=1e-2)


def test_a_field_without_omega_m_is_refused():
    """There would be no cosmology to give."""
    with pytest.raises(MissingParameterError, match="yt needs omega_m"):
        make(parameters={"h": 0.7}).to_yt()


# Shapes.


def test_maps_are_fields_not_particles():
    """Yt takes an array of two axes for particle data without a word."""
    ds = make("matter", np.ones((N, N))).to_yt()
    assert ds.dimensionality == 2
    assert not ds.particle_types
    assert ds.index.grids[0]["stream", "matter"].shape == (N, N, 1)


def test_maps_are_as_deep_as_what_they_show():
    """A projection through 5 Mpc/h; else integrals in yt would be of a wrong length."""
    slab = make("gas_density").project("z", depth=5.0)
    np.testing.assert_allclose(slab.to_yt().domain_width.to("Mpccm/h").d, [25, 25, 5])
    slab = make("gas_density").project("x", depth=5.0)
    np.testing.assert_allclose(slab.to_yt().domain_width.to("Mpccm/h").d, [5, 25, 25])
    plain = make("matter", np.ones((N, N)))
    depth = plain.to_yt().domain_width.to("Mpccm/h").d[2]
    assert depth == pytest.approx(25 / N)


def test_parts_of_the_box_keep_their_place():
    """A slice lies where it was cut, and only whole axes are periodic."""
    ds = make()[4:8].to_yt()
    np.testing.assert_allclose(ds.domain_left_edge.to("Mpccm/h").d, [6.25, 0, 0])
    assert tuple(ds.periodicity) == (False, True, True)


def test_a_line_is_no_dataset():
    """Two or three axes."""
    with pytest.raises(GridError, match="2 or 3 axes, got 1"):
        make()[0, 0].to_yt()


def test_fields_of_one_dataset_must_agree():
    """The message says in what they do not."""
    with pytest.raises(GridError, match="redshift"):
        to_yt([make(), make("galaxies", redshift=2.0)])
    with pytest.raises(GridError, match="same name"):
        to_yt([make(), make()])
    with pytest.raises(GridError, match="no field"):
        to_yt([])


def test_the_domain_is_that_of_the_field():
    """In h-free comoving Mpc."""
    domain = domain_of([make()])
    assert domain.shape == (N, N, N)
    assert domain.right == pytest.approx([25 / 0.7] * 3)


# Lazy fields.


def lazy(calls):
    """A field of 2 x 2 x 2 blocks that records which are computed."""

    def block(values, block_info=None):
        calls.add(block_info[0]["chunk-location"])
        return values

    array = da.from_array(make().data, chunks=N // 2)
    return make(
        data=array.map_blocks(block, dtype="f4", meta=np.empty((0, 0, 0), "f4"))
    )


def test_a_lazy_field_becomes_a_lazy_dataset():
    """Nothing is computed for the dataset, and a slice computes only what it cuts."""
    calls = set()
    ds = lazy(calls).to_yt()
    assert len(ds.index.grids) == 8
    assert not calls
    ds.slice(2, ds.domain_width[2] * 0.1)["stream", "matter"].sum()
    assert calls == {(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)}


def test_lazy_datasets_hold_the_same_values():
    """All tiles in their places, also beside a field that is not lazy."""
    ds = to_yt([lazy(set()), make("galaxies")])
    cube = ds.covering_grid(0, ds.domain_left_edge, [N] * 3)
    np.testing.assert_array_equal(cube["stream", "matter"].d, make().data)
    np.testing.assert_allclose(
        cube["stream", "galaxies"].to("Mpccm**-3").d, make("galaxies").data, rtol=1e-6
    )


def test_lazy_maps_become_datasets_too():
    """A lazy projection is tiled in two dimensions."""
    field = lazy(set()).project()
    ds = field.to_yt()
    assert len(ds.index.grids) == 4
    cube = ds.covering_grid(0, ds.domain_left_edge, [N, N, 1])
    np.testing.assert_array_equal(cube["stream", "matter"].d[..., 0], np.asarray(field))


# Pictures with yt.


def test_slice_plots_are_right_side_up(gas):
    """Yt's picture is the transpose of the array: x across, y upwards."""
    plot = yt.SlicePlot(gas, "z", ("gas", "density"), buff_size=(N, N))
    plot.annotate_timestamp(redshift=True)
    picture = plot.frb["gas", "density"].to("Msun/Mpccm**3").d
    middle = make("gas_density").data[:, :, N // 2]
    np.testing.assert_allclose(picture, middle.T, rtol=1e-6)


def test_projection_plots_are_our_projections(gas):
    """Column density, physical: (1 + z)^2 times the comoving one."""
    plot = yt.ProjectionPlot(gas, "z", ("gas", "density"), buff_size=(N, N))
    picture = plot.frb["gas", "density"].to("Msun/Mpc**2").d
    column = make("gas_density").project("z").data
    np.testing.assert_allclose(picture, 4 * column.T, rtol=1e-5)


def test_phase_plots_hold_all_the_mass(gas):
    """Density against temperature, weighted by mass."""
    plot = yt.PhasePlot(
        gas.all_data(),
        ("gas", "density"),
        ("gas", "temperature"),
        ("gas", "cell_mass"),
        weight_field=None,
        x_bins=8,
        y_bins=8,
    )
    total = plot.profile["gas", "cell_mass"].sum()
    expected = gas.all_data()["gas", "cell_mass"].sum()
    assert float(total / expected) == pytest.approx(1, rel=1e-6)


def test_volume_rendering_works():
    """A small picture of a field in three dimensions, with something in it."""
    field = make()
    scene = yt.create_scene(to_yt(field), field=("stream", "matter"))
    scene.camera.resolution = (16, 16)
    picture = scene.render()
    assert np.ptp(np.asarray(picture)[..., :3]) > 0


def test_yt_can_save_the_dataset(gas, tmp_path):
    """It needs velocity and magnetic units for that."""
    from yt.utilities.grid_data_format.writer import write_to_gdf

    write_to_gdf(gas, str(tmp_path / "copy.gdf"), fields=[("gas", "density")])
    assert (tmp_path / "copy.gdf").stat().st_size > 0


def test_the_backend_stays_what_it_was(gas):
    """Neither yt nor we choose a matplotlib backend for the user."""
    before = mpl.get_backend()
    to_yt(make())
    assert mpl.get_backend() == before
