"""Which fields exist: their names, labels, units, and names in yt.

`FIELDS` is the one place that says so. Nothing here holds any values.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy import units as u
from astropy.cosmology import units as cu

from .errors import UnknownFieldError

__all__ = [
    "FIELDS",
    "FieldRegistry",
    "FieldSpec",
    "as_unit",
    "column_spec",
    "spec_of_result",
    "yt_unit",
]


@dataclass(frozen=True)
class FieldSpec:
    """What a field is, whoever made it.

    Parameters
    ----------
    name
        The name used in calls and files, a Python identifier.
    label
        A few words for an axis or a colour bar, without the unit.
    unit
        The unit in which the field is made; comoving and free of h.
    yt_name
        Field type and name in a yt dataset made from the field. A type of ``gas``
        means that yt knows the name and aliases it; ``stream`` that it does not.
    latex
        The symbol, without dollar signs.
    positive
        Whether no value can be below zero.
    integrates
        Whether a projection is the integral along the line of sight (a density with a
        unit) rather than the mean (a ratio, a temperature).
    description
        One sentence for people.
    """

    name: str
    label: str
    unit: u.UnitBase
    yt_name: tuple[str, str]
    latex: str
    positive: bool = True
    integrates: bool = False
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise UnknownFieldError(
                f"{self.name!r} cannot name a field; use letters, digits and "
                "underscores, such as 'gas_density'"
            )


class FieldRegistry(dict[str, FieldSpec]):
    """The known fields by name; an unknown name is an error that lists them.

    Raises
    ------
    UnknownFieldError
        From ``FIELDS[name]`` if there is no such field.
    """

    def __missing__(self, name: str) -> FieldSpec:
        raise UnknownFieldError(
            f"there is no field {name!r}; the fields are {', '.join(sorted(self))}"
        )

    def register(self, spec: FieldSpec) -> FieldSpec:
        """Add a field of one's own, so that its name is understood everywhere.

        Raises
        ------
        UnknownFieldError
            If another field already has the name.
        """
        if self.get(spec.name, spec) != spec:
            raise UnknownFieldError(
                f"there is already another field {spec.name!r}; choose another name"
            )
        self[spec.name] = spec
        return spec


_PER_VOLUME = u.Mpc**-3
_MASS_DENSITY = u.Msun / u.Mpc**3
_PRESSURE = u.eV / u.cm**3

FIELDS = FieldRegistry(
    {
        spec.name: spec
        for spec in (
            FieldSpec(
                "matter",
                "matter density / mean",
                u.dimensionless_unscaled,
                ("stream", "matter"),
                r"1 + \delta_\mathrm{m}",
                description="All matter: the ratio of its density to the mean.",
            ),
            FieldSpec(
                "galaxies",
                "galaxy number density",
                _PER_VOLUME,
                ("stream", "galaxies"),
                r"n_\mathrm{g}",
                integrates=True,
                description="Expected number of galaxies per comoving volume.",
            ),
            FieldSpec(
                "gas_density",
                "gas density",
                _MASS_DENSITY,
                ("gas", "density"),
                r"\rho_\mathrm{gas}",
                integrates=True,
                description="Gas mass per comoving volume.",
            ),
            FieldSpec(
                "gas_temperature",
                "gas temperature",
                u.K,
                ("gas", "temperature"),
                r"T_\mathrm{gas}",
                description="Mass-weighted mean gas temperature of each cell.",
            ),
            FieldSpec(
                "stellar_density",
                "stellar mass density",
                _MASS_DENSITY,
                ("stream", "stellar_density"),
                r"\rho_\star",
                integrates=True,
                description="Stellar mass per comoving volume.",
            ),
            FieldSpec(
                "gas_fraction",
                "gas mass / all mass",
                u.dimensionless_unscaled,
                ("stream", "gas_fraction"),
                r"f_\mathrm{gas}",
                description="Gas mass over the mass of all matter in each cell.",
            ),
            FieldSpec(
                "thermal_pressure",
                "thermal gas pressure",
                _PRESSURE,
                ("gas", "pressure"),
                r"P_\mathrm{th}",
                integrates=True,
                description="n k T of all particles of ionised gas with a hydrogen "
                "fraction of 0.76: a physical pressure, not a comoving one.",
            ),
            FieldSpec(
                "electron_pressure",
                "electron pressure",
                _PRESSURE,
                ("stream", "electron_pressure"),
                r"P_\mathrm{e}",
                integrates=True,
                description="n k T of the electrons of ionised gas with a hydrogen "
                "fraction of 0.76: a physical pressure, which the thermal "
                "Sunyaev-Zel'dovich effect integrates.",
            ),
        )
    }
)
"""The fields by name. ``FIELDS.register(spec)`` adds one."""


def as_unit(unit: u.UnitBase | str) -> u.UnitBase:
    """Read a unit or its string, ``littleh`` included.

    Notes
    -----
    `astropy.units` alone does not parse ``littleh`` back from its own string.

    Raises
    ------
    ValueError
        If the string is no unit.
    """
    with u.add_enabled_units(cu):
        return u.Unit(unit)


_WORDS = {
    np.add: ("plus", "+"),
    np.subtract: ("minus", "-"),
    np.multiply: ("times", "*"),
    np.true_divide: ("over", "/"),
}


_YT_NAMES = {
    "solMass": "Msun",
    "solLum": "Lsun",
    "littleh": "h",
    "h": "hr",
    "d": "day",
    "G": "gauss",
}
_COMOVING = ("pc", "kpc", "Mpc", "Gpc")


def yt_unit(unit: u.UnitBase) -> str:
    """Write a unit as yt writes it, with its lengths marked as comoving.

    Multiples of the parsec are comoving always; other lengths are where no time is in
    the unit (g/cm3, but not km/s). ``littleh`` becomes yt's ``h``.
    """
    has_time = u.s in unit.decompose().bases
    words = [] if unit.scale == 1 else [repr(float(unit.scale))]
    for base, power in zip(unit.bases, unit.powers, strict=True):
        name = _YT_NAMES.get(base.name, base.name)
        length = base.physical_type == "length"
        if length and (base.name in _COMOVING or not has_time):
            name = f"{name}cm"
        words.append(name if power == 1 else f"{name}**({power})")
    return "*".join(words) or "dimensionless"


def spec_of_result(
    operation: Any,
    spec: FieldSpec,
    other: FieldSpec | None,
    values: Any,
    unit: u.UnitBase,
) -> FieldSpec:
    """Say what the result of an operation is; the name stays while it is the same.

    Parameters
    ----------
    operation
        One of numpy's four.
    spec, other
        What the operands are; None if the second is no field.
    values
        The second operand.
    unit
        Unit of the result.
    """
    word, sign = _WORDS[operation]
    linear = operation in (np.add, np.subtract)
    same_kind = other is None or (linear and other.name == spec.name)
    if same_kind and unit.is_equivalent(spec.unit):
        if np.ndim(values) > 0 or not linear:
            # An array may have any sign, and a lazy one must not be asked.
            keeps = other is not None and operation is np.add
            keeps |= np.ndim(values) == 0 and float(values) >= 0
            return replace(spec, positive=spec.positive and keeps)
        number = float(values) if operation is np.add else -float(values)
        label = f"{spec.label} {'-' if number < 0 else '+'} {abs(number):g}"
        return replace(spec, label=label, positive=spec.positive and number >= 0)
    if other is None:
        name, label, latex = f"{spec.name}_scaled", f"{spec.label}, scaled", spec.latex
    else:
        name = f"{spec.name}_{word}_{other.name}"
        label = f"({spec.label}) {sign} ({other.label})"
        latex = f"({spec.latex}) {sign} ({other.latex})"
    return FieldSpec(name, label, unit, ("stream", name), latex, positive=False)


def column_spec(spec: FieldSpec, unit: u.UnitBase) -> FieldSpec:
    """Describe the integral of a field along the line of sight."""
    name = f"{spec.name}_column"
    return replace(
        spec,
        name=name,
        label=f"{spec.label}, column",
        unit=unit,
        yt_name=("stream", name),
        latex=rf"\int {spec.latex}\,\mathrm{{d}}l",
        integrates=False,
    )
