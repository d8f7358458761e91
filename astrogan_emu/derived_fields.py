"""Fields that follow exactly from others of the same realisation.

No network makes them: they are the same formula for every model that makes what they
are made of. What they are called, and their units, stands in `FIELDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astropy import constants
from astropy import units as u

from .fields import FIELDS, GalaxyField

__all__ = ["DERIVED", "Derived", "derive", "ingredients", "offered"]

_HYDROGEN_FRACTION = 0.76
# Critical density today over h^2, with G and the solar mass of the IAU.
_CRITICAL = 2.77536627e11 * u.Msun / u.Mpc**3

Fields = Mapping[str, GalaxyField]


@dataclass(frozen=True)
class Derived:
    """How a field follows from others.

    Parameters
    ----------
    needs
        Names of the fields that it is made of.
    make
        Gives its values with their unit.
    """

    needs: tuple[str, ...]
    make: Callable[[Fields], Any]


def _gas_fraction(fields: Fields) -> u.Quantity:
    """Gas mass over the mass of all matter in a cell."""
    gas, matter = fields["gas_density"], fields["matter"]
    known = gas.parameters
    mean = known["omega_m"] * known["h"] ** 2 * _CRITICAL
    # A cell without any matter has no fraction; the generator makes none.
    return (gas.quantity / (matter.quantity * mean)).to(u.dimensionless_unscaled)


def _pressure(fields: Fields, particles: float) -> u.Quantity:
    """N k T, for so many particles per proton mass of fully ionised gas."""
    gas = fields["gas_density"]
    # In float32 the factors would leave its range.
    physical = gas.quantity.astype(float) * (1 + gas.redshift) ** 3
    number = physical * (particles / constants.m_p)
    energy = constants.k_B * fields["gas_temperature"].quantity.astype(float)
    return (number * energy).to(u.eV / u.cm**3)


def _thermal_pressure(fields: Fields) -> u.Quantity:
    """All particles: 2 + 3/4 Y + ... = (3 + 5 X) / 4 per proton mass."""
    return _pressure(fields, (3 + 5 * _HYDROGEN_FRACTION) / 4)


def _electron_pressure(fields: Fields) -> u.Quantity:
    """Electrons alone: (1 + X) / 2 per proton mass."""
    return _pressure(fields, (1 + _HYDROGEN_FRACTION) / 2)


DERIVED: Mapping[str, Derived] = {
    "gas_fraction": Derived(("matter", "gas_density"), _gas_fraction),
    "thermal_pressure": Derived(("gas_density", "gas_temperature"), _thermal_pressure),
    "electron_pressure": Derived(
        ("gas_density", "gas_temperature"), _electron_pressure
    ),
}
"""The derived fields by name."""


def offered(made: Sequence[str]) -> tuple[str, ...]:
    """Names of all fields that can be had of those that a model makes.

    Parameters
    ----------
    made
        Names of the fields that the model makes.

    Returns
    -------
    tuple of str
        Those, and the derived ones behind them.
    """
    return (*made, *(n for n, d in DERIVED.items() if set(d.needs) <= set(made)))


def ingredients(names: Sequence[str]) -> tuple[str, ...]:
    """What must be made to have some fields, each once.

    Parameters
    ----------
    names
        Fields that are wanted.

    Returns
    -------
    tuple of str
        Fields that are not derived.
    """
    needed = [DERIVED[n].needs if n in DERIVED else (n,) for n in names]
    return tuple(dict.fromkeys(name for each in needed for name in each))


def derive(name: str, fields: Fields) -> GalaxyField:
    """Make a derived field.

    Parameters
    ----------
    name
        One of `DERIVED`.
    fields
        At least what it needs, of one realisation, by name.

    Returns
    -------
    GalaxyField
        With the place and the origin of its ingredients.
    """
    first = fields[DERIVED[name].needs[0]]
    return GalaxyField(
        DERIVED[name].make(fields).to(FIELDS[name].unit),
        name=name,
        grid=first.grid,
        parameters=first.parameters,
        redshift=first.redshift,
        seed=first.seed,
        model=first.model,
    )
