import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from astrogan_emu import linking
from astrogan_emu.errors import GridError, ParameterError
from astrogan_emu.grids import GridSpec
from astrogan_emu.halos import (
    OccupationModel,
    expected_galaxies,
    friends_of_friends,
)

BOX = 10.0


def blobs(rng, sizes, width, box_size=BOX):
    """Gaussian clumps anywhere in the box, across its faces too."""
    centres = rng.uniform(0, box_size, (len(sizes), 3))
    return np.repeat(centres, sizes, axis=0) + rng.normal(
        scale=width, size=(sum(sizes), 3)
    )


def clustered(seed, n_uniform=300, sizes=(5, 20, 60, 150, 400), width=0.15):
    """Clumps of many sizes in a sparse background, shuffled, in the box."""
    rng = np.random.default_rng(seed)
    background = rng.uniform(0, BOX, (n_uniform, 3))
    return rng.permutation(np.vstack([background, blobs(rng, sizes, width)])) % BOX


def slow_groups(positions, length, min_members):
    """Groups of all pairs of particles compared, as a set of sets of indices."""
    apart = np.abs(positions[:, None] - positions[None])
    apart = np.minimum(apart, BOX - apart)
    friends = np.sum(apart**2, axis=-1) <= length**2
    labels = connected_components(friends, directed=False)[1]
    groups = (np.flatnonzero(labels == i) for i in np.unique(labels))
    return {frozenset(group) for group in groups if len(group) >= min_members}


def groups_of(halos):
    return {
        frozenset(halos.members[start:end])
        for start, end in zip(halos.offsets[:-1], halos.offsets[1:], strict=True)
    }


def separation(positions):
    return BOX / len(positions) ** (1 / 3)


