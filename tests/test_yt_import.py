import shutil

import astropy.units as u
import numpy as np
import pytest
import yt

from astrogan_emu.errors import (
    GridError,
    MissingParameterError,
    ParameterError,
    UnknownFieldError,
)
from astrogan_emu.fields import GalaxyField
from astrogan_emu.grids import GridSpec

N = 16
BOX = 25.0
H = 0.7
PARAMETERS = {"omega_m": 0.3, "omega_b": 0.05, "h": H, "n_s": 0.96, "sigma_8": 0.8}
EXTRA = {"omega_b": 0.05, "n_s": 0.96, "sigma_8": 0.8}


def make(name, data=None):
    """A lognormal field at redshift 1."""
    if data is None:
        data = np.random.default_rng(len(name)).lognormal(size=(N, N, N))
    return GalaxyField(
        data, name=name, grid=GridSpec(N, BOX), parameters=PARAMETERS, redshift=1.0
    )


@pytest.fixture(autouse=True)
def _quiet_yt():
    """It reports every load."""
    yt.set_log_level(50)


@pytest.fixture(scope="module")
def particles():
    """Dark matter of two masses, in a box of 10 Mpc without cosmology."""
    rng = np.random.default_rng(2)
    places = rng.uniform(0, 10, (1000, 3))
    mass = np.where(np.arange(1000) < 500, 1.0, 3.0) * 1e10
    data = {f"particle_position_{axis}": places[:, i] for i, axis in enumerate("xyz")}
    data |= {"particle_mass": (mass, "Msun"), "particle_velocity_x": (mass, "km/s")}
    ds = yt.load_particles(
        data, length_unit="Mpc", mass_unit="Msun", bbox=np.array([[0.0, 10.0]] * 3)
    )
    return ds, places, mass


# Cells.


@pytest.mark.parametrize("name", ["gas_density", "gas_temperature", "matter"])
def test_fields_come_back_from_yt(name):
    """Into yt and out again is the same field, recognised by its name."""
    field = make(name)
    kind = "stream" if name == "matter" else "gas"
    back = GalaxyField.from_yt(
        field.to_yt(), (kind, field.spec.yt_name[1]), N, parameters=EXTRA
    )
    assert back.spec == field.spec
    assert back.parameters == pytest.approx(PARAMETERS)
    assert back.redshift == 1.0
    assert back.grid.box_size == pytest.approx(BOX)
    # Through cgs units and back.
    np.testing.assert_allclose(back.data, field.data, rtol=1e-5)


@pytest.mark.parametrize("unit", ["littleh2 Msun / Mpc3", "g / cm3"])
def test_units_with_h_come_back_right(unit):
    """Converted by unyt's own bridge, yt's h would become astropy's hour."""
    # As dense as gas, since less than 1e-38 g/cm3 is hardly anything to float32.
    field = make("gas_density") * 1e10
    ds = field.to(unit).to_yt()
    back = GalaxyField.from_yt(ds, ("stream", "density"), N)
    assert back.unit == field.unit
    # yt's solar mass is astropy's to 1e-4.
    np.testing.assert_allclose(back.data, field.data, rtol=2e-4)


@pytest.mark.parametrize("n_cells", [4, 8, 32])
def test_cells_are_joined_and_split_with_their_mass(n_cells):
    """The mean density is the same on any grid."""
    field = make("gas_density")
    back = GalaxyField.from_yt(field.to_yt(), ("gas", "density"), n_cells)
    assert back.shape == (n_cells,) * 3
    assert back.mean().value == pytest.approx(field.mean().value, rel=1e-6)


def test_split_cells_keep_their_value():
    """A temperature on a finer grid is the same temperature."""
    field = make("gas_temperature")
    back = GalaxyField.from_yt(field.to_yt(), ("gas", "temperature"), 2 * N)
    expected = np.repeat(np.repeat(np.repeat(field.data, 2, 0), 2, 1), 2, 2)
    np.testing.assert_allclose(back.data, expected, rtol=1e-6)


