"""Expected errors: looked up for the parameters and the redshift at hand."""

import warnings

import pytest

from astrogan_emu import emulate_galaxy_field
from astrogan_emu.emulator import Emulator
from astrogan_emu.errors import CornerWarning
from astrogan_emu.expected_errors import at_edge, expected_error, outer_parameters

SPACE = Emulator.load("nbody").card.space
MIDDLE = {p.name: (p.low + p.high) / 2 for p in SPACE.parameters}
EDGE = MIDDLE | {"omega_m": 0.11}
CORNER = MIDDLE | {"omega_m": 0.11, "sigma_8": 0.99, "h": 0.51}


def table(power, runs):
    """Of two bands and two redshifts."""
    return {
        "redshifts": [1.0, 0.0],
        "runs": runs,
        "power": power,
        "power_bias": [[0.0, 0.0], [0.0, 0.0]],
        "correlation": [[1.0, 0.9], [1.0, 0.7]],
    }


ERRORS = {
    "k": [0.5, 2.0],
    "fields": {
        "matter": {
            "interior": table([[0.01, 0.02], [0.03, 0.06]], 5),
            "edge": table([[0.1, 0.2], [0.3, 0.4]], 3),
        },
        "galaxies": {"interior": table([[0.1, 0.1], [0.1, 0.1]], 5)},
    },
}


def test_regions():
    """The outer tenth of a range is its edge."""
    assert not at_edge(SPACE, MIDDLE)
    assert at_edge(SPACE, EDGE)
    assert outer_parameters(SPACE, CORNER) == ("omega_m", "h", "sigma_8")


def test_redshifts_are_interpolated_and_ends_kept():
    """Whatever the order in which they were measured."""
    found = expected_error(ERRORS, SPACE, "matter", MIDDLE, 0.5)
    assert found["power"] == pytest.approx([0.02, 0.04])
    assert found["correlation"] == pytest.approx([1.0, 0.8])
    assert (found["region"], found["runs"]) == ("interior", 5)
    found = expected_error(ERRORS, SPACE, "matter", EDGE, 3.0)
    assert found["power"] == pytest.approx([0.1, 0.2])
    assert (found["region"], found["runs"]) == ("edge", 3)


def test_what_was_not_measured_is_not_said():
    """The other region rather than nothing, and nothing rather than a guess."""
    assert expected_error(ERRORS, SPACE, "galaxies", EDGE, 0.0)["region"] == "interior"
    assert expected_error(ERRORS, SPACE, "velocity", EDGE, 0.0) is None
    assert expected_error({}, SPACE, "matter", EDGE, 0.0) is None


def test_a_corner_warns_and_an_edge_does_not():
    """Three parameters at their edges at once were hardly checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        emulate_galaxy_field(EDGE, n_cells=8, seed=1)
    with pytest.warns(CornerWarning, match="omega_m, h, sigma_8 all lie"):
        emulate_galaxy_field(CORNER, n_cells=8, seed=1)