@pytest.mark.parametrize("linking_length", [0.05, 0.2, 0.4, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_groups_equal_those_of_all_pairs_compared(seed, linking_length):
    """No friend is missed or invented, from nearly none linked to nearly all."""
    positions = clustered(seed)
    halos = friends_of_friends(
        positions, box_size=BOX, linking_length=linking_length, min_members=3
    )
    length = linking_length * separation(positions)
    assert groups_of(halos) == slow_groups(positions, length, 3)


@pytest.mark.parametrize("linking_length", [0.3, 0.7])
def test_groups_of_unclustered_particles_are_exact_down_to_pairs(linking_length):
    """A Poisson set, with groups of two and more."""
    positions = np.random.default_rng(4).uniform(0, BOX, (900, 3))
    halos = friends_of_friends(
        positions, box_size=BOX, linking_length=linking_length, min_members=2
    )
    length = linking_length * separation(positions)
    assert groups_of(halos) == slow_groups(positions, length, 2)


def test_groups_on_a_line_at_just_the_linking_length_are_exact():
    """Particles on cell borders, each within a millionth of losing its friends."""
    x = np.concatenate([np.arange(0, 4, 0.25), np.arange(5, 8, 0.25), [8.3, 9.75]])
    positions = np.stack([x, np.full_like(x, 2.5), np.zeros_like(x)], axis=-1)
    linking_length = 0.2500001 / separation(positions)
    halos = friends_of_friends(
        positions, box_size=BOX, linking_length=linking_length, min_members=2
    )
    length = linking_length * separation(positions)
    assert groups_of(halos) == slow_groups(positions, length, 2)


def test_crowded_cells_are_linked_by_their_closest_particles(monkeypatch):
    """The route for cells of very many particles gives the same groups."""
    positions = clustered(3, sizes=(300, 600), width=0.08)
    expected = friends_of_friends(positions, box_size=BOX, linking_length=0.1)
    monkeypatch.setattr(linking, "_CROWDED", 1)
    measured = friends_of_friends(positions, box_size=BOX, linking_length=0.1)
    np.testing.assert_array_equal(measured.members, expected.members)
    np.testing.assert_array_equal(measured.n_members, expected.n_members)
    length = 0.1 * separation(positions)
    assert groups_of(measured) == slow_groups(positions, length, 20)


def test_groups_do_not_depend_on_the_blocks_of_the_work(monkeypatch):
    """Blocks of 7 elements give what large ones give."""
    positions = clustered(5)
    whole = friends_of_friends(positions, box_size=BOX)
    monkeypatch.setattr(linking, "_BLOCK", 7)
    parts = friends_of_friends(positions, box_size=BOX)
    np.testing.assert_array_equal(parts.members, whole.members)


def test_moving_the_box_moves_the_halos_with_it():
    """Halos across the faces are found like any other, and centres follow."""
    positions = clustered(6)
    shift = np.array([3.3, -7.1, 12.9])
    here = friends_of_friends(positions, box_size=BOX)
    there = friends_of_friends(positions + shift, box_size=BOX)
    np.testing.assert_array_equal(there.members, here.members)
    for name in ("centres", "centres_of_mass"):
        apart = getattr(there, name) - getattr(here, name) - shift
        apart -= BOX * np.round(apart / BOX)
        # Rounding of coordinates of order ten.
        np.testing.assert_allclose(apart, 0, atol=1e-12)
        assert np.all((getattr(there, name) >= 0) & (getattr(there, name) < BOX))


def test_a_halo_longer_than_half_the_box_has_its_centre_in_the_middle():
    """Also across a face, and whichever end its first member is at."""
    along = np.stack([np.linspace(7, 13, 61), np.full(61, 5.0), np.full(61, 5.0)], 1)
    for positions in (along, along[::-1]):
        halos = friends_of_friends(positions, box_size=BOX, linking_length=0.1)
        assert len(halos) == 1
        apart = halos.centres_of_mass[0] - [0, 5, 5]
        apart -= BOX * np.round(apart / BOX)
        np.testing.assert_allclose(apart, 0, atol=1e-12)


def test_halos_come_largest_first_with_rising_members():
    """The order is fixed by sizes and particle numbers, not by how work was done."""
    halos = friends_of_friends(clustered(7), box_size=BOX, min_members=3)
    assert np.all(np.diff(halos.n_members) <= 0)
    assert halos.n_members.sum() == len(halos.members) == halos.offsets[-1]
    first = halos.members[halos.offsets[:-1]]
    equal = np.diff(halos.n_members) == 0
    assert np.all(np.diff(first)[equal] > 0)
    for start, end in zip(halos.offsets[:-1], halos.offsets[1:], strict=True):
        assert np.all(np.diff(halos.members[start:end]) > 0)


def test_centre_of_mass_and_mean_velocity_are_those_of_the_members():
    """Inside the box the centre of mass is the plain mean; so is a velocity."""
    rng = np.random.default_rng(8)
    clump = rng.normal(5.0, 0.1, (200, 3))
    positions = np.vstack([clump, rng.uniform(0, BOX, (100, 3))])
    velocities = rng.normal(size=(300, 3))
    halos = friends_of_friends(positions, box_size=BOX)
    (members,) = groups_of(halos)
    members = sorted(members)
    np.testing.assert_allclose(
        halos.centres_of_mass[0], positions[members].mean(axis=0), rtol=1e-12
    )
    np.testing.assert_allclose(
        halos.mean(velocities)[0], velocities[members].mean(axis=0)
    )
    np.testing.assert_allclose(
        halos.mean(velocities[:, 0]), halos.mean(velocities)[:, 0]
    )
    np.testing.assert_allclose(halos.masses(2e9), 2e9 * len(members))


def test_centre_of_two_bridged_clumps_is_in_the_denser_one():
    """The centre of mass of a bridged pair may be empty space; the centre is not."""
    rng = np.random.default_rng(9)
    large = np.array([5.0, 5, 5]) + rng.normal(scale=0.05, size=(600, 3))
    small = np.array([6.0, 5, 5]) + rng.normal(scale=0.05, size=(300, 3))
    bridge = np.stack([np.linspace(5, 6, 40), *np.full((2, 40), 5.0)], axis=-1)
    positions = np.vstack([large, small, bridge])
    halos = friends_of_friends(positions, box_size=BOX, linking_length=0.1)
    assert len(halos) == 1
    # Within the scale of the clump over the root of the ten particles that remain.
    np.testing.assert_allclose(halos.centres[0], [5, 5, 5], atol=0.05)
    assert halos.centres_of_mass[0, 0] > 5.25


def test_coincident_particles_are_a_halo_at_their_place():
    """Identical positions neither crash nor hang."""
    halos = friends_of_friends(np.full((50, 3), 3.25), box_size=BOX)
    np.testing.assert_array_equal(halos.n_members, [50])
    np.testing.assert_allclose(halos.centres, 3.25)


def test_too_few_particles_or_no_groups_give_no_halos():
    """Empty results have the right shapes and work in everything downstream."""
    spread = np.random.default_rng(1).uniform(0, BOX, (500, 3))
    for positions in (np.zeros((0, 3)), spread[:5], spread):
        halos = friends_of_friends(positions, box_size=BOX, linking_length=0.05)
        assert len(halos) == 0
        assert halos.centres.shape == (0, 3)
        assert halos.mean(positions).shape == (0, 3)
        density = expected_galaxies(
            positions,
            halos,
            OccupationModel(),
            particle_mass=1e10,
            grid=GridSpec(4, BOX),
        )
        assert not density.any()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"box_size": 0.0}, "box_size must be positive"),
        ({"linking_length": -0.2}, "linking_length must be positive"),
        ({"linking_length": 3.0}, "more than a seventh of the box"),
        ({"min_members": 0}, "min_members must be at least 1"),
        ({"positions": np.zeros((30, 2))}, r"shape \(n, 3\)"),
        ({"positions": np.full((30, 3), np.nan)}, "30 of 30 positions are NaN"),
    ],
)
def test_input_that_makes_no_sense_is_refused(options, match):
    """Each refusal names the number and what is allowed."""
    options = {"positions": clustered(0), "box_size": BOX, **options}
    with pytest.raises(GridError, match=match):
        friends_of_friends(options.pop("positions"), **options)


