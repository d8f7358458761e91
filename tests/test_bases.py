"""The base: few-step matter, and the galaxies of its halos."""

import numpy as np
import pytest
import torch

from astrogan_emu.bases import BaseSettings, base_fields
from astrogan_emu.errors import CheckpointError
from astrogan_emu.grids import GridSpec, paint
from astrogan_emu.halos import (
    GalaxyRecipe,
    OccupationModel,
    expected_galaxies,
    friends_of_friends,
    particle_mass,
)
from astrogan_emu.initial_conditions import linear_field
from astrogan_emu.particle_mesh import evolve
from astrogan_emu.statistics import correlation_coefficient

PLANCK = {"omega_m": 0.31, "omega_b": 0.049, "h": 0.68, "n_s": 0.97, "sigma_8": 0.81}
RECIPE = GalaxyRecipe(OccupationModel(), linking_length=0.25, min_members=8)
SETTINGS = BaseSettings(n_steps=8, galaxies=RECIPE)
SIDE = 25.0


@pytest.fixture(scope="module")
def delta():
    return linear_field(PLANCK, n_cells=32, box_size=SIDE, seed=5)


def test_matter_is_that_of_the_particle_mesh(delta):
    """With galaxies or without."""
    options = {"box_size": SIDE, "redshift": 0.5}
    (particles,) = evolve(delta, PLANCK, box_size=SIDE, redshifts=[0.5], n_steps=8)
    expected = paint(particles.positions, 32, SIDE)
    for settings in (SETTINGS, BaseSettings(n_steps=8)):
        base = base_fields(delta, PLANCK, settings=settings, **options)
        assert base.shape == (len(settings.channels), 32, 32, 32)
        torch.testing.assert_close(base[0], expected)


def test_galaxies_are_those_of_the_halos(delta):
    """As many as the occupation says of the halos, and where these are."""
    base = base_fields(delta, PLANCK, box_size=SIDE, redshift=0.0, settings=SETTINGS)
    (particles,) = evolve(
        delta, PLANCK, box_size=SIDE, redshifts=[0.0], **SETTINGS.integration(32)
    )
    places = particles.positions.numpy()
    halos = friends_of_friends(
        places, box_size=SIDE, linking_length=0.25, min_members=8
    )
    masses = halos.masses(particle_mass(0.31, SIDE, 32**3))
    occupation = RECIPE.occupation
    number = (occupation.centrals(masses) + occupation.satellites(masses)).sum()
    assert number > 10
    cell = (SIDE / 32) ** 3
    assert float(base[1].sum()) * cell == pytest.approx(number, rel=1e-4)
    assert float(base[1][base[0] < 1].sum()) < 0.02 * float(base[1].sum())


def test_halos_of_few_particles_hold_the_galaxies_of_many():
    """The point of the longer linking length; the run has eight times as many."""
    side = 50.0
    fine = linear_field(PLANCK, n_cells=64, box_size=side, seed=6)
    (particles,) = evolve(
        fine, PLANCK, box_size=side, redshifts=[1.0], n_steps=12, n_mesh=128
    )
    places = particles.positions.numpy()
    halos = friends_of_friends(places, box_size=side)
    occupation = OccupationModel(log10_m_min=12.9, log10_m_0=12.9, log10_m_1=14.1)
    mass = particle_mass(0.31, side, 64**3)
    grid = GridSpec(32, side)
    truth = expected_galaxies(places, halos, occupation, particle_mass=mass, grid=grid)
    delta = linear_field(PLANCK, n_cells=32, box_size=side, seed=6)
    r, amount = {}, {}
    for length in (0.2, 0.25):
        recipe = GalaxyRecipe(occupation, length, 8)
        base = base_fields(
            delta,
            PLANCK,
            box_size=side,
            redshift=1.0,
            settings=BaseSettings(n_steps=12, galaxies=recipe),
        )
        made = base[1].numpy()
        r[length] = correlation_coefficient(made, truth, box_size=side).value[:6].min()
        amount[length] = made.mean() / truth.mean()
    density = base[0].numpy()
    plain = correlation_coefficient(density, truth, box_size=side).value[:6].min()
    assert r[0.25] > plain
    assert abs(np.log(amount[0.25])) < abs(np.log(amount[0.2]))


def test_matter_has_gradients_and_galaxies_are_taken_as_they_are(delta):
    """Halos gain and lose members in jumps."""
    omega_m = torch.tensor(0.31, dtype=torch.float64, requires_grad=True)
    given = {**PLANCK, "omega_m": omega_m}
    base = base_fields(delta, given, box_size=SIDE, redshift=0.0, settings=SETTINGS)
    (whole,) = torch.autograd.grad(base.square().mean(), omega_m, retain_graph=True)
    (matter,) = torch.autograd.grad(base[0].square().mean() / 2, omega_m)
    assert float(matter) != 0
    assert float(whole) == pytest.approx(float(matter), rel=1e-6)


def test_settings_are_what_was_written():
    """Through the values that a file holds."""
    for settings in (SETTINGS, BaseSettings(3, 2, 19.0), BaseSettings(depth=5.0)):
        values = settings.to_dict()
        assert None not in values.values()
        assert BaseSettings.from_dict(values) == settings


def test_maps_have_no_galaxies_in_their_base():
    """They would have to be averaged over a slab."""
    with pytest.raises(CheckpointError, match="base of maps has no galaxies"):
        BaseSettings(depth=5.0, galaxies=RECIPE)
