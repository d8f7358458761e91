"""Galaxies drawn in a box, and stacked boxes seen by an observer."""

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.cosmology import FlatLambdaCDM
from astropy.cosmology import units as cu
from astropy.table import QTable
from scipy.spatial import cKDTree

import astrogan_emu
from astrogan_emu.catalogues import random_generator, sample_galaxies, velocities_at
from astrogan_emu.emulator import Emulator
from astrogan_emu.errors import (
    ExtrapolationWarning,
    GridError,
    MissingParameterError,
    ParameterError,
    ParameterRangeError,
)
from astrogan_emu.fields import GalaxyField
from astrogan_emu.grids import GridSpec, paint
from astrogan_emu.initial_conditions import linear_field, lpt_displacements
from astrogan_emu.lightcones import lightcone
from astrogan_emu.linear_theory import growth_factor, growth_rate
from astrogan_emu.particle_mesh import evolve, velocity_field
from astrogan_emu.statistics import power_spectrum

CENTRE = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 1.0, "sigma_8": 0.8}
COSMOLOGY = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
N = 16
BOX = 25.0  # Mpc/h
SIDE = BOX / 0.7  # Mpc


def density(mean=0.4, **changes):
    """A lognormal number density with large-scale structure, at redshift 1."""
    delta = linear_field(CENTRE, n_cells=N, box_size=4 * BOX, seed=1).numpy()
    values = np.exp(delta)
    values *= mean / values.mean()
    given = {
        "name": "galaxies",
        "grid": GridSpec(N, BOX),
        "parameters": CENTRE,
        "redshift": 1.0,
        "seed": 3,
        "model": {"name": "toy", "sha256": "0" * 64},
    }
    return GalaxyField(values, **(given | changes))


def xyz(table, prefix=""):
    return np.stack([table[f"{prefix}{axis}"].value for axis in "xyz"], -1)


def counted(table):
    """Galaxies per cell."""
    edges = np.linspace(0, SIDE, N + 1)
    return np.histogramdd(xyz(table), [edges] * 3)[0]


def uniform_flow(*velocity):
    return np.multiply.outer(velocity, np.ones((N, N, N))) * u.km / u.s


@pytest.fixture(scope="module")
def field():
    return density()


@pytest.fixture(scope="module")
def counts(field):
    return np.stack([counted(field.sample_galaxies(seed=s)) for s in range(60)])


# Galaxies in a box.


def test_counts_are_poisson(field, counts):
    """Mean and variance are the expected number in every cell, by itself."""
    expected = np.asarray(field, dtype=float) * (SIDE / N) ** 3
    assert expected.min() < 2 < expected.max()
    residual = (counts - expected) / np.sqrt(expected)
    error = 1 / np.sqrt(residual.size)
    assert abs(residual.mean()) < 5 * error
    # The variance of a squared Poisson residual is 2 + 1 / mean.
    spread = np.sqrt(np.mean(2 + 1 / expected))
    assert residual.var() == pytest.approx(1, abs=5 * spread * error)
    neighbours = (residual * np.roll(residual, 1, axis=1)).mean()
    assert abs(neighbours) < 5 * error
    # Each cell by itself: a half-cell offset would show here.
    means = residual.mean(0) * np.sqrt(len(counts))
    assert np.mean(means**2) == pytest.approx(1, abs=5 * np.sqrt(2 / means.size))


def test_power_is_that_of_the_field(field, counts):
    """The counts' power less shot noise agrees at all wavenumbers."""
    noise = BOX**3 / counts.sum((1, 2, 3))
    power = power_spectrum(counts, box_size=BOX).power - noise[:, None]
    error = power.std(0) / np.sqrt(len(power))
    truth = field.power_spectrum().power
    assert (truth > 5 * error).all()
    assert (np.abs(power.mean(0) - truth) < 4.5 * error).all()


def test_positions_fill_cells_and_box(field):
    """Uniform within the cells, none outside the box."""
    table = sample_galaxies(field, seed=1)
    positions = xyz(table)
    assert positions.min() >= 0
    assert positions.max() < SIDE
    within = positions / (SIDE / N) % 1
    assert np.abs(within.mean(0) - 0.5).max() < 5 / np.sqrt(12 * len(within))
    assert within.var(0) == pytest.approx(1 / 12, rel=0.03)