def test_cells_that_do_not_fit_are_refused():
    """16 cells into 12 would tear them."""
    with pytest.raises(GridError, match="whole number of the other"):
        GalaxyField.from_yt(make("gas_density").to_yt(), ("gas", "density"), 12)


def refined():
    """4 cells along each side, the first octant refined to twice as many."""
    rng = np.random.default_rng(3)
    coarse, fine = rng.lognormal(size=(2, 4, 4, 4))
    # What a simulation stores under a refined region: its average.
    coarse[:2, :2, :2] = fine.reshape(2, 2, 2, 2, 2, 2).mean(axis=(1, 3, 5))
    grids = [
        {"level": 0, "left_edge": [0, 0, 0], "right_edge": [1, 1, 1]},
        {"level": 1, "left_edge": [0, 0, 0], "right_edge": [0.5, 0.5, 0.5]},
    ]
    for grid, values in zip(grids, (coarse, fine), strict=True):
        grid |= {"dimensions": [4, 4, 4], "density": (values, "Msun/Mpc**3")}
    ds = yt.load_amr_grids(
        grids, [4, 4, 4], length_unit=(10.0, "Mpc"), bbox=np.array([[0.0, 1.0]] * 3)
    )
    return ds, coarse, fine


def test_refined_cells_each_land_where_they_are():
    """Fine where the dataset is fine, repeated where it is coarse."""
    ds, coarse, fine = refined()
    parameters = {"h": H, "omega_m": 0.3}
    back = GalaxyField.from_yt(ds, ("gas", "density"), 8, parameters=parameters)
    expected = np.repeat(np.repeat(np.repeat(coarse, 2, 0), 2, 1), 2, 2)
    expected[:4, :4, :4] = fine
    np.testing.assert_allclose(back.data, expected, rtol=1e-5)


def test_refined_cells_are_joined_with_their_mass():
    """On the coarse grid, the average of what is below."""
    ds, coarse, _ = refined()
    back = GalaxyField.from_yt(ds, ("gas", "density"), 4, parameters={"h": H})
    np.testing.assert_allclose(back.data, coarse, rtol=1e-5)


def test_maps_of_yt_are_no_cube():
    """A field from yt has three equal sides."""
    ds = make("matter")[3].to_yt()
    with pytest.raises(GridError, match="needs a cube"):
        GalaxyField.from_yt(ds, ("stream", "matter"), N)


# Particles.


def test_particle_masses_give_a_density(particles):
    """The total mass is conserved."""
    ds, _, mass = particles
    field = GalaxyField.from_yt(
        ds, ("io", "particle_mass"), 8, parameters={"h": H, "omega_m": 0.3}
    )
    assert field.unit == u.Msun / u.Mpc**3
    assert field.grid.box_size == pytest.approx(10 * H)
    # yt's solar mass is converted to itself; float32 rounding remains.
    assert (field.mean().value * 1000) == pytest.approx(mass.sum(), rel=1e-6)


def test_particles_land_in_their_cells(particles):
    """Nearest-grid-point counts are a histogram, in the order x, y, z."""
    ds, places, _ = particles
    field = GalaxyField.from_yt(
        ds,
        ("io", "particle_ones"),
        5,
        name="galaxies",
        parameters={"h": H},
        scheme="ngp",
    )
    counts, _ = np.histogramdd(places, bins=5, range=[(0, 10)] * 3)
    np.testing.assert_allclose(field.data * 8.0, counts, rtol=1e-6)
    assert field.name == "galaxies"


def test_a_density_as_a_ratio_is_divided_by_its_mean(particles):
    """name="matter" is 1 + delta."""
    ds, _, _ = particles
    field = GalaxyField.from_yt(
        ds, ("io", "particle_mass"), 8, name="matter", parameters={"h": H}
    )
    assert field.unit == u.dimensionless_unscaled
    assert field.mean().value == pytest.approx(1, rel=1e-6)