def test_occupation_at_its_own_masses_is_as_zheng_defines_it():
    """Half a central at M_min, one satellite per central at M_0 + M_1, none below."""
    model = OccupationModel(
        log10_m_min=12.1, sigma_log_m=0.4, log10_m_0=12.3, log10_m_1=13.5, alpha=1.2
    )
    assert model.centrals(10**12.1) == pytest.approx(0.5)
    # One sigma above: (1 + erf(1)) / 2.
    assert model.centrals(10**12.5) == pytest.approx(0.9213503964748575)
    assert model.centrals(1e16) == pytest.approx(1)
    assert model.satellites(10**12.29) == 0
    mass = 10**12.3 + 10**13.5
    assert model.satellites(mass) == pytest.approx(model.centrals(mass))
    mass = 10**12.3 + 2 * 10**15.5
    assert model.satellites(mass) == pytest.approx((2 * 100) ** 1.2)


def test_occupation_goes_through_json_unchanged():
    """What is recorded with a data set brings the same model back."""
    model = OccupationModel(alpha=1.1)
    assert OccupationModel(**json.loads(json.dumps(asdict(model)))) == model


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sigma_log_m": 0.0}, "sigma_log_m must be positive"),
        ({"alpha": -1.0}, "alpha must be positive"),
        ({"log10_m_1": np.inf}, "log10_m_1 must be finite"),
        ({"log10_m_min": 1e12}, "no decimal logarithm"),
    ],
)
def test_an_occupation_that_makes_no_sense_is_refused(options, match):
    """A mass where its logarithm belongs is caught too."""
    with pytest.raises(ParameterError, match=match):
        OccupationModel(**options)


@pytest.mark.parametrize("scheme", ["ngp", "cic", "tsc"])
def test_expected_galaxies_on_the_grid_sum_to_the_expected_number(scheme):
    """The galaxies of all halos are on the grid, to 1e-6 and better."""
    positions = clustered(10)
    halos = friends_of_friends(positions, box_size=BOX)
    model, grid = OccupationModel(), GridSpec(16, BOX)
    masses = halos.masses(3e11)
    expected = np.sum(model.centrals(masses) + model.satellites(masses))
    density = expected_galaxies(
        positions, halos, model, particle_mass=3e11, grid=grid, scheme=scheme
    )
    assert density.shape == grid.shape
    assert density.sum() * grid.cell_volume == pytest.approx(expected, rel=1e-9)


def test_centrals_sit_at_the_centre_and_satellites_on_the_particles():
    """Each cell holds its share, counted by hand with nearest-cell assignment."""
    positions = clustered(11)
    halos = friends_of_friends(positions, box_size=BOX)
    model, grid = OccupationModel(), GridSpec(8, BOX)
    masses = halos.masses(3e11)
    by_hand = np.zeros(grid.shape)
    for i in range(len(halos)):
        members = positions[halos.members[halos.offsets[i] : halos.offsets[i + 1]]]
        share = model.satellites(masses[i]) / len(members)
        places = [(halos.centres[i], model.centrals(masses[i]))]
        places += [(member, share) for member in members]
        for place, number in places:
            by_hand[tuple((place // grid.cell_size).astype(int))] += number
    density = expected_galaxies(
        positions, halos, model, particle_mass=3e11, grid=grid, scheme="ngp"
    )
    np.testing.assert_allclose(density * grid.cell_volume, by_hand, rtol=1e-9)


def test_halos_of_other_positions_are_refused():
    """Particle numbers beyond the positions, and masses below zero, are errors."""
    positions = clustered(12)
    halos = friends_of_friends(positions, box_size=BOX)
    options = {"grid": GridSpec(8, BOX), "particle_mass": 1e10}
    with pytest.raises(GridError, match="those that the halos were found in"):
        expected_galaxies(positions[:100], halos, OccupationModel(), **options)
    options["particle_mass"] = -1.0
    with pytest.raises(ParameterError, match="particle_mass must be positive"):
        expected_galaxies(positions, halos, OccupationModel(), **options)