def test_number_of_galaxies_has_h_right(field):
    """The mean density is per Mpc, and the grid is in Mpc/h."""
    number = len(sample_galaxies(field, seed=1))
    assert number == pytest.approx(0.4 * SIDE**3, abs=5 * np.sqrt(0.4 * SIDE**3))
    with_h = field.to(cu.littleh**3 / u.Mpc**3)
    assert len(sample_galaxies(with_h, seed=1)) == pytest.approx(number, abs=2)


def test_a_seed_fixes_the_catalogue(field):
    """The same seed gives the same galaxies, another seed others."""
    first, again, other = (xyz(sample_galaxies(field, seed=s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) or not np.allclose(first, other)


def test_places_have_their_own_random_numbers():
    """Parts of a catalogue never share a stream, nor with a plain generator."""
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (2**32,), (0, 0, 0)]
    drawn = [random_generator(*key).integers(2**63) for key in keys]
    drawn.append(np.random.default_rng(0).integers(2**63))
    assert len(set(drawn)) == len(drawn)


def test_empty_cells_stay_empty():
    """Galaxies are only where some are expected; an empty box is no error."""
    values = np.zeros((N, N, N))
    assert len(sample_galaxies(density()._replaced(values), seed=1)) == 0
    values[3, 4, 5] = 10
    found = counted(sample_galaxies(density()._replaced(values), seed=1))
    assert found.sum() == found[3, 4, 5] > 60


def test_an_empty_catalogue_has_all_columns():
    """Also with velocities."""
    empty = density()._replaced(np.zeros((N, N, N)))
    table = sample_galaxies(empty, seed=1, velocities=uniform_flow(1, 2, 3))
    assert len(table) == 0
    assert len(table.colnames) == 9


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_redshift_space_along_an_axis(field, axis):
    """Galaxies move by v / (a H), in comoving Mpc, and stay in the periodic box."""
    flow = uniform_flow(300, 400, -500)
    table = sample_galaxies(field, seed=1, velocities=flow, line_of_sight=axis)
    velocity = {"x": 300, "y": 400, "z": -500}[axis] * u.km / u.s
    expected = (velocity * 2 / COSMOLOGY.H(1)).to_value(u.Mpc)
    assert abs(expected) > 4
    for name in "xyz":
        moved = (table[f"s_{name}"] - table[name]).value
        moved = (moved + SIDE / 2) % SIDE - SIDE / 2
        np.testing.assert_allclose(moved, expected if name == axis else 0, atol=1e-5)
    inside = table[f"s_{axis}"].value
    assert inside.min() >= 0
    assert inside.max() < SIDE
    assert table.meta["los"] == axis


def test_redshift_space_for_an_observer(field):
    """Galaxies move along the line from the observer, by the velocity along it."""
    observer = [-100, 10, 20] * u.Mpc
    flow = uniform_flow(300, 0, 0)
    table = sample_galaxies(field, seed=1, velocities=flow, observer=observer)
    sight = xyz(table) - observer.value
    direction = sight / np.linalg.norm(sight, axis=1)[:, None]
    along = 300 * direction[:, 0] * 2 / COSMOLOGY.H(1).value
    expected = xyz(table) + along[:, None] * direction
    np.testing.assert_allclose(xyz(table, "s_"), expected, atol=1e-5)
    assert table.meta["obs_x"] == pytest.approx(-100)
    # Plain numbers are Mpc/h.
    plain = sample_galaxies(field, seed=1, velocities=flow, observer=[-70, 7, 14])
    np.testing.assert_allclose(xyz(plain, "s_"), expected, atol=1e-5)


def test_velocities_are_read_out_between_cell_centres():
    """A wave comes back with its phase: no half-cell offset, periodic."""
    n, box = 32, 10.0
    centres = (np.arange(n) + 0.5) * box / n
    wave = np.sin(2 * np.pi * centres / box)
    flow = np.zeros((3, n, n, n))
    flow[1] = wave[None, :, None]
    places = np.random.default_rng(1).random((500, 3)) * box
    found = velocities_at(flow, places, box)
    expected = np.sin(2 * np.pi * places[:, 1] / box)
    np.testing.assert_allclose(found[:, 1], expected, atol=0.006)
    assert not found[:, [0, 2]].any()


def test_catalogues_keep_their_origin_in_files(field, tmp_path):
    """FITS and ECSV take the whole table without a warning."""
    table = sample_galaxies(field, seed=7, velocities=uniform_flow(1, 2, 3))
    for name in ("galaxies.fits", "galaxies.ecsv"):
        table.write(tmp_path / name)
        back = QTable.read(tmp_path / name)
        assert back.colnames == table.colnames
        assert back["v_x"].unit == u.km / u.s
        np.testing.assert_array_equal(back["s_z"], table["s_z"])
        meta = {key.lower(): value for key, value in back.meta.items()}
        assert meta == table.meta
    assert table.meta["seed"] == 3
    assert table.meta["cat_seed"] == 7
    assert table.meta["box_size"] == SIDE
    assert table.meta["sigma_8"] == 0.8
    assert table.meta["model"] == "toy"


def test_mistakes_in_a_box_are_named(field):
    """Each mistake is answered by what is allowed."""
    flow = uniform_flow(1, 0, 0)
    with pytest.raises(GridError, match="use the field 'galaxies'"):
        sample_galaxies(density(name="matter"), seed=1)
    with pytest.raises(GridError, match="whole periodic box"):
        sample_galaxies(field[:8], seed=1)
    with pytest.raises(GridError, match="negative or not finite"):
        sample_galaxies(field * -1, seed=1)
    with pytest.raises(ParameterError, match=r"whole number, got 1\.5"):
        sample_galaxies(field, seed=1.5)
    with pytest.raises(ParameterError, match="whole number, got None"):
        sample_galaxies(field, seed=None)
    with pytest.raises(ParameterError, match="needs peculiar velocities"):
        sample_galaxies(field, seed=1, observer=[0, 0, 0])
    with pytest.raises(ParameterError, match="not both"):
        sample_galaxies(
            field, seed=1, velocities=flow, line_of_sight="x", observer=[0, 0, 0]
        )
    with pytest.raises(GridError, match="three lengths"):
        sample_galaxies(field, seed=1, velocities=flow, observer=3)
    with pytest.raises(GridError, match="no axis 'w'"):
        sample_galaxies(field, seed=1, velocities=flow, line_of_sight="w")
    with pytest.raises(GridError, match=r"shape \(3, 16, 16, 16\)"):
        sample_galaxies(field, seed=1, velocities=flow[:2])
    with pytest.raises(GridError, match="unit of velocity"):
        sample_galaxies(field, seed=1, velocities=flow.value * u.Mpc)
    with pytest.raises(GridError, match="not finite"):
        sample_galaxies(field, seed=1, velocities=flow * np.nan)
    with pytest.raises(MissingParameterError, match="omega_m"):
        sample_galaxies(density(parameters={"h": 0.7}), seed=1, velocities=flow)


# Velocities.


def test_velocities_are_linear_on_large_scales():
    """At high redshift div v = -a H f delta, mode by mode."""
    n, box, z = 32, 2000.0, 5.0
    delta = linear_field(CENTRE, n_cells=n, box_size=box, seed=1)
    flow = velocity_field(delta, CENTRE, box_size=box, redshift=z).double().numpy()
    k = 2 * np.pi * np.fft.fftfreq(n, box / n)
    axes = (k[:, None, None], k[None, :, None], k[None, None, : n // 2 + 1])
    modes = np.fft.rfftn(flow, axes=(1, 2, 3))
    divergence = sum(1j * one * mode for one, mode in zip(axes, modes, strict=True))
    a = 1 / (1 + z)
    # In Mpc/h, so that H is in units of h.
    rate = COSMOLOGY.H(z).value / 0.7 * float(growth_rate(a, 0.3))
    linear = delta.double().numpy() * float(growth_factor(a, 0.3))
    expected = -a * rate * np.fft.rfftn(linear)
    large = sum(one**2 for one in axes) < (0.3 * np.pi * n / box) ** 2
    ratio = (divergence / expected)[large & (np.abs(expected) > 0)]
    weights = np.abs(expected[large & (np.abs(expected) > 0)]) ** 2
    mean = np.sum(ratio * weights) / weights.sum()
    assert len(ratio) > 100
    assert mean.real == pytest.approx(1, abs=0.03)
    assert np.sqrt(np.average(np.abs(ratio - mean) ** 2, weights=weights)) < 0.05


def test_velocities_carry_the_momentum_of_the_particles():
    """Times the density they are the momentum, which adds up to none."""
    given = {"box_size": 12.5, "n_steps": 5}
    delta = linear_field(CENTRE, n_cells=N, box_size=12.5, seed=1, dtype=torch.float64)
    flow = velocity_field(delta, CENTRE, redshift=0.0, **given)
    (particles,) = evolve(delta, CENTRE, redshifts=[0.0], **given)
    mass = paint(particles.positions, N, 12.5)
    momentum = (mass * flow).sum((1, 2, 3))
    np.testing.assert_allclose(momentum, particles.velocities.sum(0), atol=1e-6)
    typical = float(particles.velocities.std())
    assert typical > 50
    assert float(momentum.abs().max()) < 0.02 * typical * N**3


def test_empty_cells_have_the_linear_velocity():
    """Where no particle is, linear theory says how the matter would move."""
    given = {"box_size": 6.0, "n_steps": 5}
    delta = linear_field(CENTRE, n_cells=N, box_size=6.0, seed=2)
    flow = velocity_field(delta, CENTRE, redshift=0.0, **given)
    (particles,) = evolve(delta, CENTRE, redshifts=[0.0], **given)
    empty = paint(particles.positions, N, 6.0) == 0
    assert 0 < empty.sum() < empty.numel()
    linear = 100 * float(growth_rate(1.0, 0.3)) * lpt_displacements(delta, 6.0)[0]
    np.testing.assert_allclose(flow[:, empty], linear[:, empty], rtol=1e-5)
    assert not np.allclose(flow[:, ~empty], linear[:, ~empty], rtol=0.1)


def test_one_line_gives_a_catalogue_with_velocities():
    """`Emulator.sample_galaxies` is the field's galaxies with the base's velocities."""
    emulator = Emulator.load()
    given = {"redshift": 0.5, "n_cells": N, "seed": 1}
    table = emulator.sample_galaxies(CENTRE, catalogue_seed=2, **given)
    field = emulator.emulate(CENTRE, **given)["galaxies"]
    flow = emulator.velocities(CENTRE, **given)
    assert flow.shape == (3, N, N, N)
    assert flow.unit == u.km / u.s
    by_hand = field.sample_galaxies(seed=2, velocities=flow)
    assert len(table) > 0
    assert table.meta == by_hand.meta
    for name in table.colnames:
        np.testing.assert_array_equal(table[name], by_hand[name])
    factor = 1.5 / COSMOLOGY.H(0.5)
    moved = (table["s_z"] - table["z"] - (table["v_z"] * factor).to(u.Mpc)).value
    side = table.meta["box_size"]
    np.testing.assert_allclose((moved + side / 2) % side - side / 2, 0, atol=1e-4)


def test_the_catalogues_seed_is_the_fields_unless_given():
    """One number fixes a whole catalogue."""
    table = Emulator.load().sample_galaxies(CENTRE, n_cells=N, seed=5)
    assert (table.meta["seed"], table.meta["cat_seed"]) == (5, 5)


# The light cone.


class Toy(Emulator):
    """An emulator whose density and flow are known; it writes down what it is asked."""

    def __init__(self, model):
        super().__init__(model)
        self.asked = []
        self.values = np.full((N, N, N), 0.004)
        self.flow = uniform_flow(300, 0, 0)
        self.evolution = 0.0

    def emulate(self, params=None, *, redshift, n_cells, seed, **keywords):
        """A known density, with a known evolution."""
        self.asked.append((redshift, seed))
        growth = (1 + redshift) ** self.evolution
        return {
            "galaxies": GalaxyField(
                self.values * growth,
                name="galaxies",
                grid=GridSpec(n_cells, n_cells * self.card.cell_size),
                parameters=params,
                redshift=redshift,
                seed=seed,
                model=self.identity,
            )
        }

    def velocities(self, params=None, **keywords):
        """A known flow."""
        return self.flow


@pytest.fixture
def toy():
    return Toy.load()


TOY_SIDE = N * 0.78125 / 0.7
CONE = {"z_max": 0.2, "area": 100, "seed": 1, "n_cells": N, "n_snapshots": 3}


def stacked(table, side):
    """Places in the stack of boxes, from its corner [Mpc]."""
    unit = np.stack([-table["sky"].cartesian.x, -table["sky"].cartesian.y], -1)
    unit = np.concatenate([unit, table["sky"].cartesian.z[:, None]], -1).value
    seen = unit * table["distance"].value[:, None]
    return seen + np.array([0, side / 2, side / 2])


def test_numbers_follow_density_and_volume(toy):
    """n(z) is the density at the shell's redshift times its comoving volume."""
    toy.evolution = 3.0
    table = lightcone(CENTRE, model=toy, **CONE)
    depth = COSMOLOGY.comoving_distance(0.2).to_value(u.Mpc)
    edges = np.linspace(0, depth, 4)
    np.testing.assert_allclose(table.meta["shell_d"], edges, rtol=1e-10)
    solid_angle = np.radians(10.0) ** 2
    for shell, z in enumerate(table.meta["shell_z"]):
        volume = solid_angle / 3 * (edges[shell + 1] ** 3 - edges[shell] ** 3)
        expected = 0.004 * (1 + z) ** 3 * volume
        found = np.sum(table["shell"] == shell)
        assert found == pytest.approx(expected, abs=5 * np.sqrt(expected))
        half = COSMOLOGY.comoving_distance(z).to_value(u.Mpc) ** 3
        assert half == pytest.approx((edges[shell] ** 3 + edges[shell + 1] ** 3) / 2)


def test_columns_agree_with_each_other(toy):
    """Redshifts are those of the distances, by the field's own cosmology."""
    table = lightcone(CENTRE, model=toy, tiling="plain", **CONE)
    distance = COSMOLOGY.comoving_distance(table["z_cosmological"]).to_value(u.Mpc)
    np.testing.assert_allclose(table["distance"].value, distance, rtol=1e-7)
    assert table["z_cosmological"].max() < 0.2
    # The flow is along the axis of the cone, which is at (180, 0).
    along = 300 * np.cos(table["sky"].dec) * np.cos(table["sky"].ra - 180 * u.deg)
    np.testing.assert_allclose(table["v_los"].value, along.value, rtol=1e-6)
    ratio = (1 + table["z_observed"]) / (1 + table["z_cosmological"])
    np.testing.assert_allclose(ratio - 1, along.value / 299792.458, rtol=1e-6)
    assert np.abs(table["sky"].ra.deg - 180).max() <= 5
    assert np.abs(np.sin(table["sky"].dec.rad)).max() <= np.radians(5)
    assert np.ptp(table["sky"].ra.deg) > 9.9
    assert np.ptp(table["sky"].dec.deg) > 9.9


@pytest.mark.parametrize("tiling", ["plain", "random"])
def test_the_cone_is_filled_evenly(toy, tiling):
    """No gap, no pile-up and nothing double: as random points, seen within a box."""
    toy.values *= 2
    table = lightcone(CENTRE, model=toy, tiling=tiling, **CONE)
    generator = np.random.default_rng(1)
    number = 40 * len(table)
    distance = table.meta["shell_d"][-1] * np.cbrt(generator.random(number))
    half = np.radians(5)
    ra = generator.uniform(-half, half, number)
    height = generator.uniform(-half, half, number)
    across = np.sqrt(1 - height**2)
    unit = np.stack([across * np.cos(ra), across * np.sin(ra), height], -1)
    even = unit * distance[:, None] + [0, TOY_SIDE / 2, TOY_SIDE / 2]
    galaxies = stacked(table, TOY_SIDE)
    bins = np.linspace(0, TOY_SIDE, 2 * N + 1)
    for axis in range(3):
        found = np.histogram(galaxies[:, axis] % TOY_SIDE, bins)[0]
        expected = np.histogram(even[:, axis] % TOY_SIDE, bins)[0] / 40
        chi_squared = np.sum((found - expected) ** 2 / expected)
        assert chi_squared < 2 * N + 5 * np.sqrt(4 * N)
        assert chi_squared > N / 2


def test_plain_tiling_goes_on_across_faces(toy):
    """A wave has the same phase in every box, and cells say where galaxies are."""
    phase = 2 * np.pi * (np.arange(N) + 0.5) / N
    toy.values *= (1 + 0.9 * np.cos(phase + 1))[:, None, None]
    table = lightcone(CENTRE, model=toy, tiling="plain", **CONE)
    places = stacked(table, TOY_SIDE)
    wave = np.cos(2 * np.pi * places[:, 0] / TOY_SIDE + 1)
    boxes = np.floor(places[:, 0] / TOY_SIDE)
    assert boxes.max() > 30
    for near, far in ((0, 20), (20, 30), (30, 50)):
        one = wave[(boxes >= near) & (boxes < far)]
        assert one.mean() == pytest.approx(0.45, abs=5 / np.sqrt(len(one)) + 0.01)
    cells = np.floor(places % TOY_SIDE / (TOY_SIDE / N)).astype(int)
    assert np.mean(cells == table["cell"]) > 0.9999


def test_random_tiling_is_recorded_and_turns_velocities(toy):
    """The texts in ``meta`` say where each galaxy's cell and velocity went."""
    table = lightcone(CENTRE, model=toy, **CONE)
    places = stacked(table, TOY_SIDE)
    turns = set()
    for number, text in enumerate(table.meta["replicas"][:100]):
        own = np.asarray(table["replica"]) == number
        if not own.any():
            continue
        place, turn, shift = text.replace(":", "").split()
        turns.add(turn)
        place = np.array([int(one) for one in place.split(",")])
        shift = np.array([float(one) for one in shift.split(",")])
        assert (np.floor(places[own] / TOY_SIDE) == place).all()
        signs = np.array([1 if turn[i] == "+" else -1 for i in (0, 2, 4)])
        axes = ["xyz".index(turn[i]) for i in (1, 3, 5)]
        centres = (np.asarray(table["cell"])[own] + 0.5) * TOY_SIDE / N
        moved = centres[:, axes] * signs + shift
        off = (places[own] - moved + TOY_SIDE / 2) % TOY_SIDE - TOY_SIDE / 2
        assert np.abs(off).max() < 0.5001 * TOY_SIDE / N
        sight = places[own] - [0, TOY_SIDE / 2, TOY_SIDE / 2]
        sight /= np.linalg.norm(sight, axis=1)[:, None]
        towards = axes.index(0)
        expected = 300 * signs[towards] * sight[:, towards]
        np.testing.assert_allclose(table["v_los"][own].value, expected, atol=1e-4)
    assert len(turns) > 20


@pytest.mark.parametrize("tiling", ["plain", "random"])
def test_clustering_is_that_of_the_box(toy, tiling):
    """Galaxies have as many near neighbours in the cone as in the periodic box."""
    toy.values = np.asarray(density(0.02), dtype=float)
    reach = 2.0  # Mpc
    box = toy.emulate(CENTRE, redshift=0.1, n_cells=N, seed=1)["galaxies"]
    pairs = galaxies = 0
    for seed in range(60):
        tree = cKDTree(xyz(box.sample_galaxies(seed=seed)), boxsize=TOY_SIDE)
        pairs += tree.count_neighbors(tree, reach) - tree.n
        galaxies += tree.n
    # Far above what unclustered galaxies would have.
    assert pairs / galaxies > 1.4 * 0.02 * 4 / 3 * np.pi * reach**3
    table = lightcone(CENTRE, model=toy, tiling=tiling, **CONE)
    places = stacked(table, TOY_SIDE)
    tree = cKDTree(places)
    # Only galaxies whose whole neighbourhood is in the cone.
    margin = 1.01 * reach / table["distance"].value
    inner = np.abs(table["sky"].ra.rad - np.pi) < np.radians(5) - 1.1 * margin
    inner &= np.abs(table["sky"].dec.rad) < np.radians(5) - 1.1 * margin
    inner &= table["distance"].value < table.meta["shell_d"][-1] - reach
    if tiling == "random":
        # Structure ends at the faces of the copies.
        inside = places % TOY_SIDE
        inner &= (np.minimum(inside, TOY_SIDE - inside) > reach).all(1)
    near = tree.query_ball_point(places[inner], reach, return_length=True) - 1
    assert inner.sum() > 5000
    assert near.mean() == pytest.approx(pairs / galaxies, rel=0.06)


def test_one_seed_serves_all_shells(toy):
    """All boxes are one realisation, in as many redshifts as asked for."""
    first = lightcone(CENTRE, model=toy, **CONE)
    assert [seed for _, seed in toy.asked] == [1, 1, 1]
    assert [z for z, _ in toy.asked] == first.meta["shell_z"]
    again = lightcone(CENTRE, model=toy, **CONE)
    np.testing.assert_array_equal(first["distance"], again["distance"])
    np.testing.assert_array_equal(first["v_los"], again["v_los"])
    assert first.meta == again.meta
    other = lightcone(CENTRE, model=toy, **{**CONE, "seed": 2})
    assert other.meta["replicas"] != first.meta["replicas"]


def test_the_real_model_makes_a_light_cone(tmp_path):
    """From parameters to observed redshifts in one call, and into a file."""
    table = astrogan_emu.lightcone(
        z_max=0.05, area=400 * u.deg**2, seed=1, n_cells=N, n_snapshots=2, **CENTRE
    )
    assert 20 < len(table) < 100_000
    assert 10 < np.abs(table["v_los"]).mean().value < 1000
    assert table.meta["model"] == "nbody"
    table.write(tmp_path / "cone.fits")
    back = QTable.read(tmp_path / "cone.fits")
    assert back["sky"].separation(table["sky"]).max() < 1e-6 * u.arcsec
    assert back.meta["REPLICAS"] == table.meta["replicas"]


def test_mistakes_in_a_light_cone_are_named(toy):
    """Each mistake is answered by what is allowed."""

    def make(**changes):
        return lightcone(CENTRE, model=toy, **{**CONE, **changes})

    with pytest.raises(ParameterRangeError, match=r"z_max = 3 .*\[0, 2\]"):
        make(z_max=3)
    with pytest.raises(ParameterError, match="above 0, got 0"):
        make(z_max=0)
    with pytest.raises(ParameterError, match="above 0, got nan"):
        make(z_max=np.nan)
    for area in (0, -1, np.inf, 2 * u.Mpc, "all", 5 * u.sr):
        with pytest.raises(ParameterError, match="area must be above 0 and at most"):
            make(area=area)
    with pytest.raises(ParameterError, match="n_snapshots must be a whole number"):
        make(n_snapshots=0)
    with pytest.raises(ParameterError, match="'random' or 'plain', got 'tiled'"):
        make(tiling="tiled")
    with pytest.raises(ParameterError, match="seed must be a whole number"):
        make(seed=0.5)
    with pytest.raises(GridError, match="larger n_cells or a smaller area"):
        make(z_max=2, area=4 * u.sr)
    with pytest.raises(MissingParameterError, match="sigma_8"):
        lightcone({k: CENTRE[k] for k in ("omega_m", "h")}, model=toy, **CONE)
    with pytest.raises(ParameterRangeError, match="omega_m"):
        lightcone({**CENTRE, "omega_m": 0.6}, **CONE)


def test_a_light_cone_beyond_the_range_warns():
    """Who insists gets galaxies and a warning."""
    with pytest.warns(ExtrapolationWarning, match="redshift"):
        table = lightcone(
            CENTRE,
            z_max=3,
            area=0.02,
            seed=1,
            n_cells=N,
            n_snapshots=3,
            extrapolate=True,
        )
    assert table.meta["shell_z"][-1] > 2