def test_other_particle_fields_are_weighted_by_mass(particles):
    """Of two particles with 1 and 3 in both, the mean is 10 / 4; none is 0."""
    ds, _, mass = particles
    field = GalaxyField.from_yt(
        ds, ("io", "particle_velocity_x"), 4, parameters={"h": H}, scheme="ngp"
    )
    density = GalaxyField.from_yt(
        ds, ("io", "particle_mass"), 4, parameters={"h": H}, scheme="ngp"
    )
    assert field.unit == u.km / u.s
    total = (field.data.astype(float) * density.data).sum() * 2.5**3
    assert total == pytest.approx((mass**2).sum(), rel=1e-5)


@pytest.fixture
def real_gas(test_data, tmp_path):
    """A GADGET-4 snapshot in 50 Mpc/h with omega_b = 0.04, as yt opens it."""
    # A copy, as yt may write an index beside the file.
    path = tmp_path / "snapshot_004.hdf5"
    shutil.copy(test_data / "gadget_lcdm_gas" / path.name, path)
    return yt.load(path)


def test_gas_keeps_its_mass(real_gas):
    """Deposition by yt of such gas is up to 15 % off, or refused."""
    field = GalaxyField.from_yt(real_gas, ("gas", "density"), 16, parameters=EXTRA)
    assert field.name == "gas_density"
    assert field.grid.box_size == pytest.approx(50)
    volume = (field.grid.box_size / field.parameters["h"]) ** 3
    mass = float(real_gas.all_data()["PartType0", "particle_mass"].sum().to("Msun"))
    assert field.mean().value * volume == pytest.approx(mass, rel=1e-5)
    critical = field.cosmology.critical_density0.to_value(u.Msun / u.Mpc**3)
    # Header masses have their own value of the gravitational constant.
    assert field.mean().value == pytest.approx(0.04 * critical, rel=2e-3)


def test_gas_keeps_its_thermal_energy(real_gas):
    """Density times temperature adds up to the particles' mass times temperature."""
    density, temperature = (
        GalaxyField.from_yt(real_gas, ("gas", name), 16)
        for name in ("density", "temperature")
    )
    gas = real_gas.all_data()
    mass = gas["gas", "mass"].to("Msun").d
    expected = np.average(gas["gas", "temperature"].to("K").d, weights=mass)
    seen = np.average(temperature.data.astype(float), weights=density.data)
    # float32 fields
    assert seen == pytest.approx(expected, rel=1e-5)


# Refusals.


def test_a_dataset_without_cosmology_needs_h(particles):
    """Yt would take h = 1 without a word."""
    with pytest.raises(MissingParameterError, match="give at least h"):
        GalaxyField.from_yt(particles[0], ("io", "particle_mass"), 8)


def test_parameters_that_contradict_the_dataset_are_refused():
    """The header knows better, and says so."""
    with pytest.raises(ParameterError, match=r"h = 0\.6 contradicts the 0\.7"):
        GalaxyField.from_yt(
            make("matter").to_yt(), ("stream", "matter"), N, parameters={"h": 0.6}
        )


def test_unknown_fields_are_refused(particles):
    """One clear error with what to look at."""
    with pytest.raises(UnknownFieldError, match=r"ds\.field_list"):
        GalaxyField.from_yt(particles[0], ("io", "mass"), 8, parameters={"h": H})
    with pytest.raises(UnknownFieldError, match="needs a yt dataset, got str"):
        GalaxyField.from_yt("file.h5", ("io", "mass"), 8, parameters={"h": H})


def test_a_name_of_another_kind_is_refused(particles):
    """A mass density is no temperature."""
    with pytest.raises(UnknownFieldError, match="choose another name"):
        GalaxyField.from_yt(
            particles[0],
            ("io", "particle_mass"),
            8,
            name="gas_temperature",
            parameters={"h": H},
        )


def test_fields_in_unknown_units_are_refused(particles):
    """The message says which kinds are understood."""
    with pytest.raises(UnknownFieldError, match="understood are mass, density"):
        GalaxyField.from_yt(
            particles[0], ("io", "particle_position_x"), 8, parameters={"h": H}
        )
