"""Fields that follow from others: exact, in physical units, for any model."""

import numpy as np
import pytest
from astropy import constants
from astropy import units as u

from astrogan_emu.derived_fields import DERIVED, derive, ingredients, offered
from astrogan_emu.fields import FIELDS, GalaxyField
from astrogan_emu.grids import GridSpec

PARAMETERS = {
    "omega_m": 0.3,
    "omega_b": 0.05,
    "h": 0.7,
    "n_s": 0.96,
    "sigma_8": 0.8,
}
CRITICAL = 2.77536627e11 * 0.7**2  # Msun / Mpc^3


def fields(gas, temperature=1e6, redshift=0.0, matter=1.0):
    """A box of 4^3 cells with these values everywhere."""
    values = {"matter": matter, "gas_density": gas, "gas_temperature": temperature}
    return {
        name: GalaxyField(
            np.full((4, 4, 4), value),
            name=name,
            grid=GridSpec(4, 10.0),
            parameters=PARAMETERS,
            redshift=redshift,
            seed=5,
        )
        for name, value in values.items()
    }


@pytest.mark.parametrize("name", sorted(DERIVED))
def test_each_has_the_unit_of_the_registry(name):
    """And the place and the seed of what it is made of."""
    made = derive(name, fields(0.05 * CRITICAL))
    assert made.unit == FIELDS[name].unit
    assert made.name == name
    assert made.seed == 5
    assert made.grid == GridSpec(4, 10.0)


@pytest.mark.parametrize("redshift", [0.0, 1.0])
def test_the_gas_fraction_of_the_universe_is_that_of_its_baryons(redshift):
    """At any redshift, as both densities are comoving; less where matter is denser."""
    cosmic = derive("gas_fraction", fields(0.05 * CRITICAL, redshift=redshift))
    np.testing.assert_allclose(cosmic.data, 0.05 / 0.3, rtol=1e-6)
    dense = derive("gas_fraction", fields(0.05 * CRITICAL, matter=2.0))
    np.testing.assert_allclose(dense.data, 0.05 / 0.6, rtol=1e-6)


@pytest.mark.parametrize("redshift", [0.0, 1.0])
def test_pressure_is_two_thirds_of_the_energy_density(redshift):
    """P = (5/3 - 1) rho u, with the energy u that the same gas has in a snapshot."""
    weight = 4 / (3 + 5 * 0.76)
    energy = 1.5 * constants.k_B * 1e6 * u.K / (weight * constants.m_p)
    density = 0.05 * CRITICAL * (1 + redshift) ** 3 * u.Msun / u.Mpc**3
    expected = (2 / 3 * density * energy).to_value(u.eV / u.cm**3)
    made = derive("thermal_pressure", fields(0.05 * CRITICAL, redshift=redshift))
    np.testing.assert_allclose(made.data, expected, rtol=1e-5)


def test_electrons_carry_their_share_of_the_pressure():
    """Of 2 + 3/4 (Y/X) particles per hydrogen nucleus, 1 + Y/(2 X) are electrons."""
    helium = 0.24 / 0.76
    share = (1 + helium / 2) / (2 + 3 * helium / 4)
    every = fields(0.05 * CRITICAL)
    ratio = (
        derive("electron_pressure", every).data / derive("thermal_pressure", every).data
    )
    np.testing.assert_allclose(ratio, share, rtol=1e-5)


def test_a_column_of_electron_pressure_is_a_comptonisation():
    """A megaparsec of 10^-3 cm^-3 at 10^8 K has y = sigma_T n k T L / m c^2."""
    number = 1e-3 / u.cm**3
    density = (number * constants.m_p * 2 / 1.76).to_value(u.Msun / u.Mpc**3)
    column = derive("electron_pressure", fields(density, 1e8)).project("z", depth=0.7)
    scale = constants.sigma_T / (constants.m_e * constants.c**2)
    y = (column.quantity * scale).to_value(u.dimensionless_unscaled)
    np.testing.assert_allclose(y, 3.46e-5, rtol=2e-3)


def test_it_is_known_what_can_be_had():
    """What is derived comes behind what is made; each ingredient is needed once."""
    assert offered(["matter", "galaxies"]) == ("matter", "galaxies")
    assert "gas_fraction" in offered(["matter", "gas_density"])
    assert "thermal_pressure" not in offered(["matter", "gas_density"])
    wanted = ["gas_fraction", "matter", "electron_pressure"]
    assert ingredients(wanted) == ("matter", "gas_density", "gas_temperature")
